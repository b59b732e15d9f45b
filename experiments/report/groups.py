"""Scored runs grouped by what one table may show: one data set, one split, one scale.

The folds of a cross-validation are in one group, like seeds.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from configs import paper as cells
from dicepp_jax.data import SETS, Spec
from dicepp_jax.metrics import UNCERTAINTY, Confusion
from dicepp_jax.rows import WHOLE_IMAGE, Row, Summary, column_of, of_raters, summarise
from dicepp_jax.score_files import SplitScores
from dicepp_jax.split_calibration import SplitCalibration
from dicepp_jax.wording import by
from experiments.report.published import AT_INPUT, REPORTED, TITLES
from experiments.workdirs import finished
from experiments.workdirs.derived import ENSEMBLE, FOLDS, METHODS, TEMPERATURE
from experiments.workdirs.finished import Finished, Scale

LABEL_MAP = ("nll_labelmap", "brier_labelmap")
"""The metrics that are compared with the paper's NLL and Brier of KiTS19."""

SHOWN = (*REPORTED, *AT_INPUT, *LABEL_MAP, *UNCERTAINTY)
"""The columns of all tables."""

CUSTOM = "custom"
"""The name of a scale that `configs.paper` does not have."""

COMBINED = (ENSEMBLE, FOLDS)
"""Kinds of several networks."""

CURVES = ("recall", "precision", "dice")


class Entry(NamedTuple):
    """A scored run and its foreground numbers.

    Attributes:
      run: the run.
      rows: of every case, for the columns `SHOWN`.
      means: over the cases, by label and column, as of `rows.column_of`.
      calibration: of the whole split, by class; empty for a run of an older version.
      curves: means of `CURVES` over the cases at `metrics.THRESHOLDS`, by label and name.
      raters: means over the cases with several raters, of `rows.of_raters`, by label and metric.
      truth: likewise what the truth itself scores at the network's size, of `resolution`.
    """

    run: Finished
    rows: list[Row]
    means: Mapping[tuple[str, str], Summary]
    calibration: Sequence[SplitCalibration]
    curves: Mapping[tuple[str, str], np.ndarray]
    raters: Mapping[tuple[str, str], Summary]
    truth: Mapping[tuple[str, str], Summary]


class Group(NamedTuple):
    """Runs that one table may show.

    Attributes:
      title: its name in reports.
      spec: the data set.
      scale: of the runs.
      scale_name: of `configs.paper`, or `CUSTOM`.
      tag: the scale's name, numbered where the data set has several groups of that name.
      entries: by method, each the run with the lowest fold and seed.
      seeds: the runs of all folds and seeds, for methods that have several.
    """

    title: str
    spec: Spec
    scale: Scale
    scale_name: str
    tag: str
    entries: Mapping[str, Entry]
    seeds: Mapping[str, tuple[Entry, ...]]


def truth(group: Group) -> Mapping[tuple[str, str], Summary]:
    """What the truth itself scores, by class and metric; the same for all runs of a group."""
    return next((entry.truth for entry in group.entries.values() if entry.truth), {})


def method(run: Finished) -> str:
    """The key of a run in its group: "dsc", "dsc, temperature", "dsc, ensemble of 3"."""
    return f"{run.method} of {run.members}" if run.kind in COMBINED else run.method


def method_title(run: Finished) -> str:
    """The name of a run in tables: "DSC++", "DSC, temperature 3.38", "DSC, ensemble of 3"."""
    title = loss_title(run.loss)
    if run.kind == TEMPERATURE:
        return f"{title}, {TEMPERATURE} {run.temperature:.2f}"
    if run.kind in METHODS:
        return f"{title}, {METHODS[run.kind]}"
    if run.kind == FOLDS:
        return f"{title}, all {run.members} folds"
    return f"{title}, {ENSEMBLE} of {run.members}" if run.kind == ENSEMBLE else title


def loss_title(loss: str) -> str:
    """The name of a loss or a setting in tables.

    Example:
      >>> loss_title("tverskypp gamma=3"), loss_title("gamma=0.5"), loss_title("dsc+l1_ace then=ce")
      ('Tversky++, gamma = 3', 'gamma = 0.5', 'DSC + L1-ACE, then CE')
    """
    first, *rest = (part.split("=") for part in loss.split())
    title = " + ".join(TITLES.get(term, term) for term in first[0].split("+"))
    parts = [f"then {loss_title(of[-1])}" if of[0] == "then" else " = ".join(of) for of in rest]
    return ", ".join([" = ".join([title, *first[1:]]), *parts])


def gather(runs: Iterable[Finished]) -> list[Group]:
    """Group runs and read their scores.

    Args:
      runs: of `finished.find`.

    Returns:
      Groups in the order of data sets in the paper, then of the others, then of scales.

    Raises:
      ValueError: if two runs belong in the same cell.
      FileNotFoundError: if a file of scores is missing.
    """
    alike: dict[tuple[str, Scale, bool, str], list[Finished]] = {}
    for run in runs:
        folds = run.fold is not None
        data = run.about["test_data" if folds else "data"]
        key = (run.spec.name, run.scale, folds, data)
        alike.setdefault(key, []).append(run)
    groups: list[Group] = []
    for of_group in alike.values():
        spec, named = of_group[0].spec, scale_name(of_group[0].scale, of_group[0].spec)
        same = sum((g.spec.name, g.scale_name) == (spec.name, named) for g in groups)
        groups.append(_group(of_group, named, f" {same + 1}" if same else ""))
    datasets = [*SETS]
    return sorted(
        groups,
        key=lambda group: (
            datasets.index(group.spec.name) if group.spec.name in datasets else len(datasets),
            _order(group),
            group.spec.name,
            group.tag,
        ),
    )


def _group(runs: Sequence[Finished], named: str, number: str) -> Group:
    spec, scale = runs[0].spec, runs[0].scale
    folds = "" if runs[0].fold is None else ", cross-validation"
    title = f"{spec.title}, {scale_words(named)}{number}{folds}"
    by_method: dict[str, dict[tuple[int, int], Finished]] = {}
    for run in runs:
        of_method = by_method.setdefault(method(run), {})
        key = repetition(run)
        if key in of_method:
            raise ValueError(
                f"{of_method[key].folder} and {run.folder} are both {method_title(run)} with "
                f"{repetition_title(run)} on {title}; give only one of them"
            )
        of_method[key] = run
    entries = {
        name: [entry(of_method[key]) for key in sorted(of_method)]
        for name, of_method in by_method.items()
    }
    return Group(
        title,
        spec,
        scale,
        named,
        named + number.replace(" ", "_"),
        {name: of_method[0] for name, of_method in entries.items()},
        {
            name: tuple(of_method)
            for name, of_method in entries.items()
            if len(of_method) > 1 and not of_method[0].run.kind
        },
    )


def _order(group: Group) -> tuple[int, ...]:
    """The paper's scale first, then others by size, then those that are for trials."""
    if sized := cells.side_and_filters(group.scale_name):
        return 1, -sized[0], -sized[1]
    return {"full": 0, "reduced": 2, "tiny": 3, CUSTOM: 4}[group.scale_name], 0, 0


def repetition(run: Finished) -> tuple[int, int]:
    """What distinguishes the runs of a method: fold, -1 for none, and seed."""
    return -1 if run.fold is None else run.fold, run.seed


def repetition_title(run: Finished) -> str:
    """The seed of a run, and its fold if it has one: "seed 0", "seed 0, fold 3"."""
    return f"seed {run.seed}" + ("" if run.fold is None else f", fold {run.fold}")


def entry(run: Finished) -> Entry:
    """Read the scores of a run."""
    scored = run.scores()
    classes = run.spec.classes
    rows = [row for row in scored.rows if row.label != classes[0] and column_of(row) in SHOWN]
    raters = [row for row in of_raters(scored.rows) if row.region == WHOLE_IMAGE]
    means = {(row.label, column_of(row)): row for row in summarise(rows)}
    against_all = {(row.label, row.metric): row for row in summarise(raters)}
    of_truth = {(row.label, row.metric): row for row in summarise(scored.truth)}
    calibration, curves = scored.calibration(classes), _curves(scored, classes)
    return Entry(run, rows, means, calibration, curves, against_all, of_truth)


def _curves(scored: SplitScores, classes: Sequence[str]) -> dict[tuple[str, str], np.ndarray]:
    # (cases, C, T) each.
    stacked = [np.stack(counts) for counts in zip(*scored.thresholds.values(), strict=True)]
    counts = Confusion(*stacked)  # type: ignore[arg-type]
    return {
        (classes[target], name): _mean(np.asarray(getattr(counts, name), float)[:, target])
        for target in range(1, len(classes))
        for name in CURVES
    }


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over the cases where it is defined; NaN if there are none."""
    number = np.sum(~np.isnan(values), axis=0)
    return np.where(number, np.nansum(values, axis=0) / np.maximum(number, 1), np.nan)


def scale_name(scale: Scale, spec: Spec) -> str:
    """The scale of `configs.paper` that this is, or `CUSTOM`."""
    if spec.name not in (*cells.SETS, *cells.DRAWN):
        return CUSTOM
    sized = f"{scale.size[0]}x{scale.filters}"
    names = [*cells.SCALES, *([sized] if cells.is_scale(sized, spec.name) else [])]
    return next((name for name in names if scale == cell_scale(name, spec)), CUSTOM)


def scale_words(name: str) -> str:
    """A scale in titles.

    Example:
      >>> scale_words("reduced"), scale_words("256x32")
      ('reduced scale', '256 x 256 with 32 filters')
    """
    if sized := cells.side_and_filters(name):
        side, filters = sized
        return f"{side} x {side} with {filters} filters"
    return f"{name} scale"


def cell_scale(name: str, spec: Spec) -> Scale:
    """The scale of a data set's cells of `configs.paper`."""
    return finished.scale(cells.get_config(f"{name}/{spec.name}/dscpp"), spec)


def scale_text(group: Group) -> str:
    """The scale of a group beside the paper's, in a sentence."""
    spec, ours = group.spec, _described(group.scale)
    if spec.name in cells.SETS and group.scale_name == "full":
        return f"The paper's setting: {ours}."
    words = scale_words(group.scale_name)
    named = {"tiny": "Tiny scale, no result"}.get(group.scale_name, words[0].upper() + words[1:])
    if cells.side_and_filters(group.scale_name):
        named = "The paper's schedule at another size"
    text = f"{named}: {ours}"
    original = spec.stands_for or spec.name
    if original not in cells.SETS:
        return f"{text}."
    return f"{text}; the paper: {_described(cell_scale('full', SETS[original].spec))}."


def _described(scale: Scale) -> str:
    depth = "depth by size" if scale.depth is None else f"depth {scale.depth}"
    return (
        f"{by(scale.size)}, {scale.filters} filters, {depth}, at most {scale.epochs} epochs, "
        f"patience {scale.patience} / {scale.stop_patience}"
    )


def made_by(entries: Iterable[Entry]) -> str:
    """The hardware, versions, commits and dates of runs, in a sentence."""
    about = [part for e in entries for part in (e.run.about, *e.run.about.get("continued", []))]
    hardware = {
        # JAX calls a CPU "cpu cpu".
        f"{len(part['devices'])} x {' '.join(dict.fromkeys(part['devices'][0].split()))} with "
        f"{part['cpu_cores']} CPU cores"
        for part in about
    }
    commits = {
        re.sub("[0-9a-f]{40}", lambda found: found[0][:7], part["git_commit"] or "unknown")
        for part in about
    }
    dates = sorted({part["date"][:10] for part in about})
    versions = {part["versions"]["jax"] for part in about}
    return (
        f"Made on {', '.join(sorted(hardware))}; jax {', '.join(sorted(versions))}; "
        f"commit {', '.join(sorted(commits))}; {' to '.join(dict.fromkeys((dates[0], dates[-1])))}."
    )
