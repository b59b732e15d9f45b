"""Batches of prepared cases, the same for the same seed and epoch.

Training and validation see cases at the network's size; they are prepared once and kept in
memory while they fit. Evaluation reads the stored cases themselves, at their native size.
"""

import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from dicepp_jax.data import preprocess
from dicepp_jax.data.specs import Spec

PREFETCH = 8
READERS = 4

Batch = dict[str, Any]
"""image `(B, *size, channels)` float32, label `(B, *size)` int32, id `(B,)` strings."""


class Prepared:
    """A split at the network's size, prepared on first use and kept while the memory lasts.

    Args:
      source: the stored cases of a split.
      spec: facts of the set.
      size: the network's spatial size.
      cache_bytes: keep at most so much in memory.
    """

    def __init__(self, source: Sequence[Any], spec: Spec, size: tuple[int, ...], cache_bytes: int):
        self._source, self._spec, self._size = source, spec, tuple(size)
        self._free = cache_bytes
        self._kept: dict[int, Batch] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._source)

    @property
    def nbytes(self) -> int:
        """What all cases would take in memory."""
        values = self._spec.channels + 1  # The label is as wide as a channel.
        return len(self) * math.prod(self._size) * values * np.dtype(np.float32).itemsize

    def __getitem__(self, index: int) -> Batch:
        if index in self._kept:
            return self._kept[index]
        stored = self._source[index]
        image = preprocess.network_image(self._spec, stored["image"], self._size)
        label = preprocess.resize_label(stored["label"], self._size, len(self._spec.classes))
        case: Batch = {"image": image, "label": label.astype(np.int32), "id": case_id(stored)}
        for array in (image, case["label"]):
            array.flags.writeable = False  # A batch of one is a view of what is kept.
        size = image.nbytes + case["label"].nbytes
        with self._lock:
            if size <= self._free and index not in self._kept:
                self._free -= size
                self._kept[index] = case
        return case


def case_id(stored: dict[str, Any]) -> str:
    """The name of a stored case."""
    return stored["id"].decode()


def batches(
    cases: Prepared, batch_size: int, *, shuffle_seed: int | None = None, epoch: int = 0
) -> Iterator[Batch]:
    """One epoch of batches; the last holds what is left.

    Args:
      cases: prepared cases.
      batch_size: cases in a batch.
      shuffle_seed: order of the cases, another in every epoch; None keeps their own.
      epoch: which epoch; the order depends on nothing else, so any epoch can be had again.

    Returns:
      An iterator over the epoch's batches.
    """
    dataset = grain.MapDataset.source(cases)
    if shuffle_seed is not None:
        dataset = dataset.seed(shuffle_seed).shuffle().repeat()
        dataset = dataset[epoch * len(cases) : (epoch + 1) * len(cases)]
    dataset = dataset.batch(batch_size)
    options = grain.ReadOptions(num_threads=READERS, prefetch_buffer_size=PREFETCH)
    return iter(dataset.to_iter_dataset(options))
