"""The one door to orbax: the last and the best checkpoint of a run.

A checkpoint is the `TrainState`, and the schedule beside it as JSON, whose floats come back bit
for bit. Two are kept: the last, to go on from, and the one with the lowest validation loss (the
earlier of equals, as Keras' ModelCheckpoint has it), to evaluate. Orbax writes to a temporary name
and renames, so a run killed while it writes has the checkpoint before. Of several processes all do
the same, in a directory that they share, and the first writes.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from dicepp_jax import schedule
from dicepp_jax.train import Epoch, TrainState


class Restored(NamedTuple):
    """A checkpoint in memory.

    Attributes:
      epoch: zero-based number of the epoch it was taken after.
      val_loss: that epoch's validation loss.
      state: the training state after it.
      schedule: the schedule after it.
    """

    epoch: int
    val_loss: float
    state: TrainState
    schedule: schedule.State


def _rank(metrics: dict[str, float]) -> tuple[float, float]:
    """What sorts checkpoints from worst to best."""
    loss = metrics["val_loss"]
    return (-loss if math.isfinite(loss) else -math.inf, -metrics["epoch"])


class Checkpoints:
    """The checkpoints in a directory: the last ones and the best.

    Args:
      directory: where they are; made if it is not there.
      read_only: for a look at a run that may be under way, whose unfinished checkpoints would else
        be taken for those of a run that was killed, and removed.
      keep: how many of the last are kept.

    Example:
      >>> import tempfile
      >>> with Checkpoints(tempfile.mkdtemp()) as checkpoints:
      ...     checkpoints.last_epoch is None
      True
    """

    def __init__(self, directory: str | Path, read_only: bool = False, keep: int = 1):
        kept = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep),
                checkpoint_managers.BestN(get_metric_fn=_rank, n=1),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=kept,
            # Orbax records metrics only where it is told how to judge by them.
            best_fn=lambda metrics: metrics["val_loss"],
            best_mode="min",
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            create=not read_only,
            save_interval_steps=0 if read_only else 1,
        )
        self._manager = ocp.CheckpointManager(Path(directory).absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    @property
    def last_epoch(self) -> int | None:
        """Epoch of the last checkpoint, None if there is none."""
        return self._manager.latest_step()

    @property
    def epochs(self) -> list[int]:
        """Epochs of the checkpoints there are."""
        return list(self._manager.all_steps())

    def wait(self) -> None:
        """Return when what was saved is on disk."""
        self._manager.wait_until_finished()

    @property
    def best_epoch(self) -> int | None:
        """Epoch of the checkpoint with the lowest validation loss, None if there is none."""
        self.wait()
        return max(self.epochs, key=lambda e: _rank(self._manager.metrics(e)), default=None)

    def save(self, epoch: Epoch) -> None:
        """Save what an epoch ended with; returns before it is on disk."""
        # The next training step takes the state's memory while it is still being written. Arrays of
        # the host look the same whatever devices they came from.
        state = jax.tree.map(np.array, epoch.state)
        self._manager.save(
            epoch.epoch,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                schedule=ocp.args.JsonSave(epoch.schedule._asdict()),
            ),
            metrics={"val_loss": epoch.val_loss, "epoch": epoch.epoch},
        )

    def restore(self, epoch: int, like: TrainState) -> Restored:
        """Read a checkpoint.

        Args:
          epoch: which, `last_epoch` or `best_epoch`.
          like: a state of the same shapes and dtypes, or of `jax.ShapeDtypeStruct`s.

        Returns:
          The `Restored` checkpoint, on this process's own device.
        """
        self.wait()
        # As arrays of the host, or orbax would look for the devices that the state was on.
        shapes: Any = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
        found = self._manager.restore(
            epoch,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(shapes), schedule=ocp.args.JsonRestore()
            ),
        )
        val_loss = self._manager.metrics(epoch)["val_loss"]
        return Restored(
            epoch, val_loss, jax.device_put(found.state), schedule.State(**found.schedule)
        )
