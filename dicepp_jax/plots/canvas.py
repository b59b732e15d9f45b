"""Figures on matplotlib's file backend, and how they are saved."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import ArrayLike

from dicepp_jax.atomic import write_atomically
from dicepp_jax.rows import Summary

DPI, PHOTOGRAPH_DPI = 150, 110


def panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure of panels that share the horizontal axis of a column and the vertical one of a row.

    Args:
      rows: their number.
      columns: likewise.
      width: of a panel, in inches.
      height: likewise.

    Returns:
      The figure, with space for a legend below, and its axes `(rows, columns)`.
    """
    return plt.subplots(
        rows,
        columns,
        figsize=(width * columns + 0.8, height * rows + 0.6),
        dpi=DPI,
        squeeze=False,
        sharex="col",
        sharey="row",
        layout="constrained",
    )


def draw_means(axis: Axes, at: ArrayLike, found: Sequence[Summary], **style: Any) -> None:
    """Draw means over cases with their intervals, at the given places of the horizontal axis."""
    means = np.array([s.mean for s in found])
    bars = [means - [s.low for s in found], [s.high for s in found] - means]
    axis.errorbar(at, means, bars, capsize=2, **style)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG and close it; the file appears whole or not at all.

    Two dollars in the name of a case or a class are no formula; only numbers on axes may be one.
    """
    axes = [axis for of in figure.axes for axis in (of.xaxis, of.yaxis)]
    numbers = {label for axis in axes for label in axis.get_ticklabels(which="both")}
    for text in figure.findobj(Text):
        text.set_parse_math(text in numbers)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_atomically(
            path,
            lambda temporary: figure.savefig(
                temporary, format="png", dpi="figure", bbox_inches="tight"
            ),
        )
    finally:
        plt.close(figure)
