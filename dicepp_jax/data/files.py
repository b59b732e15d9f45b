"""The files of a data set, whether unpacked, still in its zip archives, or partly both.

A `Tree` maps names to `File`s. Names are relative to the folder that was looked at, "/" between
parts; a member of an archive is named as if the archive were a folder, as in
`stage1_train.zip/stage1_train/ID/images/ID.png`. Where a set has the same file unpacked and in an
archive, the archive's is taken, since an archive cannot be half unpacked.
"""

import io
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

HIDDEN = re.compile(r"(^|/)(\.[^/]*|__MACOSX|Thumbs\.db|desktop\.ini)(/|$)")


class File(NamedTuple):
    """A file that can be opened, wherever it is.

    Attributes:
      name: relative to the tree's root.
      where: what people are told: its path, or the archive's followed by the member's.
      stamp: changes when its content does: size and time, or size and checksum in an archive.
      archived: whether it lies in an archive.
      open: opens it for reading.
    """

    name: str
    where: str
    stamp: str
    archived: bool
    open: Callable[[], BinaryIO]

    def __str__(self) -> str:
        return self.where

    def read(self) -> bytes:
        """Its content."""
        with self.open() as stream:
            return stream.read()


Tree = Mapping[str, File]


def from_path(path: Path, name: str | None = None) -> File:
    """A file of the file system."""
    state = path.stat()
    stamp = f"{state.st_size}:{state.st_mtime_ns}"
    return File(name or path.name, str(path), stamp, False, lambda: path.open("rb"))


def tree(root: Path) -> Tree:
    """All files below a folder, or of one zip archive; hidden ones are passed over.

    Args:
      root: the folder or the archive.

    Returns:
      Files by name, in natural order.

    Raises:
      FileNotFoundError: if there is no such folder.
      ValueError: if an archive is broken.
      PermissionError: if a folder may not be read.
    """
    if not root.exists():
        raise FileNotFoundError(f"there is no {root}; give the folder that holds the set's files")
    if root.is_file():
        if root.suffix.lower() != ".zip" and not zipfile.is_zipfile(root):
            raise ValueError(f"{root} is neither a folder nor a zip archive; unpack it first")
        found = _unzip(root.name, str(root), root)
    else:
        found = _walk(root)
    # 1.png and 01.png are equal to `natural`; the order must not be left to the file system.
    in_order = sorted(found, key=lambda file: (natural(file.name), file.name))
    return {file.name: file for file in in_order}


def natural(text: str) -> list[tuple[int, str]]:
    """A sort key by which img2 comes before img10.

    Example:
      >>> sorted(["img10", "img2", "a"], key=natural)
      ['a', 'img2', 'img10']
    """
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)
    ]


def _walk(root: Path) -> Iterator[File]:
    def refuse(error: OSError) -> None:
        raise _refusal(error.filename, error) from error

    for folder, _, names in os.walk(root, onerror=refuse, followlinks=True):
        for path in (Path(folder) / name for name in names):
            name = path.relative_to(root).as_posix()
            if HIDDEN.search(name) or not path.exists():
                continue
            if path.suffix.lower() == ".zip":
                yield from _unzip(name, str(path), path)
            else:
                yield from_path(path, name)


def _refusal(where: str, error: OSError) -> PermissionError:
    return PermissionError(f"{where} cannot be read ({error.strerror}); give yourself the right to")


def _unzip(name: str, where: str, source: Path | Callable[[], BinaryIO]) -> Iterator[File]:
    try:
        archive = zipfile.ZipFile(
            source if isinstance(source, Path) else io.BytesIO(source().read())
        )
    except PermissionError as error:
        raise _refusal(where, error) from error
    except Exception as error:  # Damage is met with many.
        raise ValueError(
            f"{where} cannot be read as an archive ({error}); it looks half downloaded, so "
            "download it again"
        ) from error
    for member in archive.infolist():
        if member.is_dir() or HIDDEN.search(member.filename):
            continue
        inner, shown = f"{name}/{member.filename}", f"{where}/{member.filename}"
        if inner.lower().endswith(".zip"):
            yield from _unzip(inner, shown, _opener(archive, member))
        else:
            stamp = f"{member.file_size}:{member.CRC}"
            yield File(inner, shown, stamp, True, _opener(archive, member))


def _opener(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], BinaryIO]:
    return lambda: archive.open(member)  # type: ignore[return-value]


def match(files: Tree, pattern: str) -> dict[str, File]:
    """The files whose name ends in what a pattern describes, by the case that it names.

    Args:
      files: where to look.
      pattern: a regular expression for the end of a name, from the start of one of its parts, with
        a group `case`; upper and lower case are one.

    Returns:
      Files by case, in natural order. Of a file both unpacked and archived, the archived; of equal
      ones in two archives, one.

    Raises:
      ValueError: if two different files are the same case.
    """
    found: dict[str, File] = {}
    compiled = re.compile(rf"(?:^|/){pattern}$", re.IGNORECASE)
    for file in sorted(files.values(), key=lambda file: not file.archived):
        hit = compiled.search(file.name)
        if hit is None:
            continue
        first = found.setdefault(hit["case"], file)
        copied = first.archived and (not file.archived or file.stamp == first.stamp)
        if first is not file and not copied:
            raise ValueError(
                f"{first} and {file} are both case {hit['case']}; leave one of them, or give the "
                "folder that holds only one"
            )
    return {case: found[case] for case in sorted(found, key=natural)}
