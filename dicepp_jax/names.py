"""Names in files of others: which are refused, and how a name becomes that of a file.

Names of cases come from files and archives, names of classes from `dataset.json`, a run or a saved
model. They are printed, and files are named after them.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

UNSAFE = re.compile("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves the cursor of a terminal, ends a line, reverses text, or cannot be encoded."""

RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)\s*(\..*)?", re.IGNORECASE)
"""Names that are devices on Windows, with or without an ending."""

WINDOWS = os.name == "nt"

LONGEST = 255
"""Bytes of a file's name that all common file systems take."""

PREFIX = ".part."
"""What the name of a file begins with while it is written, see `atomic`."""

SHORT = 200
"""Bytes of a name to which an ending is added."""


def check(name: str, what: str) -> None:
    r"""Refuse a name that is not safe to print.

    Args:
      name: of a file, a case or a class.
      what: it is, for the message.

    Raises:
      ValueError: if it has a control character, such as an escape sequence of terminals, a
        character that reverses text, or bytes that are not UTF-8.

    Example:
      >>> check("No\u00ebl (1)", "the case")
      >>> check("\x1b[2J", "the class")
      Traceback (most recent call last):
      ValueError: the class '\x1b[2J' has the character '\x1b', which cannot be shown; rename it
    """
    if found := UNSAFE.search(name):
        raise ValueError(
            f"{what} {ascii(name)} has the character {ascii(found[0])}, which cannot be shown; "
            "rename it"
        )


def folded(name: str) -> str:
    """What two names share if they are one file on some file systems.

    Example:
      >>> folded("NO\u0308EL") == folded("n\u00f6el")
      True
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def file_name(text: str) -> str:
    r"""A text as the name of one file in a folder, on any system; a plain name stays as it is.

    Args:
      text: any text, such as a case that comes from someone else.

    Returns:
      The name, of at most `SHORT` bytes; without separators of folders, control characters, and
      dots or dashes in front.

    Example:
      >>> file_name("a (1)"), file_name("../../etc/x"), file_name("CON"), file_name("-\n")
      ('a (1)', '_.._.._etc_x', '_CON', '_-_')
    """
    name = re.sub(r'[\\/:*?"<>|]', "_", UNSAFE.sub("_", text))
    if not name or name[0] in ".-~" or RESERVED.fullmatch(name):
        name = f"_{name}"
    encoded = name.encode()
    if len(encoded) > SHORT:
        digest = hashlib.blake2b(encoded, digest_size=4).hexdigest()
        name = f"{encoded[: SHORT - 9].decode(errors='ignore')}_{digest}"
    return name


def folder_names(labels: Sequence[str]) -> list[str]:
    """The names of classes as names of folders, all of them different on any system.

    Example:
      >>> folder_names(["left kidney/cyst", "left kidney cyst", "..", "Left_kidney/cyst"])
      ['left_kidney_cyst', 'left_kidney_cyst_2', '_..', 'Left_kidney_cyst_3']
    """
    names: list[str] = []
    taken: set[str] = set()
    for label in labels:
        plain = name = file_name(re.sub(r"[^\w.-]+", "_", label))
        number = 1
        while folded(name) in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(folded(name))
        names.append(name)
    return names


def check_output(folder: Path, path: Path) -> None:
    """Refuse to write a file that would lie elsewhere, or that cannot have its name.

    Args:
      folder: that all files are to be in.
      path: of a file in it.

    Raises:
      ValueError: if the path leads out of the folder, also by a link, or a part of it is not a
        valid name.
    """
    if not path.is_relative_to(folder) or ".." in path.relative_to(folder).parts:
        raise ValueError(f"{ascii(str(path))} is not in {folder}; rename the case")
    for part in path.relative_to(folder).parts:
        check(part, "the file")
        if (WINDOWS and RESERVED.fullmatch(part)) or len((PREFIX + part).encode()) > LONGEST:
            raise ValueError(
                f"a file cannot be called {part[:60]!r}: it is longer than "
                f"{LONGEST - len(PREFIX)} bytes or the name of a device; rename the case"
            )
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"{path.parent} is a link to {path.parent.resolve()}, outside {folder}; remove the "
            "link, or choose another folder"
        )
