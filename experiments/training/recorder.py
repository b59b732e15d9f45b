"""The records of a training run: its log, TensorBoard scalars, and progress."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dicepp_jax import parallel, train
from dicepp_jax.progress import TrainingProgress
from experiments.workdirs import log

SLOW = 0.05
"""The share of training time spent waiting for data above which a warning is printed."""


class OutOfTimeError(Exception):
    """The deadline has passed; finished epochs are saved, and the same command resumes."""


def check_time(epoch: train.Epoch, epochs: int, deadline: float) -> None:
    """Call after an epoch has been saved.

    Raises:
      OutOfTimeError: if the deadline has passed and there is more to train.
    """
    done = epoch.schedule.stopped or epoch.epoch + 1 == epochs
    if not done and time.monotonic() > deadline:
        raise OutOfTimeError(f"out of time after epoch {epoch.epoch + 1}")


class Recorder(NamedTuple):
    """What to call after each step and each epoch.

    Attributes:
      step: takes the number of the epoch, of the step in it, and its loss.
      epoch: takes the epoch.
    """

    step: train.OnStep
    epoch: Callable[[train.Epoch], None]


@contextlib.contextmanager
def recorder(
    workdir: Path, name: str, epochs: int, steps: int, first_epoch: int, taken: int
) -> Iterator[Recorder]:
    """The recorder of a run, which drops records of later epochs than its checkpoint has.

    Args:
      workdir: of the run.
      name: for progress.
      epochs: number of epochs at most.
      steps: number of steps in an epoch.
      first_epoch: the first to be trained.
      taken: number of steps of it that were taken before.
    """
    if not parallel.is_first():  # Only the first process writes.
        yield Recorder(lambda epoch, step, loss: None, lambda epoch: None)
        return
    log.trim(workdir, first_epoch)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(TrainingProgress(name, epochs, steps, first_epoch, taken))

        @functools.cache
        def board() -> Any:
            # Here, since it loads torch where that is installed, which delays the first step.
            from tensorboardX import SummaryWriter

            folder = str(workdir / "tensorboard")
            return stack.enter_context(SummaryWriter(folder, purge_step=first_epoch))

        def record(epoch: train.Epoch) -> None:
            log.append(workdir, epoch)
            for tag, value in log.record(epoch).items():
                board().add_scalar(tag, value, epoch.epoch)
            progress.epoch(epoch)

        yield Recorder(progress.step, record)
