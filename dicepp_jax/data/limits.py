"""How much memory a file may ask for, checked before it is given.

A header of a few bytes can state any size, and a small archive can unpack to any: both are refused
before anything is reserved.
"""

import math
import os
from collections.abc import Sequence

from dicepp_jax.wording import by

RATIO = 1100
"""What deflate, as in zip, gzip and PNG, can compress by is less."""

FREE = 1 << 28
"""Bytes that any file may unpack to, as other methods compress an empty mask by more."""

ARCHIVES = 3
"""How deep archives may lie in archives."""

GIB = 1 << 30


def memory() -> int:
    """The bytes of memory of this machine, 128 GiB where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 128 * GIB


def check_packed(size: int, stored: int, what: str) -> None:
    """Check that so many bytes can hold what they are said to hold.

    Args:
      size: bytes when they are unpacked.
      stored: bytes that they are packed in, 0 if unknown.
      what: it is, for the message.

    Raises:
      ValueError: if that is more than any method of compression in use makes of image data.

    Example:
      >>> check_packed(10**6, 10**3, "mask.png")
      >>> check_packed(10**12, 10**3, "mask.png")  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ValueError: mask.png states 931.3 GiB in 1000 bytes, which cannot hold that: ...
    """
    if stored and size > FREE + RATIO * stored:
        raise ValueError(
            f"{what} states {size / GIB:.1f} GiB in {stored} bytes, which cannot hold that: it is "
            "damaged, or made to exhaust the memory"
        )


def check_memory(needed: int, what: str) -> None:
    """Check that the memory of this machine is enough.

    Args:
      needed: bytes.
      what: needs them, for the message.

    Raises:
      ValueError: if it is not.
    """
    if needed > memory():
        raise ValueError(
            f"{what} needs {needed / GIB:.1f} GiB of memory, more than the "
            f"{memory() / GIB:.1f} GiB of this machine"
        )


def check_array(shape: Sequence[int], itemsize: int, stored: int) -> None:
    """Check the array that a header describes.

    Args:
      shape: its shape.
      itemsize: bytes of an element.
      stored: bytes of the file, 0 if unknown.

    Raises:
      ValueError: as for the two above.
    """
    needed, what = math.prod(map(int, shape)) * itemsize, f"its header ({by(shape)})"
    check_packed(needed, stored, what)
    check_memory(needed, what)
