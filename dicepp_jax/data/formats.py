"""Read the images and masks of a case in any format and any of three label encodings.

A mask may be a label map with one value per class; or each class may have a binary mask of its own,
of 0 and 1 or of 0 and 255; or there is one binary mask, in which lossy compression may have left
many grey values.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dicepp_jax import preprocess
from dicepp_jax.data import dicom, nifti, readers
from dicepp_jax.data.builder import Example
from dicepp_jax.data.files import File, Tree
from dicepp_jax.data.geometry import Remark
from dicepp_jax.data.nifti import Grid
from dicepp_jax.spec import Spec
from dicepp_jax.wording import by, listed

ENDINGS = ("png", "jpg", "jpeg", "tif", "tiff", "gif", "bmp", "npy", "nii", "nii.gz", "dcm")
"""Endings of the files that can be read."""

CHANNELS = 4
"""A NumPy array with three axes is a volume, not an image, if the last axis is longer than this."""

NEAR = 64
"""Lossy compression leaves grey values of a binary mask within this distance of 0 and 255."""

LOSSY = 8
"""More grey values than this result from lossy compression; fewer may be classes."""


class CaseFiles(NamedTuple):
    """The files of a case.

    Attributes:
      id: the case's name.
      images: one file with all channels, or one per channel.
      masks: one file with all classes, or one per class other than the background.
      part: as in `Case`.
    """

    id: str
    images: tuple[File, ...]
    masks: tuple[File, ...]
    part: str | None = None


class LabelEncoding(NamedTuple):
    """How masks represent classes.

    Attributes:
      classes: names, the background first.
      values: of the classes in the one mask of a case; empty if the masks are binary, one per class
        other than the background.
      origin: how this was determined.
    """

    classes: tuple[str, ...]
    values: tuple[int, ...]
    origin: str


class Pixels(NamedTuple):
    """The content of a file.

    Attributes:
      array: `(*spatial, channels)`, or `(*spatial)` for a mask.
      size: the spatial axes.
      grid: of a NIfTI file or a DICOM series, else None.
    """

    array: np.ndarray
    size: tuple[int, ...]
    grid: Grid | None = None


def gather(files: Tree) -> Tree:
    """The files with each DICOM series as one file, named after its folder, as `FOLDER.dcm`."""
    return {file.name: file for file in dicom.gather(files.values(), ENDINGS)}


def read_image(file: File) -> Pixels:
    """Read an image in any format; a NumPy array is a volume if its third axis is long."""
    if is_nifti(file) or dicom.is_series(file):
        array, grid = (nifti if is_nifti(file) else dicom).read(file)
        return Pixels(array[..., None], array.shape, grid)
    array = readers.read_image(file)
    if array.shape[-1] > CHANNELS:
        array = array[..., None]
    return Pixels(array, array.shape[:-1])


def read_mask(file: File) -> Pixels:
    """Read a mask in any format, as integers."""
    if dicom.is_series(file):
        raise ValueError(f"{file} is DICOM, which masks cannot be; convert it to NIfTI")
    if is_nifti(file):
        array, grid = nifti.read_label(file)
        return Pixels(array, array.shape, grid)
    if file.name.lower().endswith(".npy"):
        array = readers.read_image(file)
        if array.shape[-1] > CHANNELS:
            if (array != np.rint(array)).any():
                raise ValueError(
                    f"{file} contains {array[array != np.rint(array)][0]}, expected a label map of "
                    "whole numbers; save the original label map"
                )
            return Pixels(array.astype(np.int32), array.shape)
    array = readers.read_label(file)
    return Pixels(array, array.shape)


def is_nifti(file: File) -> bool:
    """Whether a file is NIfTI, by its ending."""
    return file.name.lower().endswith((".nii", ".nii.gz"))


def remarks(file: File) -> tuple[Remark, ...]:
    """What is unusual about the positions of a file's voxels."""
    if dicom.is_series(file):
        return dicom.arrange(file).grid.remarks
    return nifti.read_grid(file).remarks if is_nifti(file) else ()


def count_values(mask: np.ndarray) -> dict[int, int]:
    """The number of voxels with each value.

    Example:
      >>> count_values(np.array([[0, 255], [0, 0]]))
      {0: 3, 255: 1}
    """
    if mask.dtype == np.uint8:  # Slice by slice, since bincount takes eight bytes per voxel.
        counts = np.sum([np.bincount(part.ravel(), minlength=256) for part in mask], axis=0)
        values = np.flatnonzero(counts)
        counts = counts[values]
    else:
        values, counts = np.unique(mask, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def is_lossy(counts: Mapping[int, int]) -> bool:
    """Whether these look like the values of a binary mask after lossy compression.

    Example:
      >>> is_lossy({**{v: 10 for v in range(10)}, 128: 1, 250: 20, 255: 30})
      True
      >>> is_lossy({0: 100, 128: 1, 255: 50})
      False
    """
    return len(counts) > LOSSY and _is_bimodal(counts) and max(counts) > 127


def _is_bimodal(counts: Mapping[int, int]) -> bool:
    """Whether nearly all values are near 0 and 255."""
    near = sum(n for v, n in counts.items() if v < NEAR or v > 255 - NEAR)
    return min(counts) >= 0 and max(counts) <= 255 and near >= 0.95 * sum(counts.values())


def unknown_values(
    file: File, unknown: Sequence[int], classes: Sequence[str], values: Sequence[int]
) -> str:
    """The error message about mask values that belong to no class."""
    known = listed(f"{value} {name}" for value, name in zip(values, classes, strict=True))
    return (
        f"{file} contains {listed(unknown)}, expected {known}; correct the file, or define the "
        "value of each class, in dataset.json or by --config.folder.mask_values and "
        "--config.folder.classes"
    )


def read_case(spec: Spec, encoding: LabelEncoding, case: CaseFiles) -> Example:
    """Read a case.

    Args:
      spec: of its set.
      encoding: how its masks represent classes.
      case: its files.

    Returns:
      Image and label; volumes are resampled to the set's spacing.

    Raises:
      ValueError: if a file cannot be read, the files have different grids, or a mask contains a
        value that belongs to no class.
    """
    images = [read_image(file) for file in case.images]
    masks = [read_mask(file) for file in case.masks]
    first, *others = case.images + case.masks
    for file, pixels in zip(others, (*images, *masks)[1:], strict=True):
        check_fits(first, images[0], file, pixels)
    arrays = [mask.array for mask in masks]
    if encoding.values:
        label = _from_label_map(case, arrays, encoding)
    else:
        label = _from_binary_masks(case, arrays)
    image = np.concatenate([pixels.array for pixels in images], axis=-1)
    if image.shape[-1] == 1:
        image = np.repeat(image, spec.channels, axis=-1)
    grids = [pixels.grid for pixels in (*images, *masks) if pixels.grid]
    spacing: tuple[float, ...] | None = nifti.common(grids).spacing if grids else None
    if spec.spacing:
        native = spacing or (1.0,) * 3
        return Example(
            image=_as_stored(preprocess.resample(image, native, spec.spacing), spec.dtype),
            label=preprocess.resample_label(label, native, spec.spacing, len(encoding.classes)),
            native_label=label,
            spacing=spacing,
        )
    if label.ndim == 3:
        axis = label.shape.index(1)
        image, label = image.squeeze(axis), label.squeeze(axis)
        spacing = spacing and spacing[:axis] + spacing[axis + 1 :]
    return Example(_as_stored(image, spec.dtype), label, spacing=spacing)


def _as_stored(image: np.ndarray, dtype: str) -> np.ndarray:
    if image.dtype.kind == "f" and np.dtype(dtype).kind != "f":
        image = np.rint(image)  # Interpolated from integers.
    return image.astype(dtype, copy=False)


def check_fits(first: File, image: Pixels, file: File, other: Pixels) -> None:
    """Check that two files of a case have the same grid.

    Raises:
      ValueError: if they do not, naming both.
    """
    if image.grid and other.grid:
        nifti.check_same_grid(first, image.grid, file, other.grid)
    elif image.grid or other.grid:
        raise ValueError(
            f"only one of {first} and {file} is NIfTI or DICOM, so the orientation of the other is "
            "unknown; save both as NIfTI"
        )
    if image.size != other.size:
        raise ValueError(
            f"{first} has size {by(image.size)} and {file} has {by(other.size)}; all files of a "
            "case must have the same size"
        )


def _from_label_map(
    case: CaseFiles, masks: Sequence[np.ndarray], encoding: LabelEncoding
) -> np.ndarray:
    """Classes from a mask with one value per class."""
    (file,), (mask,) = case.masks, masks
    unknown = [value for value in count_values(mask) if value not in encoding.values]
    if unknown:
        raise ValueError(unknown_values(file, unknown, encoding.classes, encoding.values))
    if encoding.values == tuple(range(len(encoding.values))):
        return mask.astype(np.uint8, copy=False)
    label = np.zeros(mask.shape, np.uint8)
    for index, value in enumerate(encoding.values):
        label[mask == value] = index
    return label


def _from_binary_masks(case: CaseFiles, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Classes from one binary mask per class, each of 0 and 1 or of 0 and 255."""
    label = np.zeros(masks[0].shape, np.uint8)
    for index, (file, mask) in enumerate(zip(case.masks, masks, strict=True), 1):
        foreground = _foreground(file, mask)
        both = foreground & (label > 0)
        if both.any():
            raise ValueError(
                f"{file} and {case.masks[label[both][0] - 1]} overlap in {both.mean():.2%} of the "
                "image, but each pixel has one class; subtract one mask from the other, or select "
                "classes by --config.folder.classes=background,NAME,..."
            )
        label[foreground] = index
    return label


def _foreground(file: File, mask: np.ndarray) -> np.ndarray:
    counts = count_values(mask)
    highest = max(counts)
    if set(counts) <= {0, 1}:
        return mask == 1
    binary = set(counts) <= {0, highest} and highest > 127
    if binary or (_is_bimodal(counts) and (highest > 127 or len(counts) > LOSSY)):
        return mask > 127
    raise ValueError(
        f"{file} contains {listed(counts)}, expected a binary mask of 0 and 1 or 0 and 255; "
        "convert it, or use label maps with all classes, by --config.folder.masks='masks/{case}.*'"
    )
