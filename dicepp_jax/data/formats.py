"""Read the images and masks of a case in any format and any of three label encodings.

A mask may be a label map with one value per class; or each class may have a binary mask of its own,
of 0 and 1 or of 0 and 255; or there is one binary mask, in which lossy compression may have left
many grey values.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dicepp_jax import preprocess
from dicepp_jax.data import dicom, nifti, readers
from dicepp_jax.data.builder import Example
from dicepp_jax.data.files import File, Tree
from dicepp_jax.data.geometry import Remark
from dicepp_jax.data.nifti import Grid
from dicepp_jax.data.readers import LOSSY, NEAR, count_values, is_bimodal
from dicepp_jax.spec import Spec
from dicepp_jax.wording import by, listed

ENDINGS = ("png", "jpg", "jpeg", "tif", "tiff", "gif", "bmp", "npy", "nii", "nii.gz", "dcm")
"""Endings of the files that can be read."""

CHANNELS = 4
"""A NumPy array with three axes is a volume, not an image, if the last axis is longer than this."""

GREY, INDEX, COLOUR = "grey", "index", "colour"
"""What the values of palette images are, in all masks of a set."""


class CaseFiles(NamedTuple):
    """The files of a case.

    Attributes:
      id: the case's name.
      images: one file with all channels, or one per channel.
      masks: files with all classes, or of one class each; the background has none.
      part: as in `Case`.
      classes: for masks of one class each, the class's index; empty if the masks are those of the
        classes 1, 2, ...
      raters: the masks of each further rater; `masks` are those of the first.
    """

    id: str
    images: tuple[File, ...]
    masks: tuple[File, ...]
    part: str | None = None
    classes: tuple[int, ...] = ()
    raters: tuple[tuple[File, ...], ...] = ()

    @property
    def every_mask(self) -> tuple[File, ...]:
        """The masks of all raters."""
        return (*self.masks, *itertools.chain.from_iterable(self.raters))


class LabelEncoding(NamedTuple):
    """How masks represent classes.

    Attributes:
      classes: names, the background first.
      values: of the classes in the masks of a case, as `readers.Codes` has them; empty if the
        masks are binary, one per class other than the background.
      origin: how this was determined.
      palettes: what the values of palette images are: `GREY`, `INDEX` or `COLOUR`; empty if each
        file's own palette says whether it is grey, see `readers.read_label`.
      meaning: the classes of the values, to be printed.
    """

    classes: tuple[str, ...]
    values: tuple[int, ...]
    origin: str
    palettes: str = ""
    meaning: str = ""


class Pixels(NamedTuple):
    """The content of a file.

    Attributes:
      array: `(*spatial, channels)`, or `(*spatial)` for a mask.
      size: the spatial axes.
      grid: of a NIfTI file or a DICOM series, else None.
      turned: the EXIF orientation that was undone, 1 for none.
    """

    array: np.ndarray
    size: tuple[int, ...]
    grid: Grid | None = None
    turned: int = 1


def gather(files: Tree) -> Tree:
    """The files with each DICOM series as one file, named after its folder, as `FOLDER.dcm`."""
    return {file.name: file for file in dicom.gather(files.values(), ENDINGS)}


def read_image(file: File) -> Pixels:
    """Read an image in any format; a NumPy array is a volume if its third axis is long."""
    if is_nifti(file) or dicom.is_series(file):
        array, grid = (nifti if is_nifti(file) else dicom).read(file)
        return Pixels(array[..., None], array.shape, grid)
    array, turned = readers.read_upright(file)
    if array.shape[-1] > CHANNELS:
        array = array[..., None]
    return Pixels(array, array.shape[:-1], turned=turned)


def read_mask(file: File, palettes: str = "") -> Pixels:
    """Read a mask in any format, as integers.

    Args:
      file: the mask.
      palettes: as in `LabelEncoding`.

    Returns:
      Its values, which are codes of colours (see `readers.Codes`) only if `palettes` is given.

    Raises:
      ValueError: if it cannot be read as a mask.
    """
    if volume := _read_volume(file):
        return volume
    if not palettes:
        array = readers.read_label(file)
        return Pixels(array, array.shape)
    array, palette, turned = readers.read_codes(file)
    return Pixels(_resolved(array, palette, palettes), array.shape, turned=turned)


def inspect_mask(file: File) -> tuple[Pixels, Mapping[int, int]]:
    """Read a mask in any format, as codes or indices, and the palette; see `readers.Codes`."""
    if volume := _read_volume(file):
        return volume, {}
    array, palette, turned = readers.read_codes(file)
    return Pixels(array, array.shape, turned=turned), palette


def _read_volume(file: File) -> Pixels | None:
    """A mask of three axes; None if it is 2-D."""
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
    return None


def _resolved(array: np.ndarray, palette: Mapping[int, int], palettes: str) -> np.ndarray:
    """The values of a mask, which has indices if there is a palette."""
    if not palette or palettes == INDEX:
        return array
    if palettes == GREY:
        grey = readers.grey_of(palette, count_values(array))
        if grey:
            return readers.recoded(array, grey)
    return readers.recoded(array, palette)


def is_nifti(file: File) -> bool:
    """Whether a file is NIfTI, by its ending."""
    return file.name.lower().endswith((".nii", ".nii.gz"))


def remarks(file: File) -> tuple[Remark, ...]:
    """What is unusual about the positions of a file's voxels."""
    if dicom.is_series(file):
        return dicom.arrange(file).grid.remarks
    return nifti.read_grid(file).remarks if is_nifti(file) else ()


def is_lossy(counts: Mapping[int, int]) -> bool:
    """Whether these look like the values of a binary mask after lossy compression.

    The values between lie at the borders of the foreground, so they are not more than it.

    Example:
      >>> is_lossy({**{v: 10 for v in range(10)}, 128: 1, 250: 20, 255: 30})
      True
      >>> is_lossy({0: 100, 128: 1, 255: 50})
      False
    """
    if len(counts) <= LOSSY or not is_bimodal(counts):
        return False
    bright = sum(n for v, n in counts.items() if v > 255 - NEAR)
    return sum(n for v, n in counts.items() if NEAR <= v <= 255 - NEAR) <= bright


def are_extremes(values: Sequence[int]) -> bool:
    """Whether all values are near 0 or 255, and some near each.

    Example:
      >>> are_extremes([3, 253]), are_extremes([0, 128, 255]), are_extremes([0, 1, 2])
      (True, False, False)
    """
    dark = [value for value in values if 0 <= value < NEAR]
    bright = [value for value in values if 255 - NEAR < value <= 255]
    return bool(dark and bright) and len(dark) + len(bright) == len(values)


def unknown_values(
    file: File | str, unknown: Sequence[int], classes: Sequence[str], values: Sequence[int]
) -> str:
    """The error message about mask values that belong to no class."""
    known = listed(
        f"{readers.shown(value)} {name}" for value, name in zip(values, classes, strict=True)
    )
    return (
        f"{file} contains {listed(map(readers.shown, unknown))}, expected {known}; correct the "
        "file, or define the "
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
      Image and label; volumes are resampled to the set's spacing, labels of raters are not.

    Raises:
      ValueError: if a file cannot be read, the files have different grids, or a mask contains a
        value that belongs to no class.
    """
    images = [read_image(file) for file in case.images]
    masks = [read_mask(file, encoding.palettes) for file in case.every_mask]
    first, *others = case.images + case.every_mask
    for file, pixels in zip(others, (*images, *masks)[1:], strict=True):
        check_fits(first, images[0], file, pixels)
    arrays = iter(mask.array for mask in masks)
    of_raters = [
        _label(files, list(itertools.islice(arrays, len(files))), case.classes, encoding)
        for files in (case.masks, *case.raters)
    ]
    label, _ = of_raters[0]
    notes = tuple(note for _, found in of_raters for note in found)
    raters = np.stack([one for one, _ in of_raters]) if spec.raters else None
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
            notes=notes,
            raters=raters,
        )
    if label.ndim == 3:
        axis = label.shape.index(1)
        image, label = image.squeeze(axis), label.squeeze(axis)
        raters = None if raters is None else raters.squeeze(axis + 1)
        spacing = spacing and spacing[:axis] + spacing[axis + 1 :]
    image = _as_stored(image, spec.dtype)
    return Example(image, label, spacing=spacing, notes=notes, raters=raters)


def _label(
    files: Sequence[File],
    arrays: Sequence[np.ndarray],
    classes: Sequence[int],
    encoding: LabelEncoding,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The classes of the masks of one rater, and notes; `classes` as in `CaseFiles`."""
    if encoding.values:
        layers = [
            _from_label_map(file, mask, encoding) for file, mask in zip(files, arrays, strict=True)
        ]
    else:
        owners = classes or range(1, len(arrays) + 1)
        layers = [
            np.where(_foreground(file, mask), np.uint8(owner), np.uint8(0))
            for file, mask, owner in zip(files, arrays, owners, strict=True)
        ]
    return _unite(files, layers)


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
            f"case must have the same size{_size_hint(first, image, file, other)}"
        )


def _size_hint(first: File, image: Pixels, file: File, other: Pixels) -> str:
    """What the sizes of two files suggest."""
    if sorted(image.size) != sorted(other.size):
        return ""
    turned = [(f, p.turned) for f, p in ((first, image), (file, other)) if p.turned > 4]
    if turned:
        names = " and ".join(f"{f} by orientation {orientation}" for f, orientation in turned)
        return (
            f". EXIF data had {names} turned upright, but the other file seems to be drawn on the "
            "pixels as they are stored: remove the orientation from the file, or turn the other"
        )
    return ". One of them seems to be transposed: exchange its axes"


def _from_label_map(file: File, mask: np.ndarray, encoding: LabelEncoding) -> np.ndarray:
    """Classes from a mask with one value per class."""
    unknown = [value for value in count_values(mask) if value not in encoding.values]
    if unknown:
        raise ValueError(unknown_values(file, unknown, encoding.classes, encoding.values))
    if encoding.values == tuple(range(len(encoding.values))):
        return mask.astype(np.uint8, copy=False)
    label = np.zeros(mask.shape, np.uint8)
    for index, value in enumerate(encoding.values):
        label[mask == value] = index
    return label


def _unite(
    files: Sequence[File], layers: Sequence[np.ndarray]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The classes of all masks of a case in one label, and a note if masks overlap."""
    label, twice = layers[0], np.zeros(layers[0].shape, bool)
    for index, (file, layer) in enumerate(zip(files[1:], layers[1:], strict=True), 1):
        both = (layer > 0) & (label > 0)
        different = both & (layer != label)
        if different.any():
            voxel = np.unravel_index(different.argmax(), different.shape)
            other = next(
                f
                for f, earlier in zip(files[:index], layers, strict=False)
                if earlier[voxel] not in (0, layer[voxel])
            )
            raise ValueError(
                f"{file} and {other} overlap in {different.mean():.2%} of the image with different "
                "classes, but each pixel has one; subtract one mask from the other, or select "
                "classes by --config.folder.classes=background,NAME,...; if they are of several "
                "raters, give both templates, as in --config.folder.images='images/{case}.*' "
                "--config.folder.masks='masks/{rater}/{case}.*'"
            )
        twice |= both
        label = np.maximum(label, layer)
    if not twice.any():
        return label, ()
    overlap = np.count_nonzero(twice)
    share = overlap / np.count_nonzero(label)
    return label, (
        f"its {len(files)} mask files overlap in {overlap} voxels, {share:.1%} of the foreground",
    )


def _foreground(file: File, mask: np.ndarray) -> np.ndarray:
    counts = count_values(mask)
    highest = max(counts)
    if set(counts) <= {0, 1}:
        return mask == 1
    binary = set(counts) <= {0, highest} and highest > 127
    if binary or (is_bimodal(counts) and (highest > 127 or len(counts) > LOSSY)):
        return mask > 127
    raise ValueError(
        f"{file} contains {listed(counts)}, expected a binary mask of 0 and 1 or 0 and 255; "
        "convert it, or use label maps with all classes, by --config.folder.masks='masks/{case}.*'"
    )
