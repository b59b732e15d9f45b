"""Whether two implementations compute the same, which is checked before either is timed."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

TOLERANCE = 1e-4

Outputs = Mapping[str, ArrayLike]
"""Arrays by what they are, such as "loss" and "logits"."""


def largest_difference(
    name: str, found: Outputs, other: str, expected: Outputs, tolerance: float = TOLERANCE
) -> float:
    """How far the outputs of two implementations are apart.

    max |found - expected| / max |expected|, the largest over all arrays

    Args:
      name: of an implementation.
      found: what it computes.
      other: name of another one.
      expected: what that computes.
      tolerance: the largest difference at which they count as the same.

    Returns:
      The difference.

    Raises:
      ValueError: if they do not compute the same, naming the array.

    Example:
      >>> largest_difference("a", {"loss": 0.500001}, "b", {"loss": 0.5}) < 1e-5
      True
    """
    if found.keys() != expected.keys():
        raise ValueError(
            f"{name} computes {', '.join(found)} and {other} {', '.join(expected)}; "
            "both must give the same to be compared"
        )
    largest = 0.0
    for what in expected:
        a, b = (np.asarray(outputs[what], np.float64) for outputs in (found, expected))
        if a.shape != b.shape:
            raise ValueError(
                f"{what} of {name} has shape {a.shape}, and that of {other} {b.shape}; "
                "nothing is timed, since they do not compute the same"
            )
        difference = float(np.abs(a - b).max() / max(np.abs(b).max(), np.finfo(np.float32).tiny))
        if not difference <= tolerance:  # NaN is not.
            raise ValueError(
                f"{what} of {name} differs from that of {other} by {difference:.2g} of its "
                f"largest value, expected at most {tolerance:g}; nothing is timed, since they do "
                "not compute the same"
            )
        largest = max(largest, difference)
    return largest
