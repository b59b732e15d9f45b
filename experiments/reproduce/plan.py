"""The tasks behind tables and figures, their state, and how long they take at most."""

import itertools
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import paper as cells
from dicepp_jax import score_files
from dicepp_jax.text_table import layout
from experiments.report.published import FIGURES, FRONTIER, PAIR, TABLES, PaperTable
from experiments.setup import components
from experiments.setup.components import Components
from experiments.workdirs import derived, directory, log

FAILURES = (ValueError, OSError, ArithmeticError, RuntimeError, MemoryError)
"""Errors that end one run but not the others."""

STEPS = 3
FORWARD = 1 / 3
"""The time of a validation case, as a share of a training step's."""


class Task(NamedTuple):
    """A run, or scores to be derived from runs.

    Attributes:
      dataset: its data set.
      name: its directory below that of the scale: "drive/dsc", "drive/dsc/temperature".
      of: the names of the runs it is derived from; empty for a run that is trained.
    """

    dataset: str
    name: str
    of: tuple[str, ...] = ()


class AvailableData(NamedTuple):
    """A data set that is available.

    Attributes:
      manual_dir: of its files, "" if it is prepared or drawn.
      digest: of its cases and their split.
      built: the components of its run with DSC++.
    """

    manual_dir: str
    digest: str
    built: Components


FINISHED, NO_DATA = "finished", "no data"


class Planned(NamedTuple):
    """A task with its state before it begins.

    Attributes:
      task: the task.
      state: one of `FINISHED`, `NO_DATA` and others, in words.
      seconds: that training takes at most, 0 if nothing is left to train.
    """

    task: Task
    state: str
    seconds: float


def tasks(
    tables: Sequence[int], figures: Sequence[int], datasets: Sequence[str], seeds: int
) -> list[Task]:
    """The tasks for tables and figures, the paper's own cells first.

    Args:
      tables: numbers of tables.
      figures: numbers of figures.
      datasets: names of data sets; empty for the paper's.
      seeds: number of networks of an ensemble; 1 for no ensembles.

    Returns:
      Each task once, after those that it is derived from.

    Raises:
      ValueError: if no requested table or figure shows any of the data sets.
    """
    requested = requests(tables, figures)
    paper: list[Task] = []
    beyond: list[Task] = []
    for option, table, methods in requested:
        chosen = chosen_sets(table, datasets)
        for dataset in chosen:
            paper += [Task(dataset, f"{dataset}/{method}") for method in methods]
        if table.number == FRONTIER:
            paper += [Task(name, f"{name}/{cell}") for name in chosen for cell in cells.BASELINES]
            beyond += [task for dataset in chosen for task in _baselines(dataset)]
        if not option.startswith("--figure"):
            pairs = itertools.product(chosen, [m for m in methods if m in PAIR])
            beyond += [task for pair in pairs for task in _calibrated(*pair, seeds)]
    if not paper:
        of_all = "; ".join(
            f"{option} shows {', '.join((*table.datasets, *table.drawn))}"
            for option, table, _ in requested
        )
        raise ValueError(f"--data={','.join(datasets)} has no data set of the request: {of_all}")
    # Tasks without training first.
    beyond.sort(key=lambda task: not task.name.endswith(tuple(derived.METHODS)))
    return list(dict.fromkeys((*paper, *beyond)))


def requests(
    tables: Sequence[int], figures: Sequence[int]
) -> list[tuple[str, PaperTable, tuple[str, ...]]]:
    """The requests: the option, the table with its data sets, and the cells that are trained."""
    of_tables = [(TABLES[n].option, TABLES[n], _trained(n)) for n in tables]
    return of_tables + [(f"--figure={n}", TABLES[FIGURES[n][0]], FIGURES[n][1]) for n in figures]


def chosen_sets(table: PaperTable, datasets: Sequence[str]) -> list[str]:
    """The requested data sets of a table; the paper's if none are named."""
    wanted = datasets or table.datasets
    return [name for name in (*table.datasets, *table.drawn) if name in wanted]


def _trained(number: int) -> tuple[str, ...]:
    """The cells that are trained for a table."""
    return (cells.GAMMA,) if number == 3 else TABLES[number].methods


def _calibrated(dataset: str, method: str, seeds: int) -> Iterator[Task]:
    name = f"{dataset}/{method}"
    yield Task(dataset, f"{name}/{derived.TEMPERATURE}", (name,))
    if seeds > 1:
        others = tuple(f"{name}_seed={seed}" for seed in range(1, seeds))
        yield from (Task(dataset, other) for other in others)
        yield Task(dataset, f"{name}_{derived.ENSEMBLE}", (name, *others))


def _baselines(dataset: str) -> Iterator[Task]:
    """The Dice loss calibrated after training by each method; MC dropout needs its own network."""
    for method in derived.METHODS:
        cell = cells.DROPOUT if method == derived.MC_DROPOUT else "dsc"
        yield Task(dataset, f"{dataset}/{cell}/{method}", (f"{dataset}/{cell}",))


def cell_config(task: Task, scale: str, source: AvailableData, data_dir: str) -> ConfigDict:
    """The config of a task with training."""
    config = cells.get_config(f"{scale}/{task.name}")
    config.data.data_dir = data_dir
    config.data.manual_dir = source.manual_dir
    return config


def find_data(
    planned: Sequence[Task], folders: Mapping[str, str], scale: str, data_dir: str
) -> tuple[dict[str, AvailableData], dict[str, str]]:
    """Open the data sets of tasks.

    Args:
      planned: the tasks.
      folders: of the sets' files, by name.
      scale: of `configs.paper`.
      data_dir: of prepared sets.

    Returns:
      The available ones by name, and why others are not.
    """
    sources: dict[str, AvailableData] = {}
    missing: dict[str, str] = {}
    for dataset in dict.fromkeys(task.dataset for task in planned):
        if not cells.is_scale(scale, dataset):
            missing[dataset] = (
                f"{scale} is a scale of images; of volumes: {', '.join(cells.SCALES)}"
            )
            continue
        config = cells.get_config(f"{scale}/{dataset}/dscpp")
        config.data.data_dir, config.data.manual_dir = data_dir, folders.get(dataset, "")
        try:
            built = components.build(config)
        except FAILURES as error:
            option = "--config.data.manual_dir", f"--data={dataset}"
            why = str(error).replace(f"{option[0]}=", f"{option[1]}=")
            missing[dataset] = why.replace(option[0], f"{option[1]}=FOLDER")
            continue
        sources[dataset] = AvailableData(config.data.manual_dir, built.loaded.digest, built)
    return sources, missing


def epoch_seconds(config: ConfigDict, built: Components) -> float:
    """The time of an epoch of one network, estimated from a few steps on an image of noise.

    Args:
      config: of a run.
      built: its components.

    Returns:
      The median time of a step, times the steps of the epoch, plus a share for validation.
    """
    step = components.train_step(built)
    state, key = components.init_state(built, 0), components.step_key(0)
    rng = np.random.default_rng(0)
    size = config.data.batch_size
    batch: dict[str, Any] = {
        "image": rng.standard_normal((size, *built.image_shape)).astype(np.float32),
        "label": rng.integers(0, len(built.spec.classes), (size, *built.size), np.int32),
    }
    seconds = []
    for _ in range(1 + STEPS):
        start = time.perf_counter()
        state, loss = step(state, batch, key, 0.0)
        jax.block_until_ready(loss)
        seconds.append(time.perf_counter() - start)
    cases = {split: len(components.examples(built, config, split)) for split in built.splits}
    steps = -(-cases["train"] // size) + FORWARD * -(-cases["validation"] // size)
    return steps * statistics.median(seconds[1:])


def plan(
    wanted: Sequence[Task],
    sources: Mapping[str, AvailableData],
    missing: Mapping[str, str],
    scale: str,
    folder: Path,
    data_dir: str,
) -> list[Planned]:
    """The state of all tasks, and how long training takes at most.

    Args:
      wanted: all tasks.
      sources: available data sets.
      missing: why others are not available.
      scale: of `configs.paper`.
      folder: that of the scale.
      data_dir: of prepared sets.

    Returns:
      A `Planned` for each task, in the same order.
    """
    planned = []
    epochs: dict[str, float] = {}
    for task in wanted:
        if task.dataset in missing:
            planned.append(Planned(task, NO_DATA, 0.0))
            continue
        source = sources[task.dataset]
        if _is_finished(task, scale, source, folder, data_dir):
            planned.append(Planned(task, FINISHED, 0.0))
        elif task.of:
            planned.append(Planned(task, "to do, without training", 0.0))
        else:
            config = cell_config(task, scale, source, data_dir)
            if task.dataset not in epochs:
                print(f"{task.dataset}: compiling and timing a step", flush=True)
                epochs[task.dataset] = epoch_seconds(config, source.built)
            runs = max(1, len(config.sweep.gamma)) * (2 if config.train.then else 1)
            done = _epochs(folder / task.name)
            left = runs * config.train.epochs - done
            state = f"{done} epochs done" if done else "to do"
            planned.append(Planned(task, state, left * epochs[task.dataset]))
    return planned


def _is_finished(
    task: Task, scale: str, source: AvailableData, folder: Path, data_dir: str
) -> bool:
    there = folder / task.name
    if task.of:
        return derived.is_current(there, [folder / name for name in task.of])
    config = cell_config(task, scale, source, data_dir)
    if not directory.is_finished(there, config, source.digest):
        return False
    trained = (path.parent for path in there.rglob(log.LOG) if path.parent.name != directory.FIRST)
    return all(map(score_files.is_complete, trained))


def _epochs(folder: Path) -> int:
    """The number of epochs trained in the directory of a run or a grid."""
    return sum(len(log.read(path.parent)) for path in folder.rglob(log.LOG))


def describe(planned: Sequence[Planned], missing: Mapping[str, str], budget: float) -> str:
    """The plan as a table, with the time that it takes at most."""
    rows = [["task", "state", "training at most"]]
    rows += [[p.task.name, p.state, duration(p.seconds)] for p in planned]
    total = sum(p.seconds for p in planned)
    lines = [
        layout(rows),
        f"{len(planned)} in all, {sum(p.state == FINISHED for p in planned)} finished",
    ]
    if total:
        lines.append(
            f"training takes at most {duration(total)} by the steps just timed, and most runs stop "
            "early; reading data, checkpoints, compilation, evaluation and the report come on top"
        )
    lines += [f"{dataset} is not available: {why}" for dataset, why in missing.items()]
    if math.isfinite(budget):
        lines.append(
            f"--budget_minutes={budget / 60:g}: what is unfinished by then is left for later"
        )
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Seconds in minutes or hours; "" for none."""
    if not seconds:
        return ""
    if seconds < 5400:
        return f"{max(seconds / 60, 0.1):.1f} min"
    return f"{seconds / 3600:.1f} h"
