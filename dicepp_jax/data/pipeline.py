"""Batches of cases, reproducible from seed and epoch.

Whole images are resized to the network's size; from each volume one random patch of that size is
cut in each epoch. In both cases, cases are prepared once and cached in memory as far as they fit.
Evaluation reads the stored cases at their native size instead.
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

A share of a batch also has `total`, the number of examples in the whole batch.
"""


class Share(NamedTuple):
    """The part of each batch that is read, if a batch is divided into equal parts.

    Attributes:
      first: index of the first part that is read.
      stop: index after the last part that is read.
      parts: number of parts.
    """

    first: int
    stop: int
    parts: int


WHOLE = Share(0, 1, 1)

T = TypeVar("T")


class Cases(Protocol):
    """The examples that batches consist of, which may differ from epoch to epoch."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Batch: ...
    def at(self, epoch: int) -> Self:
        """The examples of an epoch."""
        ...

    @property
    def nbytes(self) -> int:
        """The memory that all cases would need, as far as is known."""
        ...


class LimitedCache(Generic[T]):
    """Values by index, computed on first use and cached up to a limit.

    Args:
      compute: computes the value of an index.
      nbytes: the size of a value.
      limit: the size of the cache in bytes.
    """

    def __init__(self, compute: Callable[[int], T], nbytes: Callable[[T], int], limit: int):
        self._compute, self._nbytes, self._free = compute, nbytes, limit
        self._cached: dict[int, T] = {}
        self._lock = threading.Lock()

    def __getitem__(self, index: int) -> T:
        if index in self._cached:
            return self._cached[index]
        value = self._compute(index)
        size = self._nbytes(value)
        with self._lock:
            if size <= self._free and index not in self._cached:
                self._free -= size
                self._cached[index] = value
        return value


class Prepared:
    """A split at the network's size, prepared on first use and cached in memory as far as it fits.

    Args:
      source: the stored cases of a split.
      spec: describes the set.
      size: the network's spatial size.
      cache_bytes: the size of the cache.
    """

    def __init__(self, source: Sequence[Any], spec: Spec, size: tuple[int, ...], cache_bytes: int):
        self._source, self._spec, self._size = source, spec, tuple(size)
        self._cases = LimitedCache(self._prepare, _nbytes, cache_bytes)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Batch:
        return self._cases[index]

    def at(self, epoch: int) -> Self:
        """Returns itself, since the cases are the same in every epoch."""
        del epoch
        return self

    @property
    def nbytes(self) -> int:
        """The memory that all cases would need."""
        values = self._spec.channels + 1  # The label is as large as a channel.
        return len(self) * math.prod(self._size) * values * np.dtype(np.float32).itemsize

    def _prepare(self, index: int) -> Batch:
        stored = self._source[index]
        image = preprocess.network_image(self._spec, stored["image"], self._size)
        label = preprocess.resize_label(stored["label"], self._size, len(self._spec.classes))
        case: Batch = {"image": image, "label": label.astype(np.int32), "id": case_id(stored)}
        for array in (image, case["label"]):
            array.flags.writeable = False  # A batch of one case is a view of the cached array.
        return case


def _nbytes(case: Batch) -> int:
    return int(case["image"].nbytes + case["label"].nbytes)


class StoredVolume(NamedTuple):
    """A stored case, with the statistics to normalise any part of it like the whole.

    Attributes:
      id: its name.
      image: `(*spatial, channels)` as stored.
      label: `(*spatial)` classes.
      mean: of the volume, for the z-score.
      deviation: standard deviation of the volume, for the z-score.
      minimum: of the normalised volume.
    """

    id: str
    image: np.ndarray
    label: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    minimum: np.float32


class Volumes:
    """The volumes of a split, cached in their stored type as far as they fit in memory.

    A patch is cut out first and then normalised by the mean and deviation of the whole volume, with
    the same result as in the reverse order; int16 needs half the memory of the z-score.

    Args:
      source: the stored cases of a split.
      spec: describes the set.
      size: the patches' spatial size.
      cache_bytes: the size of the cache.
    """

    def __init__(self, source: Sequence[Any], spec: Spec, size: tuple[int, ...], cache_bytes: int):
        self._source, self._spec, self._size = source, spec, tuple(size)
        self._sizes: dict[int, int] = {}
        self._volumes = LimitedCache(
            self._read, lambda v: v.image.nbytes + v.label.nbytes, cache_bytes
        )

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> StoredVolume:
        return self._volumes[index]

    @property
    def size(self) -> tuple[int, ...]:
        """The patches' spatial size."""
        return self._size

    @property
    def nbytes(self) -> int:
        """The memory that the volumes read so far would need."""
        return sum(self._sizes.values())

    def patch(self, volume: StoredVolume, start: Sequence[int]) -> Batch:
        """Cut out a patch; outside the volume, the image has its minimum and the label background.

        Args:
          volume: of this split.
          start: the first voxel, negative if the patch starts before the volume.

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

    def _read(self, index: int) -> StoredVolume:
        stored, spec = self._source[index], self._spec
        image, label = stored["image"], stored["label"]
        mean, deviation = preprocess.z_score(image, spec.intensity_range, spec.per_channel)
        # The lowest intensity of each channel stays the lowest after normalisation.
        lowest = image.min(tuple(range(spec.ndim)), keepdims=True)
        minimum = preprocess.standardise(lowest, mean, deviation, spec.intensity_range).min()
        self._sizes[index] = image.nbytes + label.nbytes
        return StoredVolume(case_id(stored), image, label, mean, deviation, minimum)


@dataclasses.dataclass(frozen=True)
class Patches:
    """One random patch of every volume, a different one in each epoch.

    A patch depends only on seed, stream, epoch and the case's name, so that any epoch can be
    reproduced, regardless of batches and the order in which threads read.

    Attributes:
      volumes: what patches are cut from.
      seed: of the run.
      stream: "train" or "validation", which get different patches with the same seed.
      foreground: the share of patches that contain a random voxel of a class other than the
        background, with equal probability for all classes in the volume; others may be anywhere.
      epoch: number of the epoch.
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
        """The memory that the volumes read so far would need."""
        return self.volumes.nbytes


def draw_start(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    size: tuple[int, ...],
    around: Sequence[int] | None = None,
) -> list[int]:
    """Draw the start of a random patch, uniformly over all possible positions.

    Args:
      rng: generator to draw from.
      shape: spatial size of the volume, in voxels.
      size: of the patch.
      around: a voxel that the patch must contain.

    Returns:
      The first voxel. Along an axis that is shorter than the patch, it is negative and centres the
      volume in the patch.

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
    """A random voxel of a random class in the label, None if all is background."""
    counts = np.bincount(label.reshape(-1))
    present = np.flatnonzero(counts[1:]) + 1
    if not present.size:
        return None
    chosen = rng.choice(present)
    which = np.flatnonzero(label.reshape(-1) == chosen)[rng.integers(counts[chosen])]
    return tuple(int(i) for i in np.unravel_index(which, label.shape))


class Tiles:
    """Every volume divided into the windows of sliding-window prediction.

    A loss averaged over them weights a volume by its number of windows, and a voxel by the number
    of windows that contain it.

    Args:
      volumes: what windows are cut from.
      overlap: of neighbouring windows, in voxels, along each axis.
    """

    def __init__(self, volumes: Volumes, overlap: tuple[int, ...]):
        self._volumes, self._overlap = volumes, overlap

    @functools.cached_property
    def _tiles(self) -> list[tuple[int, tuple[int, ...]]]:
        """The volume and the start of each window."""
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
        """Returns itself, since the windows are the same in every epoch."""
        del epoch
        return self

    @property
    def nbytes(self) -> int:
        """The memory that the volumes need."""
        return self._volumes.nbytes


def tile_starts(
    shape: tuple[int, ...], size: tuple[int, ...], overlap: tuple[int, ...]
) -> list[tuple[int, ...]]:
    """The starts of the windows that cover a volume.

    Args:
      shape: spatial size of the volume, in voxels.
      size: of the windows.
      overlap: of neighbouring windows.

    Returns:
      The first voxel of each; as in `draw_start` along axes that are shorter than the window.

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
    first: int = 0,
    share: Share = WHOLE,
) -> Iterator[Batch]:
    """One epoch of batches; the last one has the remaining cases.

    Args:
      cases: `Prepared` cases, `Patches` or `Tiles`.
      batch_size: cases in a batch.
      shuffle_seed: seed of the order of cases, which differs between epochs; None for no shuffling.
      epoch: number of the epoch; order and patches depend on nothing else, so any epoch can be
        reproduced.
      first: number of the first batch, for an epoch that is resumed; those before it are not read.
      share: the part of each batch to read. If the last batch cannot be divided into equal parts,
        its last case is repeated.

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
    return iter(dataset[first:].to_iter_dataset(options))


@dataclasses.dataclass(frozen=True)
class _Selection:
    """The cases of a data set at the given indices."""

    dataset: Any
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Batch:
        return self.dataset[int(self.indices[index])]


def _shared(dataset: Any, batch_size: int, share: Share) -> Any:
    """A share of each batch of a data set."""
    totals = [min(batch_size, len(dataset) - start) for start in range(0, len(dataset), batch_size)]
    chosen = []
    for number, total in enumerate(totals):
        length = -(-total // share.parts)
        indices = np.arange(share.first * length, share.stop * length)
        chosen.append(number * batch_size + np.minimum(indices, total - 1))
    batched = grain.MapDataset.source(_Selection(dataset, np.concatenate(chosen))).batch(
        len(chosen[0])
    )
    return batched.map_with_index(lambda number, batch: {**batch, "total": totals[number]})
