"""Files that appear whole or not at all: written under a temporary name, then renamed.

A file for which there is no room is an `OSError` that names it.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import resource
except ImportError:  # Windows.
    resource = None  # type: ignore[assignment]

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a full disk, a used quota and a limit of file sizes."""

MARGIN = 2**20


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that no reader, and no interruption, ever finds half of it.

    Args:
      path: of the file; an older one is replaced.
      write: writes to the path it is given, which is hidden, in the same folder, and has the same
        ending.

    Raises:
      OSError: if there is no room for it, naming the path.
    """
    temporary = path.with_name(f".part.{path.name}")
    try:
        with naming(path):
            # A link there, as in a folder from others, would be written through.
            temporary.unlink(missing_ok=True)
            write(temporary)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """A block that writes a file, whose name an error for lack of room has from here."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


def check_room(folder: Path, size: int) -> None:
    """Refuse to write what would not fit, before a library that fails less clearly begins.

    Args:
      folder: where files will be written; it exists.
      size: of all in bytes, to which a MiB is added; they may be in one file.

    Raises:
      OSError: if the disk has not enough room or files may not be as large, naming the folder.
    """
    limits = [(shutil.disk_usage(folder).free - MARGIN, errno.ENOSPC)]
    if resource:
        limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        limits += [(limit, errno.EFBIG)] * (limit != resource.RLIM_INFINITY)
    for room, number in limits:
        if size > room:
            raise OSError(
                number, f"{os.strerror(number)}: {size:,} bytes, 1 MiB to spare", str(folder)
            )
