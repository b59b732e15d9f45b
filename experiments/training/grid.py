"""A grid of hyper-parameters, trained side by side and evaluated.

All members train in one compiled program (dicepp_jax.train_many), and each has a directory below
that of the grid as if it had been trained alone, which other commands accept.
"""

import contextlib
import dataclasses
import functools
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import base
from dicepp_jax import schedule, score_files, train, train_many, unfinished
from dicepp_jax.atomic import write_text
from dicepp_jax.checkpoint import Checkpoints
from dicepp_jax.data import pipeline
from dicepp_jax.losses import get_loss
from dicepp_jax.progress import GridProgress
from dicepp_jax.unfinished import Unfinished
from experiments.setup import components, stopping
from experiments.setup.components import Components
from experiments.setup.device_memory import device_limit
from experiments.training.grid_points import expand
from experiments.training.grid_report import evaluate_and_report
from experiments.training.recorder import check_time
from experiments.workdirs import directory, log, stored

STATUS = "sweep.json"


def train_and_evaluate(config: ConfigDict, workdir: Path, deadline: float = math.inf) -> str:
    """Train and evaluate a grid in a directory, resuming it if it was interrupted.

    Args:
      config: of the grid.
      workdir: the directory.
      deadline: when to stop training, by `time.monotonic`.

    Returns:
      The report, which is also written there.

    Raises:
      OutOfTimeError: if training stops at the deadline.
    """
    points = expand(config)
    configs = {name: member for point in points.values() for name, member in point.members.items()}
    built = components.build_all(configs)
    loaded = next(iter(built.values())).loaded
    with contextlib.ExitStack() as stack:
        stack.enter_context(directory.lock(workdir))
        directory.open_workdir(workdir, config, loaded)
        for name, member in configs.items():
            # No other process may resume a member meanwhile.
            stack.enter_context(directory.lock(workdir / name))
            directory.open_workdir(workdir / name, member, loaded)
        diverged = fit(config, configs, built, workdir, deadline)
        return evaluate_and_report(config, points, built, workdir, diverged)


def fit(
    config: ConfigDict,
    configs: Mapping[str, ConfigDict],
    built: Mapping[str, Components],
    workdir: Path,
    deadline: float = math.inf,
) -> dict[str, str]:
    """Train all members to the end of their schedules, resuming from their checkpoints.

    Returns:
      Why members diverged, by name.

    Raises:
      OutOfTimeError: if training stops at the deadline.
      KeyboardInterrupt: if it was stopped by Ctrl-C or SIGTERM, after a step that is saved.
    """
    names = list(configs)
    first = built[names[0]]
    status = _read_status(workdir)
    with contextlib.ExitStack() as stack:
        checkpoints = {
            name: stack.enter_context(Checkpoints(workdir / name / directory.CHECKPOINTS))
            for name in names
        }
        resumed = _resume(config, configs, built, checkpoints, status["diverged"])
        for name in names:
            log.trim(workdir / name, resumed.epochs[name])
        if not resumed.states:
            return status["diverged"]
        for number in resumed.states:
            score_files.discard(workdir / names[number])  # Of fewer epochs.
        seeds = list(dict.fromkeys(member.seed for member in configs.values()))
        members = _members(config, configs, built, seeds)
        programs = _programs(config, first)
        resumed = _within_epoch(workdir / directory.UNFINISHED, resumed, names)
        steps = len(next(iter(resumed.taken.values()), ()))
        training = _streams(first, config, "train", seeds, {resumed.first_epoch: steps})
        validation = _streams(first, config, "validation", seeds, {})
        print(f"{config.loss.name}: {len(names)} members, {components.describe(first)}")
        if "description" not in status or not _is_unchanged(status, config):
            state = next(iter(resumed.states.values()))
            # Of an epoch that is not begun.
            example = [next(iter(stream(resumed.first_epoch + 1))) for stream in training]
            status |= _strategy(config, programs, members, state, example)
            _write_status(workdir, status)
        print(f"strategy: {status['description']}")
        progress = stack.enter_context(GridProgress(names, config.train.epochs))
        stop = stack.enter_context(stopping.deferred())
        rounds = train_many.fit(
            members,
            resumed.states,
            programs,
            training,
            validation,
            train_many.Strategy(*status["strategy"]),
            epochs=config.train.epochs,
            first_epoch=resumed.first_epoch,
            schedules=resumed.schedules,
            taken=resumed.taken,
            on_step=progress.step,
            stop=stop,
        )
        try:
            for done in rounds:
                status["diverged"] |= {names[n]: why for n, why in done.diverged.items()}
                _write_status(workdir, status)
                _save(done, names, checkpoints, workdir)
                progress.epoch(
                    {names[n]: epoch for n, epoch in done.epochs.items()}, status["diverged"]
                )
                for epoch in done.epochs.values():
                    check_time(epoch, config.train.epochs, deadline)
        except train.StoppedError as stopped:
            losses, states = (
                {names[n]: x for n, x in part.items()} for part in (stopped.losses, stopped.state)
            )
            unfinished.write(
                workdir / directory.UNFINISHED, Unfinished(stopped.epoch, losses, states)
            )
            print(f"{config.loss.name}: {stopped}, which is saved", file=sys.stderr)
    return status["diverged"]


def _save(
    done: train_many.Round,
    names: Sequence[str],
    checkpoints: Mapping[str, Checkpoints],
    workdir: Path,
) -> None:
    """Save and log an epoch of the members that trained."""
    for checkpoint in checkpoints.values():
        checkpoint.wait()  # So that no member is two epochs ahead of another.
    for n, epoch in done.epochs.items():
        # Recorded first: on resuming, records that no checkpoint has are dropped.
        log.append(workdir / names[n], epoch)
        if epoch.epoch not in checkpoints[names[n]].epochs:
            checkpoints[names[n]].save(epoch)
    (workdir / directory.UNFINISHED).unlink(missing_ok=True)


def _members(
    config: ConfigDict,
    configs: Mapping[str, ConfigDict],
    built: Mapping[str, Components],
    seeds: Sequence[int],
) -> list[train_many.Member]:
    swept = [axis for axis in base.HYPER if config.sweep[axis]]
    return [
        train_many.Member(
            {axis: member.loss[axis] for axis in swept},
            built[name].settings,
            components.step_key(member.seed),
            seeds.index(member.seed),
        )
        for name, member in configs.items()
    ]


def _programs(config: ConfigDict, built: Components) -> train_many.Programs:
    hyper = components.hyper(config)
    fixed = {name: value for name, value in hyper.items() if not config.sweep[name]}
    loss = get_loss(config.loss.name, **fixed)
    return train_many.make_programs(
        built.apply, loss, built.augment, dropout=built.model.dropout > 0
    )


class Resumed(NamedTuple):
    """Where a grid resumes.

    Attributes:
      first_epoch: of the members to be trained.
      states: of these members, by number.
      schedules: of these members, by number.
      epochs: the number that each member has finished, by name.
      taken: the losses of the steps that these members have taken in the first epoch, by number.
    """

    first_epoch: int
    states: dict[int, Any]
    schedules: dict[int, schedule.State]
    epochs: dict[str, int]
    taken: Mapping[int, Sequence[float]]


def _resume(
    config: ConfigDict,
    configs: Mapping[str, ConfigDict],
    built: Mapping[str, Components],
    checkpoints: Mapping[str, Checkpoints],
    diverged: Mapping[str, str],
) -> Resumed:
    """The unfinished members, all at the last epoch that the slowest of them has finished."""
    names = list(configs)
    shapes = components.state_shapes(built[names[0]])
    last = {name: saved.resume(shapes) for name, saved in checkpoints.items()}
    done = {name: 0 if saved is None else saved.epoch + 1 for name, saved in last.items()}
    left = [
        name
        for name, saved in last.items()
        if name not in diverged
        and done[name] < config.train.epochs
        and not (saved and saved.schedule.stopped)
    ]
    common = min((done[name] for name in left), default=0)
    states, schedules = {}, {}
    initial: dict[int, Any] = {}
    for name in left:
        saved, seed = last[name], configs[name].seed
        if common == 0:
            if seed not in initial:
                initial[seed] = components.init_state(built[name], seed)
            state, plan = initial[seed], schedule.init(built[name].settings)
        else:
            if done[name] > common:
                if common - 1 not in checkpoints[name].epochs:
                    raise ValueError(
                        f"{name} has {done[name]} epochs and others {common}, so they cannot "
                        "resume side by side: it was trained further alone, or checkpoints of "
                        "others are lost. Add --config.resume=False to begin the grid afresh, or "
                        "choose another --workdir"
                    )
                saved = checkpoints[name].restore(common - 1, shapes)
            assert saved is not None
            state, plan = saved.state, saved.schedule
        states[names.index(name)], schedules[names.index(name)] = state, plan
        done[name] = common
    return Resumed(common, states, schedules, done, {})


def _within_epoch(path: Path, resumed: Resumed, names: Sequence[str]) -> Resumed:
    """After the last step that was saved, if that is within the epoch to be trained."""
    states = {names[n]: state for n, state in resumed.states.items()}
    part = unfinished.read(path, resumed.first_epoch, states)
    if part is None:
        return resumed
    taken = {n: part.losses[names[n]] for n in resumed.states}
    steps = len(next(iter(taken.values())))
    print(f"resuming after step {steps} of epoch {part.epoch + 1}")
    return resumed._replace(states={n: part.states[names[n]] for n in taken}, taken=taken)


def _streams(
    built: Components,
    config: ConfigDict,
    split: str,
    seeds: Sequence[int],
    first: Mapping[int, int],
) -> list[train_many.Stream]:
    """The batches of every seed; a single stream where they do not depend on the seed.

    `first` has the number of the first batch in epochs that do not begin at 0.
    """
    shuffled = split == "train"
    cases = components.examples(built, config, split)
    drawn = isinstance(cases, pipeline.Patches)

    def stream(seed: int) -> train_many.Stream:
        own = cases
        if isinstance(cases, pipeline.Patches):
            own = dataclasses.replace(cases, seed=seed)
        return lambda epoch: pipeline.batches(
            own,
            config.data.batch_size,
            shuffle_seed=seed if shuffled else None,
            epoch=epoch,
            first=first.get(epoch, 0),
        )

    return [stream(seed) for seed in (seeds if shuffled or drawn else seeds[:1])]


def _strategy(
    config: ConfigDict,
    programs: train_many.Programs,
    members: Sequence[train_many.Member],
    state: Any,
    example: Sequence[pipeline.Batch],
) -> dict[str, Any]:
    """The strategy that the config asks for; "auto" chooses by measurement."""
    wanted, local = config.sweep.strategy, jax.local_device_count()
    print("compiling and timing strategies, which may take minutes", flush=True)
    images, labels = (np.stack([batch[key] for batch in example]) for key in ("image", "label"))

    cost = functools.partial(train_many.measure, programs, members, state, images, labels)
    strategy, note = _chosen(wanted, len(members), local, cost)
    each = f" on each of {strategy.devices} devices" if strategy.devices > 1 else ""
    many = "one member at a time" if strategy.lanes == 1 else f"{strategy.lanes} members at once"
    groups = -(-len(members) // (strategy.lanes * strategy.devices))
    room = f", in {groups} groups" if groups > 1 and strategy.lanes > 1 else ""
    return {
        "asked": wanted,
        "local_devices": local,
        "strategy": list(strategy),
        "description": f"{many}{each}{room}" + (f" ({note})" if note else ""),
    }


def _chosen(
    wanted: str, members: int, local: int, cost: Callable[[train_many.Strategy], train_many.Cost]
) -> tuple[train_many.Strategy, str]:
    limit = device_limit()
    if wanted == "sequential":
        return train_many.Strategy(), ""
    if wanted == "vmap":
        lanes = train_many.most_lanes(members, 1, cost(train_many.Strategy()), limit)
        return train_many.Strategy(lanes), "" if lanes == members else "as many as fit into memory"
    return train_many.choose(members, local, cost, limit)


def _is_unchanged(status: Mapping[str, Any], config: ConfigDict) -> bool:
    asked = (config.sweep.strategy, jax.local_device_count())
    return asked == (status["asked"], status["local_devices"])


def _read_status(workdir: Path) -> dict[str, Any]:
    path = workdir / STATUS
    return stored.read(path, {"diverged": dict}) if path.exists() else {"diverged": {}}


def _write_status(workdir: Path, status: Mapping[str, Any]) -> None:
    write_text(workdir / STATUS, json.dumps(status, indent=1) + "\n")
