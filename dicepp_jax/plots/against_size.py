"""Metrics against the size of images and of networks."""

from collections.abc import Mapping, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dicepp_jax.plots.canvas import draw_means, panels
from dicepp_jax.plots.styles import line_styles
from dicepp_jax.rows import Summary

Points = Mapping[int, Mapping[str, Summary]]
"""Summaries of a class by size, and by metric."""

LIMIT = {"color": "0.5", "linestyle": "-", "linewidth": 1, "marker": "_"}


def by_size(
    columns: Mapping[str, Mapping[str, Points]],
    metrics: Mapping[str, str],
    paper: Mapping[tuple[str, str], float],
    paper_at: Mapping[str, int],
    limits: Sequence[str] = (),
) -> Figure:
    """One panel for each metric and kind of size, with 95% intervals over the cases.

    Args:
      columns: by axis label and method.
      metrics: titles by name, one row each.
      paper: its mean by method and metric, drawn as a star.
      paper_at: its size, by axis label.
      limits: methods that are no networks, drawn in grey where they have the metric.

    Returns:
      A figure with logarithmic sizes.
    """
    figure, axes = panels(len(metrics), len(columns), 3.2, 2.1)
    for row, (metric, title) in zip(axes, metrics.items(), strict=True):
        for axis, (name, methods) in zip(row, columns.items(), strict=True):
            _lines(axis, methods, metric, limits)
            _points(axis, methods, metric, paper, paper_at[name])
        row[0].set_ylabel(title, fontsize=9)
    for bottom, (name, methods) in zip(axes[-1], columns.items(), strict=True):
        sizes = sorted({paper_at[name], *(size for of in methods.values() for size in of)})
        bottom.set_xscale("log", base=2)
        bottom.set_xticks(sizes, [*map(str, sizes)])
        bottom.minorticks_off()
        bottom.set_xlabel(name, fontsize=9)
    entries: dict[str, Artist] = {}
    for axis in axes.flat:
        entries |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(
        [*entries.values()],
        [*entries],
        fontsize=8,
        loc="outside lower center",
        ncols=3,
        handlelength=3,
    )
    return figure


def _lines(axis: Axes, methods: Mapping[str, Points], metric: str, limits: Sequence[str]) -> None:
    networks = [method for method in methods if method not in limits]
    styles = line_styles(networks) | dict.fromkeys(limits, LIMIT)
    for method, points in methods.items():
        found = {size: of[metric] for size, of in sorted(points.items()) if metric in of}
        if not found:
            continue
        style = {"markersize": 4, "linewidth": 1, **styles[method]}
        draw_means(axis, [*found], [*found.values()], label=method, **style)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)


def _points(
    axis: Axes,
    methods: Mapping[str, Points],
    metric: str,
    paper: Mapping[tuple[str, str], float],
    at: int,
) -> None:
    styles = line_styles(methods)
    for method in methods:
        if (method, metric) in paper:
            style = {"color": styles[method]["color"], "linestyle": "none", "marker": "*"}
            axis.plot(at, paper[method, metric], markersize=8, label=f"{method}, paper", **style)
