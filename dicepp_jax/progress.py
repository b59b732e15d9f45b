"""Progress of long work: a bar on a terminal, or a line with the time left every few seconds."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

if TYPE_CHECKING:
    from dicepp_jax.train import Epoch

LINE_EVERY = 15.0

T = TypeVar("T")


def track(items: Iterable[T], title: str, total: int, unit: str) -> Iterator[T]:
    """Iterate over items, reporting progress and the remaining time.

    The time is estimated by the items after the first, which often compiles a program; until there
    are two, no estimate is given.

    Args:
      items: the items to iterate over.
      title: description of what is being done.
      total: number of items.
      unit: what an item is, in the singular.

    Yields:
      The items.
    """
    if sys.stderr.isatty():
        yield from _bar(items, title, total, unit)
        return
    start = last = first = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if done == 1:
            first = now
        if now - last > LINE_EVERY or (done == total and last > start):
            last, when = now, ""
            if done == total:
                when = ", done"
            elif done > 1:
                when = f", {(now - first) / (done - 1) * (total - done) / 60:.1f} min left"
            print(f"{title}: {done} of {total} {unit}s{when}", file=sys.stderr, flush=True)


def _bar(items: Iterable[T], title: str, total: int, unit: str) -> Iterator[T]:
    """The same as a bar, whose clock starts after the first item."""
    with tqdm(desc=title, total=total, unit=unit, dynamic_ncols=True) as bar:
        for done, item in enumerate(items, 1):
            yield item
            if done == 1:
                bar.reset()
                bar.initial = bar.n = bar.last_print_n = 1
                bar.refresh()
            else:
                bar.update()


class TrainingProgress:
    """Progress of the training of one network.

    The time left is what the remaining epochs would take at the pace so far, of which the first
    epoch is left out, since it compiles; early stopping may shorten it.

    Args:
      name: of the network.
      epochs: number of epochs at most.
      steps: number of steps in an epoch.
      first_epoch: epochs done before.
      taken: steps done before in the epoch after these.
    """

    def __init__(self, name: str, epochs: int, steps: int, first_epoch: int = 0, taken: int = 0):
        self._name, self._epochs = name, epochs
        self._first, self._settled = first_epoch, 0.0
        self._last_line = -LINE_EVERY
        self._notes: dict[str, str] = {}
        self._bar = tqdm(
            total=epochs * steps,
            initial=first_epoch * steps + taken,
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

    def epoch(self, epoch: "Epoch") -> None:
        """After an epoch."""
        rate = epoch.schedule.learning_rate
        self._notes = {"val": f"{epoch.val_loss:.4f}", "lr": f"{rate:g}"}
        now, done = time.monotonic(), epoch.epoch + 1
        if epoch.epoch == self._first:
            self._settled = now
        last = done == self._epochs or epoch.schedule.stopped
        if sys.stderr.isatty() or (now - self._last_line < LINE_EVERY and not last):
            return
        self._last_line = now
        counted = done - self._first - 1
        each = (now - self._settled) / counted if counted else epoch.seconds
        waited = epoch.data_wait / max(epoch.seconds, 1e-9)
        print(
            f"{self._name} epoch {done}/{self._epochs} loss {epoch.train_loss:.4f} "
            f"val {epoch.val_loss:.4f} lr {rate:g}, {each:.2f} s an epoch, "
            f"{waited:.1%} of it waiting for data, "
            + ("done" if last else f"at most {each * (self._epochs - done) / 60:.1f} min left"),
            file=sys.stderr,
            flush=True,
        )


class GridProgress:
    """Progress of a grid: a bar for each member on a terminal, or a line each every few seconds.

    The time left is what the remaining epochs would take at the pace so far; early stopping may
    shorten it.

    Args:
      names: of the members.
      epochs: number of epochs at most.
    """

    def __init__(self, names: Sequence[str], epochs: int):
        self._names, self._epochs = list(names), epochs
        self._start, self._first = time.monotonic(), -1
        self._last_line = -LINE_EVERY
        self._status = dict.fromkeys(names, "")
        self._bars = [
            tqdm(
                total=epochs,
                desc=name,
                unit="epoch",
                position=n,
                disable=None,
                dynamic_ncols=True,
            )
            for n, name in enumerate(names)
        ]

    def __enter__(self) -> "GridProgress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for bar in self._bars:
            bar.close()

    def step(self, epoch: int, step: int, losses: Mapping[int, float]) -> None:
        """After a step."""
        del step
        for n, loss in losses.items():
            self._bars[n].n = epoch
            self._bars[n].set_postfix_str(f"loss {loss:.4f} {self._status[self._names[n]]}")

    def epoch(self, epochs: Mapping[str, "Epoch"], diverged: Mapping[str, str]) -> None:
        """After an epoch of those in training; `diverged` says why others stopped, by name."""
        for name, why in diverged.items():
            if self._status[name] != "diverged":
                print(f"{name} diverged: {why}", file=sys.stderr, flush=True)
                self._status[name] = "diverged"
        if not epochs:
            return
        number = next(iter(epochs.values())).epoch
        if self._first < 0:
            self._first = number
        now = time.monotonic()
        each = (now - self._start) / (number + 1 - self._first)
        last = number + 1 == self._epochs or all(e.schedule.stopped for e in epochs.values())
        for name, epoch in epochs.items():
            ended = ", stopped" if epoch.schedule.stopped else ""
            self._status[name] = f"val {epoch.val_loss:.4f} lr {epoch.learning_rate:g}{ended}"
        if sys.stderr.isatty() or (now - self._last_line < LINE_EVERY and not last):
            return
        self._last_line = now
        left = "done" if last else f"at most {each * (self._epochs - number - 1) / 60:.1f} min left"
        print(
            f"epoch {number + 1}/{self._epochs}, {len(epochs)} of {len(self._names)} members, "
            f"{each:.2f} s an epoch, {left}",
            file=sys.stderr,
        )
        for name in self._names:
            loss = f"loss {epochs[name].train_loss:.4f} " if name in epochs else ""
            status = self._status[name] or "done before"
            print(f"  {name}: {loss}{status}", file=sys.stderr, flush=True)
