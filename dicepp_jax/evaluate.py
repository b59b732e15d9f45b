"""Score predictions case by case: every metric, on the native grid, as rows of a long table."""

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dicepp_jax import metrics, statistics
from dicepp_jax.data.pipeline import case_id
from dicepp_jax.data.specs import Spec
from dicepp_jax.inference import Predict

WHOLE_IMAGE = "image"
ALL_CLASSES = "all"


class Row(NamedTuple):
    """One number: a metric of a class of a case, over the image or a region of it."""

    case: str
    label: str
    region: str
    metric: str
    value: float


class Result(NamedTuple):
    """A case, scored.

    Attributes:
      case: its name.
      image: `(*native, channels)` as stored.
      label: `(*native)` true classes.
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
      predict: from a native image to native probabilities.
      cases: stored cases of a split.
      spec: facts of the set.

    Yields:
      A `Result` for each, in the order given.
    """
    for stored in cases:
        case, label = case_id(stored), stored["label"]
        probs = predict(stored["image"])
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


class Summary(NamedTuple):
    """A metric of a class over the cases of a split.

    Attributes:
      label: the class.
      region: the image or a region of it.
      metric: its name.
      mean: over the cases where it is defined.
      error: bootstrap standard error of the mean.
      cases: number of cases where it is defined.
      undefined: number of cases where it is not.
    """

    label: str
    region: str
    metric: str
    mean: float
    error: float
    cases: int
    undefined: int


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """Mean and bootstrap standard error over cases, for every class, region and metric.

    Args:
      rows: of any number of cases.

    Returns:
      One `Summary` for each class, region and metric, in the order they first appear.

    Example:
      >>> place = ("vessel", "image", "dice")
      >>> summary, = summarise([Row("a", *place, 0.5), Row("b", *place, 0.7)])
      >>> print(round(summary.mean, 3), summary.cases)
      0.6 2
    """
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        groups.setdefault(row[1:4], []).append(row.value)
    summaries = []
    for key, group in groups.items():
        values = np.array(group)
        defined = values[~np.isnan(values)]
        mean = float(defined.mean()) if len(defined) else float("nan")
        error = statistics.bootstrap_error(defined)
        summaries.append(Summary(*key, mean, error, len(defined), len(values) - len(defined)))
    return summaries


def write_csv(path: Path, rows: Sequence[Row] | Sequence[Summary]) -> None:
    """Write named tuples as CSV with a header; the file appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0]._fields)
        writer.writerows(rows)
    os.replace(temporary, path)


def read_rows(path: Path) -> list[Row]:
    """Read what `write_csv` wrote of `Row`s."""
    with path.open(newline="") as file:
        lines = list(csv.reader(file))[1:]
    return [
        Row(c, label, region, metric, float(value)) for c, label, region, metric, value in lines
    ]
