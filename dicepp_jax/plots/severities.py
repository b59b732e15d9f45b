"""Metrics of several methods against the severity of what was done to the images."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dicepp_jax.plots.canvas import draw_means, panels
from dicepp_jax.plots.styles import line_styles
from dicepp_jax.rows import WHOLE_IMAGE, Summary

Points = Mapping[int | str, Sequence[Summary]]
"""Summaries by severity from 0, or by the name of a set of images."""

APART = 0.12
"""The distance between methods on an axis of names."""


def by_severity(
    columns: Mapping[str, Mapping[str, Points]], label: str, metrics: Mapping[str, str]
) -> Figure:
    """One panel for each metric and corruption, with 95% intervals over the cases.

    Args:
      columns: by corruption and method. Severities are joined by lines; sets of images are not,
        since their cases differ.
      label: the class.
      metrics: titles by name, one row each.

    Returns:
      A figure; the panels of a row have one scale.
    """
    figure, axes = panels(len(metrics), len(columns), 2.1, 1.9)
    for row, (metric, title) in zip(axes, metrics.items(), strict=True):
        for axis, methods in zip(row, columns.values(), strict=True):
            _lines(axis, methods, label, metric)
        row[0].set_ylabel(title, fontsize=9)
    for top, bottom, (column, methods) in zip(axes[0], axes[-1], columns.items(), strict=True):
        top.set_title(column, fontsize=9)
        if 0 in next(iter(methods.values())):
            bottom.set_xlabel("severity", fontsize=9)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        fontsize=8,
        loc="outside lower center",
        ncols=4,
        handlelength=3,
    )
    return figure


def _lines(axis: Axes, methods: Mapping[str, Points], label: str, metric: str) -> None:
    """One line a method, or one point for each set of images."""
    styles = line_styles(methods)
    for number, (method, points) in enumerate(methods.items()):
        place = (label, WHOLE_IMAGE, metric)
        found = [next(s for s in group if s[:3] == place) for group in points.values()]
        at = np.array([p if isinstance(p, int) else n for n, p in enumerate(points)], float)
        style, shift = styles[method], 0.0
        if 0 not in points:
            style = style | {"linestyle": "none"}
            shift = APART * (number - (len(methods) - 1) / 2)
        draw_means(axis, at + shift, found, markersize=4, linewidth=1, label=method, **style)
    axis.set_xticks(at, [*map(str, points)])
    axis.margins(x=0.08 if 0 in points else 0.5)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
