"""What went wrong, in one line for the user."""

import contextlib
import errno
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from dicepp_jax.atomic import NO_ROOM
from experiments.setup import stopping

# Libraries in other languages report errors of the system as text.
SYSTEMS_WORDS = re.compile(r"No space left on device|Disk quota exceeded|File too large")
UNKNOWN = "a file"
PATH = re.compile(r'"(/[^"]+)"')


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """A block that ends the program with one line if it fails because of input or room."""
    try:
        yield
    except Exception as error:
        if not is_expected(error):
            raise
        sys.exit(f"error: {describe(error)}")


def is_expected(error: BaseException) -> bool:
    """Whether an error says what the user can do; others are defects, shown with a traceback."""
    return isinstance(error, ValueError | OSError | ArithmeticError) or no_room(error) is not None


def describe(error: BaseException) -> str:
    """An error in one line; if there was no room to write, with what to do.

    Args:
      error: that ended the work.

    Returns:
      The line, without "error:" in front.
    """
    place = no_room(error)
    if place is None:
        return str(error)
    path, why = place
    limited = os.strerror(errno.EFBIG) in why
    remedy = "Raise the limit of file sizes (ulimit -f)" if limited else "Make room"
    return (
        f"{path} could not be written ({why}{_free(path)}). All that was written before is "
        f"whole. {remedy}, then the same command resumes: {stopping.command()}"
    )


def no_room(error: BaseException) -> tuple[Path, str] | None:
    """The file for which there was no room and the system's reason, None for other errors."""
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno in NO_ROOM:
            path = Path(cause.filename).absolute() if cause.filename else Path(UNKNOWN)
            return path, str(cause.strerror)
    for cause in _chain(error):
        found = SYSTEMS_WORDS.search(str(cause))
        if found:
            paths = PATH.findall(str(cause))
            return Path(paths[-1] if paths else UNKNOWN), found[0]
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _free(path: Path) -> str:
    """How much room the disk has that a path is on."""
    if not path.is_absolute():
        return ""  # Its name is not known.
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    mib = shutil.disk_usage(existing).free / 2**20
    return f"; {mib:,.1f} MiB are free"
