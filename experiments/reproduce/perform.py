"""The tasks of a plan performed one after another, and the report of what there is."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from dicepp_jax import score_files
from experiments.report import contents
from experiments.report import write as report
from experiments.report.groups import scale_words
from experiments.reproduce import plan as plans
from experiments.reproduce.plan import FAILURES, AvailableData, Planned, Task, duration
from experiments.setup import failures
from experiments.training import grid, posthoc, single
from experiments.training.recorder import OutOfTimeError
from experiments.workdirs import directory

LEFT = 3
"""The exit code if there was not enough time."""


class Outcome(NamedTuple):
    """The outcome of a plan.

    Attributes:
      failed: why tasks failed, by name.
      left: tasks that were not finished in time.
    """

    failed: dict[str, str]
    left: list[str]


def perform(
    planned: Sequence[Planned],
    sources: Mapping[str, AvailableData],
    scale: str,
    folder: Path,
    data_dir: str,
    deadline: float,
) -> Outcome:
    """Run the unfinished tasks one after another.

    Args:
      planned: the plan.
      sources: available data sets.
      scale: of `configs.paper`.
      folder: that of the scale.
      data_dir: of prepared sets.
      deadline: by `time.monotonic`, after which no task begins and training stops.

    Returns:
      The tasks that failed and those that are left.
    """
    failed: dict[str, str] = {}
    left: list[str] = []
    to_do = [p for p in planned if p.state not in (plans.FINISHED, plans.NO_DATA)]
    for number, item in enumerate(to_do, 1):
        task, source = item.task, sources[item.task.dataset]
        broken = [name for name in task.of if name in (*failed, *left)]
        if time.monotonic() > deadline or any(name in left for name in broken):
            left.append(task.name)
            continue
        if broken:
            failed[task.name] = f"{broken[0]}, from which it is derived, failed"
            continue
        rest = duration(sum(p.seconds for p in to_do[number - 1 :]))
        print(
            f"\n== {number} of {len(to_do)}: {task.name}; at most {rest or 'nothing'} to train =="
        )
        sys.stdout.flush()
        try:
            _perform(task, source, scale, folder, data_dir, deadline)
        except OutOfTimeError as error:
            print(f"{task.name}: {error}")
            left.append(task.name)
        except FAILURES as error:
            if failures.no_room(error):
                raise
            print(f"error: {task.name}: {error}", file=sys.stderr, flush=True)
            failed[task.name] = str(error)
        # Compiled programs of this task are not needed again.
        jax.clear_caches()
    return Outcome(failed, left)


def _perform(
    task: Task, source: AvailableData, scale: str, folder: Path, data_dir: str, deadline: float
) -> None:
    there, of = folder / task.name, [folder / name for name in task.of]
    if len(of) > 1:
        posthoc.combine(of, there, data_dir, source.manual_dir)
    elif of:
        posthoc.calibrate(of[0], there.name, data_dir, source.manual_dir)
    else:
        config = plans.cell_config(task, scale, source, data_dir)
        kind = grid if len(config.sweep.gamma) else single
        kind.train_and_evaluate(config, there, deadline)


def reproduce(
    tables: Sequence[int],
    figures: Sequence[int],
    *,
    scales: Sequence[str],
    folders: Mapping[str, str],
    data_dir: str,
    workdir: Path,
    seeds: int,
    budget: float,
    dry_run: bool,
) -> int:
    """Plan tables and figures at all scales, then perform and report them scale by scale.

    Args:
      tables: their numbers.
      figures: their numbers.
      scales: of `configs.paper`; several have a report together, besides that of each.
      folders: of the data sets' files, by name.
      data_dir: of prepared sets.
      workdir: the directory of all scales.
      seeds: number of networks of an ensemble; 1 for no ensembles.
      budget: seconds after which no task begins and training stops.
      dry_run: whether to print the plan only.

    Returns:
      The exit code: 1 if something failed or a data set is not available, `LEFT` if there was not
      enough time.
    """
    end = time.monotonic() + budget
    wanted = plans.tasks(tables, figures, tuple(folders), seeds)
    for option, table, _ in plans.requests(tables, figures):
        if not plans.chosen_sets(table, tuple(folders)):
            print(f"{option} shows {', '.join((*table.datasets, *table.drawn))}: left out")
    by_scale: dict[str, _Plan] = {}
    for scale in scales:
        _headline(scale, scales)
        sources, missing = plans.find_data(wanted, folders, scale, data_dir)
        planned = plans.plan(wanted, sources, missing, scale, workdir / scale, data_dir)
        print(f"\n{plans.describe(planned, missing, budget)}")
        by_scale[scale] = _Plan(planned, sources, missing)
    if len(scales) > 1:
        total = sum(p.seconds for of in by_scale.values() for p in of.planned)
        print(f"\nall scales: training takes at most {duration(total) or 'no time'}")
    codes = set()
    for scale, of in by_scale.items() if not dry_run else ():
        _headline(scale, scales)
        codes.add(_at_scale(of, scale, workdir / scale, data_dir, end))
    there = [workdir / scale for scale in scales if _has_scores(workdir / scale)]
    if len(there) > 1 and not dry_run:
        print("\nwriting the report of all scales", flush=True)
        print(report.write(there, workdir / contents.FOLDER))
    gone = dict.fromkeys(name for of in by_scale.values() for name in of.missing)
    if gone:
        print(f"error: not available, see above: {', '.join(gone)}", file=sys.stderr)
        return 1
    return next((code for code in (1, LEFT) if code in codes), 0)


class _Plan(NamedTuple):
    """What is to be done at a scale, the available data sets, and why others are not."""

    planned: Sequence[Planned]
    sources: Mapping[str, AvailableData]
    missing: Mapping[str, str]


def _headline(scale: str, scales: Sequence[str]) -> None:
    if len(scales) > 1:
        print(f"\n=== {scale_words(scale)} ===", flush=True)


def _at_scale(of: _Plan, scale: str, folder: Path, data_dir: str, end: float) -> int:
    with directory.lock(folder):
        outcome = perform(of.planned, of.sources, scale, folder, data_dir, end)
        if _has_scores(folder):
            print("\nwriting the report", flush=True)
            print(report.write([folder], folder / contents.FOLDER))
    if outcome.left:
        left = ", ".join(outcome.left)
        print(f"{len(outcome.left)} tasks are left; the same command resumes: {left}")
    for name, why in outcome.failed.items():
        print(f"error: {name}: {why}", file=sys.stderr)
    return 1 if outcome.failed else LEFT if outcome.left else 0


def _has_scores(folder: Path) -> bool:
    return any(folder.rglob(f"{score_files.FOLDER}/{score_files.CASES}"))
