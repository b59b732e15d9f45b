"""How this process gets its memory from the operating system."""

import ctypes
import os
import sys

# Of glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
M_ARENA_MAX = -8
NEVER = -1


def keep_memory() -> None:
    """Keep freed memory for the next training step instead of returning it.

    On a CPU, XLA allocates a step's intermediate arrays anew for every step. glibc would take such
    large blocks from the system each time, which clears every page on its first use: a quarter of a
    step. Peak memory does not change. Where the C library is another, or `MALLOC_` variables of the
    environment configure it, nothing is done.
    """
    if not sys.platform.startswith("linux") or any(k.startswith("MALLOC_") for k in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, NEVER)
        # A second arena could not grow as large as one such block.
        mallopt(M_ARENA_MAX, 1)
