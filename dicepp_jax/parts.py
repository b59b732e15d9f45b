"""The voxels of an image in parts.

The intermediate results of a metric are several times as large as the probabilities, which take a
gigabyte for a whole CT scan.
"""

import math
from collections.abc import Iterator

import numpy as np


def split(size: int, ndim: int, *arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Split voxels into parts of a size, or of a power of two, so that few sizes are compiled.

    Args:
      size: the largest number of voxels in a part.
      ndim: the number of spatial axes.
      *arrays: `(*spatial)` or `(*spatial, values)` each, of the same voxels.

    Yields:
      The same n voxels of each array, `(1, n)` or `(1, n, values)`. The last part is filled with
      zeros, so one of the arrays should say which voxels count.

    Example:
      >>> import numpy as np
      >>> [x.tolist() for (x,) in split(2, 1, np.arange(1, 4))]
      [[[1, 2]], [[3, 0]]]
    """
    count = math.prod(arrays[0].shape[:ndim])
    rows = [x.reshape(count, *x.shape[ndim:]) for x in arrays]
    yield from filled(min(size, 1 << (count - 1).bit_length()), *rows)


def filled(size: int, *rows: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Split voxels into parts of exactly one size, at least one part.

    Args:
      size: the number of voxels in each part.
      *rows: `(n,)` or `(n, values)` each, of the same n voxels.

    Yields:
      As `split`.
    """
    for first in range(0, max(1, len(rows[0])), size):
        some = [row[first : first + size] for row in rows]
        extra = (0, size - len(some[0]))
        yield tuple(np.pad(x, (extra, *[(0, 0)] * (x.ndim - 1)))[None] for x in some)
