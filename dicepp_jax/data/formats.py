"""Read a case of images and masks in any format, with its classes drawn in any of three ways.

A mask may hold the classes by value; or every class may have a mask of its own, of 0 and 1 or of 0
and 255; or there is one such mask, which lossy compression may have left many grey values in.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dicepp_jax import preprocess
from dicepp_jax.data import nifti, readers
from dicepp_jax.data.builder import Example
from dicepp_jax.data.files import File
from dicepp_jax.data.nifti import Grid
from dicepp_jax.spec import Spec
from dicepp_jax.wording import by, listed

ENDINGS = ("png", "jpg", "jpeg", "tif", "tiff", "gif", "bmp", "npy", "nii", "nii.gz")
"""Of files that can be read."""

CHANNELS = 4
"""A NumPy array of three axes whose last is longer is a volume, not an image with channels."""

NEAR = 64
"""Grey values of a binary mask that lossy compression leaves less than so far from 0 and 255."""

LOSSY = 8
"""More grey values are of lossy compression; fewer may be classes."""


class Source(NamedTuple):
    """The files of a case.

    Attributes:
      id: the case's name.
      images: one with all channels, or one a channel.
      masks: one with all classes, or one a class but the background.
      part: as in `Case`.
    """

    id: str
    images: tuple[File, ...]
    masks: tuple[File, ...]
    part: str | None = None


class Labels(NamedTuple):
    """How classes are drawn in masks.

    Attributes:
      classes: names, the background first.
      values: of the classes in the one mask of a case; none if every class but the background has
        a mask of its own.
      told: how this is known.
    """

    classes: tuple[str, ...]
    values: tuple[int, ...]
    told: str


class Pixels(NamedTuple):
    """What a file holds.

    Attributes:
      array: `(*spatial, channels)`, or `(*spatial)` for a mask.
      size: the spatial axes.
      grid: of a NIfTI file, else None.
    """

    array: np.ndarray
    size: tuple[int, ...]
    grid: Grid | None = None


def read_image(file: File) -> Pixels:
    """Read an image of any format; NumPy arrays of three axes are volumes if the last is long."""
    if is_nifti(file):
        array, grid = nifti.read(file)
        return Pixels(array[..., None], array.shape, grid)
    array = readers.read_image(file)
    if array.shape[-1] > CHANNELS:
        array = array[..., None]
    return Pixels(array, array.shape[:-1])


def read_mask(file: File) -> Pixels:
    """Read a mask of any format, integers."""
    if is_nifti(file):
        array, grid = nifti.read_label(file)
        return Pixels(array, array.shape, grid)
    if file.name.lower().endswith(".npy"):
        array = readers.read_image(file)
        if array.shape[-1] > CHANNELS:
            if (array != np.rint(array)).any():
                raise ValueError(
                    f"{file} is a label map that holds values which are not whole; save the "
                    "classes that it was made from"
                )
            return Pixels(array.astype(np.int32), array.shape)
    array = readers.read_label(file)
    return Pixels(array, array.shape)


def is_nifti(file: File) -> bool:
    """Whether a file says that it is NIfTI."""
    return file.name.lower().endswith((".nii", ".nii.gz"))


def count_values(mask: np.ndarray) -> dict[int, int]:
    """How many voxels of a mask have each value.

    Example:
      >>> count_values(np.array([[0, 255], [0, 0]]))
      {0: 3, 255: 1}
    """
    if mask.dtype == np.uint8:  # Slice by slice, as counting takes eight bytes a voxel.
        counts = np.sum([np.bincount(part.ravel(), minlength=256) for part in mask], axis=0)
        values = np.flatnonzero(counts)
        counts = counts[values]
    else:
        values, counts = np.unique(mask, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def is_lossy(counts: Mapping[int, int]) -> bool:
    """Whether these are the grey values of a binary mask after lossy compression.

    Example:
      >>> is_lossy({**{v: 10 for v in range(10)}, 128: 1, 250: 20, 255: 30})
      True
      >>> is_lossy({0: 100, 128: 1, 255: 50})
      False
    """
    return len(counts) > LOSSY and _is_heaped(counts) and max(counts) > 127


def _is_heaped(counts: Mapping[int, int]) -> bool:
    """Whether nearly all values are near 0 and 255."""
    near = sum(n for v, n in counts.items() if v < NEAR or v > 255 - NEAR)
    return min(counts) >= 0 and max(counts) <= 255 and near >= 0.95 * sum(counts.values())


def unexpected(
    file: File, strange: Sequence[int], classes: Sequence[str], values: Sequence[int]
) -> str:
    """The message that a mask holds values that no class has."""
    known = listed(f"{value} {name}" for value, name in zip(values, classes, strict=True))
    return (
        f"{file} holds {listed(strange)}, expected {known}; correct the file, or say which "
        "value each class has, in dataset.json or by --config.folder.mask_values and "
        "--config.folder.classes"
    )


def read_case(spec: Spec, labels: Labels, source: Source) -> Example:
    """Read a case.

    Args:
      spec: of its set.
      labels: how classes are drawn.
      source: its files.

    Returns:
      Image and label, of volumes at the set's spacing.

    Raises:
      ValueError: if a file cannot be read, files are not of one grid, or a mask holds what no
        class has.
    """
    images = [read_image(file) for file in source.images]
    masks = [read_mask(file) for file in source.masks]
    first, *others = source.images + source.masks
    for file, pixels in zip(others, (*images, *masks)[1:], strict=True):
        check_fits(first, images[0], file, pixels)
    arrays = [mask.array for mask in masks]
    label = _from_values(source, arrays, labels) if labels.values else _from_masks(source, arrays)
    image = np.concatenate([pixels.array for pixels in images], axis=-1)
    if image.shape[-1] == 1:
        image = np.repeat(image, spec.channels, axis=-1)
    spacing: tuple[float, ...] | None = images[0].grid and images[0].grid.spacing
    if spec.spacing:
        native = spacing or (1.0,) * 3
        return Example(
            image=_as_stored(preprocess.resample(image, native, spec.spacing), spec.dtype),
            label=preprocess.resample_label(label, native, spec.spacing, len(labels.classes)),
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
        image = np.rint(image)  # Between the integers that it was interpolated from.
    return image.astype(dtype, copy=False)


def check_fits(first: File, image: Pixels, file: File, other: Pixels) -> None:
    """Refuse files that are not of one grid.

    Raises:
      ValueError: if they are not, naming both.
    """
    if image.grid and other.grid:
        nifti.check_same_grid(first, image.grid, file, other.grid)
    elif image.grid or other.grid:
        raise ValueError(
            f"of {first} and {file} one is NIfTI, and how the other's axes lie to its is not "
            "known; save both as NIfTI"
        )
    if image.size != other.size:
        raise ValueError(
            f"{first} has size {by(image.size)} and {file} has {by(other.size)}; the files of a "
            "case must be of one size"
        )


def _from_values(source: Source, masks: Sequence[np.ndarray], labels: Labels) -> np.ndarray:
    """Classes of a mask that has them by value."""
    (file,), (mask,) = source.masks, masks
    strange = [value for value in count_values(mask) if value not in labels.values]
    if strange:
        raise ValueError(unexpected(file, strange, labels.classes, labels.values))
    if labels.values == tuple(range(len(labels.values))):
        return mask.astype(np.uint8, copy=False)
    label = np.zeros(mask.shape, np.uint8)
    for index, value in enumerate(labels.values):
        label[mask == value] = index
    return label


def _from_masks(source: Source, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Classes of masks that are one a class, each binary in an encoding of its own."""
    label = np.zeros(masks[0].shape, np.uint8)
    for index, (file, mask) in enumerate(zip(source.masks, masks, strict=True), 1):
        foreground = _foreground(file, mask)
        both = foreground & (label > 0)
        if both.any():
            raise ValueError(
                f"{file} and {source.masks[label[both][0] - 1]} overlap in {both.mean():.2%} of "
                "the image, but a pixel has one class; cut one from the other, or name the classes "
                "to be used by --config.folder.classes=background,NAME,..."
            )
        label[foreground] = index
    return label


def _foreground(file: File, mask: np.ndarray) -> np.ndarray:
    counts = count_values(mask)
    highest = max(counts)
    if set(counts) <= {0, 1}:
        return mask == 1
    binary = set(counts) <= {0, highest} and highest > 127
    if binary or (_is_heaped(counts) and (highest > 127 or len(counts) > LOSSY)):
        return mask > 127
    raise ValueError(
        f"{file} holds {listed(counts)}, expected the mask of one class, of 0 and 1 or 0 and 255; "
        "save it so, or name a mask with all classes by --config.folder.masks='masks/{case}.*'"
    )
