"""Ratios of times as bars."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from dicepp_jax.plots.canvas import DPI

COLOURS = ("#999999", "#0072b2")
"""Of reports from the first to the last; a single one has the last."""

Bar = tuple[float, float, float]
"""A ratio with its lower and upper quartile."""


def ratio_bars(reports: Mapping[str, Mapping[str, Bar]]) -> Figure:
    """Ratios of times on a logarithmic axis, with a line at 1 and whiskers at the quartiles.

    Args:
      reports: one or two, such as before and after, by title: ratios by name. A name that only
        one report has gets a single bar.

    Returns:
      A figure with a row for each name, in the order in which they first appear.

    Raises:
      ValueError: if there are no ratios.
    """
    names = list(dict.fromkeys(name for bars in reports.values() for name in bars))
    if not names:
        raise ValueError("there are no ratios to draw; time something beside its reference")
    figure, axes = plt.subplots(
        figsize=(10, 1.2 + 0.24 * len(reports) * len(names)), dpi=DPI, layout="constrained"
    )
    height = 0.8 / len(reports)
    colours = COLOURS[-len(reports) :]
    for number, ((title, bars), colour) in enumerate(zip(reports.items(), colours, strict=True)):
        shown = [name for name in names if name in bars]
        places = np.array([names.index(name) for name in shown])
        places = places + (number - (len(reports) - 1) / 2) * height
        ratios, low, high = np.array([bars[name] for name in shown]).reshape(-1, 3).T
        axes.barh(
            places,
            ratios - 1,
            height,
            left=1,
            xerr=(ratios - low, high - ratios),
            color=colour,
            ecolor="#222222",
            error_kw={"elinewidth": 0.8},
            label=title,
        )
        for place, ratio, end in zip(places, ratios, np.maximum(high, 1), strict=True):
            axes.annotate(
                f"{ratio:.2f}", (end, place), (3, 0), textcoords="offset points",
                va="center", fontsize=7,
            )  # fmt: skip
    axes.axvline(1, color="#222222", linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.02)
    axes.set_xlabel("time / time of the reference (less is faster)")
    if len(reports) > 1:
        axes.legend(loc="best", fontsize=8)
    return figure
