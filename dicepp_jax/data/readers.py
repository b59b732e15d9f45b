"""Read image, mask and label files into arrays; every error names the file.

TIFFs are read by tifffile, which knows kinds that Pillow refuses or reads wrongly, such as three
samples said to be grey (CVC-ClinicDB) or 16 bits a colour; all else by Pillow, and what tifffile
lacks the decoder for. A 16-bit colour PNG comes with 8 bits, as Pillow reads it.
"""

import io

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from dicepp_jax.data.files import File

AS_STORED = (np.uint8, np.uint16, np.float32)
"""Image types that are kept; others become float32."""

GREY_SPREAD = 8
"""A palette whose channels differ by no more is grey: DRIVE's second observer has (4, 2, 4)."""

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How a TIFF begins."""

MIN_IS_BLACK, RGB = 1, 2
"""Photometric interpretations of TIFFs whose values need no translation."""


def read_rgb(file: File) -> np.ndarray:
    """A colour image, uint8 (H, W, 3); grey becomes three equal channels.

    Args:
      file: an image of 8 bits a channel.

    Returns:
      Red, green and blue.

    Raises:
      FileNotFoundError: if it is not there.
      PermissionError: if it may not be read.
      ValueError: if it is truncated, no image, or neither grey nor colour of 8 bits.
    """
    image = read_image(file)
    if image.dtype != np.uint8 or image.shape[-1] not in (1, 3):
        raise ValueError(
            f"{file} has {image.shape[-1]} channels of {image.dtype}, expected grey or RGB of "
            "uint8; convert it"
        )
    return np.repeat(image, 3, -1) if image.shape[-1] == 1 else image


def read_image(file: File) -> np.ndarray:
    """An image as it is stored, (H, W, C).

    Args:
      file: PNG, JPEG, TIFF, GIF, NPY (H, W) or (H, W, C), and whatever else Pillow reads.

    Returns:
      uint8, uint16 or float32; C is 1 for grey, 3 for colour; transparency is dropped.

    Raises:
      FileNotFoundError: if it is not there.
      PermissionError: if it may not be read.
      ValueError: if it is truncated, no image, or a stack of several.
    """
    values = _values(file)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3:
        raise ValueError(
            f"{file} has shape {values.shape}, expected (height, width) or (height, width, "
            "channels)"
        )
    if values.dtype == bool:
        values = 255 * values.astype(np.uint8)
    native = values.dtype.newbyteorder("=")
    return values.astype(native if native in AS_STORED else np.float32, copy=False)


def read_mask(file: File) -> np.ndarray:
    """A binary mask of any encoding (0 and 255, 0 and 1, palette, noisy), uint8 (H, W) of 0 and 1.

    A pixel is foreground above 127; above 0 in a file that holds nothing above 1; above 32767 in a
    file that holds something above 255. Colours count by their luminance.

    Args:
      file: as for `read_image`.

    Returns:
      1 on the foreground.

    Raises:
      FileNotFoundError: if it is not there.
      PermissionError: if it may not be read.
      ValueError: if it is truncated, no image, or of values that are no mask's.
    """
    values = _values(file)
    grey = _luminance(values) if values.ndim == 3 and values.shape[-1] == 3 else _flat(file, values)
    highest = grey.max()
    for top in (1, 255, 65535):
        if highest <= top:
            return (grey > top // 2).astype(np.uint8)
    raise ValueError(
        f"{file} holds values up to {highest}; a mask goes up to 1, 255 or 65535, so rescale it"
    )


def read_label(file: File) -> np.ndarray:
    """A label map, one class number a pixel, (H, W) of integers.

    Grey values are taken as they are; a palette image by index if its palette is coloured and by
    grey value if it is grey.

    Args:
      file: as for `read_image`.

    Returns:
      The values that are stored, which need not be 0, 1, 2, ...

    Raises:
      FileNotFoundError: if it is not there.
      PermissionError: if it may not be read.
      ValueError: if it is truncated, no image, coloured, or of values that are no whole numbers.
    """
    values = _values(file, indexed=True)
    if values.ndim == 3 and values.shape[-1] == 3:
        coloured = (values != values[..., :1]).any(-1)
        if coloured.any():
            colour = tuple(values[coloured][0].tolist())
            raise ValueError(
                f"{file} is coloured, as {colour}; a label map holds one class number a pixel, so "
                "save it as a grey or palette image"
            )
        values = values[..., :1]
    label = _flat(file, values)
    if label.dtype.kind == "f":
        broken = ~np.isfinite(label) | (label != np.rint(label))
        if broken.any():
            raise ValueError(
                f"{file} holds {label[broken][0]}; a label map holds whole numbers, so round it or "
                "save the map that it was made from"
            )
        return label.astype(np.int64)
    return label.astype(np.uint8) if label.dtype == bool else label


def _values(file: File, indexed: bool = False) -> np.ndarray:
    """What is stored, (H, W) or (H, W, C) without transparency, of any type."""
    try:
        content = file.read()
        if file.name.lower().endswith(".npy"):
            values, count = np.load(io.BytesIO(content), allow_pickle=False), 1
        else:
            values, count = _tiff(content, indexed) or _pillow(content, indexed)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file} is missing; the data set looks half unpacked") from error
    except PermissionError as error:
        raise PermissionError(
            f"{file} cannot be read ({error.strerror}); give yourself the right to"
        ) from error
    except Exception as error:  # Pillow meets damage with OSError, SyntaxError and many others.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "it is of no known format, or cut short" if unknown else error
        raise ValueError(
            f"{file} cannot be read as an image ({reason}); unpack or download it again"
        ) from error
    if count > 1:
        raise ValueError(
            f"{file} holds {count} images, expected one; save each as a file of its own"
        )
    if not values.size:
        raise ValueError(f"{file} has shape {values.shape}, which holds no pixel")
    return values


def _tiff(content: bytes, indexed: bool) -> tuple[np.ndarray, int] | None:
    """A TIFF's first image and how many it holds; None for what is left to Pillow."""
    if not content.startswith(TIFF):
        return None
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        pages = [
            page
            for page in tiff.pages
            if isinstance(page, tifffile.TiffPage) and not page.is_reduced  # no thumbnail
        ]
        page = pages[0]
        if page.photometric not in (MIN_IS_BLACK, RGB):
            return None
        try:
            values = page.asarray()
        except ValueError as error:  # It lacks the decoder, which Pillow may have.
            try:
                return _pillow(content, indexed)
            except UnidentifiedImageError:
                raise error from None
        alpha = sum(int(sample) > 0 for sample in page.extrasamples)
        if "S" in page.axes:
            values = np.moveaxis(values, page.axes.index("S"), -1)
            values = values[..., : values.shape[-1] - alpha]
    return values, len(pages)


def _pillow(content: bytes, indexed: bool) -> tuple[np.ndarray, int]:
    """An image and how many the file holds; of a coloured palette the indices, if asked for."""
    with Image.open(io.BytesIO(content)) as image:
        # The further images of an MPO are a JPEG camera's previews.
        count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if image.mode == "P":
            index = np.asarray(image)
            palette = np.array(image.getpalette(), np.uint8).reshape(-1, 3)[: int(index.max()) + 1]
            if np.ptp(palette, axis=1).max() <= GREY_SPREAD:
                return _luminance(palette)[index], count
            return index if indexed else palette[index], count
        if image.mode == "LA":
            return np.asarray(image.convert("L")), count
        if image.mode in ("1", "L", "I", "F", "RGB") or image.mode.startswith("I;16"):
            return np.asarray(image), count
        return np.asarray(image.convert("RGB")), count


def _luminance(colours: np.ndarray) -> np.ndarray:
    """Grey of (..., 3) colours by the weights of Rec. 601, as Pillow's, of the same type."""
    weighted = colours.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    return np.rint(weighted).astype(colours.dtype)


def _flat(file: File, values: np.ndarray) -> np.ndarray:
    """Values of one channel without its axis."""
    if values.ndim == 3 and values.shape[-1] == 1:
        return values[..., 0]
    if values.ndim != 2:
        raise ValueError(f"{file} has shape {values.shape}, expected (height, width)")
    return values
