"""How far a run is: a bar on a terminal, a line now and then in a file."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

from dicepp_jax.train import Epoch

LINE_EVERY = 15.0


class TrainingProgress:
    """Progress of the training of one network.

    The time left is what the remaining epochs would take; early stopping may make it less.

    Args:
      name: what is being trained.
      epochs: number of epochs at most.
      steps: number of steps in an epoch.
      first_epoch: epochs done before.
    """

    def __init__(self, name: str, epochs: int, steps: int, first_epoch: int = 0):
        self._name, self._epochs = name, epochs
        self._start, self._first = time.monotonic(), first_epoch
        self._last_line = self._start
        self._notes: dict[str, str] = {}
        self._bar = tqdm(
            total=epochs * steps,
            initial=first_epoch * steps,
            desc=name,
            unit="step",
            disable=None,
            dynamic_ncols=True,
        )

    def __enter__(self) -> "TrainingProgress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def step(self, epoch: int, step: int, loss: float) -> None:
        """After a step."""
        del step
        self._bar.set_description_str(f"{self._name} epoch {epoch + 1}/{self._epochs}", False)
        self._bar.set_postfix(loss=f"{loss:.4f}", **self._notes, refresh=False)
        self._bar.update()

    def epoch(self, epoch: Epoch) -> None:
        """After an epoch."""
        rate = epoch.schedule.learning_rate
        self._notes = {"val": f"{epoch.val_loss:.4f}", "lr": f"{rate:g}"}
        now, done = time.monotonic(), epoch.epoch + 1
        last = done == self._epochs or epoch.schedule.stopped
        if sys.stderr.isatty() or (now - self._last_line < LINE_EVERY and not last):
            return
        self._last_line = now
        each = (now - self._start) / (done - self._first)
        waited = epoch.data_wait / max(epoch.seconds, 1e-9)
        print(
            f"{self._name} epoch {done}/{self._epochs} loss {epoch.train_loss:.4f} "
            f"val {epoch.val_loss:.4f} lr {rate:g}, {each:.2f} s an epoch, "
            f"{waited:.1%} of it awaiting data, "
            + ("done" if last else f"at most {each * (self._epochs - done) / 60:.1f} min left"),
            file=sys.stderr,
            flush=True,
        )
