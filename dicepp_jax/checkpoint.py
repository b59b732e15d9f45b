"""The last and the best checkpoint of a run; the only module that uses orbax.

A checkpoint consists of the `TrainState` and the state of the schedule, the latter as JSON, whose
floats are restored bit for bit. Kept are the last ones, to resume from, and the one with the lowest
validation loss (the first of equals, as in Keras' ModelCheckpoint), to evaluate. Orbax writes under
a temporary name and renames, so a run that is killed while writing still has the previous
checkpoint. Digests of everything are stored with it, so that what is read is what was saved: files
that were truncated or changed are noticed, and the checkpoint before is used. If there are several
processes, all of them make the same calls on a shared directory, and the first one writes.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from orbax.checkpoint import checkpoint_managers

from dicepp_jax import parallel, schedule
from dicepp_jax.atomic import check_room
from dicepp_jax.train import Epoch, TrainState

METRICS = "metrics"
SHOWN = 3
"""The number of parameters that an error about another network names."""


class DamagedError(ValueError):
    """The files of a checkpoint are not those that were saved."""


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
        unfinished checkpoints would be removed, as if left by a run that was killed, and so would
        damaged ones that are newer than one that is not.
      keep: number of most recent checkpoints to keep. Two, so that the run can go on if the last
        is damaged, and that the members of a grid can if only some have saved an epoch.

    Raises:
      DamagedError: if it is not known which checkpoint is the best, or all are damaged.

    Example:
      >>> import tempfile
      >>> with Checkpoints(tempfile.mkdtemp()) as checkpoints:
      ...     checkpoints.last_epoch is None
      True
    """

    def __init__(self, directory: str | Path, read_only: bool = False, keep: int = 2):
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
        self._directory = Path(directory).absolute()
        self._check_metrics(read_only)
        self._manager = ocp.CheckpointManager(self._directory, options=options)

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
        # Orbax writes the arrays twice: as they come, and merged.
        check_room(self._directory, 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
        plan = epoch.schedule._asdict()
        metrics = {
            "val_loss": epoch.val_loss,
            "epoch": epoch.epoch,
            "network": _digest_of(_shapes(state)),
            "state": _digest(state, plan),
        }
        self._manager.save(
            epoch.epoch,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), schedule=ocp.args.JsonSave(plan)
            ),
            metrics={**metrics, "digest": _digest_of(metrics)},
        )

    def restore(self, epoch: int, like: TrainState) -> Restored:
        """Read a checkpoint.

        Args:
          epoch: epoch of the checkpoint, such as `last_epoch` or `best_epoch`.
          like: a state with the same shapes and dtypes, of arrays or of `jax.ShapeDtypeStruct`s.

        Returns:
          The `Restored` checkpoint, on the default device of this process.

        Raises:
          DamagedError: if its files are not those that were saved.
          ValueError: if it is of another network, naming parameters that differ.
        """
        self.wait()
        folder = self._directory / str(epoch)
        # Host arrays, since orbax would otherwise look for the devices that held the state.
        shapes: Any = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
        metrics = self._manager.metrics(epoch)
        differences: list[str] = []
        try:
            if metrics.get("network") != _digest_of(_shapes(like)):  # Absent in older versions.
                differences = _differences(folder, like)
            if not differences:
                _check_stored_arrays(folder)
                found = self._manager.restore(
                    epoch,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(shapes), schedule=ocp.args.JsonRestore()
                    ),
                )
                plan = schedule.State(**found.schedule)
        except (MemoryError, PermissionError):
            raise  # Says nothing of the files.
        except Exception as error:  # Whatever libraries raise for files that make no sense.
            raise DamagedError(f"{folder} is damaged ({_first_line(error)})") from error
        if differences:
            more = f"; {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
            raise ValueError(
                f"{folder} is of another network: {'; '.join(differences[:SHOWN])}{more}. Choose "
                "another --workdir"
            )
        # Older versions stored no digest.
        if metrics.get("state") not in (None, _digest(found.state, found.schedule)):
            raise DamagedError(f"{folder} is damaged (its content is not what was saved)")
        return Restored(epoch, metrics["val_loss"], jax.device_put(found.state), plan)

    def restore_best(self, like: TrainState) -> Restored | None:
        """Read the checkpoint with the lowest validation loss.

        Args:
          like: as for `restore`.

        Returns:
          The checkpoint, None if there is none.

        Raises:
          DamagedError: if it is damaged; another one would be another network.
          ValueError: if it is of another network.
        """
        epoch = self.best_epoch
        if epoch is None:
            return None
        try:
            return self.restore(epoch, like)
        except DamagedError as error:
            raise DamagedError(f"{error}, and it is the best. {REMEDY}") from error

    def resume(self, like: TrainState) -> Restored | None:
        """Read the last checkpoint that is not damaged, and remove those after it.

        Args:
          like: as for `restore`.

        Returns:
          The checkpoint, None if there is none.

        Raises:
          DamagedError: if all are damaged.
          ValueError: if it is of another network.
        """
        damaged: list[int] = []
        problems: list[DamagedError] = []
        for epoch in sorted(self.epochs, reverse=True):
            try:
                restored = self.restore(epoch, like)
            except DamagedError as error:
                damaged.append(epoch)
                problems.append(error)
                continue
            if damaged:
                with parallel.first_alone("damaged checkpoints"):
                    if parallel.is_first():
                        self._remove(damaged, problems)
                self._manager.reload()
            return restored
        if damaged:
            raise _all_damaged(self._directory, problems)
        return None

    def _check_metrics(self, read_only: bool) -> None:
        """Check what orbax reads of all checkpoints at once."""
        with parallel.first_alone("checkpoints"):
            problems: dict[int, DamagedError] = {}
            folders = (path for path in self._directory.glob("*") if path.is_dir())
            epochs = sorted((int(f.name) for f in folders if f.name.isdecimal()), reverse=True)
            for epoch in epochs:
                try:
                    _check_stored_metrics(self._directory / str(epoch))
                except DamagedError as error:
                    problems[epoch] = error
            # A process after the first finds what that one has left.
            if not problems:
                return
            if len(problems) == len(epochs):
                raise _all_damaged(self._directory, list(problems.values()))
            intact = next(epoch for epoch in epochs if epoch not in problems)
            newer = [epoch for epoch in problems if epoch > intact]
            if read_only or len(newer) < len(problems):
                raise DamagedError(
                    f"{next(iter(problems.values()))}, so the best epoch is unknown. "
                    + (
                        "Repeat the command that trained the run, which mends it"
                        if len(newer) == len(problems)
                        else REMEDY
                    )
                )
            self._remove(newer, list(problems.values()))

    def _remove(self, epochs: list[int], problems: list[DamagedError]) -> None:
        for epoch, problem in zip(epochs, problems, strict=True):
            print(f"{problem}; it is removed, and the checkpoint before is used")
            shutil.rmtree(self._directory / str(epoch))


REMEDY = (
    "Restore the folder from a backup, or repeat the command of the run with --config.resume=False "
    "to train it again"
)


def _all_damaged(directory: Path, problems: list[DamagedError]) -> DamagedError:
    return DamagedError(f"no checkpoint in {directory} is intact: {problems[0]}. {REMEDY}")


def _shapes(state: TrainState) -> dict[str, str]:
    """The shapes and dtypes of a state's arrays, by the names that orbax gives them."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {
        jax.tree_util.keystr(k, simple=True, separator="."): f"{np.dtype(x.dtype)}{list(x.shape)}"
        for k, x in leaves
    }


def _differences(folder: Path, like: TrainState) -> list[str]:
    """Where a stored network differs."""
    stored = jax.tree.leaves(ocp.StandardCheckpointHandler().metadata(folder / "state"))
    here, there = _shapes(like), {x.name: f"{np.dtype(x.dtype)}{list(x.shape)}" for x in stored}
    return [
        f"{name} is {there.get(name, 'absent')} there, {here.get(name, 'absent')} here"
        for name in {**here, **there}
        if here.get(name) != there.get(name)
    ]


def _check_stored_arrays(folder: Path) -> None:
    """Read all arrays, of which the files have checksums.

    If orbax met an error in them, its threads would print tracebacks after it has been handled.
    """
    store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/state/"}}
    arrays = tensorstore.KvStore.open(store).result()
    names = arrays.list().result()
    if not names:
        raise FileNotFoundError("the arrays are missing")
    for name in names:
        arrays.read(name).result()


def _check_stored_metrics(folder: Path) -> None:
    """Check the few numbers that say which checkpoint is the best."""
    path = folder / METRICS / METRICS
    try:
        metrics = json.loads(path.read_bytes())
        digest = metrics.pop("digest", None)  # Absent in older versions.
        ok = digest in (None, _digest_of(metrics)) and metrics["epoch"] == int(folder.name)
        float(metrics["val_loss"])
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        if not folder.exists():
            return  # Removed meanwhile by the run that is in progress.
        raise DamagedError(f"{folder} is damaged ({METRICS}: {_first_line(error)})") from error
    if not ok:
        raise DamagedError(f"{folder} is damaged ({METRICS}: not what was saved)")


def _digest(state: TrainState, plan: Mapping[str, Any]) -> str:
    """A digest of arrays, their shapes and dtypes, and of the schedule."""
    digest = hashlib.blake2b(digest_size=16)
    for leaf in jax.tree.leaves(state):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.data)
    digest.update(_canonical(plan))
    return digest.hexdigest()


def _digest_of(metrics: Mapping[str, Any]) -> str:
    return hashlib.blake2b(_canonical(metrics), digest_size=16).hexdigest()


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True).encode()


def _first_line(error: Exception) -> str:
    text = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {text[:100]}"
