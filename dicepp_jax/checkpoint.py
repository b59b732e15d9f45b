"""The last and the best checkpoint of a run; the only module that uses orbax.

A checkpoint consists of the `TrainState` and the state of the schedule, the latter as JSON, whose
floats are restored bit for bit. Two are kept: the last one, to resume from, and the one with the
lowest validation loss (the first of equals, as in Keras' ModelCheckpoint), to evaluate. Orbax
writes under a temporary name and renames, so a run that is killed while writing still has the
previous checkpoint. If there are several processes, all of them make the same calls on a shared
directory, and the first one writes.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from dicepp_jax import schedule
from dicepp_jax.atomic import check_room
from dicepp_jax.train import Epoch, TrainState


class Restored(NamedTuple):
    """A checkpoint in memory.

    Attributes:
      epoch: zero-based number of the epoch after which it was saved.
      val_loss: validation loss of that epoch.
      state: the training state after that epoch.
      schedule: the state of the schedule after that epoch.
    """

    epoch: int
    val_loss: float
    state: TrainState
    schedule: schedule.State


def _rank(metrics: dict[str, float]) -> tuple[float, float]:
    """Sort key of checkpoints, from worst to best."""
    loss = metrics["val_loss"]
    return (-loss if math.isfinite(loss) else -math.inf, -metrics["epoch"])


class Checkpoints:
    """The checkpoints in a directory: the most recent ones and the best.

    Args:
      directory: the directory, which is created if it does not exist.
      read_only: for reading the checkpoints of a run that may be in progress. Otherwise its
        unfinished checkpoints would be removed, as if left by a run that was killed.
      keep: number of most recent checkpoints to keep.

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
            # Orbax records metrics only if it has a function that ranks by them.
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
        """Epochs of all existing checkpoints."""
        return list(self._manager.all_steps())

    def wait(self) -> None:
        """Wait until everything saved is on disk."""
        self._manager.wait_until_finished()

    @property
    def best_epoch(self) -> int | None:
        """Epoch of the checkpoint with the lowest validation loss, None if there is none."""
        self.wait()
        return max(self.epochs, key=lambda e: _rank(self._manager.metrics(e)), default=None)

    def save(self, epoch: Epoch) -> None:
        """Save the state after an epoch; returns before it is on disk.

        Raises:
          OSError: if the disk has not enough room.
        """
        # Copied, as the next training step reuses the memory of the state while it is still being
        # written. As host arrays, the state is independent of the devices it came from.
        state = jax.tree.map(np.array, epoch.state)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        check_room(Path(self._manager.directory), size)
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
          epoch: epoch of the checkpoint, such as `last_epoch` or `best_epoch`.
          like: a state with the same shapes and dtypes, of arrays or of `jax.ShapeDtypeStruct`s.

        Returns:
          The `Restored` checkpoint, on the default device of this process.
        """
        self.wait()
        # Host arrays, since orbax would otherwise look for the devices that held the state.
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
