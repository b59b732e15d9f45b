"""What prediction writes of a case, and how it is read again: on the grid of the case's image.

    masks/CASE                the label map: NIfTI for NIfTI, a palette PNG for images
    probabilities/CLASS/CASE  the map of a foreground class
    overlays/CASE.png         outlines and heat maps, to look at

Label maps hold 0, 1, ..., C-1. Probabilities are float32 or bytes; a NIfTI file of bytes has a
slope of 1/255, so that every program shows probabilities; an image is a PNG of 8 bits (0 to 255)
or, for float32, of 16 (0 to 65535). Volumes that were NumPy arrays are such again.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from PIL import Image

from dicepp_jax import plots
from dicepp_jax.data import files, formats, nifti
from dicepp_jax.data.formats import Pixels
from dicepp_jax.data.specs import Spec
from experiments.inputs import Case, Picture

MASKS, PROBABILITIES, OVERLAYS = "masks", "probabilities", "overlays"
UINT8, FLOAT32, NONE = "uint8", "float32", "none"
STORED = (UINT8, FLOAT32, NONE)
"""How probabilities may be stored."""


class Paths(NamedTuple):
    """Where the files of a case go.

    Attributes:
      mask: the label map.
      probabilities: of every foreground class, none if they are not stored.
      overlay: the picture.
    """

    mask: Path
    probabilities: tuple[Path, ...]
    overlay: Path

    def newer_than(self, moment: float) -> bool:
        """Whether all are there and were written after a moment, in seconds."""
        every = (self.mask, *self.probabilities, self.overlay)
        return all(path.exists() and path.stat().st_mtime > moment for path in every)


def paths(output: Path, case: Case, spec: Spec, stored: str) -> Paths:
    """Where the files of a case go.

    Args:
      output: the folder of all predictions.
      case: the case.
      spec: of the model.
      stored: how probabilities are, one of `STORED`.

    Returns:
      The paths.
    """
    ending = ".npy" if spec.ndim == 3 else ".png"
    name = case.name + (".nii.gz" if formats.is_nifti(case.files[0]) else ending)
    classes = spec.classes[1:] if stored != NONE else ()
    return Paths(
        output / MASKS / name,
        tuple(output / PROBABILITIES / folder_of(label) / name for label in classes),
        output / OVERLAYS / f"{case.name}.png",
    )


def folder_of(label: str) -> str:
    """A class's name as that of a folder.

    Example:
      >>> folder_of("left kidney/cyst")
      'left_kidney_cyst'
    """
    return re.sub(r"[^\w.-]+", "_", label)


def write(
    to: Paths,
    picture: Picture,
    probs: np.ndarray,
    mask: np.ndarray,
    classes: Sequence[str],
    stored: str,
) -> None:
    """Write the files of a case, each under a temporary name and then renamed.

    Args:
      to: where to.
      picture: its image.
      probs: `(*spatial, C)`.
      mask: `(*spatial)` classes.
      classes: their names, the background first.
      stored: how probabilities are, one of `STORED`.
    """
    for path in (to.mask, *to.probabilities):
        path.parent.mkdir(parents=True, exist_ok=True)
    _write_mask(to.mask, picture, mask, len(classes))
    for target, path in enumerate(to.probabilities, 1):
        _write_probability(path, picture, probs[..., target], stored)
    figure = plots.overlay(
        to.overlay.stem,
        picture.array,
        mask,
        probs,
        classes,
        picture.spacing,
        from_top=picture.grid is not None,
    )
    plots.save(figure, to.overlay)


def _write_mask(path: Path, picture: Picture, mask: np.ndarray, num_classes: int) -> None:
    if picture.grid:
        nifti.write(path, picture.as_stored(mask), picture.grid, picture.header)
    elif path.suffix == ".npy":
        _replace(path, lambda temporary: np.save(temporary, mask))
    else:
        image = Image.fromarray(mask)
        image.putpalette(plots.palette(num_classes))
        _replace(path, lambda temporary: image.save(temporary, "PNG"))


def _write_probability(path: Path, picture: Picture, p: np.ndarray, stored: str) -> None:
    if picture.grid:
        _write_nifti(path, picture, picture.as_stored(p), stored)
    elif path.suffix == ".npy":
        array = _levels(p, np.uint8) if stored == UINT8 else p
        _replace(path, lambda temporary: np.save(temporary, array))
    else:
        image = Image.fromarray(_levels(p, np.uint8 if stored == UINT8 else np.uint16))
        _replace(path, lambda temporary: image.save(temporary, "PNG"))


def _levels(p: np.ndarray, dtype: type[np.unsignedinteger]) -> np.ndarray:
    """Probabilities in as many steps as an integer has."""
    return np.rint(np.clip(p, 0, 1) * np.iinfo(dtype).max).astype(dtype)


def _write_nifti(path: Path, picture: Picture, p: np.ndarray, stored: str) -> None:
    assert picture.grid and picture.header
    if stored == FLOAT32:
        nifti.write(path, p, picture.grid, picture.header)
        return
    image = nib.Nifti1Image(
        nifti.to_native(_levels(p, np.uint8), picture.grid), picture.grid.affine
    )
    for field in nifti.GEOMETRY:
        image.header[field] = picture.header[field]
    image.header.set_slope_inter(1 / 255, 0)
    _replace(path, lambda temporary: nib.save(image, temporary))


def _replace(path: Path, save: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".part.{path.name}")
    save(temporary)
    os.replace(temporary, path)


class Probability(NamedTuple):
    """A map that was read.

    Attributes:
      pixels: `(*spatial)` float32 in [0, 1], and its grid.
      coarse: whether it was stored in 256 steps.
    """

    pixels: Pixels
    coarse: bool


def read_probability(path: Path) -> Probability:
    """Read the map of a class that `write` wrote.

    Args:
      path: of the file.

    Returns:
      The map.

    Raises:
      ValueError: if it cannot be read, or holds other than probabilities.
      FileNotFoundError: if it is not there.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}, as there is of other classes")
    file = files.from_path(path)
    pixels = formats.read_image(file)
    array = pixels.array[..., 0]
    stored = nifti.read_header(file).get_data_dtype() if pixels.grid else array.dtype
    if array.dtype.kind == "u":
        array = array / np.float32(np.iinfo(array.dtype).max)
    # A slope of 1/255 in float32 lets 255 be a little more than 1.
    if not (array.min() >= 0 and array.max() <= 1 + 1e-6):
        raise ValueError(
            f"{path} goes from {array.min()} to {array.max()}, expected probabilities from 0 to 1"
        )
    array = np.minimum(array, 1, dtype=np.float32)
    return Probability(pixels._replace(array=array), stored == np.uint8)
