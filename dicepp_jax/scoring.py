"""Score predictions case by case: every metric, on the native grid, as rows of a long table.

All metrics are computed from sums over voxels, so a volume is scored part by part. The metrics of
`metrics.OVERLAP` are properties of `Confusion`; those of `metrics.CALIBRATION` are properties of
`Reliability` or means over voxels; those of `metrics.UNCERTAINTY` are properties of `Ranking`;
those of `metrics.LABEL_MAP` are means over voxels.

Most of an image is distant background, of which every network is sure. The metrics of
`metrics.CALIBRATION` are therefore computed in the region `rows.BAND` as well, near borders.

Resizing probabilities to the native grid makes them less certain at borders. A network of whole
images is therefore scored at its own size as well, as `rows.INPUT`.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from dicepp_jax import metrics, preprocess, rater_scores
from dicepp_jax.data.pipeline import case_id
from dicepp_jax.inference import Predict
from dicepp_jax.metrics.calibration import BINS
from dicepp_jax.parts import filled, split
from dicepp_jax.rows import ALL_CLASSES, BAND, INPUT, WHOLE_IMAGE, FalsePositives, LesionBin, Row

PART = 2**20
"""Number of voxels scored at a time."""

BAND_PART = 2**15
"""Likewise in the band, which is a small share of most images."""

BAND_WIDTH = 3
"""Voxels of the band on each side of a border: about as far as annotators disagree, and less than
the radius of small objects. It does not grow with the image, whose objects may be small and dense.
"""


class ScoredCase(NamedTuple):
    """The scores of a case.

    Attributes:
      case: name of the case.
      image: `(*stored, channels)`; a resampled volume is on the grid it was resampled to.
      label: `(*native)` true classes, on the original grid even for a resampled volume.
      probs: `(*native, C)` predicted probabilities.
      rows: the scores as `Row`s.
      reliability: sums for its reliability diagram, `(C, bins)` each, over the whole image.
      thresholds: counts `(C, T)` at `metrics.THRESHOLDS`, over the whole image.
      false_positives: of each foreground class, if the case has no foreground; else none.
      lesions: the predicted ones of each foreground class, as sums by confidence.
    """

    case: str
    image: np.ndarray
    label: np.ndarray
    probs: np.ndarray
    rows: list[Row]
    reliability: metrics.Reliability
    thresholds: metrics.Confusion
    false_positives: list[FalsePositives]
    lesions: list[LesionBin]


def score_cases(
    predict: Predict,
    cases: Iterable[dict[str, Any]],
    classes: Sequence[str],
    *,
    region: str | None = None,
    label_map: bool = False,
    size: tuple[int, ...] | None = None,
) -> Iterator[ScoredCase]:
    """Predict and score stored cases, one after another.

    Args:
      predict: from a stored image to probabilities on the native grid.
      cases: stored cases of a split.
      classes: names of the C classes, the background first.
      region: name of the region that is scored in addition to the whole image, a mask stored as
        "region" with each case; None to score only the whole image.
      label_map: whether to compute the metrics of `metrics.LABEL_MAP` too.
      size: spatial input size of a network of whole images, at which it is scored too against the
        labels resized as for training, unless it is that of the case; None to score only the native
        grid.

    Yields:
      A `ScoredCase` for each case, in the order given.
    """
    for stored in cases:
        case, label = case_id(stored), stored.get("native_label", stored["label"])
        probs = predict(stored["image"], label.shape)
        regions = {WHOLE_IMAGE: np.ones(label.shape, bool)}
        if region:
            regions[region] = stored["region"] > 0
        rows: list[Row] = []
        for name, where in regions.items():
            sums = _score(probs, label, where, label_map)
            rows += _rows(case, classes, name, _values(sums))
            if len(raters := stored.get("raters", ())) > 1:
                rows += rater_scores.rows(case, classes, name, probs, raters, where, PART)
            if name == WHOLE_IMAGE:
                whole = sums
        rows += _rows(case, classes, BAND, _calibration(_score_band(probs, label)))
        if size and size != label.shape:
            unresized = predict(stored["image"], size)
            rows += _rows(case, classes, INPUT, _at_input_size(unresized, label))
        image, mask = stored["image"], probs.argmax(-1)
        yield ScoredCase(
            case,
            image,
            label,
            probs,
            rows,
            whole.calibration.reliability,
            whole.thresholds,
            [] if label.any() else list(_false_positives(case, classes, mask)),
            list(_lesions(case, classes, mask, label, probs)),
        )


def border_band(label: np.ndarray, width: int = BAND_WIDTH) -> np.ndarray:
    """Voxels near a border between classes, on both sides of it.

    The first voxels on each side are those that have a neighbour of another class along an axis, as
    in `metrics.surface`; the others are at most width - 1 voxels away from one of these along every
    axis. In contrast to `metrics.foreground_band`, the inside of an object is left out too.

    Args:
      label: `(*spatial)` true classes.
      width: voxels on each side, at least 1.

    Returns:
      `(*spatial)` boolean, False everywhere if there is only one class.

    Example:
      >>> border_band(np.array([0, 0, 0, 0, 1, 1, 1, 1]), 2).astype(int)
      array([0, 0, 1, 1, 1, 1, 0, 0])
    """
    band = np.zeros(label.shape, bool)
    for axis in range(label.ndim):
        after, before = _moved(axis, 1)
        border = label[after] != label[before]
        band[after] |= border
        band[before] |= border
    for axis in range(label.ndim):
        nearest = band.copy()
        for distance in range(1, width):
            after, before = _moved(axis, distance)
            band[after] |= nearest[before]
            band[before] |= nearest[after]
    return band


def _moved(axis: int, distance: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Indices of the voxels that have another so far before them along an axis, and of those."""
    rest = (slice(None),) * axis
    return (*rest, slice(distance, None)), (*rest, slice(None, -distance))


def _false_positives(
    case: str, classes: Sequence[str], mask: np.ndarray
) -> Iterator[FalsePositives]:
    for number, name in enumerate(classes[1:], 1):
        predicted = mask == number
        yield FalsePositives(case, name, int(predicted.sum()), ndimage.label(predicted)[1])


def _lesions(
    case: str, classes: Sequence[str], mask: np.ndarray, label: np.ndarray, probs: np.ndarray
) -> Iterator[LesionBin]:
    for number, name in enumerate(classes[1:], 1):
        confidence, correct = _found(mask == number, label == number, probs[..., number])
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
        for k in np.unique(bins):
            c, y = confidence[bins == k], correct[bins == k]
            squares = float(np.sum((c - y) ** 2))
            yield LesionBin(case, name, int(k), len(c), float(c.sum()), int(y.sum()), squares)


def _found(
    predicted: np.ndarray, truth: np.ndarray, p: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The mean p of each connected component `(lesions,)`, and whether it overlaps the truth."""
    numbered, count = ndimage.label(predicted)
    inside = np.flatnonzero(numbered)
    lesion = numbered.reshape(-1).take(inside) - 1
    voxels, of_p, hits = (
        np.bincount(lesion, None if x is None else x.reshape(-1).take(inside), count)
        for x in (None, p, truth)
    )
    return of_p / voxels, hits > 0


class _Calibration(NamedTuple):
    """Sums that can be added over the parts of an image.

    Attributes:
      voxels: number of included voxels.
      means: by metric, its mean times that number, `(C,)` or `()`.
      reliability: arrays `(C, bins)`.
    """

    voxels: jax.Array
    means: dict[str, jax.Array]
    reliability: metrics.Reliability


class _Sums(NamedTuple):
    """Likewise, of all metrics.

    Attributes:
      calibration: of the class probabilities.
      confusion: arrays `(C,)`.
      thresholds: arrays `(C, T)`.
      confidence: arrays `(bins,)`.
      entropy: likewise.
    """

    calibration: _Calibration
    confusion: metrics.Confusion
    thresholds: metrics.Confusion
    confidence: metrics.Ranking
    entropy: metrics.Ranking


def _score(probs: np.ndarray, label: np.ndarray, where: np.ndarray, label_map: bool) -> _Sums:
    # Two programs, as XLA makes slower loops of one for both on a CPU.
    parts = [
        jax.device_get(_Sums(*_class_sums(*part, label_map=label_map), *_rankings(*part)))
        for part in split(PART, label.ndim, probs, label, where)
    ]
    return jax.tree.map(_total, *parts)


def _score_band(probs: np.ndarray, label: np.ndarray) -> _Calibration:
    band = np.flatnonzero(border_band(label))
    # `take` is several times faster here than an index.
    rows = probs.reshape(label.size, -1).take(band, 0), label.reshape(-1).take(band)
    parts = filled(BAND_PART, *rows, np.ones(len(band), bool))
    sums = [jax.device_get(_calibration_sums(*part)) for part in parts]
    return jax.tree.map(_total, *sums)


def _at_input_size(probs: np.ndarray, label: np.ndarray) -> dict[str, np.ndarray]:
    """Calibration and overlap by name."""
    size = probs.shape[:-1]
    seen = preprocess.resize_label(label, size, probs.shape[-1])
    sums = _score(probs, seen, np.ones(size, bool), label_map=False)
    return _calibration(sums.calibration) | _overlap(sums.confusion)


def _values(whole: _Sums) -> dict[str, np.ndarray]:
    """All metrics by name."""
    values = _calibration(whole.calibration)
    values["aurc"] = _ratios(whole.confidence, ("aurc",))["aurc"]
    values["entropy_auroc"] = _ratios(whole.entropy, ("auroc",))["auroc"]
    return values | _overlap(whole.confusion)


def _overlap(whole: metrics.Confusion) -> dict[str, np.ndarray]:
    return {name: np.asarray(getattr(whole, name)) for name in metrics.OVERLAP}


def _calibration(whole: _Calibration) -> dict[str, np.ndarray]:
    share = 1 / whole.voxels if whole.voxels else np.nan
    values = {name: np.asarray(value * share) for name, value in whole.means.items()}
    return values | _ratios(whole.reliability, tuple(sorted(metrics.CALIBRATION.keys() - values)))


def _ratios(
    sums: metrics.Reliability | metrics.Ranking, names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    # In one program, as each operation outside takes longer to start than to finish. In float32,
    # to which the properties convert, before counts in int64 enter it as int32.
    return jax.device_get(_properties(jax.tree.map(np.float32, sums), names))


@functools.partial(jax.jit, static_argnames="names")
def _properties(
    sums: metrics.Reliability | metrics.Ranking, names: tuple[str, ...]
) -> dict[str, jax.Array]:
    return {name: getattr(sums, name) for name in names}


@functools.partial(jax.jit, static_argnames="label_map")
def _class_sums(
    probs: jax.Array, label: jax.Array, where: jax.Array, *, label_map: bool
) -> tuple[_Calibration, metrics.Confusion, metrics.Confusion]:
    calibration = _calibration_sums(probs, label, where, label_map=label_map)
    mask = jnp.argmax(probs, axis=-1)
    counts = metrics.confusion(mask, label.astype(jnp.int32), probs.shape[-1], where)
    curve = metrics.threshold_counts(probs, label, jnp.asarray(metrics.THRESHOLDS), where)
    return calibration, *jax.tree.map(lambda x: x[0], (counts, curve))


@jax.jit
def _rankings(
    probs: jax.Array, label: jax.Array, where: jax.Array
) -> tuple[metrics.Ranking, metrics.Ranking]:
    rankings = (
        f(probs, label, where) for f in (metrics.confidence_ranking, metrics.entropy_ranking)
    )
    return jax.tree.map(lambda x: x[0], tuple(rankings))


@functools.partial(jax.jit, static_argnames="label_map")
def _calibration_sums(
    probs: jax.Array, label: jax.Array, where: jax.Array, *, label_map: bool = False
) -> _Calibration:
    voxels = where.sum()
    means = {
        name: jnp.where(voxels > 0, metric(probs, label, where)[0] * voxels, 0)
        for name, metric in (metrics.CALIBRATION | (metrics.LABEL_MAP if label_map else {})).items()
        if not hasattr(metrics.Reliability, name)
    }
    reliability = metrics.reliability(probs, label, where)
    return _Calibration(voxels, means, jax.tree.map(lambda x: x[0], reliability))


def _total(*parts: np.ndarray) -> np.ndarray:
    """The sum, exact for counts and in float64 otherwise."""
    dtype = np.float64 if parts[0].dtype.kind == "f" else np.int64
    return np.asarray(np.sum(parts, axis=0, dtype=dtype))


ORDER = (*metrics.CALIBRATION, *metrics.UNCERTAINTY, *metrics.OVERLAP, *metrics.LABEL_MAP)
"""The order of the rows of a region."""


def _rows(
    case: str, classes: Sequence[str], region: str, values: dict[str, np.ndarray]
) -> Iterator[Row]:
    for metric in filter(values.__contains__, ORDER):
        value = values[metric]
        labels = classes if value.ndim else (ALL_CLASSES,)
        for label, number in zip(labels, np.atleast_1d(value), strict=True):
            yield Row(case, label, region, metric, float(number))
