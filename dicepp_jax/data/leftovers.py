"""Image files of your own data set that no case uses, so that none is left out without a word."""

import collections
import re
from collections.abc import Iterable, Sequence

from dicepp_jax.data.files import File, Tree
from dicepp_jax.data.formats import ENDINGS
from dicepp_jax.data.pairs import PACKED
from dicepp_jax.wording import listed

UNREAD = (
    *("webp", "jp2", "jfif", "heic", "heif", "avif", "ppm", "pgm", "tga", "svs", "ndpi"),
    *("mha", "mhd", "nrrd", "npz", "mat", "h5"),
)
"""Endings of images in formats that cannot be read."""

MASK = re.compile(r"mask|seg|label|annot|truth|(^|[/_.-])gt([/_.-]|$)", re.IGNORECASE)
"""In the names of masks."""


def unused(files: Tree, used: Iterable[File]) -> list[File]:
    """The image files that are not used, except unpacked copies of used files in archives.

    Args:
      files: all files.
      used: those of all cases.

    Returns:
      Files in the order of `files`, also those of formats that cannot be read, and archives.
    """
    taken = {file.name for file in used}
    endings = tuple(f".{ending}" for ending in (*ENDINGS, *UNREAD)) + PACKED
    rest = [
        file for name, file in files.items() if name not in taken and name.lower().endswith(endings)
    ]
    # Of a DICOM series that no case uses, its own files.
    rest = [part for file in rest for part in (file.parts or (file,))]
    archived = {_copy(files[name]) for name in taken if files[name].archived}
    return [file for file in rest if file.archived or _copy(file) not in archived]


def _copy(file: File) -> tuple[str, str]:
    """What an unpacked file has in common with the same file in an archive: end of path, size."""
    return "/".join(file.name.lower().split("/")[-2:]), file.stamp.partition(":")[0]


def describe(files: Sequence[File]) -> list[str]:
    """A line on the unused files that are named like masks, and one on the others."""
    masks = [file for file in files if MASK.search(file.name)]
    others = [file for file in files if not MASK.search(file.name)]
    return [
        f"NOT USED: {what} ({len(some)}): {listed(file.name for file in some)}, that is "
        f"{listed(kinds(file.name for file in some))}; "
        "set --config.folder.images and --config.folder.masks so that they belong to cases, or "
        "move them out of the folder"
        for what, some in (
            ("files that are named like masks but belong to no case", masks),
            ("image files or archives that belong to no case", others),
        )
        if some
    ]


def kinds(names: Iterable[str]) -> list[str]:
    """How many files of each ending are in each folder; folders that differ in numbers are one.

    Example:
      >>> kinds(["a/1.png", "a/2.png", "x7.nii.gz"])
      ['2 .png in a', '1 .nii.gz in .']
    """
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    for name in names:
        folder, _, base = name.rpartition("/")
        ending = re.search(r"(\.nii)?\.\w+$", base)
        alike = re.sub(r"\d+", "*", folder) or "."
        counts[alike, ending[0].lower() if ending else "no ending"] += 1
    return [f"{count} {ending} in {folder}" for (folder, ending), count in counts.items()]
