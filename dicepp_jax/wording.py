"""Formatting of lists, sizes and ranges in messages."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike


def listed(things: Iterable[object], shown: int = 5, separator: str = ", ") -> str:
    """The first few items, and how many more there are.

    Example:
      >>> listed(["a", "b"])
      'a, b'
      >>> listed(range(9))
      '0, 1, 2, 3, 4 and 4 more'
    """
    texts = [str(thing) for thing in things]
    left = len(texts) - shown
    more = f"{separator if separator.isspace() else ' '}and {left} more" if left > 0 else ""
    return separator.join(texts[:shown]) + more


def by(values: Iterable[float]) -> str:
    """Sizes as in 512 x 512.

    Example:
      >>> by((512, 0.75))
      '512 x 0.75'
    """
    return " x ".join(f"{value:g}" for value in values)


def span(values: ArrayLike) -> str:
    """The range of sizes, axis by axis, and their median.

    Example:
      >>> span([(3, 5), (3, 5)]), span([(3, 5), (4, 6), (4, 9)])
      ('3 x 5', '3 x 5 to 4 x 9, median 4 x 6')
    """
    array = np.asarray(values)
    low, middle, high = array.min(0), np.median(array, axis=0), array.max(0)
    if (low == high).all():
        return by(low)
    return f"{by(low)} to {by(high)}, median {by(middle)}"
