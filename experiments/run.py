"""Train, evaluate and draw: python -m experiments.run --config=configs/quickstart.py

Without --config it runs the quickstart. Results go to --workdir, by default runs/NAME for
configs/NAME.py. After an interruption the same command goes on where it was.
"""

import contextlib
import copy
import functools
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict
from tensorboardX import SummaryWriter

from dicepp_jax import inference, parallel, plots, schedule, train
from dicepp_jax.checkpoint import Checkpoints
from dicepp_jax.data import pipeline
from dicepp_jax.losses import LOSSES
from dicepp_jax.rows import Comparison, compare, summarise, write_csv
from experiments import cli, memory, record, scores, table
from experiments import parts as parts_lib
from experiments.progress import TrainingProgress
from experiments.scores import Scored

SLOW = 0.05
"""The share of the time that may go by waiting for data without a word."""

_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, for a run on several hosts."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "How many processes the run has.")
_PROCESS = flags.DEFINE_integer("process", None, "Which of them this is, from 0.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Take the three from the cluster's environment, as in a SLURM job."
)


class OutOfTimeError(Exception):
    """The time given is over; the epochs so far are kept, and the same command goes on."""


def check_time(epoch: train.Epoch, epochs: int, deadline: float) -> None:
    """After an epoch has been saved.

    Raises:
      OutOfTimeError: if the deadline is over and there is more to train.
    """
    done = epoch.schedule.stopped or epoch.epoch + 1 == epochs
    if not done and time.monotonic() > deadline:
        raise OutOfTimeError(f"the time is over after epoch {epoch.epoch + 1}")


def fit(
    config: ConfigDict, parts: parts_lib.Parts, workdir: Path, deadline: float = math.inf
) -> None:
    """Train to the end of the schedule, going on from the last checkpoint if there is one.

    Raises:
      OutOfTimeError: if it does not come to the end before the deadline, by `time.monotonic`.
    """
    name, batch_size = config.loss.name, config.data.batch_size
    training = parts_lib.prepared(parts, config, "train")
    validation = parts_lib.prepared(parts, config, "validation")
    batches = functools.partial(pipeline.batches, batch_size=batch_size, share=parts.devices.share)
    print(f"{name}: {parts_lib.describe(parts)}")
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        if checkpoints.last_epoch is None:
            first_epoch, plan = 0, schedule.init(parts.settings)
            state = parts_lib.init_state(parts, config.seed)
        else:
            last = checkpoints.restore(checkpoints.last_epoch, parts_lib.state_shapes(parts))
            first_epoch, plan, state = last.epoch + 1, last.schedule, last.state
            print(f"{name}: {first_epoch} epochs are in {workdir}")
        train_step = train.make_train_step(parts.apply, parts.loss, parts.augment, parts.devices)
        if not plan.stopped and first_epoch < config.train.epochs:
            cases = min(batch_size, len(training))
            lines = memory.told(config, parts, train_step, state, cases)
            print(f"{name}: " + "\n".join(lines))
        waited = spent = 0.0
        steps = -(-len(training) // batch_size)
        with _recorded(config, workdir, steps, first_epoch) as (on_step, on_epoch):
            for epoch in train.fit(
                state,
                parts_lib.step_key(config.seed),
                train_step,
                train.make_eval_step(parts.apply, parts.loss, parts.devices),
                lambda epoch: batches(training, shuffle_seed=config.seed, epoch=epoch),
                lambda epoch: batches(validation, epoch=epoch),
                parts.settings,
                epochs=config.train.epochs,
                first_epoch=first_epoch,
                schedule_state=plan,
                on_step=on_step,
            ):
                checkpoints.save(epoch)
                on_epoch(epoch)
                check_time(epoch, config.train.epochs, deadline)
                if epoch.epoch > first_epoch:  # In the first, cases are read from disk.
                    waited, spent = waited + epoch.data_wait, spent + epoch.seconds
    needed = max(training.nbytes, validation.nbytes) / 2**30
    if waited > SLOW * spent and needed > config.data.cache_gib:
        print(
            f"{name}: {waited / spent:.0%} of the training time went by waiting for data; "
            f"data.cache_gib is {config.data.cache_gib:g}, and {needed:.1f} would keep all cases"
        )


@contextlib.contextmanager
def _recorded(
    config: ConfigDict, workdir: Path, steps: int, first_epoch: int
) -> Iterator[tuple[train.OnStep, Callable[[train.Epoch], None]]]:
    """What is told of every step and of every epoch; only the first process has records."""
    if not parallel.is_first():
        yield lambda epoch, step, loss: None, lambda epoch: None
        return
    record.trim_log(workdir, first_epoch)
    with (
        TrainingProgress(config.loss.name, config.train.epochs, steps, first_epoch) as progress,
        SummaryWriter(str(workdir / "tensorboard"), purge_step=first_epoch) as board,
    ):

        def on_epoch(epoch: train.Epoch) -> None:
            values = record.logged(epoch)
            record.append_log(workdir, {"epoch": epoch.epoch, **values})
            for tag, value in values.items():
                board.add_scalar(tag, value, epoch.epoch)
            progress.epoch(epoch)

        yield progress.step, on_epoch


def best_predictor(
    config: ConfigDict, parts: parts_lib.Parts, workdir: Path, name: str
) -> inference.Predict:
    """The network of the epoch with the lowest validation loss.

    Raises:
      ValueError: if there is no checkpoint.
    """
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        best_epoch = checkpoints.best_epoch
        if best_epoch is None:
            raise ValueError(
                f"{workdir} holds no checkpoint: train.epochs is {config.train.epochs}"
            )
        best = checkpoints.restore(best_epoch, parts_lib.state_shapes(parts))
    print(f"{name}: evaluating epoch {best.epoch + 1}, validation loss {best.val_loss:.4f}")
    return parts_lib.predictor(parts, config, best.state.params)


def draw(
    scored: Mapping[str, Scored], logs: Mapping[str, list], classes: tuple[str, ...], folder: Path
) -> None:
    """Draw predictions, reliability and training curves of one or several methods."""
    by_case = zip(*(s.shown for s in scored.values()), strict=True)
    for same_case in by_case:
        views = dict(zip(scored, same_case, strict=True))
        case = same_case[0][0].case
        plots.save(plots.prediction(views, classes), folder / f"{case}.png")
        plots.save(plots.thresholds(views, classes), folder / f"{case}_thresholds.png")
    curves = {name: s.reliability for name, s in scored.items()}
    plots.save(plots.reliability_diagram(curves, classes), folder / "reliability.png")
    plots.save(plots.training_curves(logs), folder / "training.png")


def comparisons(scored: Mapping[str, Scored], background: str) -> list[Comparison]:
    """Every two methods compared, the background left out as in the report."""
    rows = {name: [r for r in s.rows if r.label != background] for name, s in scored.items()}
    return [
        comparison
        for a, b in itertools.combinations(rows, 2)
        for comparison in compare(rows[a], rows[b], (a, b))
    ]


def report(
    scored: Mapping[str, Scored],
    compared: Sequence[Comparison],
    title: str,
    classes: tuple[str, ...],
) -> str:
    """The summary that is printed: every metric, with tests when there are two methods."""
    summaries = {name: summarise(s.rows) for name, s in scored.items()}
    cases = len({row.case for s in scored.values() for row in s.rows})
    lines = [
        f"Test split of {title}, {cases} cases, mean ± bootstrap standard error",
        table.summary_table(summaries, classes[0], compared if len(scored) == 2 else ()),
    ]
    return "\n".join(lines)


def members(config: ConfigDict) -> dict[str, ConfigDict]:
    """The single runs of a config, by loss.

    Raises:
      ValueError: if a hyper-parameter is set that none of several losses takes, or there is a grid.
    """
    if config.sweep.seeds > 1 or any(isinstance(v, tuple) and v for v in config.sweep.values()):
        raise ValueError(
            "the config has a grid (sweep); python -m experiments.sweep trains it, this command a "
            "single run"
        )
    names = [name.strip() for name in config.loss.name.split(",")]
    if len(names) == 1:
        return {config.loss.name: config}
    configs = {name: copy.deepcopy(config) for name in names}
    unused = set(parts_lib.hyper(config))
    for name, member in configs.items():
        takes = set(LOSSES[name].defaults) if name in LOSSES else set()
        member.loss.name = name
        for hyper in set(parts_lib.hyper(config)) - takes:
            member.loss[hyper] = None
        unused -= takes
    if unused:
        raise ValueError(
            f"loss.{', loss.'.join(sorted(unused))} is set, but none of {', '.join(names)} takes it"
        )
    return configs


def run(config: ConfigDict, workdir: Path, deadline: float = math.inf) -> str:
    """Run a config in a directory.

    Args:
      config: of the run, or of several losses one after another.
      workdir: the directory.
      deadline: when to break off training, by `time.monotonic`.

    Returns:
      The report, which is also written there; empty in other processes than the first.

    Raises:
      OutOfTimeError: if training is broken off.
    """
    configs = members(config)
    folders = {name: workdir / name if len(configs) > 1 else workdir for name in configs}
    parts: dict[str, parts_lib.Parts] = {}
    loaded = None
    with parallel.first_alone("data"):
        for name, member in configs.items():
            parts[name] = parts_lib.make(member, loaded)
            loaded = parts[name].loaded
    with contextlib.ExitStack() as stack:
        if parallel.is_first():
            stack.enter_context(record.held(workdir))
        with parallel.first_alone("directory"):
            if parallel.is_first():
                _open(configs, parts, folders, config, workdir)
            else:
                record.check_joined(workdir, config, parts[next(iter(parts))].loaded.digest)
        return _run(configs, parts, folders, workdir, deadline)


def _open(
    configs: Mapping[str, ConfigDict],
    parts: Mapping[str, parts_lib.Parts],
    folders: Mapping[str, Path],
    config: ConfigDict,
    workdir: Path,
) -> None:
    first = parts[next(iter(parts))]
    digest = first.loaded.digest
    record.open_workdir(workdir, config, digest)
    for name, member in configs.items():
        if folders[name] != workdir:
            record.open_workdir(folders[name], member, digest)
    for folder in {workdir, *folders.values()}:
        record.write_spec(folder, first.spec)
    split = {part: list(subset.ids) for part, subset in first.splits.items()}
    record.write_text(workdir / record.SPLIT, json.dumps(split, indent=1) + "\n")


def _run(
    configs: Mapping[str, ConfigDict],
    parts: Mapping[str, parts_lib.Parts],
    folders: Mapping[str, Path],
    workdir: Path,
    deadline: float,
) -> str:
    scored = {}
    for name, member in configs.items():
        fit(member, parts[name], folders[name], deadline)
        predict = best_predictor(member, parts[name], folders[name], name)
        if parallel.is_first():
            scored[name] = scores.score(predict, member, parts[name], folders[name])
        parallel.wait(f"{name} is scored")
    if not parallel.is_first():
        return ""
    spec = parts[next(iter(parts))].spec
    logs = {name: record.read_log(folder) for name, folder in folders.items()}
    draw(scored, logs, spec.classes, workdir / "figures")
    compared = comparisons(scored, spec.classes[0])
    if compared:
        write_csv(workdir / "comparison.csv", compared)
    text = report(scored, compared, spec.title, spec.classes)
    record.write_text(workdir / record.REPORT, text + "\n")
    return text


def is_of_several_hosts() -> bool:
    """Whether flags say that there are other processes of this run."""
    given = _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
    return _DISTRIBUTED.value or any(value is not None for value in given)


def main() -> None:
    """Run the config of the flags."""
    config, workdir = cli.config(), cli.workdir()
    with contextlib.ExitStack() as stack:
        if is_of_several_hosts():
            given = _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
            stack.enter_context(parallel.joined(*given, config.devices))
        text = run(config, workdir)
        print(f"\n{text}\n\nresults, figures and checkpoints: {workdir}")


if __name__ == "__main__":
    cli.run(main, "the same command goes on after the last finished epoch, if any")
