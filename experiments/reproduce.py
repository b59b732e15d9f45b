"""The paper's tables and figures: python -m experiments.reproduce --table=4 --data=drive=DRIVE

Plans the runs that are needed, tells how long they take at most, runs what is missing and writes
the report (experiments.report). What is finished is kept, what was interrupted goes on, and what
fails is told at the end and does not stop the rest. The same command goes on after an interruption.
"""

import argparse
import itertools
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from configs import paper as cells
from dicepp_jax import train
from experiments import calibrate, cli, derived, record, report, run, scores, sweep, table
from experiments import parts as parts_lib
from experiments.paper import TABLES, Table

FIGURES: Mapping[int, tuple[int, tuple[str, ...]]] = {
    1: (3, ("dsc", "dscpp")),
    2: (3, (cells.GAMMA,)),
    3: (4, TABLES[4].methods),
    4: (5, TABLES[5].methods),
    5: (3, ("dsc", "dscpp")),
}
"""Of each figure the table whose data sets it is of, and what is trained for it."""

CALIBRATED = ("dsc", "dscpp")
"""What is calibrated after training, too, in the tables that compare losses."""

FAILURES = (ValueError, OSError, ArithmeticError, RuntimeError, MemoryError)
"""What ends one run and not the others."""

LEFT = 3
"""The exit code when there was no time for all."""
STEPS = 3
FORWARD = 1 / 3
"""Of a training step's time, what a validation case takes."""


class Task(NamedTuple):
    """Something to be run.

    Attributes:
      dataset: its data set.
      name: its directory below that of the scale: "drive/dsc", "drive/dsc/temperature".
      of: what it is made of, by name; empty for what is trained.
    """

    dataset: str
    name: str
    of: tuple[str, ...] = ()


class Source(NamedTuple):
    """A data set at hand.

    Attributes:
      manual_dir: where its files are, "" if it is prepared or drawn.
      digest: of its cases and their split.
      made: the parts of its run with DSC++.
    """

    manual_dir: str
    digest: str
    made: parts_lib.Parts


class Planned(NamedTuple):
    """A task and what is known of it before it begins.

    Attributes:
      task: the task.
      state: in words.
      seconds: that it takes at most, 0 if it is finished.
    """

    task: Task
    state: str
    seconds: float


def tasks(
    tables: Sequence[int], figures: Sequence[int], datasets: Sequence[str], seeds: int
) -> list[Task]:
    """What tables and figures need, the paper's own cells first, then what goes beyond them.

    Args:
      tables: numbers of tables.
      figures: numbers of figures.
      datasets: to which to keep; empty for the paper's.
      seeds: of an ensemble; 1 for no ensembles.

    Returns:
      Each task once, after those that it is made of.

    Raises:
      ValueError: if nothing that is asked is of the data sets.
    """
    asked = _asked(tables, figures)
    paper: list[Task] = []
    beyond: list[Task] = []
    for option, of, methods in asked:
        chosen = _chosen(of, datasets)
        for dataset in chosen:
            paper += [Task(dataset, f"{dataset}/{method}") for method in methods]
        if option.startswith("--table"):
            pairs = itertools.product(chosen, [m for m in methods if m in CALIBRATED])
            beyond += [task for pair in pairs for task in _calibrated(*pair, seeds)]
    if not paper:
        of_all = "; ".join(
            f"{option} is of {', '.join((*of.datasets, *of.drawn))}" for option, of, _ in asked
        )
        raise ValueError(f"--data={','.join(datasets)} has nothing of what is asked: {of_all}")
    # What costs no training first.
    beyond.sort(key=lambda task: not task.name.endswith(derived.TEMPERATURE))
    return list(dict.fromkeys((*paper, *beyond)))


def _asked(
    tables: Sequence[int], figures: Sequence[int]
) -> list[tuple[str, Table, tuple[str, ...]]]:
    """What is asked: the option, the table that says of which sets it is, and what is trained."""
    asked = [(f"--table={n}", TABLES[n], _trained(n)) for n in tables]
    return asked + [(f"--figure={n}", TABLES[FIGURES[n][0]], FIGURES[n][1]) for n in figures]


def _chosen(of: Table, datasets: Sequence[str]) -> list[str]:
    """The data sets of a table that are wanted; the paper's, if nothing is said."""
    return [name for name in (*of.datasets, *of.drawn) if name in (datasets or of.datasets)]


def _trained(number: int) -> tuple[str, ...]:
    """What is trained for a table."""
    return (cells.GAMMA,) if number == 3 else TABLES[number].methods


def _calibrated(dataset: str, method: str, seeds: int) -> Iterator[Task]:
    name = f"{dataset}/{method}"
    yield Task(dataset, f"{name}/{derived.TEMPERATURE}", (name,))
    if seeds > 1:
        others = tuple(f"{name}_seed={seed}" for seed in range(1, seeds))
        yield from (Task(dataset, other) for other in others)
        yield Task(dataset, f"{name}_{derived.ENSEMBLE}", (name, *others))


def cell_config(task: Task, scale: str, source: Source, data_dir: str) -> ConfigDict:
    """The config of a task that is trained."""
    config = cells.get_config(f"{scale}/{task.name}")
    config.data.data_dir = data_dir
    config.data.manual_dir = source.manual_dir
    return config


def find_sources(
    planned: Sequence[Task], folders: Mapping[str, str], scale: str, data_dir: str
) -> tuple[dict[str, Source], dict[str, str]]:
    """Open the data sets of tasks.

    Args:
      planned: the tasks.
      folders: with the sets' files, by name.
      scale: a key of `configs.paper.SCALES`.
      data_dir: where prepared sets are kept.

    Returns:
      Those at hand by name, and why others are not.
    """
    sources: dict[str, Source] = {}
    missing: dict[str, str] = {}
    for dataset in dict.fromkeys(task.dataset for task in planned):
        config = cells.get_config(f"{scale}/{dataset}/dscpp")
        config.data.data_dir, config.data.manual_dir = data_dir, folders.get(dataset, "")
        try:
            made = parts_lib.make(config)
        except FAILURES as error:
            missing[dataset] = str(error).replace("--config.data.manual_dir=", f"--data={dataset}=")
            continue
        sources[dataset] = Source(config.data.manual_dir, made.loaded.digest, made)
    return sources, missing


def epoch_seconds(config: ConfigDict, made: parts_lib.Parts) -> float:
    """What an epoch of one network takes, from a few steps on an image of noise.

    Args:
      config: of a run.
      made: its parts.

    Returns:
      The least time of a step, for each step of the epoch, and a part of it for each of validation.
    """
    step = train.make_train_step(made.apply, made.loss, made.augment, made.devices)
    state, key = parts_lib.init_state(made, 0), parts_lib.step_key(0)
    rng = np.random.default_rng(0)
    size = config.data.batch_size
    batch: dict[str, Any] = {
        "image": rng.standard_normal((size, *made.image_shape)).astype(np.float32),
        "label": rng.integers(0, len(made.spec.classes), (size, *made.size), np.int32),
    }
    seconds = []
    for _ in range(1 + STEPS):
        start = time.perf_counter()
        state, loss = step(state, batch, key, 0.0)
        jax.block_until_ready(loss)
        seconds.append(time.perf_counter() - start)
    cases = {split: len(parts_lib.prepared(made, config, split)) for split in made.splits}
    steps = -(-cases["train"] // size) + FORWARD * -(-cases["validation"] // size)
    return steps * min(seconds[1:])


def plan(
    wanted: Sequence[Task],
    sources: Mapping[str, Source],
    missing: Mapping[str, str],
    scale: str,
    folder: Path,
    data_dir: str,
) -> list[Planned]:
    """What is done, what is to do, and how long it takes at most.

    Args:
      wanted: all tasks.
      sources: data sets at hand.
      missing: those that are not.
      scale: a key of `configs.paper.SCALES`.
      folder: that of the scale.
      data_dir: where prepared sets are kept.

    Returns:
      A `Planned` for each task, in the same order.
    """
    planned = []
    epochs: dict[str, float] = {}
    for task in wanted:
        if task.dataset in missing:
            planned.append(Planned(task, "no data", 0.0))
            continue
        source = sources[task.dataset]
        if _is_finished(task, scale, source, folder, data_dir):
            planned.append(Planned(task, "finished", 0.0))
        elif task.of:
            planned.append(Planned(task, "to do, without training", 0.0))
        else:
            config = cell_config(task, scale, source, data_dir)
            if task.dataset not in epochs:
                print(f"{task.dataset}: measuring a step, which is compiled first", flush=True)
                epochs[task.dataset] = epoch_seconds(config, source.made)
            members = max(1, len(config.sweep.gamma))
            done = _epochs(folder / task.name)
            left = members * config.train.epochs - done
            state = f"{done} epochs are there" if done else "to do"
            planned.append(Planned(task, state, left * epochs[task.dataset]))
    return planned


def _is_finished(task: Task, scale: str, source: Source, folder: Path, data_dir: str) -> bool:
    there = folder / task.name
    if task.of:
        return derived.is_current(there, [folder / name for name in task.of])
    config = cell_config(task, scale, source, data_dir)
    if not record.is_finished(there, config, source.digest):
        return False
    return all(scores.is_complete(path.parent) for path in there.rglob(record.LOG))


def _epochs(folder: Path) -> int:
    """Epochs that are trained in a directory of a run or of a grid."""
    return sum(len(record.read_log(path.parent)) for path in folder.rglob(record.LOG))


def told(planned: Sequence[Planned], missing: Mapping[str, str], budget: float) -> str:
    """The plan, as it is printed."""
    rows = [["what", "state", "trains at most"]]
    rows += [[p.task.name, p.state, _duration(p.seconds)] for p in planned]
    total = sum(p.seconds for p in planned)
    lines = [
        table.layout(rows),
        f"{len(planned)} in all, {sum(p.state == 'finished' for p in planned)} finished",
    ]
    if total:
        lines.append(
            f"training takes at most {_duration(total)} by the steps measured just now, and most "
            "runs stop early; compiling, evaluation and the report come on top"
        )
    lines += [f"{dataset} is not at hand: {why}" for dataset, why in missing.items()]
    if math.isfinite(budget):
        lines.append(f"--budget_minutes={budget / 60:g}: what is not done by then is left")
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    if not seconds:
        return ""
    if seconds < 5400:
        return f"{max(seconds / 60, 0.1):.1f} min"
    return f"{seconds / 3600:.1f} h"


class Outcome(NamedTuple):
    """What became of a plan.

    Attributes:
      failed: why, by task.
      left: tasks that there was no time for.
    """

    failed: dict[str, str]
    left: list[str]


def perform(
    planned: Sequence[Planned],
    sources: Mapping[str, Source],
    scale: str,
    folder: Path,
    data_dir: str,
    deadline: float,
) -> Outcome:
    """Run what is not finished, one after another.

    Args:
      planned: the plan.
      sources: data sets at hand.
      scale: a key of `configs.paper.SCALES`.
      folder: that of the scale.
      data_dir: where prepared sets are kept.
      deadline: after which nothing is begun and training is broken off, by `time.monotonic`.

    Returns:
      What failed and what is left.
    """
    failed: dict[str, str] = {}
    left: list[str] = []
    to_do = [p for p in planned if p.state not in ("finished", "no data")]
    for number, item in enumerate(to_do, 1):
        task, source = item.task, sources[item.task.dataset]
        broken = [name for name in task.of if name in (*failed, *left)]
        if time.monotonic() > deadline or any(name in left for name in broken):
            left.append(task.name)
            continue
        if broken:
            failed[task.name] = f"{broken[0]}, of which it is made, failed"
            continue
        rest = _duration(sum(p.seconds for p in to_do[number - 1 :]))
        print(
            f"\n== {number} of {len(to_do)}: {task.name}; {rest or 'nothing'} to train at most =="
        )
        sys.stdout.flush()
        try:
            _perform(task, source, scale, folder, data_dir, deadline)
        except run.OutOfTimeError as error:
            print(f"{task.name}: {error}")
            left.append(task.name)
        except FAILURES as error:
            print(f"error: {task.name}: {error}", file=sys.stderr, flush=True)
            failed[task.name] = str(error)
        # Programs of other shapes and losses are not needed again.
        jax.clear_caches()
    return Outcome(failed, left)


def _perform(
    task: Task, source: Source, scale: str, folder: Path, data_dir: str, deadline: float
) -> None:
    there, of = folder / task.name, [folder / name for name in task.of]
    if len(of) > 1:
        calibrate.combine(of, there, data_dir, source.manual_dir)
    elif of:
        calibrate.temper(of[0], data_dir, source.manual_dir)
    else:
        config = cell_config(task, scale, source, data_dir)
        train_it = sweep.run if len(config.sweep.gamma) else run.run
        train_it(config, there, deadline)


def reproduce(options: argparse.Namespace) -> int:
    """Do what the options say.

    Returns:
      The exit code: 1 if something failed, `LEFT` if there was no time for all.
    """
    start = time.monotonic()
    tables = tuple(TABLES) if options.all else tuple(options.table)
    figures = tuple(FIGURES) if options.all else tuple(options.figure)
    wanted = tasks(tables, figures, tuple(options.data), options.seeds)
    folder = options.workdir.expanduser() / options.scale
    budget = 60 * options.budget_minutes
    sources, missing = find_sources(wanted, options.data, options.scale, options.data_dir)
    for option, of, _ in _asked(tables, figures):
        if not _chosen(of, tuple(options.data)):
            print(f"{option} is of {', '.join((*of.datasets, *of.drawn))}: left out")
    planned = plan(wanted, sources, missing, options.scale, folder, options.data_dir)
    print(f"\n{told(planned, missing, budget)}")
    if options.dry_run:
        return 0
    with record.held(folder):
        outcome = perform(planned, sources, options.scale, folder, options.data_dir, start + budget)
        if any(folder.rglob(f"{scores.FOLDER}/{scores.CASES}")):
            print(f"\n{report.write([folder], folder / report.FOLDER)}")
    if outcome.left:
        print(f"{len(outcome.left)} are left; the same command goes on: {', '.join(outcome.left)}")
    for name, why in outcome.failed.items():
        print(f"error: {name}: {why}", file=sys.stderr)
    if missing:
        print(f"error: not at hand, as told above: {', '.join(missing)}", file=sys.stderr)
    return 1 if outcome.failed or missing else LEFT if outcome.left else 0


def _folders(text: str) -> dict[str, str]:
    """Data sets and their folders from NAME=FOLDER,NAME,..."""
    folders = {}
    for item in text.split(","):
        name, _, folder = item.strip().partition("=")
        if name not in (*cells.SETS, *cells.DRAWN):
            raise argparse.ArgumentTypeError(
                f"{name!r} is no data set; known: {', '.join((*cells.SETS, *cells.DRAWN))}. As in "
                "--data=drive=FOLDER,dsb2018=FOLDER"
            )
        folders[name] = str(Path(folder).expanduser()) if folder else ""
    return folders


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command line."""
    parser = argparse.ArgumentParser(
        "experiments.reproduce",
        description="Reproduce tables and figures of the DSC++ paper.",
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what, one or several")
    what.add_argument("--table", type=int, choices=TABLES, action="append", default=[])
    what.add_argument("--figure", type=int, choices=FIGURES, action="append", default=[])
    what.add_argument("--all", action="store_true", help="all tables and figures")
    parser.add_argument(
        "--scale",
        choices=cells.SCALES,
        default="full",
        help="full, the paper's; reduced, for a CPU; tiny, to see that it works (configs/paper.py)",
    )
    parser.add_argument(
        "--data",
        type=_folders,
        default={},
        metavar="NAME=FOLDER,...",
        help="the data sets that you have and the folders with their files (NAME alone for one "
        f"that is prepared or drawn): {', '.join((*cells.SETS, *cells.DRAWN))}",
    )
    parser.add_argument("--data_dir", default="", help="of prepared sets")
    parser.add_argument("--workdir", type=Path, default=Path("runs/paper"), help="runs/paper")
    parser.add_argument("--seeds", type=int, default=3, help="of ensembles, 1 for none; 3")
    parser.add_argument("--budget_minutes", type=float, default=math.inf, metavar="MINUTES")
    parser.add_argument("--dry_run", action="store_true", help="show the plan alone")
    options = parser.parse_args(argv)
    if not (options.all or options.table or options.figure):
        parser.error("say what: --table=4, --figure=5 or --all")
    if options.budget_minutes < 0:
        parser.error(f"--budget_minutes is {options.budget_minutes:g}; it must not be negative")
    if options.seeds < 1:
        parser.error(f"--seeds is {options.seeds}; it must be at least 1")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Reproduce what the command line says."""
    options = parse(argv)
    logging.set_verbosity(logging.ERROR)  # Orbax tells of every file it opens.
    try:
        code = reproduce(options)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        cli.leave("the same command goes on")
    sys.exit(code)


if __name__ == "__main__":
    main()
