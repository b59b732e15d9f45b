"""From what is named on a command line to cases: files, folders, archives, globs, channel files."""

import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from nibabel import Nifti1Header

from dicepp_jax.data import files, formats, nifti
from dicepp_jax.data.files import File
from dicepp_jax.data.formats import ENDINGS
from dicepp_jax.data.nifti import Grid
from dicepp_jax.data.specs import Spec
from dicepp_jax.data.wording import listed

ENDING = re.compile(rf"\.({'|'.join(map(re.escape, ENDINGS))})$", re.IGNORECASE)
CHANNEL = re.compile(r"(?P<case>.+)_(?P<number>\d{4})")
"""nnU-Net's names of the channels of a case."""


class Case(NamedTuple):
    """An image to be predicted.

    Attributes:
      name: its path below the folder or the fixed part of the pattern that was named, without the
        ending; below the folder that all inputs have in common where two would have one name.
      files: one, or one a channel.
      missing: channels that are not there.
    """

    name: str
    files: tuple[File, ...]
    missing: tuple[str, ...] = ()


class Picture(NamedTuple):
    """An image in memory, and where its voxels are.

    Attributes:
      array: `(*spatial, channels)`, of as many axes as the model has.
      spacing: mm between voxels, 1 where the file does not say.
      grid: of a NIfTI file, else None.
      header: of a NIfTI file, else None.
      axis: of length 1 that an image lacks which is stored as a volume of one slice, else None.
    """

    array: np.ndarray
    spacing: tuple[float, ...]
    grid: Grid | None = None
    header: Nifti1Header | None = None
    axis: int | None = None

    def as_stored(self, array: np.ndarray) -> np.ndarray:
        """An array `(*spatial)` with the axis that the image lacks."""
        return array if self.axis is None else np.expand_dims(array, self.axis)


def find(inputs: Sequence[str], spec: Spec, output: Path) -> list[Case]:
    """The cases that are named.

    Args:
      inputs: files, folders, zip archives, and patterns with `*`, `?` and `**`.
      spec: of the model: how many channels a case has.
      output: what lies in it is passed over.

    Returns:
      Cases in natural order of their names.

    Raises:
      FileNotFoundError: if one of the inputs is not there.
      ValueError: if there is nothing to predict, or two cases have one name.
    """
    given = [_paths(text) for text in inputs]
    found: dict[str, tuple[Path, File]] = {}
    for root, paths in given:
        for file in itertools.chain.from_iterable(map(_files, paths)):
            found.setdefault(file.where, (root, file))
    inside = output.resolve()
    outside = {w: f for w, f in found.items() if not Path(w).resolve().is_relative_to(inside)}
    if found and not outside:
        raise ValueError(
            f"all images in {listed(inputs)} lie in --output={output}, where predictions go; give "
            "another --output"
        )
    if not found:
        raise ValueError(
            f"there is no image in {listed(inputs)}; what can be read is {', '.join(ENDINGS)}"
        )
    names = [_name(where, root) for where, (root, _) in outside.items()]
    if len(set(names)) < len(names):  # As of two folders with files of one name.
        common = Path(os.path.commonpath([root.absolute() for root, _ in given]))
        names = [_name(where, common) for where in outside]
    named: dict[str, File] = {}
    for name, (_, file) in zip(names, outside.values(), strict=True):
        first = named.setdefault(name, file)
        if first is not file:
            raise ValueError(
                f"{first} and {file} would both be predicted as {name}; give one of them, or each "
                "with an --output of its own"
            )
    return sorted(_cases(named, spec), key=lambda case: files.natural(case.name))


def _name(where: str, root: Path) -> str:
    return ENDING.sub("", Path(os.path.relpath(where, root)).as_posix())


def _paths(text: str) -> tuple[Path, list[Path]]:
    """What is named, and the folder that names of cases are relative to."""
    path = Path(text).expanduser()
    if path.exists():
        return path if _is_holder(path) else path.parent, [path]
    hits = sorted(glob.glob(str(path), recursive=True))
    if not hits:
        raise FileNotFoundError(f"there is no {text}; give files, a folder, or a pattern as 'a/*'")
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts)
    return Path(*fixed), [Path(hit) for hit in hits]


def _is_holder(path: Path) -> bool:
    """Whether it is a folder, or an archive."""
    return path.is_dir() or path.suffix.lower() == ".zip"


def _files(path: Path) -> list[File]:
    if _is_holder(path):
        return [file for file in files.tree(path).values() if ENDING.search(file.name)]
    return [files.from_path(path)]


def _cases(named: dict[str, File], spec: Spec) -> Iterator[Case]:
    """Files by case; those of one channel each are grouped."""
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
        yield Case(name.removesuffix("_0000") if numbered else name, (file,))
    for name, there in channels.items():
        missing = [f"{name}_{n:04d}" for n in range(spec.channels) if n not in there]
        yield Case(name, tuple(there[n] for n in sorted(there)), tuple(missing))


def read(case: Case, spec: Spec) -> Picture:
    """Read a case.

    Args:
      case: of `find`.
      spec: of the model: how many axes it takes.

    Returns:
      Its image.

    Raises:
      FileNotFoundError: if a channel is missing.
      ValueError: if a file cannot be read, or channels are not of one grid.
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
    axis = None
    if len(size) == 3 and spec.ndim == 2 and 1 in size:
        axis = size.index(1)
        array, spacing = array.squeeze(axis), spacing[:axis] + spacing[axis + 1 :]
    return Picture(array, spacing, grid, nifti.read_header(first) if grid else None, axis)
