"""Batches of cases, the same for the same seed and epoch.

Whole images are resized to the network's size; volumes are cut to patches of it, one drawn from
each volume in each epoch. Either way cases are prepared once and kept in memory while they fit.
Evaluation reads the stored cases themselves, at their native size.
"""

import dataclasses
import functools
import hashlib
import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

import grain
import numpy as np

from dicepp_jax import preprocess
from dicepp_jax.spec import Spec

PREFETCH = 8
READERS = 4

Batch = dict[str, Any]
"""image `(B, *size, channels)` float32, label `(B, *size)` int32, id `(B,)` strings.

The share of a batch has `total` too, the number of examples of the whole batch.
"""


class Share(NamedTuple):
    """Which part of each batch is read.

    Attributes:
      first: of the equal parts that the batch is cut into.
      stop: the one behind the last.
      parts: how many parts there are.
    """

    first: int
    stop: int
    parts: int


WHOLE = Share(0, 1, 1)

T = TypeVar("T")


class Cases(Protocol):
    """What batches are made of: examples that may differ from epoch to epoch."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Batch: ...
    def at(self, epoch: int) -> Self:
        """The examples of an epoch."""
        ...

    @property
    def nbytes(self) -> int:
        """What all cases would take in memory, as far as is known."""
        ...


class Kept(Generic[T]):
    """What is made of cases, by index, kept while the memory lasts.

    Args:
      make: makes it.
      nbytes: what it takes.
      limit: keep at most so many bytes.
    """

    def __init__(self, make: Callable[[int], T], nbytes: Callable[[T], int], limit: int):
        self._make, self._nbytes, self._free = make, nbytes, limit
        self._kept: dict[int, T] = {}
        self._lock = threading.Lock()

    def __getitem__(self, index: int) -> T:
        if index in self._kept:
            return self._kept[index]
        made = self._make(index)
        size = self._nbytes(made)
        with self._lock:
            if size <= self._free and index not in self._kept:
                self._free -= size
                self._kept[index] = made
        return made


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
        self._cases = Kept(self._prepare, _nbytes, cache_bytes)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Batch:
        return self._cases[index]

    def at(self, epoch: int) -> Self:
        """Itself: the cases are the same in every epoch."""
        del epoch
        return self

    @property
    def nbytes(self) -> int:
        """What all cases would take in memory."""
        values = self._spec.channels + 1  # The label is as wide as a channel.
        return len(self) * math.prod(self._size) * values * np.dtype(np.float32).itemsize

    def _prepare(self, index: int) -> Batch:
        stored = self._source[index]
        image = preprocess.network_image(self._spec, stored["image"], self._size)
        label = preprocess.resize_label(stored["label"], self._size, len(self._spec.classes))
        case: Batch = {"image": image, "label": label.astype(np.int32), "id": case_id(stored)}
        for array in (image, case["label"]):
            array.flags.writeable = False  # A batch of one is a view of what is kept.
        return case


def _nbytes(case: Batch) -> int:
    return int(case["image"].nbytes + case["label"].nbytes)


class Volume(NamedTuple):
    """A case as it is stored, and what normalises any part of it as the whole would be.

    Attributes:
      id: its name.
      image: `(*spatial, channels)` as stored.
      label: `(*spatial)` classes.
      mean: of its z-score.
      deviation: of its z-score.
      minimum: of the normalised volume.
    """

    id: str
    image: np.ndarray
    label: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    minimum: np.float32


class Volumes:
    """The volumes of a split, kept in the type that they are stored as while the memory lasts.

    A patch is cut before it is normalised, by the mean and deviation of the whole volume, which
    gives the same numbers as cutting after; an int16 takes half the memory of its z-score.

    Args:
      source: the stored cases of a split.
      spec: facts of the set.
      size: the patches' spatial size.
      cache_bytes: keep at most so much in memory.
    """

    def __init__(self, source: Sequence[Any], spec: Spec, size: tuple[int, ...], cache_bytes: int):
        self._source, self._spec, self._size = source, spec, tuple(size)
        self._seen: dict[int, int] = {}
        self._volumes = Kept(self._read, lambda v: v.image.nbytes + v.label.nbytes, cache_bytes)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Volume:
        return self._volumes[index]

    @property
    def size(self) -> tuple[int, ...]:
        """The patches' spatial size."""
        return self._size

    @property
    def nbytes(self) -> int:
        """What the volumes that have been read so far would take in memory."""
        return sum(self._seen.values())

    def patch(self, volume: Volume, start: Sequence[int]) -> Batch:
        """The patch that starts there; outside the volume it has its minimum, and background.

        Args:
          volume: of this split.
          start: the first voxel, negative where the patch begins before the volume.

        Returns:
          image `(*size, channels)` float32, label `(*size)` int32 and id.
        """
        spec = self._spec
        stops = [s + n for s, n in zip(start, self._size, strict=True)]
        box = tuple(slice(max(0, s), stop) for s, stop in zip(start, stops, strict=True))
        image = preprocess.standardise(
            volume.image[box], volume.mean, volume.deviation, spec.intensity_range
        )
        label = volume.label[box].astype(np.int32)
        margins = [
            (max(0, -s), max(0, stop - n))
            for s, stop, n in zip(start, stops, volume.label.shape, strict=True)
        ]
        if any(map(any, margins)):
            image = np.pad(image, [*margins, (0, 0)], constant_values=volume.minimum)
            label = np.pad(label, margins)
        return {"image": image, "label": label, "id": volume.id}

    def _read(self, index: int) -> Volume:
        stored, spec = self._source[index], self._spec
        image, label = stored["image"], stored["label"]
        mean, deviation = preprocess.z_score(image, spec.intensity_range, spec.per_channel)
        # Normalising keeps the order, channel by channel.
        lowest = image.min(tuple(range(spec.ndim)), keepdims=True)
        minimum = preprocess.standardise(lowest, mean, deviation, spec.intensity_range).min()
        self._seen[index] = image.nbytes + label.nbytes
        return Volume(case_id(stored), image, label, mean, deviation, minimum)


@dataclasses.dataclass(frozen=True)
class Patches:
    """One random patch of every volume, another in every epoch.

    What is drawn depends on seed, stream, epoch and the case's name, and on nothing else: any
    epoch can be had again, whatever the batches and the order that threads read in.

    Attributes:
      volumes: what patches are cut from.
      seed: of the run.
      stream: "train" or "validation", which draw differently with the same seed.
      foreground: the share of patches that are put around a voxel of a class other than the
        background, each present class being as probable; others begin anywhere.
      epoch: which epoch's.
    """

    volumes: Volumes
    seed: int
    stream: str
    foreground: float = 0.0
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, index: int) -> Batch:
        volume = self.volumes[index]
        key = hashlib.blake2b(f"{self.stream}/{volume.id}".encode(), digest_size=8).digest()
        rng = np.random.default_rng([self.seed, self.epoch, int.from_bytes(key, "little")])
        around = _foreground_voxel(rng, volume.label) if rng.random() < self.foreground else None
        return self.volumes.patch(volume, draw_start(rng, volume.label.shape, self.size, around))

    def at(self, epoch: int) -> Self:
        """The patches of an epoch."""
        return dataclasses.replace(self, epoch=epoch)

    @property
    def size(self) -> tuple[int, ...]:
        """The patches' spatial size."""
        return self.volumes.size

    @property
    def nbytes(self) -> int:
        """What the volumes that have been read so far would take in memory."""
        return self.volumes.nbytes


def draw_start(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    size: tuple[int, ...],
    around: Sequence[int] | None = None,
) -> list[int]:
    """Where a random patch begins, uniformly over where it may.

    Args:
      rng: draws.
      shape: spatial size of the volume, in voxels.
      size: of the patch.
      around: a voxel that the patch has to contain.

    Returns:
      The first voxel. Along an axis that is shorter than the patch it is the negative one that
      puts the volume in the middle.

    Example:
      >>> draw_start(np.random.default_rng(0), (9, 9, 4), (5, 5, 7), around=(0, 8, 2))
      [0, 4, -1]
    """
    start = []
    for axis, (length, extent) in enumerate(zip(shape, size, strict=True)):
        if length <= extent:
            start.append(-((extent - length) // 2))
            continue
        low, high = 0, length - extent
        if around is not None:
            low, high = max(low, around[axis] - extent + 1), min(high, around[axis])
        start.append(int(rng.integers(low, high, endpoint=True)))
    return start


def _foreground_voxel(rng: np.random.Generator, label: np.ndarray) -> tuple[int, ...] | None:
    """A random voxel of a random class that is there, None where all is background."""
    counts = np.bincount(label.reshape(-1))
    present = np.flatnonzero(counts[1:]) + 1
    if not present.size:
        return None
    chosen = rng.choice(present)
    which = np.flatnonzero(label.reshape(-1) == chosen)[rng.integers(counts[chosen])]
    return tuple(int(i) for i in np.unravel_index(which, label.shape))


class Tiles:
    """Every volume cut to the windows that prediction by a sliding window has.

    A loss averaged over them counts a volume by its number of windows, and voxels in which windows
    overlap as often as there are windows over them.

    Args:
      volumes: what is cut.
      overlap: of neighbouring windows, in voxels, along each axis.
    """

    def __init__(self, volumes: Volumes, overlap: tuple[int, ...]):
        self._volumes, self._overlap = volumes, overlap

    @functools.cached_property
    def _tiles(self) -> list[tuple[int, tuple[int, ...]]]:
        """Which volume, and where in it."""
        return [
            (index, start)
            for index in range(len(self._volumes))
            for start in tile_starts(
                self._volumes[index].label.shape, self._volumes.size, self._overlap
            )
        ]

    def __len__(self) -> int:
        return len(self._tiles)

    def __getitem__(self, index: int) -> Batch:
        volume, start = self._tiles[index]
        return self._volumes.patch(self._volumes[volume], start)

    def at(self, epoch: int) -> Self:
        """Itself: the windows are the same in every epoch."""
        del epoch
        return self

    @property
    def nbytes(self) -> int:
        """What the volumes take in memory."""
        return self._volumes.nbytes


def tile_starts(
    shape: tuple[int, ...], size: tuple[int, ...], overlap: tuple[int, ...]
) -> list[tuple[int, ...]]:
    """Where the windows begin that cover a volume.

    Args:
      shape: spatial size of the volume, in voxels.
      size: of the windows.
      overlap: of neighbouring windows.

    Returns:
      The first voxel of each, as in `draw_start` along an axis that is shorter than the window.

    Example:
      >>> tile_starts((9, 4), (5, 7), (2, 3))
      [(0, -1), (3, -1), (4, -1)]
    """
    axes = [
        [
            start - max(0, window - length) // 2
            for start in preprocess.window_starts(length, window, shared)
        ]
        for length, window, shared in zip(shape, size, overlap, strict=True)
    ]
    return list(itertools.product(*axes))


def case_id(stored: dict[str, Any]) -> str:
    """The name of a stored case."""
    return stored["id"].decode()


def batches(
    cases: Cases,
    batch_size: int,
    *,
    shuffle_seed: int | None = None,
    epoch: int = 0,
    share: Share = WHOLE,
) -> Iterator[Batch]:
    """One epoch of batches; the last holds what is left.

    Args:
      cases: `Prepared` cases, `Patches` or `Tiles`.
      batch_size: cases in a batch.
      shuffle_seed: order of the cases, another in every epoch; None keeps their own.
      epoch: which epoch; order and patches depend on nothing else, so any epoch can be had again.
      share: which part of each batch. Where what is left cannot be cut into equal parts, its last
        case is repeated at the end.

    Returns:
      An iterator over the epoch's batches.
    """
    dataset = grain.MapDataset.source(cases.at(epoch))
    if shuffle_seed is not None:
        dataset = dataset.seed(shuffle_seed).shuffle().repeat()
        dataset = dataset[epoch * len(cases) : (epoch + 1) * len(cases)]
    if share == WHOLE:
        dataset = dataset.batch(batch_size)
    else:
        dataset = _shared(dataset, batch_size, share)
    options = grain.ReadOptions(num_threads=READERS, prefetch_buffer_size=PREFETCH)
    return iter(dataset.to_iter_dataset(options))


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """The cases of a data set that are at these places."""

    dataset: Any
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Batch:
        return self.dataset[int(self.places[index])]


def _shared(dataset: Any, batch_size: int, share: Share) -> Any:
    """The share of each batch of a data set."""
    totals = [min(batch_size, len(dataset) - start) for start in range(0, len(dataset), batch_size)]
    chosen = []
    for number, total in enumerate(totals):
        length = -(-total // share.parts)
        places = np.arange(share.first * length, share.stop * length)
        chosen.append(number * batch_size + np.minimum(places, total - 1))
    batched = grain.MapDataset.source(_Chosen(dataset, np.concatenate(chosen))).batch(
        len(chosen[0])
    )
    return batched.map_with_index(lambda number, batch: {**batch, "total": totals[number]})
