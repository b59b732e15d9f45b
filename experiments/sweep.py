"""Train a grid: python -m experiments.sweep --config=configs/drive_gamma_grid.py

All members train side by side in one compiled program (dicepp_jax.sweep), and each has a directory
below --workdir as if it had been run alone: other commands take it, and it goes on after an
interruption. With several seeds their deep ensemble is evaluated, too.
"""

import contextlib
import copy
import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import base
from dicepp_jax import inference, plots, schedule, sweep
from dicepp_jax.checkpoint import Checkpoints
from dicepp_jax.data import pipeline
from dicepp_jax.data.wording import by
from dicepp_jax.losses import LOSSES
from dicepp_jax.rows import Row, summarise, write_csv
from experiments import cli, derived, memory, record, scores, table
from experiments import parts as parts_lib
from experiments import run as run_lib
from experiments.groups import METRICS
from experiments.paper import published
from experiments.progress import SweepProgress

FIELDS = {name: f"loss.{name}" for name in base.HYPER} | {"learning_rate": "train.learning_rate"}
"""The field that each axis of a grid sets."""
STRATEGIES = ("auto", "vmap", "sequential", "devices")
STATUS = "sweep.json"


class Setting(NamedTuple):
    """A point of the grid: the members that differ in nothing but their seed.

    Attributes:
      values: of its axes.
      members: their configs by name.
    """

    values: Mapping[str, float]
    members: Mapping[str, ConfigDict]


def expand(config: ConfigDict) -> dict[str, Setting]:
    """The points of a config's grid, by name.

    Args:
      config: of the grid.

    Returns:
      Settings, each with a member for every seed, whose config is that of a run alone.

    Raises:
      ValueError: if there is no grid, an axis does not fit the loss, or zipped axes differ in
        length.
    """
    fields = config.sweep
    axes = {name: tuple(fields[name]) for name in FIELDS if len(fields[name])}
    name = config.loss.name
    if name not in LOSSES:
        raise ValueError(
            f"loss.name is {name!r}, and a grid is of one loss; give --config.loss.name=dscpp or "
            f"another of {', '.join(LOSSES)}"
        )
    if fields.seeds < 1:
        raise ValueError(f"sweep.seeds is {fields.seeds}; it must be at least 1")
    if config.devices != 1:
        raise ValueError(
            f"devices is {config.devices}, which is for a single run; a grid's members are spread "
            "over all local devices by themselves, so leave it out"
        )
    if not axes and fields.seeds == 1:
        raise ValueError(
            "the config has no grid: set an axis such as --config.sweep.gamma='(1,2,3)', or "
            "--config.sweep.seeds=3"
        )
    for axis in set(axes) & set(base.HYPER) - set(LOSSES[name].defaults):
        takes = ", ".join(LOSSES[name].defaults) or "no hyper-parameter"
        raise ValueError(f"sweep.{axis} is set, but {name} takes {takes}")
    for axis, given in axes.items():
        if not all(isinstance(value, int | float) for value in given):
            raise ValueError(f"sweep.{axis} is {given}; it takes numbers")
    settings: dict[str, Setting] = {}
    for point in _points(axes, [n.strip() for n in fields.zip.split(",") if n.strip()]):
        values = dict(zip(axes, point, strict=True))
        title = "_".join(f"{axis}={value:g}" for axis, value in values.items())
        if title and title in settings:
            raise ValueError(
                f"the grid has {title} twice, as far as six digits tell; leave one of them out"
            )
        members = {}
        for seed in range(config.seed, config.seed + fields.seeds):
            member = copy.deepcopy(config)
            member.update_from_flattened_dict(
                {FIELDS[axis]: float(value) for axis, value in values.items()}
            )
            member.seed = seed
            member.sweep = base.get_config().sweep
            parts = [title] * bool(title) + [f"seed={seed}"] * (fields.seeds > 1)
            members["_".join(parts)] = member
        settings[title or name] = Setting(values, members)
    return settings


def _points(axes: Mapping[str, Sequence[float]], zipped: Sequence[str]) -> list[tuple[float, ...]]:
    """Values of all axes at each point, in the order of the axes; the last one varies fastest."""
    unknown = [name for name in zipped if name not in axes]
    lengths = {name: len(axes[name]) for name in zipped if name in axes}
    if unknown or len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise ValueError(
            f"sweep.zip is {','.join(zipped)}; it names axes with as many values each"
            + (f": {found}" if found else "")
            + (f"; sweep.{unknown[0]} has none" if unknown else "")
        )
    blocks = [[name] for name in axes if name not in zipped]
    if zipped:
        blocks.insert(0, list(zipped))
    choices = [list(zip(*(axes[name] for name in block), strict=True)) for block in blocks]
    points = []
    for chosen in itertools.product(*choices):
        values = dict(zip(itertools.chain(*blocks), itertools.chain(*chosen), strict=True))
        points.append(tuple(values[name] for name in axes))
    return points


def run(config: ConfigDict, workdir: Path, deadline: float = math.inf) -> str:
    """Train and evaluate a grid in a directory.

    Args:
      config: of the grid.
      workdir: the directory.
      deadline: when to break off training, by `time.monotonic`.

    Returns:
      The report, which is also written there.

    Raises:
      run.OutOfTimeError: if training is broken off.
    """
    settings = expand(config)
    configs = {name: c for setting in settings.values() for name, c in setting.members.items()}
    parts: dict[str, parts_lib.Parts] = {}
    loaded = None
    for name, member in configs.items():
        parts[name] = parts_lib.make(member, loaded)
        loaded = parts[name].loaded
    first = parts[next(iter(parts))]
    split = {part: list(subset.ids) for part, subset in first.splits.items()}
    with contextlib.ExitStack() as stack:
        stack.enter_context(record.held(workdir))
        digest = first.loaded.digest
        record.open_workdir(workdir, config, digest)
        for name, member in configs.items():
            # Nobody else is to go on with a member meanwhile.
            stack.enter_context(record.held(workdir / name))
            record.open_workdir(workdir / name, member, digest)
        for folder in (workdir, *(workdir / name for name in configs)):
            record.write_spec(folder, first.spec)
            record.write_text(folder / record.SPLIT, json.dumps(split, indent=1) + "\n")
        diverged = fit(config, configs, parts, workdir, deadline)
        return _report(config, settings, parts, workdir, diverged)


def fit(
    config: ConfigDict,
    configs: Mapping[str, ConfigDict],
    parts: Mapping[str, parts_lib.Parts],
    workdir: Path,
    deadline: float = math.inf,
) -> dict[str, str]:
    """Train all members to the end of their schedules, going on from their checkpoints.

    Returns:
      Why members diverged, by name.

    Raises:
      run.OutOfTimeError: if they do not come to the end before the deadline.
    """
    names = list(configs)
    first = parts[names[0]]
    status = _read_status(workdir)
    with contextlib.ExitStack() as stack:
        # Two, as a process may be killed when some members have saved an epoch and others not.
        checkpoints = {
            name: stack.enter_context(Checkpoints(workdir / name / "checkpoints", keep=2))
            for name in names
        }
        resumed = _resume(config, configs, parts, checkpoints, status["diverged"])
        for name in names:
            record.trim_log(workdir / name, resumed.epochs[name])
        if not resumed.states:
            return status["diverged"]
        seeds = list(dict.fromkeys(member.seed for member in configs.values()))
        members = _members(config, configs, parts, seeds)
        programs = _programs(config, first)
        training = _streams(first, config, "train", seeds, shuffled=True)
        validation = _streams(first, config, "validation", seeds, shuffled=False)
        print(f"{config.loss.name}: {len(names)} members, {parts_lib.describe(first)}")
        if "strategy" not in status or not _is_as_before(status, config):
            state = next(iter(resumed.states.values()))
            example = [next(iter(stream(0))) for stream in training]
            status |= _strategy(config, programs, members, state, example)
            _write_status(workdir, status)
        print(f"strategy: {status['told']}")
        progress = stack.enter_context(SweepProgress(names, config.train.epochs))
        rounds = sweep.fit(
            members,
            resumed.states,
            programs,
            training,
            validation,
            sweep.Strategy(*status["strategy"]),
            epochs=config.train.epochs,
            first_epoch=resumed.first_epoch,
            schedules=resumed.schedules,
            on_step=progress.step,
        )
        for done in rounds:
            status["diverged"] |= {names[n]: why for n, why in done.diverged.items()}
            _write_status(workdir, status)
            for checkpoint in checkpoints.values():
                checkpoint.wait()  # So that no member is two epochs ahead of another.
            for n, epoch in done.epochs.items():
                if epoch.epoch not in checkpoints[names[n]].epochs:
                    checkpoints[names[n]].save(epoch)
                record.append_log(
                    workdir / names[n], {"epoch": epoch.epoch, **record.logged(epoch)}
                )
            progress.epoch(
                {names[n]: epoch for n, epoch in done.epochs.items()}, status["diverged"]
            )
            for epoch in done.epochs.values():
                run_lib.check_time(epoch, config.train.epochs, deadline)
    return status["diverged"]


def _members(
    config: ConfigDict,
    configs: Mapping[str, ConfigDict],
    parts: Mapping[str, parts_lib.Parts],
    seeds: Sequence[int],
) -> list[sweep.Member]:
    swept = [axis for axis in base.HYPER if config.sweep[axis]]
    return [
        sweep.Member(
            {axis: member.loss[axis] for axis in swept},
            parts[name].settings,
            parts_lib.step_key(member.seed),
            seeds.index(member.seed),
        )
        for name, member in configs.items()
    ]


def _programs(config: ConfigDict, parts: parts_lib.Parts) -> sweep.Programs:
    hyper = parts_lib.hyper(config)
    fixed = {name: value for name, value in hyper.items() if not config.sweep[name]}
    loss = functools.partial(LOSSES[config.loss.name].function, **fixed)
    return sweep.make_programs(parts.apply, loss, parts.augment)


class Resumed(NamedTuple):
    """Where a grid goes on.

    Attributes:
      first_epoch: of those who train.
      states: of those who train, by number.
      schedules: of those who train, by number.
      epochs: how many each member has done, by name.
    """

    first_epoch: int
    states: dict[int, Any]
    schedules: dict[int, schedule.State]
    epochs: dict[str, int]


def _resume(
    config: ConfigDict,
    configs: Mapping[str, ConfigDict],
    parts: Mapping[str, parts_lib.Parts],
    checkpoints: Mapping[str, Checkpoints],
    diverged: Mapping[str, str],
) -> Resumed:
    """Those who have not come to their end, all at the epoch that the slowest of them has done."""
    names = list(configs)
    shapes = parts_lib.state_shapes(parts[names[0]])
    last = {
        name: None if (epoch := kept.last_epoch) is None else kept.restore(epoch, shapes)
        for name, kept in checkpoints.items()
    }
    done = {name: 0 if kept is None else kept.epoch + 1 for name, kept in last.items()}
    left = [
        name
        for name, kept in last.items()
        if name not in diverged
        and done[name] < config.train.epochs
        and not (kept and kept.schedule.stopped)
    ]
    common = min((done[name] for name in left), default=0)
    states, schedules = {}, {}
    initial: dict[int, Any] = {}
    for name in left:
        kept, seed = last[name], configs[name].seed
        if common == 0:
            if seed not in initial:
                initial[seed] = parts_lib.init_state(parts[name], seed)
            state, plan = initial[seed], schedule.init(parts[name].settings)
        else:
            if done[name] > common:
                if common - 1 not in checkpoints[name].epochs:
                    raise ValueError(
                        f"{name} has {done[name]} epochs and others {common}, so they cannot go on "
                        "side by side; it was trained on alone. Give another --workdir"
                    )
                kept = checkpoints[name].restore(common - 1, shapes)
            assert kept is not None
            state, plan = kept.state, kept.schedule
        states[names.index(name)], schedules[names.index(name)] = state, plan
        done[name] = common
    return Resumed(common, states, schedules, done)


def _streams(
    parts: parts_lib.Parts, config: ConfigDict, split: str, seeds: Sequence[int], shuffled: bool
) -> list[sweep.Stream]:
    """The batches of every seed; one stream where they do not depend on it."""
    cases = parts_lib.prepared(parts, config, split)
    drawn = isinstance(cases, pipeline.Patches)

    def stream(seed: int) -> sweep.Stream:
        own = cases
        if isinstance(cases, pipeline.Patches):
            own = dataclasses.replace(cases, seed=seed)
        return lambda epoch: pipeline.batches(
            own, config.data.batch_size, shuffle_seed=seed if shuffled else None, epoch=epoch
        )

    return [stream(seed) for seed in (seeds if shuffled or drawn else seeds[:1])]


def _strategy(
    config: ConfigDict,
    programs: sweep.Programs,
    members: Sequence[sweep.Member],
    state: Any,
    example: Sequence[pipeline.Batch],
) -> dict[str, Any]:
    """The strategy that the config asks for, measured where it leaves it open."""
    wanted, local = config.sweep.strategy, jax.local_device_count()
    if wanted not in STRATEGIES:
        raise ValueError(f"sweep.strategy is {wanted!r}; it may be {', '.join(STRATEGIES)}")
    print("compiling and timing strategies, which may take minutes", flush=True)
    images, labels = (np.stack([batch[key] for batch in example]) for key in ("image", "label"))

    cost = functools.partial(sweep.measure, programs, members, state, images, labels)
    strategy, told = _chosen(wanted, len(members), local, cost)
    each = f" on each of {strategy.devices} devices" if strategy.devices > 1 else ""
    many = "one member at a time" if strategy.lanes == 1 else f"{strategy.lanes} members at once"
    groups = -(-len(members) // (strategy.lanes * strategy.devices))
    room = f", in {groups} groups" if groups > 1 and strategy.lanes > 1 else ""
    return {
        "asked": wanted,
        "local_devices": local,
        "strategy": list(strategy),
        "told": f"{many}{each}{room}" + (f" ({told})" if told else ""),
    }


def _chosen(
    wanted: str, members: int, local: int, cost: Callable[[sweep.Strategy], sweep.Cost]
) -> tuple[sweep.Strategy, str]:
    limit = memory.device_limit()
    if wanted == "sequential":
        return sweep.Strategy(), ""
    if wanted == "vmap":
        lanes = sweep.most_lanes(members, 1, cost(sweep.Strategy()), limit)
        return sweep.Strategy(lanes), "" if lanes == members else "as many as memory has room for"
    return sweep.choose(members, local, cost, limit)


def _is_as_before(status: Mapping[str, Any], config: ConfigDict) -> bool:
    asked = (config.sweep.strategy, jax.local_device_count())
    return asked == (status["asked"], status["local_devices"])


def _read_status(workdir: Path) -> dict[str, Any]:
    path = workdir / STATUS
    return json.loads(path.read_text()) if path.exists() else {"diverged": {}}


def _write_status(workdir: Path, status: Mapping[str, Any]) -> None:
    record.write_text(workdir / STATUS, json.dumps(status, indent=1) + "\n")


def _report(
    config: ConfigDict,
    settings: Mapping[str, Setting],
    parts: Mapping[str, parts_lib.Parts],
    workdir: Path,
    diverged: Mapping[str, str],
) -> str:
    """Evaluate every member and every ensemble, and write what came out."""
    first = parts[next(iter(parts))]
    rows: dict[str, list[Row]] = {}
    for name, setting in settings.items():
        scored, predicts, trained = [], [], []
        for member, member_config in setting.members.items():
            folder = workdir / member
            if record.read_log(folder):
                predict = run_lib.best_predictor(member_config, parts[member], folder, member)
                predicts.append(predict)
                trained.append(member)
                scored.append(scores.score(predict, member_config, parts[member], folder).rows)
        if scored:
            all_of_them = len(scored) == len(setting.members)
            some = "" if all_of_them else f", {len(scored)} of {len(setting.members)} seeds"
            rows[name + some] = _mean_rows(scored)
        if len(predicts) > 1:
            together = scores.score(
                inference.ensemble(predicts), config, first, workdir / f"{name}_ensemble"
            )
            of = [workdir / member for member in setting.members if member in trained]
            derived.write(workdir / f"{name}_ensemble", derived.ENSEMBLE, of)
            rows[f"{name}, ensemble"] = together.rows
    summaries = {name: summarise(of) for name, of in rows.items()}
    if summaries:
        write_csv(
            workdir / "results.csv",
            [Result(name, *summary) for name, group in summaries.items() for summary in group],
        )
    foreground = first.spec.classes[1:]
    beside = _published(config, first.spec.name)
    lines = [_title(config, settings, first, rows)]
    for label in foreground if summaries else ():
        lines += ["", label, table.grid_table(summaries, label, METRICS, beside)]
    epochs = {name: len(record.read_log(workdir / name)) for name in parts}
    lines += ["", f"epochs trained: {', '.join(f'{name} {n}' for name, n in epochs.items())}"]
    lines += [f"{name} diverged: {why}" for name, why in diverged.items()]
    text = "\n".join(lines)
    axes = [axis for axis in FIELDS if config.sweep[axis]]
    if len(axes) == 1 and summaries:
        points = {
            setting.values[axes[0]]: summaries[name]
            for name, setting in settings.items()
            if name in summaries
        }
        figure = plots.against(points, axes[0], foreground, METRICS)
        plots.save(figure, workdir / "figures" / f"{axes[0]}.png")
    record.write_text(workdir / record.REPORT, text + "\n")
    return text


class Result(NamedTuple):
    """A `Summary` of a point of the grid, or of an ensemble.

    Attributes:
      setting: its name.
    """

    setting: str
    label: str
    region: str
    metric: str
    mean: float
    error: float
    low: float
    high: float
    cases: int
    undefined: int


def _mean_rows(of_seeds: Sequence[Sequence[Row]]) -> list[Row]:
    """The mean over seeds, case by case."""
    return [
        same[0]._replace(value=float(np.mean([row.value for row in same])))
        for same in zip(*of_seeds, strict=True)
    ]


def _published(config: ConfigDict, dataset: str) -> dict[tuple[str, str, str], str]:
    """What the paper has for points of the grid, by setting, label and metric."""
    if config.loss.name != "dscpp":
        return {}
    return {
        (cell.method, cell.label, cell.metric): f"{cell.mean:.3f} ± {cell.error:.3f}"
        for cell in published()
        if cell.table == 3 and cell.dataset == dataset
    }


def _title(
    config: ConfigDict,
    settings: Mapping[str, Setting],
    parts: parts_lib.Parts,
    rows: Mapping[str, Sequence[Row]],
) -> str:
    cases = len({row.case for of in rows.values() for row in of})
    seeds = config.sweep.seeds
    each = f", each the mean of {seeds} seeds" if seeds > 1 else ""
    return (
        f"Test split of {parts.spec.title}, {cases} cases at {by(parts.size)}, {config.loss.name}, "
        f"{len(settings)} settings{each}, mean ± bootstrap standard error"
    )


def main() -> None:
    """Train the grid of the flags."""
    if run_lib.is_of_several_hosts():
        raise ValueError(
            "a grid is trained by one process, on all devices of its machine; leave out "
            "--coordinator, --processes, --process and --distributed"
        )
    workdir = cli.workdir()
    text = run(cli.config(), workdir)
    print(f"\n{text}\n\nresults, figures and members: {workdir}")


if __name__ == "__main__":
    cli.run(main, "the same command goes on after the last finished epoch, if any")
