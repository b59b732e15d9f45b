"""A single run, or several that differ in their loss: trained, evaluated, compared, reported."""

import contextlib
import copy
import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from configs import base
from dicepp_jax import inference, parallel, schedule, score_files, train, unfinished
from dicepp_jax.atomic import write_text
from dicepp_jax.checkpoint import Checkpoints, Restored
from dicepp_jax.data import pipeline
from dicepp_jax.losses import find_loss
from dicepp_jax.names import file_name
from dicepp_jax.rows import RATER_DICE, Comparison, compare, is_of_raters, summarise, write_csv
from dicepp_jax.score_files import SplitScores, score_split
from dicepp_jax.text_table import (
    calibration_table,
    normal_table,
    rater_table,
    summary_table,
    truth_text,
)
from dicepp_jax.unfinished import Unfinished
from experiments.setup import components, stopping
from experiments.setup.components import Components
from experiments.training import step_memory
from experiments.training.recorder import SLOW, check_time, recorder
from experiments.workdirs import directory, log


def train_and_evaluate(config: ConfigDict, workdir: Path, deadline: float = math.inf) -> str:
    """Run the experiment of a config in a directory, resuming it if it was interrupted.

    Args:
      config: of the run; several losses, joined by commas, are trained one after another.
      workdir: the directory; of several losses each has a folder in it.
      deadline: when to stop training, by `time.monotonic`.

    Returns:
      The report, which is also written there; empty in processes other than the first.

    Raises:
      OutOfTimeError: if training stops at the deadline.
    """
    configs = of_each_loss(config)
    folders = {name: workdir / name if len(configs) > 1 else workdir for name in configs}

    # Data, opened once; network, loss, augmentation and schedule of each run, checked before that.
    with parallel.first_alone("data"):
        built = components.build_all(configs)
    first = next(iter(built.values()))

    with _claimed(workdir, config, configs, folders, first):
        scores: dict[str, SplitScores] = {}
        for name, member in configs.items():
            # Fit, to the end of the schedule.
            fit(member, built[name], folders[name], deadline)

            # Evaluate the best epoch on the test split.
            predict = best_predictor(member, built[name], folders[name], name)
            if parallel.is_first():
                cases, figures = first.splits[first.scored_part], config.evaluation.figures
                scores[name] = score_split(
                    predict, cases, first.spec, folders[name], size=first.size, figures=figures
                )
            parallel.wait(f"{name} is scored")
        if not parallel.is_first():
            return ""

        # Report: figures, comparisons, and the table that is printed.
        logs = {name: log.read(folder) for name, folder in folders.items()}
        draw(scores, logs, first.spec.classes, workdir / "figures")
        return report(scores, first, workdir)


def of_each_loss(config: ConfigDict) -> dict[str, ConfigDict]:
    """The single runs of a config, by loss.

    Raises:
      ValueError: if the config is not valid, a hyper-parameter is set that none of several losses
        takes, or there is a grid.
    """
    base.check(config)
    if config.sweep.seeds > 1 or any(isinstance(v, tuple) and v for v in config.sweep.values()):
        raise ValueError(
            "the config has a grid (sweep), which python -m experiments.sweep trains; this command "
            "trains single runs"
        )
    names = [name.strip() for name in config.loss.name.split(",")]
    if len(set(names)) < len(names):
        raise ValueError(f"loss.name is {config.loss.name!r}; give each loss once")
    if len(names) == 1:
        return {config.loss.name: config}
    configs = {name: copy.deepcopy(config) for name in names}
    unused = set(components.hyper(config))
    for name, member in configs.items():
        loss = find_loss(name)
        takes = {*loss.defaults, *loss.shared}
        member.loss.name = name
        for hyper in set(components.hyper(config)) - takes:
            member.loss[hyper] = None
        unused -= takes
    if unused:
        raise ValueError(
            f"loss.{', loss.'.join(sorted(unused))} is set, but none of {', '.join(names)} takes it"
        )
    return configs


@contextlib.contextmanager
def _claimed(
    workdir: Path,
    config: ConfigDict,
    configs: Mapping[str, ConfigDict],
    folders: Mapping[str, Path],
    first: Components,
) -> Iterator[None]:
    """The directory locked and opened by the first process, checked by the others."""
    with contextlib.ExitStack() as stack:
        if parallel.is_first():
            stack.enter_context(directory.lock(workdir))
        with parallel.first_alone("directory"):
            if parallel.is_first():
                directory.open_workdir(workdir, config, first.loaded)
                for name, member in configs.items():
                    if folders[name] != workdir:
                        directory.open_workdir(folders[name], member, first.loaded)
            else:
                directory.check_joined(workdir, config, first.loaded.digest)
        yield


def fit(config: ConfigDict, built: Components, workdir: Path, deadline: float = math.inf) -> None:
    """Train to the end of the schedule, resuming after the last step that was saved.

    With `train.then`, that is what a run with this loss does, whose initial parameters are those of
    the best epoch of a run with `loss.name` in the folder `first`.

    Args:
      config: of the run.
      built: its components.
      workdir: its directory.
      deadline: when to stop, by `time.monotonic`.

    Raises:
      OutOfTimeError: if training stops at the deadline.
      KeyboardInterrupt: if it was stopped by Ctrl-C or SIGTERM, after a step that is saved.
    """
    initial = functools.partial(components.init_state, built, config.seed)
    if config.train.then:
        first, config = phases(config)
        initial = functools.partial(
            _best_of_first, first, components.build(first, built.loaded), workdir, deadline
        )
        built = components.build(config, built.loaded)
    name, batch_size = config.loss.name, config.data.batch_size
    training = components.examples(built, config, "train")
    validation = components.examples(built, config, "validation")
    batches = functools.partial(pipeline.batches, batch_size=batch_size, share=built.devices.share)
    print(f"{name}: {components.describe(built)}")
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(workdir / directory.CHECKPOINTS))
        start = _start(config, built, workdir, checkpoints, initial)
        train_step = components.train_step(built)
        epochs, steps = config.train.epochs, -(-len(training) // batch_size)
        if not start.plan.stopped and start.epoch < epochs:
            cases = min(batch_size, len(training))
            lines = step_memory.describe(config, built, train_step, start.state, cases)
            print(f"{name}: " + "\n".join(lines))
            if parallel.is_first():
                score_files.discard(workdir)  # Of fewer epochs.
        record = stack.enter_context(
            recorder(workdir, name, epochs, steps, start.epoch, len(start.taken))
        )

        def shuffled(epoch: int) -> Iterator[pipeline.Batch]:
            first = len(start.taken) if epoch == start.epoch else 0
            return batches(training, shuffle_seed=config.seed, epoch=epoch, first=first)

        # Several hosts would stop at different steps and wait for each other: they end at once.
        stop = stack.enter_context(stopping.deferred()) if parallel.is_alone() else lambda: False
        waited = spent = 0.0
        try:
            for epoch in train.fit(
                start.state,
                components.step_key(config.seed),
                train_step,
                train.make_eval_step(built.apply, built.loss, built.devices),
                shuffled,
                lambda epoch: batches(validation, epoch=epoch),
                built.settings,
                epochs=epochs,
                first_epoch=start.epoch,
                schedule_state=start.plan,
                taken=start.taken,
                on_step=record.step,
                stop=stop,
            ):
                # Recorded first: on resuming, records that no checkpoint has are dropped.
                record.epoch(epoch)
                checkpoints.save(epoch)
                (workdir / directory.UNFINISHED).unlink(missing_ok=True)
                check_time(epoch, epochs, deadline)
                if epoch.epoch > start.epoch:  # The first epoch reads cases from disk.
                    waited, spent = waited + epoch.data_wait, spent + epoch.seconds
        except train.StoppedError as stopped:
            part = Unfinished(stopped.epoch, {name: stopped.losses}, {name: stopped.state})
            unfinished.write(workdir / directory.UNFINISHED, part)
            print(f"{name}: {stopped}, which is saved", file=sys.stderr)
    needed = max(training.nbytes, validation.nbytes) / 2**30
    if waited > SLOW * spent and needed > config.data.cache_gib:
        print(
            f"{name}: {waited / spent:.0%} of the training time was spent waiting for data; "
            f"data.cache_gib is {config.data.cache_gib:g}, and {needed:.1f} would hold all cases"
        )


def phases(config: ConfigDict) -> tuple[ConfigDict, ConfigDict]:
    """The configs of the two runs of which one with `train.then` consists."""
    first = copy.deepcopy(config)
    first.train.then = ""
    second = copy.deepcopy(first)
    second.loss = base.get_config().loss
    second.loss.name = config.train.then
    return first, second


def _best_of_first(
    config: ConfigDict, built: Components, workdir: Path, deadline: float
) -> train.TrainState:
    """The state before the first step with `train.then`; trains with `loss.name` until then."""
    place = workdir / directory.FIRST
    with parallel.first_alone("first directory"):
        if parallel.is_first():
            directory.open_workdir(place, config, built.loaded)
    print(f"first with {config.loss.name} in {place}")
    fit(config, built, place, deadline)
    best = best_epoch(config, built, place)
    print(f"going on from epoch {best.epoch + 1}, validation loss {best.val_loss:.4f}")
    return train.begin(best.state.params)


class _Start(NamedTuple):
    """Where training begins: an epoch, the losses of the steps already taken in it, and states."""

    epoch: int
    taken: Sequence[float]
    plan: schedule.State
    state: train.TrainState


def _start(
    config: ConfigDict,
    built: Components,
    workdir: Path,
    checkpoints: Checkpoints,
    initial: Callable[[], train.TrainState],
) -> _Start:
    """After the last step that was saved, or at the beginning."""
    name, last = config.loss.name, checkpoints.resume(components.state_shapes(built))
    if last is None:
        epoch, plan = 0, schedule.init(built.settings)
        state = initial()
    else:
        epoch, plan, state = last.epoch + 1, last.schedule, last.state
        trained = plan.stopped or epoch >= config.train.epochs
        how = f"already trained, {epoch} epochs" if trained else f"resuming after {epoch} epochs"
        print(f"{name}: {how} in {workdir}")
    part = unfinished.read(workdir / directory.UNFINISHED, epoch, {name: state})
    if part is None:
        return _Start(epoch, (), plan, state)
    taken = part.losses[name]
    print(f"{name}: resuming after step {len(taken)} of epoch {epoch + 1}")
    return _Start(epoch, taken, plan, part.states[name])


def best_predictor(
    config: ConfigDict,
    built: Components,
    workdir: Path,
    name: str,
    samples: inference.Samples | None = None,
) -> inference.Predict:
    """The network of the epoch with the lowest validation loss.

    Raises:
      ValueError: if there is no checkpoint.
    """
    best = best_epoch(config, built, workdir)
    print(f"{name}: evaluating epoch {best.epoch + 1}, validation loss {best.val_loss:.4f}")
    return components.predictor(built, config, best.state.params, samples)


def best_epoch(config: ConfigDict, built: Components, workdir: Path) -> Restored:
    """The checkpoint of the epoch with the lowest validation loss.

    Raises:
      ValueError: if there is no checkpoint.
    """
    with Checkpoints(workdir / directory.CHECKPOINTS) as checkpoints:
        best = checkpoints.restore_best(components.state_shapes(built))
        if best is None:
            raise ValueError(f"{workdir} has no checkpoint: train.epochs is {config.train.epochs}")
    return best


def draw(
    scores: Mapping[str, SplitScores],
    logs: Mapping[str, list],
    classes: tuple[str, ...],
    folder: Path,
) -> None:
    """Draw predictions, reliability and training curves of one or several methods."""
    # Here, so that the first step does not wait for matplotlib.
    from dicepp_jax.plots import canvas, curves
    from dicepp_jax.plots import cases as case_plots

    by_case = zip(*(s.shown for s in scores.values()), strict=True)
    for same_case in by_case:
        views = dict(zip(scores, same_case, strict=True))
        case = file_name(same_case[0][0].case)
        canvas.save(case_plots.prediction(views, classes), folder / f"{case}.png")
        canvas.save(case_plots.thresholds(views, classes), folder / f"{case}_thresholds.png")
    reliability = {name: s.reliability for name, s in scores.items()}
    intervals = {name: s.calibration(classes) for name, s in scores.items()}
    diagram = curves.reliability_diagram(reliability, classes, intervals)
    canvas.save(diagram, folder / "reliability.png")
    canvas.save(curves.training_curves(logs), folder / "training.png")


def comparisons(scores: Mapping[str, SplitScores], background: str) -> list[Comparison]:
    """Every two methods compared, the background left out as in the report.

    The scores against several raters are tests of their own, with their own adjustment.
    """
    found: list[Comparison] = []
    for several in (False, True):
        rows = {
            name: [
                r
                for r in s.rows
                if r.label != background
                and r.metric != RATER_DICE
                and is_of_raters(r.metric) == several
            ]
            for name, s in scores.items()
        }
        for a, b in itertools.combinations(rows, 2):
            found += compare(rows[a], rows[b], (a, b))
    return found


def report(scores: Mapping[str, SplitScores], built: Components, workdir: Path) -> str:
    """Write the report: every metric, with tests when there are two methods.

    Args:
      scores: of the test split, by method.
      built: components of one of the methods.
      workdir: the directory of `report.txt`, and of `comparison.csv` if there are several methods.

    Returns:
      Its text.
    """
    background = built.spec.classes[0]
    compared: Sequence[Comparison] = comparisons(scores, background)
    if compared:
        write_csv(workdir / "comparison.csv", compared)
    summaries = {name: summarise(s.rows) for name, s in scores.items()}
    cases = len({row.case for s in scores.values() for row in s.rows})
    text = (
        f"{built.scored_title}, {cases} cases, mean ± bootstrap standard error\n"
        + summary_table(summaries, background, compared if len(scores) == 2 else ())
        + truth_text(next(iter(scores.values())).truth)
        + calibration_table({name: s.calibration(built.spec.classes) for name, s in scores.items()})
        + rater_table({name: s.rows for name, s in scores.items()}, background)
        + normal_table({name: s.false_positives for name, s in scores.items()})
    )
    write_text(workdir / directory.REPORT, text + "\n")
    return text
