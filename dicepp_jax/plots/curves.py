"""Curves over a test split: by threshold, by hyper-parameter, reliability and training.

>>> counts = Confusion(*np.array([[[8, 6]], [[4, 1]], [[2, 4]], [[9, 9]]]))
>>> threshold_summary({"a": counts, "b": counts}, target=0).recall.mean
array([0.8, 0.6])
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dicepp_jax.metrics import Confusion, Reliability
from dicepp_jax.plots.canvas import DPI, draw_means
from dicepp_jax.plots.styles import line_styles
from dicepp_jax.rows import Summary, column_of
from dicepp_jax.split_calibration import SplitCalibration
from dicepp_jax.statistics import Bootstrap, bootstrap


class ThresholdCurves(NamedTuple):
    """Means over cases at each threshold, with 95% intervals; arrays are `(T,)`.

    Attributes:
      recall: fraction of the voxels of the class that are predicted as the class.
      precision: fraction of the voxels predicted as the class that belong to it.
      dice: the harmonic mean of both.
    """

    recall: Bootstrap
    precision: Bootstrap
    dice: Bootstrap


def threshold_summary(thresholds: Mapping[str, Confusion], target: int) -> ThresholdCurves:
    """Average the metrics of a class over the cases, at each threshold.

    Args:
      thresholds: counts `(C, T)` by case, as returned by `metrics.threshold_counts`.
      target: index of the class.

    Returns:
      The curves. A case in which a metric is undefined is left out of its mean at that threshold.

    Reference:
      DSC++ paper, Figure 5.
    """
    cases = [[np.asarray(number)[target] for number in counts] for counts in thresholds.values()]
    counts = Confusion(*np.stack(cases, axis=1))
    return ThresholdCurves(
        *(bootstrap(np.asarray(x)) for x in (counts.recall, counts.precision, counts.dice))
    )


def reliability_diagram(
    curves: Mapping[str, Reliability],
    classes: Sequence[str],
    intervals: Mapping[str, Sequence[SplitCalibration]] | None = None,
) -> Figure:
    """Reliability diagrams: the observed frequency of a class against its predicted probability.

    Args:
      curves: sums `(C, bins)` by method.
      classes: class names, the background first.
      intervals: by method, the 95% interval of each foreground class's calibration error; empty
        where it is not known.

    Returns:
      A figure with one diagram per foreground class and the distribution of voxels below it.
    """
    foreground = range(1, len(classes))
    figure, axes = plt.subplots(
        2,
        len(foreground),
        figsize=(6.2 * len(foreground), 5),
        squeeze=False,
        sharex=True,
        height_ratios=(3, 1),
        dpi=DPI,
        layout="constrained",
    )
    styles = line_styles(curves)
    for column, target in enumerate(foreground):
        top, bottom = axes[:, column]
        (diagonal,) = top.plot([0, 1], [0, 1], color="0.7", linewidth=3, zorder=0)
        explained = {"perfect calibration": diagonal}
        for name, sums in curves.items():
            count = np.asarray(sums.voxels)[target]
            seen = count > 0
            confidence = np.asarray(sums.confidence)[target][seen] / count[seen]
            frequency = np.asarray(sums.positives)[target][seen] / count[seen]
            style = styles[name]
            (line,) = top.plot(confidence, frequency, markersize=4, label=name, **style)
            error = f"ECE {sums.ece[target]:.4f}"
            for row in (intervals or {}).get(name, ()):
                if row.label == classes[target] and not np.isnan(row.low):
                    error += f", {row.low:.4f} to {row.high:.4f}"
            explained[f"{name} ({error})"] = line
            edges = np.linspace(0, 1, len(count) + 1)
            shape = {key: style[key] for key in ("color", "linestyle")}
            bottom.stairs(count / count.sum(), edges, label=name, **shape)
        top.set(title=classes[target], ylabel="observed frequency", ylim=(0, 1))
        # Placed beside the diagram, as every corner of it may be crossed by a line.
        top.legend(
            explained.values(),
            explained,
            fontsize=9,
            loc="upper left",
            bbox_to_anchor=(1.01, 1),
            borderaxespad=0,
            handlelength=3,
        )
        bottom.set(
            xlabel="predicted probability", ylabel="share of voxels", yscale="log", xlim=(0, 1)
        )
    return figure


def against(
    points: Mapping[float, Sequence[Summary]],
    name: str,
    labels: Sequence[str],
    metrics: Sequence[str],
) -> Figure:
    """Plot metrics against a hyper-parameter, with 95% intervals over the cases.

    Args:
      points: summaries by value of the hyper-parameter.
      name: name of the hyper-parameter.
      labels: the classes to plot.
      metrics: names as of `rows.column_of`, one panel each.

    Returns:
      A figure.
    """
    figure, axes = plt.subplots(
        1,
        len(metrics),
        figsize=(3.4 * len(metrics), 3.2),
        dpi=DPI,
        squeeze=False,
        layout="constrained",
    )
    for place, metric in zip(axes[0], metrics, strict=True):
        for label in labels:
            found = {
                value: s
                for value, group in sorted(points.items())
                for s in group
                if (s.label, column_of(s)) == (label, metric)
            }
            draw_means(place, [*found], [*found.values()], marker="o", label=label)
        place.set_xlabel(name)
        if name == "learning_rate":
            place.set_xscale("log")
        place.set_title(metric, fontsize=9)
        place.grid(alpha=0.3)
    if len(labels) > 1:
        axes[0, 0].legend(fontsize=8)
    return figure


def training_curves(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Plot training and validation loss and the learning rate by epoch.

    Args:
      histories: by method, records with epoch, train_loss, val_loss and learning_rate.

    Returns:
      A figure of two panels.
    """
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(6, 5), dpi=DPI, sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    for index, (name, records) in enumerate(histories.items()):
        epochs = [record["epoch"] + 1 for record in records]
        for field, style in (("train_loss", ":"), ("val_loss", "-")):
            values = [record[field] for record in records]
            label = f"{name} {'training' if field == 'train_loss' else 'validation'}"
            top.plot(epochs, values, style, marker=".", color=f"C{index}", label=label)
        rates = [record["learning_rate"] for record in records]
        bottom.step(epochs, rates, where="mid", marker=".", color=f"C{index}")
    top.set(ylabel="loss")
    top.legend(fontsize=8)
    bottom.set(xlabel="epoch", ylabel="learning rate", yscale="log")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
