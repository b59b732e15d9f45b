"""Images to be predicted: found among files, folders, archives and patterns, and read."""

import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from nibabel import Nifti1Header

from dicepp_jax.data import dicom, files, formats, nifti
from dicepp_jax.data.files import File
from dicepp_jax.data.folder import FOLDERS
from dicepp_jax.data.formats import ENDINGS
from dicepp_jax.data.nifti import Grid
from dicepp_jax.names import folded
from dicepp_jax.predictions import dicom_seg
from dicepp_jax.spec import Spec
from dicepp_jax.wording import listed

ENDING = re.compile(rf"\.({'|'.join(map(re.escape, ENDINGS))})$", re.IGNORECASE)
CHANNEL = re.compile(r"(?P<case>.+)_(?P<number>\d{4})")
"""nnU-Net's names for the channels of a case."""


MASK_NAME = re.compile(r"(?P<case>.+)_(mask|seg|segmentation|label|gt)(_\d+)?")
"""Names of masks that lie beside their images."""


class InputCase(NamedTuple):
    """An image to be predicted.

    Attributes:
      name: its path without the ending, relative to the given folder or the fixed part of the
        given pattern; relative to the common folder of all inputs if two names would collide.
      files: one, or one per channel; a DICOM series counts as one.
      missing: names of channel files that do not exist.
    """

    name: str
    files: tuple[File, ...]
    missing: tuple[str, ...] = ()


class InputImage(NamedTuple):
    """An image in memory, and the geometry of its voxels.

    Attributes:
      array: `(*spatial, channels)`, with as many spatial axes as the model takes.
      spacing: mm between voxels, 1 where the file does not say.
      grid: of a NIfTI file or a DICOM series, else None.
      header: of a NIfTI file, else None.
      axis: the axis of length 1 that was removed from a volume of one slice, else None.
      turned: whether it was turned upright, as its EXIF data say; predictions are then upright.
    """

    array: np.ndarray
    spacing: tuple[float, ...]
    grid: Grid | None = None
    header: Nifti1Header | None = None
    axis: int | None = None
    turned: bool = False

    def as_stored(self, array: np.ndarray) -> np.ndarray:
        """An array `(*spatial)` with the removed axis restored."""
        return array if self.axis is None else np.expand_dims(array, self.axis)

    def as_in_file(self, array: np.ndarray) -> np.ndarray:
        """An array `(*spatial)` or `(*spatial, C)` along the axes of the file."""
        stored = self.as_stored(array)
        return nifti.to_native(stored, self.grid) if self.grid else stored


def find(inputs: Sequence[str], spec: Spec, output: Path) -> list[InputCase]:
    """Find the cases that inputs name.

    Args:
      inputs: files, folders, zip archives, and patterns with `*`, `?` and `**`; all DICOM files in
        a folder are one case.
      spec: of the model, which says how many channels a case has.
      output: the folder of predictions, whose files are not inputs.

    Returns:
      Cases in natural order of their names.

    Raises:
      FileNotFoundError: if an input does not exist.
      ValueError: if there is nothing to predict, two cases have the same name, or there is DICOM
        and highdicom is not installed.
    """
    given = [_paths(text) for text in inputs]
    roots: dict[str, Path] = {}
    named: dict[str, File] = {}
    for root, paths in given:
        for file in itertools.chain.from_iterable(map(_files, paths)):
            roots.setdefault(file.where, root)
            named.setdefault(file.where, file)
    found: dict[str, tuple[Path, File]] = {}
    for file in dicom.gather(named.values(), ENDINGS):
        root = roots[file.where if file.where in roots else file.parts[0].where]
        # A folder that is itself a series is called by its name.
        found[file.where] = (root.parent if Path(file.where) == root else root, file)
    if any(file.parts for _, file in found.values()):
        dicom_seg.check_installed()  # Told once, and not for each case.
    inside = output.resolve()
    outside = {w: f for w, f in found.items() if not Path(w).resolve().is_relative_to(inside)}
    if found and not outside:
        raise ValueError(
            f"all images in {listed(inputs)} are in --output={output}, where predictions go; "
            "choose another --output"
        )
    if not found:
        raise ValueError(
            f"there is no image in {listed(inputs)}; readable formats are {', '.join(ENDINGS)}"
        )
    names = [_name(where, root) for where, (root, _) in outside.items()]
    if len(set(names)) < len(names):  # As of two folders with files of one name.
        common = Path(os.path.commonpath([root.absolute() for root, _ in given]))
        names = [_name(where, common) for where in outside]
    _check_no_masks(names)
    by_name: dict[str, File] = {}
    taken: dict[str, str] = {}
    for name, (_, file) in zip(names, outside.values(), strict=True):
        other = taken.setdefault(folded(name), name)
        first = by_name.setdefault(other, file)
        if first is not file:
            alike = "" if other == name else f", which is {other} on macOS and Windows"
            raise ValueError(
                f"{first} and {file} would both be predicted as {name}{alike}; give only one of "
                "them, or predict them into different folders (--output)"
            )
    return sorted(_cases(by_name, spec), key=lambda case: files.natural(case.name))


def _check_no_masks(names: Sequence[str]) -> None:
    """Refuse to predict the masks that lie among the images of a data set."""
    known = {name.casefold() for name in names}
    masks = [
        name
        for name in names
        if {*Path(name.casefold()).parts[:-1]} & {*FOLDERS}
        or ((beside := MASK_NAME.fullmatch(name.casefold())) and beside["case"] in known)
    ]
    if masks and len(masks) < len(names):
        raise ValueError(
            f"{len(masks)} of {len(names)} images look like masks of the others: {listed(masks)}; "
            "give the images alone, as in --input=FOLDER/images or --input='FOLDER/*_image.png'"
        )


def _name(where: str, root: Path) -> str:
    return ENDING.sub("", Path(os.path.relpath(where, root)).as_posix())


def _paths(text: str) -> tuple[Path, list[Path]]:
    """The paths that an input names, and the folder that case names are relative to."""
    path = Path(text).expanduser()
    if path.exists():
        return path if _is_holder(path) else path.parent, [path]
    hits = sorted(glob.glob(str(path), recursive=True))
    if not hits:
        raise FileNotFoundError(
            f"{text} does not exist; give files, a folder, or a pattern like 'a/*'"
        )
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts)
    return Path(*fixed), [Path(hit) for hit in hits]


def _is_holder(path: Path) -> bool:
    """Whether it is a folder or an archive."""
    return path.is_dir() or path.suffix.lower() == ".zip"


def _files(path: Path) -> list[File]:
    if _is_holder(path):
        every = dicom.gather(files.tree(path).values(), ENDINGS)
        return [file for file in every if ENDING.search(file.name)]
    return [files.from_path(path)]


def _cases(named: dict[str, File], spec: Spec) -> Iterator[InputCase]:
    """Cases from files; files of one channel each are grouped."""
    channels: dict[str, dict[int, File]] = {}
    alone = dict(named)
    if spec.channels > 1:
        for name, file in named.items():
            hit = CHANNEL.fullmatch(name)
            if hit and (spec.per_channel or formats.is_nifti(file)):
                channels.setdefault(hit["case"], {})[int(hit["number"])] = alone.pop(name)
    # nnU-Net numbers the only channel, too.
    numbered = all(name.endswith("_0000") for name in alone)
    for name, file in alone.items():
        yield InputCase(name.removesuffix("_0000") if numbered else name, (file,))
    for name, there in channels.items():
        missing = [f"{name}_{n:04d}" for n in range(spec.channels) if n not in there]
        yield InputCase(name, tuple(there[n] for n in sorted(there)), tuple(missing))


def read(case: InputCase, spec: Spec) -> InputImage:
    """Read a case.

    Args:
      case: of `find`.
      spec: of the model, which says how many axes and channels it takes.

    Returns:
      Its image.

    Raises:
      FileNotFoundError: if a channel is missing.
      ValueError: if a file cannot be read, or the channels' grids differ.
    """
    if case.missing:
        raise FileNotFoundError(
            f"{listed(case.missing)} {'is' if len(case.missing) == 1 else 'are'} missing; the "
            f"model of {spec.title} takes {spec.channels} channels"
        )
    first, *others = case.files
    pixels = [formats.read_image(file) for file in case.files]
    for file, other in zip(others, pixels[1:], strict=True):
        formats.check_fits(first, pixels[0], file, other)
    size, grid = pixels[0].size, pixels[0].grid
    array = np.concatenate([one.array for one in pixels], axis=-1)
    spacing = grid.spacing if grid else (1.0,) * len(size)
    header = nifti.read_header(first) if formats.is_nifti(first) else None
    axis = None
    if len(size) == 3 and spec.ndim == 2 and 1 in size:
        axis = size.index(1)
        array, spacing = array.squeeze(axis), spacing[:axis] + spacing[axis + 1 :]
    turned = any(one.turned > 1 for one in pixels)
    return InputImage(array, spacing, grid, header, axis, turned)
