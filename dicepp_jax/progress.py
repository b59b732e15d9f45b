"""Progress of long loops: a bar on a terminal, or lines with the remaining time in a log file."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

LINE_EVERY = 15.0

T = TypeVar("T")


def track(items: Iterable[T], title: str, total: int, unit: str) -> Iterator[T]:
    """Iterate over items, reporting progress and the remaining time.

    Args:
      items: the items to iterate over.
      title: description of what is being done.
      total: number of items.
      unit: what an item is, in the singular.

    Yields:
      The items.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, title, total, unit=unit, dynamic_ncols=True)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last > LINE_EVERY or (done == total and last > start):
            last, left = now, (now - start) / done * (total - done)
            when = f"{left / 60:.1f} min left" if done < total else "done"
            print(f"{title}: {done} of {total} {unit}s, {when}", file=sys.stderr, flush=True)
