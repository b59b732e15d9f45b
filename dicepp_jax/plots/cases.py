"""Pictures of single cases: predictions, errors, overlays and contact sheets.

Of a volume one slice along the first axis is shown; slices are counted from 1.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from dicepp_jax.plots.canvas import DPI, PHOTOGRAPH_DPI
from dicepp_jax.plots.views import OVERLAY, View, slice_title, thinned
from dicepp_jax.saved import segment

FALSE_POSITIVE = (255, 0, 255)
FALSE_NEGATIVE = (0, 200, 0)
HEAT = "inferno"
OUTLINES = ("#00e5ff", "#ffd500", "#ff3df2", "#5dff3d", "#ff7a1a", "#ffffff")
THUMBNAIL = 256
TITLE = 32
PANEL = 3.2
"""Inches that a panel of a case is wide."""
SHORTEST, LONGEST = 3.0, 12.0
"""Limits in inches of the sides of an overlay."""


def display(image: np.ndarray) -> np.ndarray:
    """An image as RGB in [0, 1]: uint8 unchanged, others scaled by their 1st and 99th percentiles.

    If the channels are not colours, the first one is shown.
    """
    if image.dtype == np.uint8:
        shown = image / 255
    else:
        low, high = np.percentile(image, [1, 99])
        shown = np.clip((image - low) / max(high - low, 1e-12), 0, 1)
    return shown if shown.shape[-1] == 3 else np.repeat(shown[..., :1], 3, axis=-1)


def errors(image: np.ndarray, label: np.ndarray, mask: np.ndarray, target: int) -> np.ndarray:
    """The image in dark grey, with false positives of the class magenta and false negatives green.

    Args:
      image: `(H, W, channels)`.
      label: `(H, W)` true classes.
      mask: `(H, W)` predicted classes.
      target: index of the class.

    Returns:
      `(H, W, 3)` uint8.
    """
    grey = 255 * (0.15 + 0.6 * display(image).mean(-1, keepdims=True))
    shown = np.repeat(grey, 3, axis=-1).astype(np.uint8)
    shown[(mask == target) & (label != target)] = FALSE_POSITIVE
    shown[(mask != target) & (label == target)] = FALSE_NEGATIVE
    return shown


def prediction(cases: Mapping[str, Sequence[View]], classes: Sequence[str]) -> Figure:
    """One case: image, truth, and for each method a heat map and the errors of every class.

    Args:
      cases: `views` of the same case by method; panels are titled with the name of the method.
      classes: class names, the background first.

    Returns:
      A figure with one row per foreground class. The first title of a row states the case and the
      slice. If the class is absent from the truth, the slices of the methods may differ; the title
      of the heat map then states the slice.
    """
    rows = list(zip(classes[1:], *cases.values(), strict=True))
    figure, axes = _panels(len(rows), 2 + 2 * len(cases), rows[0][1])
    for target, (row, (label, *same)) in enumerate(zip(axes, rows, strict=True), 1):
        first = same[0]
        panel(row[0], display(first.image), heading(first))
        panel(row[1], first.label == target, f"{label}: truth", cmap="gray")
        for position, (name, view) in enumerate(zip(cases, same, strict=True)):
            heat, wrong = row[2 + 2 * position : 4 + 2 * position]
            _heat(heat, view.probs[..., target], f"{name}: probability{elsewhere(view, first)}")
            picture = errors(view.image, view.label, view.probs.argmax(-1), target)
            panel(wrong, picture, f"{name}: FP magenta, FN green")
    return figure


def thresholds(
    cases: Mapping[str, Sequence[View]],
    classes: Sequence[str],
    values: Sequence[float] = (0.2, 0.5, 0.8),
) -> Figure:
    """One case segmented at several thresholds: the errors, titled with recall and precision.

    Args:
      cases: `views` of the same case by method.
      classes: class names, the background first.
      values: the thresholds.

    Returns:
      A figure with one row per foreground class and method: the heat map, whose title states the
      case and the slice, then a panel per threshold. The numbers refer to what is shown, which is
      one slice of a volume.

    Reference:
      DSC++ paper, Eq. 10, with the inequality as stated in its text; Figure 5.
    """
    return called_at(
        [
            (name, classes[target], target, same[target - 1])
            for target in range(1, len(classes))
            for name, same in cases.items()
        ],
        values,
    )


def called_at(rows: Sequence[tuple[str, str, int, View]], values: Sequence[float]) -> Figure:
    """One figure row per (method, class name, class index, view); see `thresholds`."""
    figure, axes = _panels(len(rows), 1 + len(values), rows[0][-1])
    for (name, label, target, view), (heat, *called) in zip(rows, axes, strict=True):
        _heat(heat, view.probs[..., target], f"{heading(view)}\n{name}: {label}")
        truth = view.label == target
        for place, value in zip(called, values, strict=True):
            mask = segment(view.probs, value, target)
            found = np.count_nonzero(truth & (mask == target))
            recall, precision = (
                f"{found / number:.2f}" if number else "undefined"
                for number in map(np.count_nonzero, (truth, mask == target))
            )
            above = f"T = {value:g}: recall {recall}, precision {precision}"
            panel(place, errors(view.image, view.label, mask, target), above)
    figure.supxlabel("false positives magenta, false negatives green", fontsize=9)
    return figure


def _panels(rows: int, columns: int, view: View) -> tuple[Figure, np.ndarray]:
    """A figure of panels that are about as tall as their images, without the colour bars."""
    height = 0.85 * PANEL * min(height_over_width(view.label.shape), 2) + 0.5
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(PANEL * columns, height * rows),
        dpi=PHOTOGRAPH_DPI,
        squeeze=False,
        layout="constrained",
    )
    return figure, axes


def height_over_width(shape: Sequence[int], aspect: float = 1) -> float:
    """Height over width of an image; aspect is the height over width of a pixel."""
    return shape[0] * aspect / shape[1]


def heading(view: View) -> str:
    """The name of the case, for a volume with the slice."""
    return _short(f"{view.case}, {view.where}" if view.where else view.case)


def elsewhere(view: View, first: View) -> str:
    """The slice, if it differs from that of the first view."""
    return f", {view.where}" if view.where != first.where else ""


def _heat(axes: Axes, probability: np.ndarray, title: str, aspect: float = 1) -> None:
    shown = panel(axes, probability, title, cmap=HEAT, aspect=aspect)
    axes.figure.colorbar(shown, ax=axes, shrink=0.8)


def panel(
    axes: Axes, image: np.ndarray, title: str, cmap: str | None = None, aspect: float = 1
) -> AxesImage:
    """Show an image in [0, 1] or RGB, without ticks."""
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()
    image = thinned(image, OVERLAY)
    return axes.imshow(image, cmap=cmap, aspect=aspect, vmin=0, vmax=1, interpolation="nearest")


class Sample(NamedTuple):
    """A case to show.

    Attributes:
      title: title above the image.
      image: `(*spatial, channels)`.
      label: `(*spatial)` classes.
    """

    title: str
    image: np.ndarray
    label: np.ndarray


def contact_sheet(samples: Sequence[Sample], classes: Sequence[str]) -> Figure:
    """Cases side by side, each with the outlines of its classes.

    Args:
      samples: the cases to show.
      classes: class names, the background first.

    Returns:
      A figure with up to six cases per row and a legend of the classes below.
    """
    columns = min(6, len(samples))
    rows = -(-len(samples) // columns)
    thumbnails = [_thumbnail(sample) for sample in samples]
    tallness = float(np.median([height_over_width(label.shape) for _, label in thumbnails]))
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(2.2 * columns, (2.2 * min(tallness, 2) + 0.2) * rows + 0.3),
        dpi=DPI,
        squeeze=False,
        layout="constrained",
    )
    for place in axes.flat:
        place.set_axis_off()
    for place, sample, (image, label) in zip(axes.flat, samples, thumbnails, strict=False):
        place.set_title(_short(sample.title), fontsize=7)
        place.imshow(image, vmin=0, vmax=1)
        for target in range(1, len(classes)):
            outline(place, label, target)
    _legend(figure, classes)
    return figure


def outline(place: Axes, label: np.ndarray, target: int, width: float = 0.8) -> None:
    """Draw the outline of a class, with a line width in points."""
    inside = label == target
    if inside.any() and not inside.all():
        place.contour(inside, [0.5], colors=[_colour(target)], linewidths=width)


def _legend(figure: Figure, classes: Sequence[str]) -> None:
    names = [
        Line2D([], [], color=_colour(target), label=name)
        for target, name in enumerate(classes)
        if target
    ]
    figure.legend(handles=names, loc="outside lower center", ncols=6, fontsize=8)


def _short(title: str) -> str:
    return title if len(title) <= TITLE else f"…{title[1 - TITLE :]}"


def _colour(target: int) -> str:
    return OUTLINES[(target - 1) % len(OUTLINES)]


def _thumbnail(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """A 2-D view of a sample, subsampled to the size of a thumbnail."""
    image, label = sample.image, sample.label
    if label.ndim == 3:
        index = int((label > 0).sum(axis=(1, 2)).argmax())
        image, label = image[index], label[index]
    return display(thinned(image, THUMBNAIL)), thinned(label, THUMBNAIL)


def overlay(
    title: str,
    image: np.ndarray,
    mask: np.ndarray,
    probs: np.ndarray,
    classes: Sequence[str],
    spacing: Sequence[float],
    from_top: bool,
) -> Figure:
    """A prediction without truth: the image with outlines of the predicted classes, and heat maps.

    Args:
      title: title of the figure.
      image: `(*spatial, channels)`.
      mask: `(*spatial)` predicted classes.
      probs: `(*spatial, C)` predicted probabilities.
      classes: class names, the background first.
      spacing: voxel spacing along each spatial axis, in any unit.
      from_top: whether the first axis of a volume is known to run from superior to inferior; the
        title then states it.

    Returns:
      A figure of the image and one heat map per foreground class. For a volume it shows the slice
      along the first axis in which the foreground is most probable.
    """
    if mask.ndim == 3:
        index = int(probs[..., 1:].sum(axis=(1, 2, 3)).argmax())
        title = f"{title}, {slice_title(index, len(mask))}{' (from the top)' if from_top else ''}"
        image, mask, probs = image[index], mask[index], probs[index]
    image, mask, probs = (thinned(array, OVERLAY) for array in (display(image), mask, probs))
    aspect = spacing[-2] / spacing[-1]
    figure, row = plt.subplots(
        1,
        len(classes),
        figsize=_size(len(classes), height_over_width(mask.shape, aspect)),
        dpi=DPI,
        layout="compressed",
    )
    figure.suptitle(title, fontsize=9)
    panel(row[0], image, "outlines", aspect=aspect)
    for target, name in enumerate(classes):
        if target:
            outline(row[0], mask, target)
            _heat(row[target], probs[..., target], f"{name}: probability", aspect)
    _legend(figure, classes)
    return figure


def _size(columns: int, tallness: float) -> tuple[float, float]:
    """Size in inches of an overlay, a row of panels with a title above and a legend below."""
    beside = 0.8
    width = min(max(4.2, (SHORTEST - beside) / tallness), LONGEST / columns)
    return width * columns, min(max(SHORTEST, width * tallness + beside), LONGEST)


def palette(num_classes: int) -> list[int]:
    """A palette of RGB values for label maps: black, then the colours of the outlines.

    Example:
      >>> palette(2)
      [0, 0, 0, 0, 229, 255]
    """
    colours = ["#000000", *(_colour(target) for target in range(1, num_classes))]
    return [round(255 * value) for colour in colours for value in to_rgb(colour)]
