"""The files of a data set, whether unpacked, still in zip archives, or a mixture of both.

A `Tree` maps names to `File`s. Names are relative to the root folder and use "/"; a member of an
archive is named as if the archive were a folder, as in
`stage1_train.zip/stage1_train/ID/images/ID.png`. If a file exists both unpacked and in an archive,
the one in the archive is used, since the unpacked copy may be incomplete.

Names are compared in one spelling, see `spelt`; `where` keeps the spelling on disk.

Archives are read in place: nothing is unpacked to disk. Members that would lie elsewhere if they
were are refused all the same, since files are named after cases, and these after members.
"""

import io
import os
import re
import stat
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from dicepp_jax import names
from dicepp_jax.data import limits

HIDDEN = re.compile(
    r"(^|/)(\.[^/]*|__MACOSX|@eaDir|(eh)?thumbs\.db|desktop\.ini|Icon\r)(/|$)", re.IGNORECASE
)
"""What operating systems and network drives add: thumbnails, AppleDouble files, settings."""

DRIVE = re.compile("[A-Za-z]:")
"""The beginning of a path on a drive of Windows."""

UTF8 = 0x800
"""The flag of a zip member whose name is declared to be UTF-8."""


class File(NamedTuple):
    """A file that can be opened, in a folder or in an archive.

    Attributes:
      name: relative to the tree's root, as `spelt`.
      where: its location in messages: its path, or the archive's path followed by the member's.
      stamp: changes with its content: size and modification time, or size and checksum in archives.
      archived: whether it is in an archive.
      open: opens it for reading.
      parts: the slices of a DICOM series, which counts as one file.
      size: in bytes, in an archive when unpacked; 0 if unknown.
    """

    name: str
    where: str
    stamp: str
    archived: bool
    open: Callable[[], BinaryIO]
    parts: tuple["File", ...] = ()
    size: int = 0

    def __str__(self) -> str:
        return self.where

    def read(self) -> bytes:
        """Its content.

        Raises:
          ValueError: if it is larger than the memory of this machine.
        """
        limits.check_memory(self.size, str(self))
        with self.open() as stream:
            return stream.read()


Tree = Mapping[str, File]


def from_path(path: Path, name: str | None = None) -> File:
    """A file in the file system.

    Raises:
      ValueError: if its name is not safe to print.
    """
    names.check(path.name if name is None else name, "the file")
    state = path.stat()
    size, stamp = state.st_size, f"{state.st_size}:{state.st_mtime_ns}"
    spelling = spelt(name or path.name)
    return File(spelling, str(path), stamp, False, lambda: path.open("rb"), size=size)


def spelt(name: str) -> str:
    """A name in the spelling that names are compared in.

    Letters with accents are composed (Unicode's NFC), since macOS writes them decomposed; spaces
    around a file's or folder's name, which no listing shows, are dropped.

    Example:
      >>> spelt("No\u0308el /a.png ") == "N\u00f6el/a.png"
      True
    """
    parts = unicodedata.normalize("NFC", name).split("/")
    return "/".join(part.strip() for part in parts)


def tree(root: Path) -> Tree:
    """List all files in a folder and its subfolders, or in a zip archive, except hidden ones.

    Args:
      root: the folder or the archive.

    Returns:
      Files by name, in natural order.

    Raises:
      FileNotFoundError: if there is no such folder.
      ValueError: if an archive is damaged, the names of two files differ in spelling alone, a name
        is not safe to print, or a member of an archive is no file in it.
      PermissionError: if a folder is not readable.
    """
    if not root.exists():
        raise FileNotFoundError(
            f"{root} does not exist; give the folder that contains the set's files"
        )
    if root.is_file():
        if root.suffix.lower() != ".zip" and not zipfile.is_zipfile(root):
            raise ValueError(
                f"{root} is neither a folder nor a zip archive; if it is another archive, unpack it"
            )
        found = _unzip(root.name, str(root), root)
    else:
        found = _walk(root)
    # `natural` does not distinguish 1.png and 01.png, whose order would depend on the file system.
    in_order = sorted(found, key=lambda file: (natural(file.name), file.name))
    files: dict[str, File] = {}
    for file in in_order:
        other = files.setdefault(file.name, file)
        if other is not file and not (other.archived and other.stamp == file.stamp):
            if other.where == file.where:
                raise ValueError(
                    f"{file.where!r} is there twice with different contents; pack the archive again"
                )
            raise ValueError(
                f"{other.where!r} and {file.where!r} have one name, apart from how its accents and "
                "spaces are written; remove or rename one of them"
            )
    return files


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
    def stop(error: OSError) -> None:
        raise _permission_error(error.filename, error) from error

    for folder, _, here in os.walk(root, onerror=stop, followlinks=True):
        for path in (Path(folder) / name for name in here):
            name = path.relative_to(root).as_posix()
            if HIDDEN.search(name) or not path.exists():
                continue
            if path.suffix.lower() == ".zip":
                yield from _unzip(name, str(path), path)
            else:
                yield from_path(path, name)


def _permission_error(where: str, error: OSError) -> PermissionError:
    return PermissionError(f"{where} cannot be read ({error.strerror}); get read permission")


def _unzip(name: str, where: str, source: Path | File, depth: int = 1) -> Iterator[File]:
    if depth > limits.ARCHIVES:
        raise ValueError(
            f"{where!r} lies in archives in archives, more than {limits.ARCHIVES} deep; unpack the "
            "outer ones, if you trust them"
        )
    if isinstance(source, File):
        limits.check_memory(source.size, where)
    try:
        archive = zipfile.ZipFile(source if isinstance(source, Path) else io.BytesIO(source.read()))
    except PermissionError as error:
        raise _permission_error(where, error) from error
    except Exception as error:  # zipfile raises many types for damaged archives.
        raise ValueError(
            f"{where} cannot be read as a zip archive ({error}); the download seems to be "
            "incomplete, so download it again"
        ) from error
    for member in archive.infolist():
        _check_member(where, member)
        if member.is_dir() or HIDDEN.search(member.filename):
            continue
        inner, shown = (f"{above}/{_member_name(member)}" for above in (name, where))
        stamp, opener = f"{member.file_size}:{member.CRC}", _opener(archive, member, shown)
        file = File(spelt(inner), shown, stamp, True, opener, size=member.file_size)
        if inner.lower().endswith(".zip"):
            yield from _unzip(inner, shown, file, depth + 1)
        else:
            yield file


def _check_member(where: str, member: zipfile.ZipInfo) -> None:
    """Refuse a member that is no file below the archive."""
    name, kind = _member_name(member), stat.S_IFMT(member.external_attr >> 16)
    if HIDDEN.search(name) and ".." not in re.split(r"[/\\]", name):
        return
    names.check(member.orig_filename, f"in {where}, the member")
    first, *others = re.split(r"[/\\]", name)
    if not first or DRIVE.match(name) or ".." in (first, *others):
        problem = "would lie outside the folder that the archive is unpacked to"
    elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        problem = "is a link or a device, not a file"
    elif max(len(part.encode()) for part in (first, *others)) > names.LONGEST:
        problem = f"has a name of more than {names.LONGEST} bytes"
    else:
        return
    raise ValueError(
        f"in {where}, the member {name[:99]!r} {problem}; if you trust the archive, pack it again "
        "without it"
    )


def _member_name(member: zipfile.ZipInfo) -> str:
    """The name of a member, also where it is UTF-8 without being declared so, as from macOS."""
    if member.flag_bits & UTF8:
        return member.filename
    try:
        return member.filename.encode("cp437").decode("utf-8")
    except UnicodeError:  # Then it is not UTF-8.
        return member.filename


def _opener(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, shown: str
) -> Callable[[], BinaryIO]:
    def open_member() -> BinaryIO:
        limits.check_packed(member.file_size, member.compress_size, shown)
        return archive.open(member)  # type: ignore[return-value]

    return open_member


def match(files: Tree, pattern: str) -> dict[str, File]:
    """The files whose names match a pattern, by case.

    Args:
      files: the files to search.
      pattern: a regular expression with a group `case`, matched case-insensitively against the end
        of a name, from the start of one of its parts.

    Returns:
      Files by case, in natural order. If a file exists both unpacked and in an archive, the one in
      the archive; of identical files in two archives, one of them.

    Raises:
      ValueError: if two different files match the same case.
    """
    compiled = re.compile(rf"(?:^|/){pattern}$", re.IGNORECASE)
    hits = ((file, compiled.search(name)) for name, file in files.items())
    found = without_copies(((hit["case"].strip(),), file) for file, hit in hits if hit)
    return {case: found[(case,)] for case in sorted((case for (case,) in found), key=natural)}


def without_copies(keyed: Iterable[tuple[tuple[str, ...], File]]) -> dict[tuple[str, ...], File]:
    """One file by key, where archives may hold copies.

    Args:
      keyed: keys, which begin with the case, and files.

    Returns:
      Files by key. If one exists both unpacked and in an archive, the one in the archive; of
      identical files in two archives, one of them.

    Raises:
      ValueError: if two different files have the same key.
    """
    found: dict[tuple[str, ...], File] = {}
    for key, file in sorted(keyed, key=lambda entry: not entry[1].archived):
        first = found.setdefault(key, file)
        copied = first.archived and (not file.archived or file.stamp == first.stamp)
        if first is not file and not copied:
            raise ValueError(
                f"{first} and {file} both match case {key[0]}; remove one of them, or give a "
                "folder that contains only one"
            )
    return found
