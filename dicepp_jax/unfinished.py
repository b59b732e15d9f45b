"""An epoch that was stopped after a step, as a file from which training goes on.

The file consists of a digest and of what it is of, in msgpack, which holds arrays and numbers and
runs nothing when it is read.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import serialization

from dicepp_jax.atomic import write_atomically
from dicepp_jax.train import TrainState

DIGEST_BYTES = 32


class Unfinished(NamedTuple):
    """Networks in the middle of an epoch.

    Attributes:
      epoch: its zero-based number.
      losses: of the steps taken in it, by network.
      states: after them, by network.
    """

    epoch: int
    losses: Mapping[str, Sequence[float]]
    states: Mapping[str, TrainState]


def write(path: Path, unfinished: Unfinished) -> None:
    """Write an unfinished epoch, whole or not at all."""
    content = serialization.msgpack_serialize(
        {
            "epoch": unfinished.epoch,
            "losses": {name: list(losses) for name, losses in unfinished.losses.items()},
            "states": {
                name: serialization.to_state_dict(jax.tree.map(np.asarray, state))
                for name, state in unfinished.states.items()
            },
        }
    )
    data = _digest(content) + content
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def read(path: Path, epoch: int, like: Mapping[str, TrainState]) -> Unfinished | None:
    """Read the unfinished epoch that training goes on from.

    A file that is damaged is reported, and so is one of other networks.

    Args:
      path: of the file, which need not exist.
      epoch: the first that is not finished.
      like: states of the same shapes and dtypes, by network.

    Returns:
      It, or None if that epoch is to be trained from its beginning.
    """
    if not path.exists():
        return None
    data = path.read_bytes()
    content = data[DIGEST_BYTES:]
    if data[:DIGEST_BYTES] != _digest(content):
        print(f"{path} is damaged and not used; epoch {epoch + 1} begins again")
        return None
    stored = serialization.msgpack_restore(content)
    if stored["epoch"] != epoch:
        return None  # Of a process that was killed before it removed the file.
    if stored["states"].keys() != like.keys():
        print(f"{path} is of other networks and not used; epoch {epoch + 1} begins again")
        return None
    states = {
        name: jax.device_put(serialization.from_state_dict(state, stored["states"][name]))
        for name, state in like.items()
    }
    return Unfinished(epoch, stored["losses"], states)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()
