"""Options of experiments.reproduce that hold several values."""

import argparse
from pathlib import Path

from configs import paper as cells


def folders(text: str) -> dict[str, str]:
    """Data sets and their folders from NAME=FOLDER,NAME,...

    Raises:
      argparse.ArgumentTypeError: if there is no such data set.
    """
    found = {}
    for item in text.split(","):
        name, _, folder = item.strip().partition("=")
        if name not in (*cells.SETS, *cells.DRAWN):
            raise argparse.ArgumentTypeError(
                f"{name!r} is not a data set; known: {', '.join((*cells.SETS, *cells.DRAWN))}. For "
                "example --data=drive=FOLDER,dsb2018=FOLDER"
            )
        found[name] = str(Path(folder).expanduser()) if folder else ""
    return found


def scales(text: str) -> tuple[str, ...]:
    """Scales of `configs.paper` from NAME,NAME,...

    Raises:
      argparse.ArgumentTypeError: if there is no such scale.
    """
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if not cells.is_scale(name):
            raise argparse.ArgumentTypeError(f"{name!r} is not a scale; known: {cells.SCALE_NAMES}")
    return names
