"""Files that appear whole or not at all: written under a temporary name, then renamed."""

import os
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that no reader, and no interruption, ever finds half of it.

    Args:
      path: of the file; an older one is replaced.
      write: writes to the path it is given, which is hidden, in the same folder, and has the same
        ending.
    """
    temporary = path.with_name(f".part.{path.name}")
    try:
        # What lies there would be written through if it were a link, as in a folder from others.
        temporary.unlink(missing_ok=True)
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
