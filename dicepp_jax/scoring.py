"""Score predictions case by case: every metric, on the native grid, as rows of a long table.

All metrics are computed from sums over voxels, so a volume is scored part by part. The metrics of
`metrics.OVERLAP` are properties of `Confusion`; those of `metrics.CALIBRATION` are properties of
`Reliability` or means over voxels; those of `metrics.LABEL_MAP` are means over voxels.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from dicepp_jax import metrics, rater_scores
from dicepp_jax.data.pipeline import case_id
from dicepp_jax.inference import Predict
from dicepp_jax.parts import split
from dicepp_jax.rows import ALL_CLASSES, WHOLE_IMAGE, FalsePositives, Row

PART = 2**20
"""Number of voxels scored at a time."""


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
    """

    case: str
    image: np.ndarray
    label: np.ndarray
    probs: np.ndarray
    rows: list[Row]
    reliability: metrics.Reliability
    thresholds: metrics.Confusion
    false_positives: list[FalsePositives]


def score_cases(
    predict: Predict,
    cases: Iterable[dict[str, Any]],
    classes: Sequence[str],
    *,
    region: str | None = None,
    label_map: bool = False,
) -> Iterator[ScoredCase]:
    """Predict and score stored cases, one after another.

    Args:
      predict: from a stored image to probabilities on the native grid.
      cases: stored cases of a split.
      classes: names of the C classes, the background first.
      region: name of the region that is scored in addition to the whole image, a mask stored as
        "region" with each case; None to score only the whole image.
      label_map: whether to compute the metrics of `metrics.LABEL_MAP` too.

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
            sums = _score(probs, label, where)
            rows += _rows(case, classes, name, _values(sums), label_map)
            if len(raters := stored.get("raters", ())) > 1:
                rows += rater_scores.rows(case, classes, name, probs, raters, where, PART)
            if name == WHOLE_IMAGE:
                whole = sums
        image = stored["image"]
        found = [] if label.any() else list(_false_positives(case, classes, probs))
        yield ScoredCase(
            case, image, label, probs, rows, whole.reliability, whole.thresholds, found
        )


def _false_positives(
    case: str, classes: Sequence[str], probs: np.ndarray
) -> Iterator[FalsePositives]:
    mask = probs.argmax(-1)
    for number, name in enumerate(classes[1:], 1):
        predicted = mask == number
        yield FalsePositives(case, name, int(predicted.sum()), ndimage.label(predicted)[1])


class _Sums(NamedTuple):
    """Sums that can be added over the parts of an image.

    Attributes:
      voxels: number of included voxels.
      means: by metric, its mean times that number, `(C,)` or `()`.
      reliability: arrays `(C, bins)`.
      confusion: arrays `(C,)`.
      thresholds: arrays `(C, T)`.
    """

    voxels: jax.Array
    means: dict[str, jax.Array]
    reliability: metrics.Reliability
    confusion: metrics.Confusion
    thresholds: metrics.Confusion


def _score(probs: np.ndarray, label: np.ndarray, where: np.ndarray) -> _Sums:
    arrays = (probs, label, where)
    parts = [jax.device_get(_sums(*part)) for part in split(PART, label.ndim, *arrays)]
    return jax.tree.map(_total, *parts)


def _values(whole: _Sums) -> dict[str, np.ndarray]:
    """All metrics by name."""
    share = 1 / whole.voxels if whole.voxels else np.nan
    values = {name: np.asarray(value * share) for name, value in whole.means.items()}
    ratios = set(metrics.CALIBRATION) - set(values)
    values |= {name: np.asarray(getattr(whole.reliability, name)) for name in ratios}
    values |= {name: np.asarray(getattr(whole.confusion, name)) for name in metrics.OVERLAP}
    return values


@jax.jit
def _sums(probs: jax.Array, label: jax.Array, where: jax.Array) -> _Sums:
    voxels = where.sum()
    means = {
        name: jnp.where(voxels > 0, metric(probs, label, where)[0] * voxels, 0)
        for name, metric in (metrics.CALIBRATION | metrics.LABEL_MAP).items()
        if not hasattr(metrics.Reliability, name)
    }
    reliability = metrics.reliability(probs, label, where)
    mask = jnp.argmax(probs, axis=-1)
    counts = metrics.confusion(mask, label.astype(jnp.int32), probs.shape[-1], where)
    curve = metrics.threshold_counts(probs, label, jnp.asarray(metrics.THRESHOLDS), where)
    return _Sums(voxels, means, *jax.tree.map(lambda x: x[0], (reliability, counts, curve)))


def _total(*parts: np.ndarray) -> np.ndarray:
    """The sum, exact for counts and in float64 otherwise."""
    dtype = np.float64 if parts[0].dtype.kind == "f" else np.int64
    return np.asarray(np.sum(parts, axis=0, dtype=dtype))


def _rows(
    case: str, classes: Sequence[str], region: str, values: dict[str, np.ndarray], label_map: bool
) -> Iterator[Row]:
    extra = metrics.LABEL_MAP if label_map else ()
    for metric in (*metrics.CALIBRATION, *metrics.OVERLAP, *extra):
        value = values[metric]
        labels = classes if value.ndim else (ALL_CLASSES,)
        for label, number in zip(labels, np.atleast_1d(value), strict=True):
            yield Row(case, label, region, metric, float(number))
