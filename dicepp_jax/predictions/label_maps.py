"""Folders of label maps scored against the truth: every metric, case by case.

Distances are in mm where files say how large voxels are; calibration is scored where there are
probability maps.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dicepp_jax import metrics, scoring
from dicepp_jax.data import files, formats, nifti, readers
from dicepp_jax.data.files import File
from dicepp_jax.data.formats import Pixels
from dicepp_jax.metrics import surface
from dicepp_jax.names import folder_names
from dicepp_jax.predictions import outputs
from dicepp_jax.predictions.images import ENDING
from dicepp_jax.progress import track
from dicepp_jax.rows import WHOLE_IMAGE, LesionBin, Row, Summary, summarise, write_csv
from dicepp_jax.scoring import ScoredCase
from dicepp_jax.split_calibration import SplitCalibration, split_calibration
from dicepp_jax.text_table import calibration_table, summary_table
from dicepp_jax.wording import listed

COARSE = ("nll", "nll_full", "aurc")
"""Metrics for which maps in 256 steps are too coarse: a small probability becomes 0."""

SHOWN = 20


class LabelMaps(NamedTuple):
    """Label maps that have been found.

    Attributes:
      root: a folder or archive.
      found: the files below it, by case.
    """

    root: Path
    found: Mapping[str, File]


class Pair(NamedTuple):
    """A case to be scored.

    Attributes:
      case: its name.
      mask: the predicted label map.
      truth: the true one.
      maps: probability maps of the foreground classes; empty if there are none.
    """

    case: str
    mask: File
    truth: File
    maps: tuple[Path, ...]


class PairScores(NamedTuple):
    """The scores of all pairs.

    Attributes:
      rows: of every case.
      calibration: of all cases that have probability maps together.
      coarse: cases whose probabilities are in 256 steps.
      failed: why cases could not be scored, one line each.
    """

    rows: list[Row]
    calibration: list[SplitCalibration]
    coarse: list[str]
    failed: list[str]


def find(place: str) -> LabelMaps:
    """The label maps of a folder, or of a pattern.

    Args:
      place: a folder or zip archive, in which a file's name without ending is the case, or one
        with such a folder `masks`; or a path with `{case}` in place of the case's name, in which
        `*` matches anything but "/".

    Returns:
      The files.

    Raises:
      FileNotFoundError: if there is no such folder or file.
      ValueError: if two files are the same case.
    """
    root, name = Path(place).expanduser(), f"(?P<case>.+?){ENDING.pattern[:-1]}"
    if "{case}" in place:
        root, name = _split(root)
    elif (root / outputs.MASKS).is_dir():
        root /= outputs.MASKS
    found = files.match(files.tree(root), name)
    if not found:
        raise FileNotFoundError(f"there is no label map in {place}")
    return LabelMaps(root, found)


def _split(pattern: Path) -> tuple[Path, str]:
    """The folder that a pattern begins with, and the rest as a regular expression."""
    first = next(n for n, part in enumerate(pattern.parts) if "{case}" in part or "*" in part)
    name = re.escape(files.spelt("/".join(pattern.parts[first:]))).replace(r"\*", "[^/]*")
    case = re.escape("{case}")
    name = name.replace(case, "(?P<case>[^/]+)", 1).replace(case, "(?P=case)")
    return Path(*pattern.parts[:first]), name


def pair(
    predictions: LabelMaps, truth: LabelMaps, classes: Sequence[str]
) -> tuple[list[Pair], list[str]]:
    """Match label maps of the same case.

    Args:
      predictions: the predicted ones; probability maps are looked for beside a folder `masks`.
      truth: the true ones.
      classes: names, the background first.

    Returns:
      Pairs, and the files without a counterpart, one line for predictions and one for truth.

    Raises:
      FileNotFoundError: if nothing matches.
    """
    found, true = predictions.found, truth.found
    if not found.keys() & true.keys():
        raise FileNotFoundError(
            f"no prediction and truth have the same name: {listed(found)}; {listed(true)}. Give a "
            "pattern with the case's name, as in --truth='FOLDER/{case}_mask.png'"
        )
    alone = []
    for what, one, other in (
        ("predictions without truth", found, true),
        ("truth without prediction", true, found),
    ):
        names = [case for case in one if case not in other]
        if names:
            alone.append(f"{len(names)} {what}: {listed(names, SHOWN)}")
    folder = predictions.root.parent / outputs.PROBABILITIES
    pairs = []
    for case, file in found.items():
        if case in true:
            name = os.path.relpath(file.where, predictions.root)  # as it is spelt on disk
            maps = tuple(folder / of / name for of in folder_names(classes[1:]))
            beside = predictions.root.name == outputs.MASKS and any(map(Path.exists, maps))
            pairs.append(Pair(case, file, true[case], maps if beside else ()))
    return pairs, alone


def score(pairs: Sequence[Pair], classes: tuple[str, ...], tolerance: float) -> PairScores:
    """Every metric of every pair.

    Args:
      pairs: the cases.
      classes: their names, the background first.
      tolerance: of the surface Dice, in mm.

    Returns:
      The scores.
    """
    rows: list[Row] = []
    reliability: dict[str, metrics.Reliability] = {}
    lesions: list[LesionBin] = []
    coarse, failed = [], []
    for one in track(pairs, "scoring", len(pairs), "case"):
        try:
            of_case, of_probs, is_coarse = _score(one, classes, tolerance)
        except (ValueError, OSError) as error:
            failed.append(f"{one.case}: {error}")
            continue
        rows += of_case
        if of_probs:
            reliability[one.case] = of_probs.reliability
            lesions += of_probs.lesions
        if is_coarse:
            coarse.append(one.case)
    return PairScores(rows, split_calibration(reliability, lesions, classes), coarse, failed)


def _score(
    one: Pair, classes: tuple[str, ...], tolerance: float
) -> tuple[list[Row], ScoredCase | None, bool]:
    """The rows of a pair, its probability maps as they are scored, and whether these are coarse."""
    mask, truth = (_read(file, len(classes)) for file in (one.mask, one.truth))
    formats.check_fits(one.mask, mask, one.truth, truth)
    maps = []
    for path in one.maps:
        maps.append(outputs.read_probability(path))
        formats.check_fits(files.from_path(path), maps[-1].pixels, one.truth, truth)
    coarse = any(probability.coarse for probability in maps)
    rows: list[Row] = []
    of_probs = None
    if maps:
        foreground = np.stack([probability.pixels.array for probability in maps], axis=-1)
        background = np.maximum(1 - foreground.sum(-1, keepdims=True), 0)
        probs = np.concatenate([background, foreground], axis=-1)
        left_out = (*metrics.OVERLAP, *(COARSE if coarse else ()))
        of_probs = _scored(one.case, probs, truth.array, classes)
        rows += [row for row in of_probs.rows if row.metric not in left_out]
    certain = np.eye(len(classes), dtype=np.float32)[mask.array]
    of_mask = _scored(one.case, certain, truth.array, classes)
    rows += [row for row in of_mask.rows if row.metric in metrics.OVERLAP]
    if truth.grid:
        rows += _distances(one.case, mask, truth, classes, tolerance)
    return rows, of_probs, coarse


def _read(file: File, num_classes: int) -> Pixels:
    """A label map of 0, 1, ..., C - 1; of two classes the second may also be 255."""
    pixels = formats.read_mask(file)
    array = pixels.array
    low, high = array.min(), array.max()
    if num_classes == 2 and high > 127:
        if array.ndim == 2:
            return pixels._replace(array=readers.read_mask(file))
        if set(readers.count_values(array)) <= {0, 255}:
            return pixels._replace(array=(array > 127).astype(np.uint8))
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"{file} holds {high if high >= num_classes else low}, expected the classes 0 to "
            f"{num_classes - 1}; renumber them, or name all classes by --classes"
        )
    return pixels._replace(array=array.astype(np.uint8))


def _scored(
    case: str, probs: np.ndarray, label: np.ndarray, classes: tuple[str, ...]
) -> ScoredCase:
    stored = {"id": case.encode(), "image": label, "label": label}
    (result,) = scoring.score_cases(lambda image, native: probs, [stored], classes)
    return result


def _distances(
    case: str, mask: Pixels, truth: Pixels, classes: tuple[str, ...], tolerance: float
) -> list[Row]:
    """The rows of the foreground's surfaces."""
    assert mask.grid and truth.grid
    spacing = nifti.common([truth.grid, mask.grid]).spacing
    # Surfaces are those of the foreground classes.
    p, y = (np.where(x.array == 0, -1, x.array.astype(np.int16))[None] for x in (mask, truth))
    values = {
        "hausdorff95": surface.hausdorff95(p, y, len(classes), spacing),
        f"surface_dice_{tolerance:g}mm": surface.surface_dice(
            p, y, len(classes), spacing, tolerance
        ),
    }
    return [
        Row(case, label, WHOLE_IMAGE, metric, float(value))
        for metric, (of_case,) in values.items()
        for label, value in zip(classes[1:], of_case[1:], strict=True)
    ]


def report(scored: PairScores, classes: tuple[str, ...]) -> tuple[str, list[Summary]]:
    """The table to print, and its numbers."""
    infinite = [row for row in scored.rows if np.isinf(row.value)]
    summaries = summarise(
        [row._replace(value=np.nan) if np.isinf(row.value) else row for row in scored.rows]
    )
    cases = len({row.case for row in scored.rows})
    lines = [
        f"{cases} cases, mean ± bootstrap standard error" if cases > 1 else "1 case",
        summary_table({"mean": summaries}, classes[0])
        + calibration_table({"probabilities": scored.calibration}),
    ]
    if infinite:
        lines.append(
            f"{len(infinite)} distances are infinite, as a class is present in only one of "
            "prediction and truth; they are counted as undefined"
        )
    if scored.coarse:
        names = f"{', '.join(COARSE[:-1])} and {COARSE[-1]}"
        lines.append(
            f"{names} are left out for {len(scored.coarse)} cases, whose "
            "probability maps have 256 steps; predict with --probabilities=float32 to include them"
        )
    return "\n".join(lines), summaries


def evaluate(
    predictions: str, truth: str, classes: str, tolerance: float, output: Path | None
) -> list[str]:
    """Score label maps against their truth, print the report, and write the scores.

    Args:
      predictions: where they are, as for `find`.
      truth: where the true ones are, likewise.
      classes: "background,NAME,..."; "" for those of the predictions' `prediction.json`.
      tolerance: of the surface Dice, in mm.
      output: the folder of `cases.csv`, `summary.csv` and `calibration.csv`, None to write nothing.

    Returns:
      What could not be scored, one line each.

    Raises:
      FileNotFoundError: if there are no label maps, or none match.
      ValueError: if two files are the same case, or the classes are unknown.
    """
    predicted, true = find(predictions), find(truth)
    names = _classes(classes, predicted.root.parent / outputs.SETTINGS)
    pairs, alone = pair(predicted, true, names)
    scored = score(pairs, names, tolerance)
    if scored.rows:
        text, summaries = report(scored, names)
        print(text)
        if output:
            output.mkdir(parents=True, exist_ok=True)
            write_csv(output / "cases.csv", scored.rows)
            write_csv(output / "summary.csv", summaries)
            if scored.calibration:
                write_csv(output / "calibration.csv", scored.calibration)
    return [*alone, *scored.failed]


def _classes(given: str, path: Path) -> tuple[str, ...]:
    """Class names, the background first: the given ones, or those of the predictions."""
    if given:
        classes = tuple(name.strip() for name in given.split(","))
        if len(classes) < 2 or not all(classes):
            raise ValueError(f"--classes is {given!r}, expected background,NAME,...")
        return classes
    if not path.exists():
        raise ValueError(
            f"{path}, which experiments.predict writes, does not exist; name the classes by "
            "--classes=background,NAME,..."
        )
    return tuple(json.loads(path.read_text())["classes"])
