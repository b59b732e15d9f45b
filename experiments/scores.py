"""The test split, scored, and the files that are kept of it below a run's directory.

`test/` holds `cases.csv`, the rows of every case; `summary.csv`, their means; `thresholds.csv`,
counts of every case at `metrics.THRESHOLDS`; `reliability.csv`, sums over all cases; `shown.npz`,
the cases that figures show. Reports read these files alone.
"""

import io
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from dicepp_jax import evaluate, inference, metrics, plots
from dicepp_jax.metrics import Confusion, Reliability
from dicepp_jax.progress import track
from dicepp_jax.rows import Row, read_csv, summarise, write_csv
from experiments import parts as parts_lib

FOLDER = "test"
CASES, SUMMARY, THRESHOLDS, RELIABILITY = (
    f"{name}.csv" for name in ("cases", "summary", "thresholds", "reliability")
)
SHOWN = "shown.npz"
FILES = (CASES, SUMMARY, THRESHOLDS, RELIABILITY, SHOWN)


class Scored(NamedTuple):
    """The test split, scored.

    Attributes:
      rows: those of every case.
      reliability: sums over all cases, `(C, bins)` each.
      thresholds: counts at `metrics.THRESHOLDS` by case, `(C, T)` each.
      shown: the cases to draw, by their views.
    """

    rows: list[Row]
    reliability: Reliability
    thresholds: dict[str, Confusion]
    shown: list[tuple[plots.View, ...]]


class Count(NamedTuple):
    """Voxels of a case that are called of a class at a threshold, a row of `thresholds.csv`."""

    case: str
    label: str
    threshold: float
    tp: int
    fp: int
    fn: int
    tn: int


class Bin(NamedTuple):
    """Sums over voxels whose probability lies in a bin, a row of `reliability.csv`.

    Attributes:
      label: the class.
      bin: its number, from 0.
      voxels: their number.
      confidence: sum of their predicted probabilities.
      positives: number of them that are of the class.
    """

    label: str
    bin: int
    voxels: int
    confidence: float
    positives: int


def score(
    predict: inference.Predict, config: ConfigDict, parts: parts_lib.Parts, workdir: Path
) -> Scored:
    """Evaluate on the test split and write what came out below a directory.

    Args:
      predict: what to evaluate.
      config: of the run, for the number of cases to draw.
      parts: of the run.
      workdir: the directory.

    Returns:
      What has been written.
    """
    cases, classes = parts.splits["test"], parts.spec.classes
    rows: list[Row] = []
    sums: list[Reliability] = []
    thresholds: dict[str, Confusion] = {}
    shown: list[tuple[plots.View, ...]] = []
    spec = parts.spec
    results = evaluate.evaluate(
        predict, cases, classes, region=spec.region, label_map=spec.label_map
    )
    for result in track(results, "evaluating", len(cases), "case"):
        rows += result.rows
        sums.append(result.reliability)
        thresholds[result.case] = result.thresholds
        if len(shown) < config.evaluation.figures:
            shown.append(plots.views(result))
    scored = Scored(rows, jax.tree.map(lambda *x: np.sum(x, axis=0), *sums), thresholds, shown)
    write(workdir, scored, classes)
    return scored


def write(workdir: Path, scored: Scored, classes: Sequence[str]) -> None:
    """Write scores below a directory, all of them or none."""
    # A run that is scored again has the old files until all the new ones are there.
    folder = workdir / f".{FOLDER}.part"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_csv(folder / CASES, scored.rows)
    write_csv(folder / SUMMARY, summarise(scored.rows))
    write_csv(folder / THRESHOLDS, list(_counts(scored.thresholds, classes)))
    write_csv(folder / RELIABILITY, list(_bins(scored.reliability, classes)))
    (folder / SHOWN).write_bytes(_packed(scored.shown))
    shutil.rmtree(workdir / FOLDER, ignore_errors=True)
    os.replace(folder, workdir / FOLDER)


def is_complete(workdir: Path) -> bool:
    """Whether all scores are there."""
    return all((workdir / FOLDER / name).exists() for name in FILES)


def read(workdir: Path, classes: Sequence[str]) -> Scored:
    """Read what `write` wrote.

    Raises:
      FileNotFoundError: if a file is missing, as of a run that an older version scored.
    """
    folder = workdir / FOLDER
    for name in FILES:
        if not (folder / name).exists():
            raise FileNotFoundError(
                f"{folder / name} does not exist; give the command of that run again, which scores "
                "it and does not train what is trained"
            )
    bins = read_csv(folder / RELIABILITY, Bin)
    columns = np.array([row[2:] for row in bins]).reshape(len(classes), -1, 3)
    counts: dict[str, list[tuple[int, ...]]] = {}
    for count in read_csv(folder / THRESHOLDS, Count):
        counts.setdefault(count.case, []).append(count[3:])
    shape = (len(classes), len(metrics.THRESHOLDS), 4)
    thresholds = {
        case: Confusion(*np.moveaxis(np.array(of_case, np.int64).reshape(shape), -1, 0))
        for case, of_case in counts.items()
    }
    return Scored(
        read_csv(folder / CASES, Row),
        Reliability(*np.moveaxis(columns, -1, 0)),
        thresholds,
        _unpacked((folder / SHOWN).read_bytes()),
    )


def _counts(thresholds: dict[str, Confusion], classes: Sequence[str]) -> Iterator[Count]:
    for case, counts in thresholds.items():
        for c, label in enumerate(classes):
            for t, threshold in enumerate(metrics.THRESHOLDS):
                yield Count(case, label, float(threshold), *(int(n[c, t]) for n in counts))


def _bins(sums: Reliability, classes: Sequence[str]) -> Iterator[Bin]:
    for c, label in enumerate(classes):
        for number, (voxels, confidence, positives) in enumerate(
            zip(*(np.asarray(x)[c] for x in sums), strict=True)
        ):
            yield Bin(label, number, int(voxels), float(confidence), int(positives))


def _packed(shown: Sequence[Sequence[plots.View]]) -> bytes:
    """Views as the bytes of an npz file, one array a field."""
    file = io.BytesIO()
    arrays = {
        f"{case}/{target}/{name}": np.asarray(value)
        for case, views in enumerate(shown)
        for target, view in enumerate(views)
        for name, value in view._asdict().items()
    }
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _unpacked(content: bytes) -> list[tuple[plots.View, ...]]:
    found: dict[int, dict[int, dict[str, Any]]] = {}
    with np.load(io.BytesIO(content)) as arrays:
        for key, array in arrays.items():
            case, target, name = key.split("/")
            fields = found.setdefault(int(case), {}).setdefault(int(target), {})
            fields[name] = array if array.ndim else str(array)
    return [tuple(plots.View(**fields) for fields in views.values()) for views in found.values()]
