"""Trained runs off distribution: on their test split corrupted, and on a second data set."""

import itertools
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from dicepp_jax import data, inference
from dicepp_jax.atomic import write_text
from dicepp_jax.corruptions import CORRUPTIONS, corrupt
from dicepp_jax.data import labels
from dicepp_jax.data.pipeline import case_id
from dicepp_jax.inference import Predict
from dicepp_jax.names import folder_names
from dicepp_jax.progress import track
from dicepp_jax.rows import Row, Summary, read_csv, summarise, write_csv
from dicepp_jax.scoring import score_cases
from dicepp_jax.spec import Spec
from dicepp_jax.text_table import grid_table
from experiments.report.groups import method_title, repetition_title
from experiments.setup.components import Components
from experiments.training import posthoc
from experiments.training.single import best_predictor
from experiments.workdirs import derived, directory, finished, stored, trained
from experiments.workdirs.finished import Finished

FOLDER, CASES, MADE_OF = "shift", "cases", "made_of.json"
"""In a run's directory: the folder of this module, in it the scores of each shift, and in that what
they depend on."""

METRICS = {"dice": "Dice", "nll": "NLL", "brier": "Brier score", "ece": "ECE"}
"""What the summary and the figures show, with titles."""

PREDICTING = ("", derived.TEMPERATURE, derived.ENSEMBLE)
"""Kinds of scores whose predictions can be made again for every case."""

TOLERANCE = 1e-3
"""By how much clean scores may differ from those of the run, since machines round differently."""


class Shift(NamedTuple):
    """What is done to the images of a test split, or which other images are taken.

    Attributes:
      shift: a key of `CORRUPTIONS`, "clean", "mean" over the corruptions, or a second data set.
      severity: 1 to 5; 0 for images as they are.
    """

    shift: str
    severity: int


CLEAN = Shift("clean", 0)
MEAN = "mean"


class ShiftRow(NamedTuple):
    """A number of a case under a shift, a row of `shift.csv`."""

    method: str
    at: Shift
    row: Row


class ShiftSummary(NamedTuple):
    """A mean over the cases under a shift, a row of `summary.csv`."""

    method: str
    at: Shift
    summary: Summary


class Task(NamedTuple):
    """The cases of a shift.

    Attributes:
      cases: stored cases.
      total: their number.
      region: as for `score_cases`.
    """

    cases: Iterable[dict[str, Any]]
    total: int
    region: str | None


def score_shifts(
    workdirs: Sequence[Path],
    output: Path,
    corruptions: Sequence[str],
    severities: Sequence[int],
    *,
    second: Path | None = None,
    data_dir: str | None = None,
    manual_dir: str | None = None,
) -> str:
    """Score runs on their test split under corruptions, and on a second data set.

    Args:
      workdirs: of runs on one data set, or of scores derived from such runs. The scores of each are
        kept in its directory; those that it has are not computed again.
      output: the folder of the tables and the figures.
      corruptions: keys of `CORRUPTIONS`.
      severities: from 1 to 5.
      second: the folder or archive of the second data set.
      data_dir: of prepared sets, None as for the runs.
      manual_dir: of the runs' set's files, None as for the runs.

    Returns:
      A table by severity and method, of means over the corruptions.

    Raises:
      FileNotFoundError: if there is no run, or its images are not available.
      ValueError: if the runs are on different data or cannot predict, the images have changed, or
        the second set does not fit.
    """
    runs = _named([_find(workdir) for workdir in workdirs])
    spec = next(iter(runs.values())).spec
    opened = None if second is None else _second(second, next(iter(runs.values())), data_dir)
    shifts = [Shift(*pair) for pair in itertools.product(corruptions, severities)]
    scores = {
        name: _scores(name, run, shifts, opened, data_dir, manual_dir) for name, run in runs.items()
    }
    output.mkdir(parents=True, exist_ok=True)
    rows = [
        ShiftRow(name, shift, row)
        for name, of in scores.items()
        for shift, of_shift in of.items()
        for row in of_shift
    ]
    write_csv(output / "shift.csv", rows)
    summaries = {
        name: {
            shift: summarise([r for r in of_shift if _is_shown(r, spec)])
            for shift, of_shift in (of | _means(of, corruptions, severities)).items()
        }
        for name, of in scores.items()
    }
    means = [
        ShiftSummary(name, shift, summary)
        for name, of in summaries.items()
        for shift, group in of.items()
        for summary in group
    ]
    write_csv(output / "summary.csv", means)
    _draw(summaries, spec, output)
    cases = len({row.case for row in next(iter(scores.values()))[CLEAN]})
    of = f", means over {', '.join(corruptions)}" if corruptions else ""
    title = f"{spec.title}, {cases} cases{of}, ± bootstrap standard error"
    text = "\n\n".join([title, *_tables(summaries, spec)])
    write_text(output / "summary.txt", text + "\n")
    return text


def _find(workdir: Path) -> Finished:
    """The facts of a scored run whose predictions can be made again."""
    if not (workdir / derived.DERIVED).exists():
        posthoc.check_scored(workdir)
    run = finished.read(workdir)
    if run.kind not in PREDICTING:
        raise ValueError(
            f"{workdir} has scores of the kind {run.kind!r}, which no network predicts for every "
            "case; give a run, its folder temperature, or an ensemble"
        )
    return run


def _named(runs: Sequence[Finished]) -> dict[str, Finished]:
    """Runs by method, and by seed or folder where that is not enough.

    Raises:
      ValueError: if they are not on the same data, or one is given twice.
    """
    for run in runs[1:]:
        if (run.spec.name, run.about["data"]) != (runs[0].spec.name, runs[0].about["data"]):
            raise ValueError(
                f"{runs[0].folder} is on {runs[0].spec.title} and {run.folder} on "
                f"{run.spec.title}, or their cases, masks or splits differ; compare runs on one "
                "data set and one split"
            )
    for title in (
        method_title,
        lambda run: f"{method_title(run)}, {repetition_title(run)}",
        lambda run: str(run.folder),
    ):
        named = {title(run): run for run in runs}
        if len(named) == len(runs):
            return named
    raise ValueError("one of the runs is given twice; give each once")


def _scores(
    name: str,
    run: Finished,
    shifts: Sequence[Shift],
    second: tuple[Shift, data.Loaded] | None,
    data_dir: str | None,
    manual_dir: str | None,
) -> dict[Shift, list[Row]]:
    """The scores of a run under each shift; what is missing in its directory is predicted."""
    with directory.lock(run.folder):
        folder = _kept(run)
        files = {at: folder / f"{at.shift}_{at.severity}.csv" for at in (CLEAN, *shifts)}
        if second:
            at, loaded = second
            files[at] = folder / f"{loaded.spec.name}_{loaded.digest}.csv"
        missing = [at for at, path in files.items() if not path.exists()]
        if len(missing) < len(files):
            print(f"{name}: {len(files) - len(missing)} of {len(files)} shifts are already scored")
        if missing:
            opened = [posthoc.open_run(path, data_dir, manual_dir) for path in run.of]
            built = opened[0][1]
            tasks = {at: _task(at, built, second) for at in missing}
            work = _predicted(_predictor(name, run, opened), run, tasks, files)
            total = sum(task.total for task in tasks.values())
            for _ in track(work, f"{name}: {len(tasks)} shifts", total, "case"):
                pass
    return {at: read_csv(path, Row) for at, path in files.items()}


def _kept(run: Finished) -> Path:
    """The folder of the scores of each shift, emptied if the run or the severities have changed."""
    folder = run.folder / FOLDER / CASES
    levels = {name: [*corruption.levels] for name, corruption in CORRUPTIONS.items()}
    made_of = {"scores": derived.digest(run.folder), "levels": levels}
    path = folder / MADE_OF
    if not path.exists() or stored.read(path, {"scores": str, "levels": dict}) != made_of:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_text(path, json.dumps(made_of, indent=1) + "\n")
    return folder


def _predictor(
    name: str, run: Finished, opened: Sequence[tuple[ConfigDict, Components]]
) -> Predict:
    predicts = [
        best_predictor(config, built, path, name)
        for (config, built), path in zip(opened, run.of, strict=True)
    ]
    predict = inference.ensemble(predicts) if len(predicts) > 1 else predicts[0]
    return predict if run.temperature is None else inference.tempered(predict, run.temperature)


def _task(at: Shift, built: Components, second: tuple[Shift, data.Loaded] | None) -> Task:
    """The cases of a shift, read and changed one at a time."""
    spec, cases = built.spec, built.splits[built.scored_part]
    if second and at == second[0]:
        cases = second[1].splits["test"]
        return Task(_with_channels(cases, spec.channels), len(cases), None)
    changed = cases if at == CLEAN else _corrupted(cases, spec, at)
    return Task(changed, len(cases), spec.region)


def _corrupted(cases: Iterable[dict[str, Any]], spec: Spec, at: Shift) -> Iterator[dict[str, Any]]:
    for stored_case in cases:
        image = corrupt(
            stored_case["image"],
            *at,
            case_id(stored_case),
            intensity_range=spec.intensity_range,
            per_channel=spec.per_channel,
        )
        yield {**stored_case, "image": image}


def _with_channels(cases: Iterable[dict[str, Any]], channels: int) -> Iterator[dict[str, Any]]:
    """Cases whose grey images have as many equal channels as the network takes."""
    for stored_case in cases:
        image = stored_case["image"]
        yield {**stored_case, "image": np.repeat(image, channels // image.shape[-1], axis=-1)}


def _predicted(
    predict: Predict, run: Finished, tasks: Mapping[Shift, Task], files: Mapping[Shift, Path]
) -> Iterator[str]:
    """Score the cases of each shift and write its file; yields the name of each case."""
    spec = run.spec
    for at, task in tasks.items():
        rows: list[Row] = []
        for scored in score_cases(
            predict, task.cases, spec.classes, region=task.region, label_map=spec.label_map
        ):
            rows += scored.rows
            yield scored.case
        if at == CLEAN:
            _check_clean(rows, run)
        write_csv(files[at], rows)


def _check_clean(rows: Sequence[Row], run: Finished) -> None:
    """Refuse a network whose predictions do not have the scores of its run."""
    expected = {row[:4]: row.value for row in run.scores().rows}
    for row in rows:
        known = expected.get(row[:4], np.inf)
        if row.metric in METRICS and not np.isclose(
            row.value, known, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True
        ):
            raise ValueError(
                f"{row.metric} of {row.label} in the case {row.case} is {row.value:.4f} and "
                f"{known:.4f} in {run.folder}; repeat the command of that run, which scores it "
                "again and does not train what has been trained"
            )


def _second(folder: Path, run: Finished, data_dir: str | None) -> tuple[Shift, data.Loaded]:
    """A second data set with the classes of a run, prepared for its network.

    Raises:
      FileNotFoundError: if the folder does not exist.
      ValueError: if classes, axes or channels differ from those of the run.
    """
    spec = run.spec
    kept = data_dir or trained.read_config(run.of[0]).data.data_dir

    def find(**options: Any) -> data.Source:
        return data.find(data.FOLDER, kept, str(folder), options=data.Options(**options))

    try:
        found = find().spec
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(
            f"--shifted={folder} is not recognised: {error} (this command takes no --config: "
            "arrange the files in a layout that is detected, see docs/data.md)"
        ) from error
    # Files that do not name their classes have those of the run.
    unnamed = found.classes == labels.default_names(len(found.classes))
    classes = spec.classes if unnamed else ()
    grey = found.channels == 1 and not spec.per_channel
    if not unnamed and found.classes != spec.classes:
        wrong = f"the classes {', '.join(found.classes)}, and", ", ".join(spec.classes)
    elif found.ndim != spec.ndim:
        wrong = f"{found.ndim} spatial axes, and", str(spec.ndim)
    elif found.channels != spec.channels and not grey:
        wrong = f"{found.channels} channels, and", str(spec.channels)
    else:
        source = find(classes=classes, spacing=spec.spacing or ())
        for line in source.notes:
            if not line.startswith("proposed"):  # Input and split are those of the run.
                print(f"{found.title}: {line}")
        return Shift(f"shifted: {found.title}", 0), data.open_for_testing(source)
    raise ValueError(
        f"{folder} has {wrong[0]} {run.folder} was trained on {wrong[1]}; give --shifted a data "
        "set that the network fits"
    )


def _means(
    scores: Mapping[Shift, Sequence[Row]], corruptions: Sequence[str], severities: Sequence[int]
) -> dict[Shift, list[Row]]:
    """The mean over corruptions of each number, by severity."""
    means = {}
    for severity in severities if corruptions else ():
        together = zip(*(scores[Shift(name, severity)] for name in corruptions), strict=True)
        means[Shift(MEAN, severity)] = [
            same[0]._replace(value=float(np.mean([row.value for row in same]))) for same in together
        ]
    return means


def _is_shown(row: Row, spec: Spec) -> bool:
    return row.metric in METRICS and row.label != spec.classes[0]


def _tables(summaries: Mapping[str, Mapping[Shift, list[Summary]]], spec: Spec) -> Iterator[str]:
    """A table for each class: severities and the second set by method."""
    first = next(iter(summaries.values()))
    words = {at: f"severity {at.severity}" for at in first if at.shift == MEAN}
    words = {CLEAN: "clean"} | words | {at: at.shift for at in first if not at.severity}
    settings = {
        f"{word}: {name}": of[at] for at, word in words.items() for name, of in summaries.items()
    }
    for label in spec.classes[1:]:
        yield f"{label}\n{grid_table(settings, label, [*METRICS], {})}"


def _draw(summaries: Mapping[str, Mapping[Shift, list[Summary]]], spec: Spec, output: Path) -> None:
    """A figure for each class."""
    from dicepp_jax.plots import canvas, severities  # Here, since most runs need no matplotlib.

    first = next(iter(summaries.values()))
    columns: dict[str, dict[str, Any]] = {}
    # The second set stands behind the mean.
    shifts = sorted((at for at in first if at != CLEAN), key=lambda at: at.severity == 0)
    for shift in dict.fromkeys(at.shift for at in shifts):
        named = {at: at.severity or "other" for at in first if at.shift == shift}
        clean: int | str = 0 if next(iter(named)).severity else "test"
        columns[shift] = {
            name: {clean: of[CLEAN], **{point: of[at] for at, point in named.items()}}
            for name, of in summaries.items()
        }
    foreground = spec.classes[1:]
    for label, ending in zip(foreground, folder_names(foreground), strict=True):
        path = output / (f"shift_{ending}.png" if len(foreground) > 1 else "shift.png")
        canvas.save(severities.by_severity(columns, label, METRICS), path)
