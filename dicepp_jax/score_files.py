"""The scores of a test split, and their files in the folder `test` of a run's directory.

`test/` holds `cases.csv`, the rows of every case; `summary.csv`, their means; `thresholds.csv`,
counts of every case at `metrics.THRESHOLDS`; `reliability.csv`, sums over all cases; `shown.npz`,
the cases that figures show. Where cases have no foreground, `normal_cases.csv` holds what was
predicted in them. `case_reliability.csv` and `lesions.csv` hold the sums of every case behind
`calibration.csv`, the calibration of the whole split; runs of older versions lack them. Where the
network sees images at another size, `truth_at_size.csv` holds what the truth itself scores at that
size. Reports read nothing but these files. `shown.npz` alone has images of the data set: reports
need it for the figures that show them, and it can be deleted before scores are passed on.
"""

import io
import os
import shutil
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from dicepp_jax import metrics, scoring
from dicepp_jax.atomic import naming
from dicepp_jax.inference import Predict
from dicepp_jax.metrics import Confusion, Reliability
from dicepp_jax.plots.views import View, views
from dicepp_jax.progress import track
from dicepp_jax.resolution import truth_at_size
from dicepp_jax.rows import (
    FalsePositives,
    LesionBin,
    Row,
    is_of_raters,
    read_csv,
    summarise,
    write_csv,
)
from dicepp_jax.spec import Spec
from dicepp_jax.split_calibration import SplitCalibration, split_calibration

FOLDER = "test"
CASES, SUMMARY, THRESHOLDS, RELIABILITY = (
    f"{name}.csv" for name in ("cases", "summary", "thresholds", "reliability")
)
SHOWN = "shown.npz"
NORMAL = "normal_cases.csv"
TRUTH = "truth_at_size.csv"
CASE_RELIABILITY, LESIONS, CALIBRATION = (
    f"{name}.csv" for name in ("case_reliability", "lesions", "calibration")
)
DAMAGE = (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)
"""Errors of files that were cut off or changed."""
FILES = (CASES, SUMMARY, THRESHOLDS, RELIABILITY)
"""Those that scores cannot be read without."""


class SplitScores(NamedTuple):
    """The scores of a test split.

    Attributes:
      rows: of every case.
      reliability: sums over all cases, `(C, bins)` each.
      thresholds: counts at `metrics.THRESHOLDS` by case, `(C, T)` each.
      shown: views of the cases that figures show.
      false_positives: in the cases without foreground, of each foreground class.
      case_reliability: sums by case, `(C, bins)` each; empty for a run of an older version.
      lesions: the predicted ones of every case; likewise.
      truth: of `resolution.truth_at_size`, of every case; empty if the network works on the native
        grid, and for a run of an older version.
    """

    rows: list[Row]
    reliability: Reliability
    thresholds: dict[str, Confusion]
    shown: list[tuple[View, ...]]
    false_positives: Sequence[FalsePositives] = ()
    case_reliability: Mapping[str, Reliability] = MappingProxyType({})
    lesions: Sequence[LesionBin] = ()
    truth: Sequence[Row] = ()

    def calibration(self, classes: Sequence[str]) -> list[SplitCalibration]:
        """Calibration of each foreground class over the split; none for an older run."""
        return split_calibration(self.case_reliability, self.lesions, classes)


class ThresholdCount(NamedTuple):
    """Confusion of a case and a class at a threshold, a row of `thresholds.csv`."""

    case: str
    label: str
    threshold: float
    tp: int
    fp: int
    fn: int
    tn: int


class ReliabilityBin(NamedTuple):
    """Sums over the voxels whose probability falls in a bin, a row of `reliability.csv`.

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


class CaseBin(NamedTuple):
    """Sums of a case, a row of `case_reliability.csv`.

    Attributes:
      case: its name.
      sums: of a class and a bin.
    """

    case: str
    sums: ReliabilityBin


def score_split(
    predict: Predict,
    cases: Sequence[dict[str, Any]],
    spec: Spec,
    workdir: Path,
    *,
    size: tuple[int, ...],
    figures: int = 0,
) -> SplitScores:
    """Score the cases of a split, with progress, and write their scores.

    Args:
      predict: from a stored image to probabilities on the native grid.
      cases: stored cases.
      spec: of their data set.
      workdir: the directory whose folder `test` the scores go to.
      size: spatial input size of the network.
      figures: number of cases that figures will show.

    Returns:
      What has been written.
    """
    rows: list[Row] = []
    sums: dict[str, Reliability] = {}
    thresholds: dict[str, Confusion] = {}
    shown: list[tuple[View, ...]] = []
    false_positives: list[FalsePositives] = []
    lesions: list[LesionBin] = []
    scored_cases = scoring.score_cases(
        predict,
        cases,
        spec.classes,
        region=spec.region,
        label_map=spec.label_map,
        size=None if spec.patches else size,
    )
    for scored in track(scored_cases, "evaluating", len(cases), "case"):
        rows += scored.rows
        sums[scored.case] = scored.reliability
        thresholds[scored.case] = scored.thresholds
        false_positives += scored.false_positives
        lesions += scored.lesions
        if len(shown) < figures:
            shown.append(views(scored))
    reliability = jax.tree.map(lambda *x: np.sum(x, axis=0), *sums.values())
    truth = [row for stored in cases for row in truth_at_size(stored, spec, size)]
    scores = SplitScores(
        rows, reliability, thresholds, shown, false_positives, sums, lesions, truth
    )
    write(workdir, scores, spec.classes)
    return scores


def merge(parts: Sequence[SplitScores], figures: int = 0) -> SplitScores:
    """The scores of different cases as those of one split.

    Args:
      parts: their scores.
      figures: number of cases that figures will show.

    Returns:
      The scores of all of them.
    """
    # What is known of some cases only would pass for that of all.
    known = parts if all(part.case_reliability for part in parts) else []
    return SplitScores(
        [row for part in parts for row in part.rows],
        jax.tree.map(lambda *x: np.sum(x, axis=0), *(part.reliability for part in parts)),
        {case: counts for part in parts for case, counts in part.thresholds.items()},
        [views for part in parts for views in part.shown][:figures],
        [found for part in parts for found in part.false_positives],
        {case: sums for part in known for case, sums in part.case_reliability.items()},
        [found for part in known for found in part.lesions],
        [row for part in parts for row in part.truth],
    )


def write(workdir: Path, scored: SplitScores, classes: Sequence[str]) -> None:
    """Write scores below a directory, all of them or none."""
    # When a run is scored again, its old files stay until all the new ones exist.
    folder = _part(workdir)
    folder.mkdir(parents=True)
    write_csv(folder / CASES, scored.rows)
    write_csv(folder / SUMMARY, summarise(scored.rows))
    write_csv(folder / THRESHOLDS, list(_counts(scored.thresholds, classes)))
    write_csv(folder / RELIABILITY, list(_bins(scored.reliability, classes)))
    with naming(folder / SHOWN):
        (folder / SHOWN).write_bytes(_packed(scored.shown))
    if scored.false_positives:
        write_csv(folder / NORMAL, scored.false_positives)
    if scored.truth:
        write_csv(folder / TRUTH, scored.truth)
    if scored.case_reliability:
        bins = [
            CaseBin(case, of_bin)
            for case, sums in scored.case_reliability.items()
            for of_bin in _bins(sums, classes)
        ]
        write_csv(folder / CASE_RELIABILITY, bins)
        write_csv(folder / LESIONS, scored.lesions, LesionBin)
        write_csv(folder / CALIBRATION, scored.calibration(classes))
    shutil.rmtree(workdir / FOLDER, ignore_errors=True)
    os.replace(folder, workdir / FOLDER)


def discard(workdir: Path) -> None:
    """Remove the scores of a directory, if it has any: at once, for whoever reads them."""
    if (workdir / FOLDER).exists():
        os.replace(workdir / FOLDER, _part(workdir))
        _part(workdir)


def _part(workdir: Path) -> Path:
    """The hidden folder for scores that are not yet all there, or no longer; it does not exist."""
    folder = workdir / f".{FOLDER}.part"
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def is_complete(workdir: Path) -> bool:
    """Whether all scores are there."""
    return all((workdir / FOLDER / name).exists() for name in FILES)


def read(workdir: Path, classes: Sequence[str]) -> SplitScores:
    """Read what `write` wrote.

    Raises:
      FileNotFoundError: if a file is missing, as when an older version scored the run.
      ValueError: if a file is damaged.
    """
    try:
        return _read(workdir / FOLDER, classes)
    except DAMAGE as error:
        raise ValueError(
            f"the scores in {workdir / FOLDER} are damaged ({error}); repeat the command of that "
            "run, which scores it again and does not train what has been trained"
        ) from error


def _read(folder: Path, classes: Sequence[str]) -> SplitScores:
    for name in FILES:
        if not (folder / name).exists():
            raise FileNotFoundError(
                f"{folder / name} does not exist; repeat the command of that run, which scores it "
                "and does not train again what has been trained"
            )
    reliability = _binned(
        folder / RELIABILITY, read_csv(folder / RELIABILITY, ReliabilityBin), classes
    )
    counts: dict[str, list[tuple[int, ...]]] = {}
    for count in read_csv(folder / THRESHOLDS, ThresholdCount):
        counts.setdefault(count.case, []).append(count[3:])
    shape = (len(classes), len(metrics.THRESHOLDS), 4)
    thresholds = {
        case: Confusion(*np.moveaxis(np.array(of_case, np.int64).reshape(shape), -1, 0))
        for case, of_case in counts.items()
    }
    rows = read_csv(folder / CASES, Row)
    # Some cases may have several raters and others one.
    of_cases = Counter(row.case for row in rows if not is_of_raters(row.metric))
    if of_cases.keys() != thresholds.keys() or len(set(of_cases.values())) > 1:
        raise ValueError(f"{folder / CASES} lacks rows of some cases")
    normal = read_csv(folder / NORMAL, FalsePositives) if (folder / NORMAL).exists() else []
    if len(normal) % (len(classes) - 1):
        raise ValueError(f"{folder / NORMAL} lacks classes of some cases")
    shown = folder / SHOWN
    case_reliability = _case_reliability(folder / CASE_RELIABILITY, thresholds.keys(), classes)
    return SplitScores(
        rows,
        reliability,
        thresholds,
        _unpacked(shown.read_bytes()) if shown.exists() else [],
        normal,
        case_reliability,
        read_csv(folder / LESIONS, LesionBin) if case_reliability else [],
        read_csv(folder / TRUTH, Row) if (folder / TRUTH).exists() else [],
    )


def _binned(path: Path, bins: Sequence[ReliabilityBin], classes: Sequence[str]) -> Reliability:
    """Sums `(C, bins)` of their rows in a file."""
    number = len(bins) // len(classes)
    if [row[:2] for row in bins] != [(label, n) for label in classes for n in range(number)]:
        raise ValueError(f"{path} lacks bins of some classes")
    columns = np.array([row[2:] for row in bins]).reshape(len(classes), -1, 3)
    return Reliability(*np.moveaxis(columns, -1, 0))


def _case_reliability(
    path: Path, cases: Collection[str], classes: Sequence[str]
) -> dict[str, Reliability]:
    """Sums by case; empty if an older version scored them."""
    if not path.exists():
        return {}
    by_case: dict[str, list[ReliabilityBin]] = {}
    for case, sums in read_csv(path, CaseBin):
        by_case.setdefault(case, []).append(sums)
    if by_case.keys() != set(cases):
        raise ValueError(f"{path} lacks some cases")
    return {case: _binned(path, bins, classes) for case, bins in by_case.items()}


def _counts(thresholds: dict[str, Confusion], classes: Sequence[str]) -> Iterator[ThresholdCount]:
    for case, counts in thresholds.items():
        for c, label in enumerate(classes):
            for t, threshold in enumerate(metrics.THRESHOLDS):
                yield ThresholdCount(case, label, float(threshold), *(int(n[c, t]) for n in counts))


def _bins(sums: Reliability, classes: Sequence[str]) -> Iterator[ReliabilityBin]:
    for c, label in enumerate(classes):
        for number, (voxels, confidence, positives) in enumerate(
            zip(*(np.asarray(x)[c] for x in sums), strict=True)
        ):
            yield ReliabilityBin(label, number, int(voxels), float(confidence), int(positives))


def _packed(shown: Sequence[Sequence[View]]) -> bytes:
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


def _unpacked(content: bytes) -> list[tuple[View, ...]]:
    found: dict[int, dict[int, dict[str, Any]]] = {}
    with np.load(io.BytesIO(content)) as arrays:
        for key, array in arrays.items():
            case, target, name = key.split("/")
            fields = found.setdefault(int(case), {}).setdefault(int(target), {})
            fields[name] = array if array.ndim else str(array)
    return [tuple(View(**fields) for fields in views.values()) for views in found.values()]
