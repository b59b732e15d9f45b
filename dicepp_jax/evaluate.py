"""Score predictions case by case: every metric, on the native grid, as rows of a long table."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dicepp_jax import metrics
from dicepp_jax.data.pipeline import case_id
from dicepp_jax.data.specs import Spec
from dicepp_jax.inference import Predict
from dicepp_jax.rows import ALL_CLASSES, WHOLE_IMAGE, Row


class Result(NamedTuple):
    """A case, scored.

    Attributes:
      case: its name.
      image: `(*stored, channels)`, of a resampled volume on the grid it was resampled to.
      label: `(*native)` true classes, of a resampled volume those of its own grid.
      probs: `(*native, C)` predicted probabilities.
      rows: its `Row`s.
      reliability: sums behind its reliability diagram, `(C, bins)` each, over the whole image.
    """

    case: str
    image: np.ndarray
    label: np.ndarray
    probs: np.ndarray
    rows: list[Row]
    reliability: metrics.Reliability


def evaluate(predict: Predict, cases: Iterable[dict[str, Any]], spec: Spec) -> Iterator[Result]:
    """Predict and score stored cases, one after another.

    Args:
      predict: from a stored image to probabilities on the native grid.
      cases: stored cases of a split.
      spec: facts of the set.

    Yields:
      A `Result` for each, in the order given.
    """
    for stored in cases:
        case, label = case_id(stored), stored.get("native_label", stored["label"])
        probs = predict(stored["image"], label.shape)
        regions = {WHOLE_IMAGE: np.ones(label.shape, bool)}
        if spec.region:
            regions[spec.region] = stored["region"] > 0
        rows: list[Row] = []
        for region, where in regions.items():
            values, reliability = _score(*_padded(probs, label, where))
            rows += _rows(case, spec, region, jax.device_get(values))
            if region == WHOLE_IMAGE:
                whole = metrics.Reliability(*(np.asarray(x)[0] for x in reliability))
        yield Result(case, stored["image"], label, probs, rows, whole)


def _padded(probs: np.ndarray, label: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, ...]:
    """Voxels in a row of a power of two, so that images of any size share few compilations."""
    voxels = label.size
    extra = (1 << (voxels - 1).bit_length()) - voxels
    flat = np.pad(probs.reshape(voxels, -1), ((0, extra), (0, 0)))
    rows = (np.pad(x.reshape(-1), (0, extra)) for x in (label.astype(np.int32), where))
    return (flat[None], *(row[None] for row in rows))


@jax.jit
def _score(
    probs: jax.Array, label: jax.Array, where: jax.Array
) -> tuple[dict[str, jax.Array], metrics.Reliability]:
    num_classes = probs.shape[-1]
    mask = jnp.argmax(probs, axis=-1)
    values = {name: f(probs, label, where)[0] for name, f in metrics.CALIBRATION.items()}
    overlap = {name: f(mask, label, num_classes, where) for name, f in metrics.OVERLAP.items()}
    return values | {k: v[0] for k, v in overlap.items()}, metrics.reliability(probs, label, where)


def _rows(case: str, spec: Spec, region: str, values: dict[str, np.ndarray]) -> Iterator[Row]:
    for metric in (*metrics.CALIBRATION, *metrics.OVERLAP):
        value = values[metric]
        labels = spec.classes if value.ndim else (ALL_CLASSES,)
        for label, number in zip(labels, np.atleast_1d(value), strict=True):
            yield Row(case, label, region, metric, float(number))
