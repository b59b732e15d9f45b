"""The figures of the DSC++ paper, for a test split on which several methods were scored.

Methods appear in the order of the mappings. A `View` belongs to the class that is shown: for a
volume it is the slice chosen for that class. The image and the truth are those of the view of the
first method.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from dicepp_jax.metrics import THRESHOLDS, Reliability
from dicepp_jax.plots import cases as case_plots
from dicepp_jax.plots.canvas import DPI
from dicepp_jax.plots.curves import ThresholdCurves
from dicepp_jax.plots.views import View

WIDTH = 11.0
"""Width in inches; on a screen 1200 pixels wide, text of 9 points is then 14 pixels tall."""
MOST = 6
"""Maximum number of panels per row."""
OUTLINE = 0.15
"""Line width of outlines in points per inch of the panel, so that vessels remain visible."""
BAR_EVERY = 10
"""Number of thresholds between the error bars."""
LINES = {
    "recall": ("#4477aa", "-"),
    "precision": ("#cc3311", "-"),
    "dice": ("#222222", "--"),
}
"""Colour and line style of each metric."""


def overconfidence(views: Mapping[str, View], target: int, label: str) -> Figure:
    """One case: the predicted probability of a class by method, and the confidence of its errors.

    Args:
      views: views of the case, by method.
      target: index of the class.
      label: name of the class.

    Returns:
      A figure with a row per method. The confidence is the mean probability of the predicted class,
      over the coloured pixels.

    Reference:
      DSC++ paper, Figure 1.
    """
    first = next(iter(views.values()))
    figure, axes = _grid([first] * max(2, len(views)), 3)
    _image_and_truth(axes[:2, 0], first, target, label)
    for (name, view), (_, heat, wrong) in zip(views.items(), axes, strict=False):
        shown = _heat(heat, view, target, f"{name}: probability{case_plots.elsewhere(view, first)}")
        mask = view.probs.argmax(-1)
        false = (mask == target) != (view.label == target)
        sure = f"{view.probs.max(-1)[false].mean():.2f}" if false.any() else "undefined"
        picture = case_plots.errors(view.image, view.label, mask, target)
        above = f"{name}: FP magenta, FN green\nmean confidence of errors {sure}"
        case_plots.panel(wrong, picture, above)
        _colour_bar(shown, [heat], label)
    return figure


def by_gamma(
    views: Mapping[float, View], sums: Mapping[float, Reliability], target: int, label: str
) -> Figure:
    """The effect of the exponent gamma, which moves probabilities away from 0 and 1.

    Args:
      views: views of one case, by gamma.
      sums: sums `(C, bins)` over all cases, by gamma.
      target: index of the class.
      label: name of the class.

    Returns:
      A figure of the image and its truth and, for each gamma, a heat map above a histogram of the
      probabilities of the voxels of all cases.

    Reference:
      DSC++ paper, Figure 2.
    """
    first = next(iter(views.values()))
    blocks = -(-len(views) // (MOST - 1))
    columns = max(2, -(-len(views) // blocks))
    tall = 0.85 * WIDTH / columns * _tallness(first) + 0.3
    figure = plt.figure(
        figsize=(WIDTH, tall * (1 + blocks) + 1.5 * blocks),
        dpi=case_plots.PHOTOGRAPH_DPI,
        layout="constrained",
    )
    heights = [tall, *[tall, 1.5] * blocks]
    # Half columns, so that the two panels at the top can be centred.
    places = figure.add_gridspec(1 + 2 * blocks, 2 * columns, height_ratios=heights)
    above = [figure.add_subplot(places[0, start : start + 2]) for start in (columns - 2, columns)]
    _image_and_truth(above, first, target, label)
    counts = {gamma: np.asarray(sums[gamma].voxels)[target] for gamma in views}
    seen = np.concatenate(list(counts.values()))
    limits = seen[seen > 0].min() / 2, seen.max() * 2
    heats = []
    for position, (gamma, view) in enumerate(views.items()):
        block, column = divmod(position, columns)
        place = places[1 + 2 * block, 2 * column : 2 * column + 2]
        heats.append(figure.add_subplot(place))
        shown = _heat(heats[-1], view, target, f"gamma = {gamma:g}")
        place = places[2 + 2 * block, 2 * column : 2 * column + 2]
        _histogram(figure.add_subplot(place), counts[gamma], limits, column == 0)
    _colour_bar(shown, heats, label)
    return figure


def _histogram(axes: Axes, count: np.ndarray, limits: tuple[float, float], first: bool) -> None:
    edges = np.linspace(0, 1, len(count) + 1)
    axes.bar(edges[:-1], count, np.diff(edges), align="edge", color="#4477aa", edgecolor="white")
    axes.set(xlim=(0, 1), yscale="log", ylim=limits, xticks=(0, 0.5, 1))
    axes.tick_params(labelsize=8, labelleft=first)
    axes.set_xlabel("probability", fontsize=8)
    if first:
        axes.set_ylabel("voxels", fontsize=8)


def by_loss(cases: Sequence[Mapping[str, View]], target: int, label: str) -> Figure:
    """Cases by method: the probability of a class, with an outline of the predicted segmentation.

    Args:
      cases: for each case, its views by method.
      target: index of the class.
      label: name of the class.

    Returns:
      A figure with a row per case, or several rows if one would be too long. The Dice refers to
      what is shown, which is one slice of a volume.

    Reference:
      DSC++ paper, Figures 3 and 4.
    """
    panels = 2 + len(cases[0])
    rows = -(-panels // MOST)
    columns = -(-panels // rows)
    firsts = [next(iter(views.values())) for views in cases]
    figure, axes = _grid([first for first in firsts for _ in range(rows)], columns)
    for case, (views, first) in enumerate(zip(cases, firsts, strict=True)):
        places = axes[case * rows : (case + 1) * rows].ravel()
        _image_and_truth(places[:2], first, target, label)
        for place, (name, view) in zip(places[2:], views.items(), strict=False):
            found, truth = view.probs.argmax(-1) == target, view.label == target
            either = found.sum() + truth.sum()
            dice = f"{2 * (found & truth).sum() / either:.2f}" if either else "undefined"
            above = f"{name}\nDice {dice}{case_plots.elsewhere(view, first)}"
            shown = _heat(place, view, target, above)
            case_plots.outline(place, found, 1, width=OUTLINE * WIDTH / columns)
    _colour_bar(shown, axes, label)
    return figure


def threshold_curves(curves: Mapping[str, ThresholdCurves], label: str) -> Figure:
    """Plot recall, precision and Dice of a class against the threshold.

    Args:
      curves: curves at `metrics.THRESHOLDS`, by method.
      label: name of the class.

    Returns:
      A figure with a panel per method; vertical bars are 95% intervals over the cases.

    Reference:
      DSC++ paper, Figure 5, top.
    """
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(min(WIDTH, 5.5 * columns), 3.6 * rows),
        dpi=DPI,
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for place in axes.flat[len(curves) :]:
        place.set_axis_off()
    for place, (method, of_method) in zip(axes.flat, curves.items(), strict=False):
        for shift, (name, (colour, line)) in enumerate(LINES.items()):
            curve = getattr(of_method, name)
            place.plot(THRESHOLDS, curve.mean, line, color=colour, label=name.capitalize())
            # Shifted against each other, so that the bars of curves that meet stay visible.
            barred = slice(BAR_EVERY // 2 - 1 + shift, None, BAR_EVERY)
            ends = curve.low[barred], curve.high[barred]
            place.vlines(THRESHOLDS[barred], *ends, color=colour, linewidth=2)
        place.set(xlim=(0, 1), ylim=(0, 1), xlabel="threshold T")
        place.set_title(f"{method}: {label}", fontsize=10)
        place.grid(alpha=0.3)
    handles = axes[0, 0].lines
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=len(handles),
        fontsize=9,
        title="mean over the cases, with 95% intervals",
        title_fontsize=9,
    )
    return figure


def called(
    views: Mapping[str, View],
    target: int,
    label: str,
    values: Sequence[float] = (0.2, 0.5, 0.8),
) -> Figure:
    """One case called at several thresholds: `case_plots.thresholds` of one class.

    Args:
      views: views of the case, by method.
      target: index of the class.
      label: name of the class.
      values: the thresholds.

    Returns:
      A figure with a row per method.

    Reference:
      DSC++ paper, Figure 5, bottom.
    """
    return case_plots.called_at(
        [(name, label, target, view) for name, view in views.items()], values
    )


def _grid(rows: Sequence[View], columns: int) -> tuple[Figure, np.ndarray]:
    """Panels without ticks; each row is about as tall as its view."""
    wide = WIDTH / columns
    heights = [wide * _tallness(view) + 0.4 for view in rows]
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(WIDTH, sum(heights)),
        dpi=case_plots.PHOTOGRAPH_DPI,
        squeeze=False,
        height_ratios=heights,
        layout="compressed",
    )
    for place in axes.flat:
        place.set_axis_off()
    return figure, axes


def _tallness(view: View) -> float:
    return min(case_plots.height_over_width(view.label.shape), 2)


def _image_and_truth(
    places: Sequence[Axes] | np.ndarray, view: View, target: int, label: str
) -> None:
    image, truth = places
    case_plots.panel(image, case_plots.display(view.image), case_plots.heading(view))
    case_plots.panel(truth, view.label == target, f"{label}: truth", cmap="gray")


def _heat(place: Axes, view: View, target: int, above: str) -> AxesImage:
    return case_plots.panel(place, view.probs[..., target], above, cmap=case_plots.HEAT)


def _colour_bar(shown: AxesImage, axes: Sequence[Axes] | np.ndarray, label: str) -> None:
    place = shown.axes.figure
    place.colorbar(shown, ax=axes, shrink=0.6, aspect=30, pad=0.02, label=f"probability of {label}")
