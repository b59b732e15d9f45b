"""Score label maps: python -m experiments.evaluate --predictions=DIR --truth=DIR

DIR of the predictions is what experiments.predict wrote, or any folder of label maps; instead of a
folder a pattern may be given, as 'truth/{case}_manual1.gif'. A prediction and its truth have one
name. Every metric is computed on their grid; distances in mm where files say how large voxels are;
calibration where there are probability maps. What cannot be scored is told at the end, after all
others, and makes the exit code 1.
"""

import argparse
import json
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dicepp_jax import evaluate, metrics
from dicepp_jax.data import files, formats, readers
from dicepp_jax.data.files import File
from dicepp_jax.data.formats import Pixels
from dicepp_jax.data.wording import listed
from dicepp_jax.metrics import surface
from dicepp_jax.progress import track
from dicepp_jax.rows import WHOLE_IMAGE, Row, Summary, summarise, write_csv
from experiments import inputs, outputs, table
from experiments.predict import SETTINGS

COARSE = ("nll", "nll_full")
"""Metrics that maps in 256 steps are too coarse for: a small probability becomes 0."""

SHOWN = 20


class Place(NamedTuple):
    """Where label maps are.

    Attributes:
      root: a folder or archive.
      found: those below it, by case.
    """

    root: Path
    found: Mapping[str, File]


class Pair(NamedTuple):
    """A case to be scored.

    Attributes:
      case: its name.
      mask: the predicted label map.
      truth: the true one.
      maps: of the foreground classes, none if there are no probabilities.
    """

    case: str
    mask: File
    truth: File
    maps: tuple[Path, ...]


class Scored(NamedTuple):
    """All pairs, scored.

    Attributes:
      rows: of every case.
      coarse: cases whose probabilities are in 256 steps.
      failed: what went wrong, one line a case.
    """

    rows: list[Row]
    coarse: list[str]
    failed: list[str]


def find(place: str) -> Place:
    """The label maps of a folder, or of a pattern.

    Args:
      place: a folder or zip archive, in which a file's name without ending is the case, or one
        that has such a folder `masks`; or a path with `{case}` where a case's name is, in which `*`
        is anything but "/".

    Returns:
      The place.

    Raises:
      FileNotFoundError: if there is no such folder or file.
      ValueError: if two files are the same case.
    """
    root, name = Path(place).expanduser(), f"(?P<case>.+?){inputs.ENDING.pattern[:-1]}"
    if "{case}" in place:
        root, name = _split(root)
    elif (root / outputs.MASKS).is_dir():
        root /= outputs.MASKS
    found = files.match(files.tree(root), name)
    if not found:
        raise FileNotFoundError(f"there is no label map in {place}")
    return Place(root, found)


def _split(pattern: Path) -> tuple[Path, str]:
    """The folder that a pattern begins with, and the rest as a regular expression."""
    first = next(n for n, part in enumerate(pattern.parts) if "{case}" in part or "*" in part)
    name = re.escape("/".join(pattern.parts[first:])).replace(r"\*", "[^/]*")
    case = re.escape("{case}")
    name = name.replace(case, "(?P<case>[^/]+)", 1).replace(case, "(?P=case)")
    return Path(*pattern.parts[:first]), name


def pair(predictions: Place, truth: Place, classes: Sequence[str]) -> tuple[list[Pair], list[str]]:
    """Label maps of the same case.

    Args:
      predictions: where they are; maps of probabilities are looked for beside a folder `masks`.
      truth: where it is.
      classes: their names, the background first.

    Returns:
      Pairs, and what has no counterpart, one line a side.

    Raises:
      FileNotFoundError: if nothing fits together.
    """
    found, true = predictions.found, truth.found
    if not found.keys() & true.keys():
        raise FileNotFoundError(
            f"no prediction has the name of a truth: {listed(found)}; {listed(true)}. Say where a "
            "case's name is, as in --truth='FOLDER/{case}_mask.png'"
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
            maps = tuple(folder / outputs.folder_of(label) / file.name for label in classes[1:])
            beside = predictions.root.name == outputs.MASKS and any(map(Path.exists, maps))
            pairs.append(Pair(case, file, true[case], maps if beside else ()))
    return pairs, alone


def score(pairs: Sequence[Pair], classes: tuple[str, ...], tolerance: float) -> Scored:
    """Every metric of every pair.

    Args:
      pairs: the cases.
      classes: their names, the background first.
      tolerance: of the surface Dice, in mm.

    Returns:
      The scores.
    """
    rows: list[Row] = []
    coarse, failed = [], []
    for one in track(pairs, "scoring", len(pairs), "case"):
        try:
            of_case, is_coarse = _score(one, classes, tolerance)
        except (ValueError, OSError) as error:
            failed.append(f"{one.case}: {error}")
            continue
        rows += of_case
        if is_coarse:
            coarse.append(one.case)
    return Scored(rows, coarse, failed)


def _score(one: Pair, classes: tuple[str, ...], tolerance: float) -> tuple[list[Row], bool]:
    mask, truth = (_read(file, len(classes)) for file in (one.mask, one.truth))
    formats.check_fits(one.mask, mask, one.truth, truth)
    maps = []
    for path in one.maps:
        maps.append(outputs.read_probability(path))
        formats.check_fits(files.from_path(path), maps[-1].pixels, one.truth, truth)
    coarse = any(probability.coarse for probability in maps)
    rows: list[Row] = []
    if maps:
        foreground = np.stack([probability.pixels.array for probability in maps], axis=-1)
        background = np.maximum(1 - foreground.sum(-1, keepdims=True), 0)
        probs = np.concatenate([background, foreground], axis=-1)
        names = [name for name in metrics.CALIBRATION if not (coarse and name in COARSE)]
        rows += _rows(one.case, probs, truth.array, classes, names)
    certain = np.eye(len(classes), dtype=np.float32)[mask.array]
    rows += _rows(one.case, certain, truth.array, classes, metrics.OVERLAP)
    if truth.grid:
        rows += _distances(one.case, mask, truth, classes, tolerance)
    return rows, coarse


def _read(file: File, num_classes: int) -> Pixels:
    """A label map of 0, 1, ..., C - 1; of two classes the second may also be 255."""
    pixels = formats.read_mask(file)
    array = pixels.array
    low, high = array.min(), array.max()
    if num_classes == 2 and high > 127:
        if array.ndim == 2:
            return pixels._replace(array=readers.read_mask(file))
        if set(formats.count_values(array)) <= {0, 255}:
            return pixels._replace(array=(array > 127).astype(np.uint8))
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"{file} holds {high if high >= num_classes else low}, expected the classes 0 to "
            f"{num_classes - 1}; number them so, or name them all by --classes"
        )
    return pixels._replace(array=array.astype(np.uint8))


def _rows(
    case: str,
    probs: np.ndarray,
    label: np.ndarray,
    classes: tuple[str, ...],
    names: Collection[str],
) -> list[Row]:
    """The rows of some metrics."""
    stored = {"id": case.encode(), "image": label, "label": label}
    (result,) = evaluate.evaluate(lambda image, native: probs, [stored], classes)
    return [row for row in result.rows if row.metric in names]


def _distances(
    case: str, mask: Pixels, truth: Pixels, classes: tuple[str, ...], tolerance: float
) -> list[Row]:
    """The rows of the foreground's surfaces."""
    assert truth.grid
    # The surface of what is no class is not looked for.
    p, y = (np.where(x.array == 0, -1, x.array.astype(np.int16))[None] for x in (mask, truth))
    values = {
        "hausdorff95": surface.hausdorff95(p, y, len(classes), truth.grid.spacing),
        f"surface_dice_{tolerance:g}mm": surface.surface_dice(
            p, y, len(classes), truth.grid.spacing, tolerance
        ),
    }
    return [
        Row(case, label, WHOLE_IMAGE, metric, float(value))
        for metric, (of_case,) in values.items()
        for label, value in zip(classes[1:], of_case[1:], strict=True)
    ]


def report(scored: Scored, classes: tuple[str, ...]) -> tuple[str, list[Summary]]:
    """The table that is printed, and what is in it."""
    infinite = [row for row in scored.rows if np.isinf(row.value)]
    summaries = summarise(
        [row._replace(value=np.nan) if np.isinf(row.value) else row for row in scored.rows]
    )
    cases = len({row.case for row in scored.rows})
    lines = [
        f"{cases} cases, mean ± bootstrap standard error" if cases > 1 else "1 case",
        table.summary_table({"mean": summaries}, classes[0]),
    ]
    if infinite:
        lines.append(
            f"{len(infinite)} distances are infinite, as a class is in only one of prediction and "
            "truth; they are counted as undefined"
        )
    if scored.coarse:
        lines.append(
            f"{' and '.join(COARSE)} are left out of {len(scored.coarse)} cases, whose probability "
            "maps are in 256 steps; predict with --probabilities=float32 to have them"
        )
    return "\n".join(lines), summaries


def run(options: argparse.Namespace) -> int:
    """Score what the options say.

    Returns:
      The exit code.
    """
    predictions, truth = find(options.predictions), find(options.truth)
    classes = _classes(options.classes, predictions.root.parent / SETTINGS)
    pairs, alone = pair(predictions, truth, classes)
    scored = score(pairs, classes, options.tolerance)
    if scored.rows:
        text, summaries = report(scored, classes)
        print(text)
        if options.output:
            options.output.mkdir(parents=True, exist_ok=True)
            write_csv(options.output / "cases.csv", scored.rows)
            write_csv(options.output / "summary.csv", summaries)
    wrong = [*alone, *scored.failed]
    if wrong:
        lines = "\n".join(f"  {line}" for line in wrong)
        print(f"error: not everything could be scored:\n{lines}", file=sys.stderr)
    return 1 if wrong else 0


def _classes(given: str, path: Path) -> tuple[str, ...]:
    """Class names, the background first: those given, or those of the predictions."""
    if given:
        classes = tuple(name.strip() for name in given.split(","))
        if len(classes) < 2 or not all(classes):
            raise ValueError(f"--classes is {given!r}, expected background,NAME,...")
        return classes
    if not path.exists():
        raise ValueError(
            f"there is no {path}, which experiments.predict writes; name the classes by "
            "--classes=background,NAME,..."
        )
    return tuple(json.loads(path.read_text())["classes"])


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command line."""
    parser = argparse.ArgumentParser(
        "experiments.evaluate", description="Score label maps.", allow_abbrev=False
    )
    place = "a folder, or a pattern as 'FOLDER/{case}_mask.png'"
    parser.add_argument("--predictions", required=True, metavar="PLACE", help=place)
    parser.add_argument("--truth", required=True, metavar="PLACE", help=place)
    parser.add_argument("--output", type=Path, help="the folder of cases.csv and summary.csv")
    parser.add_argument(
        "--classes", default="", help="background,NAME,...; by default those of the predictions"
    )
    parser.add_argument(
        "--tolerance", type=float, default=1.0, metavar="MM", help="of the surface Dice, 1 mm"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Score what the command line says."""
    try:
        code = run(parse(argv))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    sys.exit(code)


if __name__ == "__main__":
    main()
