"""Read image, mask and label files into arrays; every error names the file.

TIFFs are read by tifffile, which supports variants that Pillow rejects or misreads, such as three
samples declared as grey (CVC-ClinicDB) or 16 bits per colour. Pillow reads all other formats, and
TIFFs that tifffile has no decoder for. A 16-bit colour PNG is reduced to 8 bits by Pillow.
"""

import io

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from dicepp_jax.data.files import File

AS_STORED = (np.uint8, np.uint16, np.float32)
"""Image types returned as stored; others become float32."""

GREY_SPREAD = 8
"""The largest difference between the channels of a grey palette; DRIVE has one with (4, 2, 4)."""

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first bytes of a TIFF."""

MIN_IS_BLACK, RGB = 1, 2
"""Photometric interpretations of TIFFs whose values need no conversion."""


def read_rgb(file: File) -> np.ndarray:
    """Read a colour image, uint8 (H, W, 3); grey becomes three equal channels.

    Args:
      file: an image of 8 bits per channel.

    Returns:
      Red, green and blue.

    Raises:
      FileNotFoundError: if it does not exist.
      PermissionError: if it is not readable.
      ValueError: if it is truncated, not an image, or neither grey nor colour of 8 bits.
    """
    image = read_image(file)
    if image.dtype != np.uint8 or image.shape[-1] not in (1, 3):
        raise ValueError(
            f"{file} has shape {image.shape} and type {image.dtype}, expected 1 (grey) or 3 (RGB) "
            "channels of uint8; convert it"
        )
    return np.repeat(image, 3, -1) if image.shape[-1] == 1 else image


def read_image(file: File) -> np.ndarray:
    """Read an image as it is stored, (H, W, C).

    Args:
      file: PNG, JPEG, TIFF, GIF, NPY (H, W) or (H, W, C), or any other format that Pillow reads.

    Returns:
      uint8, uint16 or float32; C is 1 for grey, 3 for colour; transparency is dropped.

    Raises:
      FileNotFoundError: if it does not exist.
      PermissionError: if it is not readable.
      ValueError: if it is truncated, not an image, or a stack of several.
    """
    values = _values(file)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3:
        raise ValueError(
            f"{file} has shape {values.shape}, expected (height, width) or (height, width, "
            "channels); save it so"
        )
    if values.dtype == bool:
        values = 255 * values.astype(np.uint8)
    native = values.dtype.newbyteorder("=")
    return values.astype(native if native in AS_STORED else np.float32, copy=False)


def read_mask(file: File) -> np.ndarray:
    """Read a binary mask in any encoding (0/255, 0/1, palette, noisy) as uint8 (H, W) of 0 and 1.

    A pixel is foreground above 127; above 0 if the file has no value above 1; above 32767 if it has
    a value above 255. Colours are converted to luminance.

    Args:
      file: as for `read_image`.

    Returns:
      1 on the foreground.

    Raises:
      FileNotFoundError: if it does not exist.
      PermissionError: if it is not readable.
      ValueError: if it is truncated, not an image, or has values that no mask has.
    """
    values = _values(file)
    grey = _luminance(values) if values.ndim == 3 and values.shape[-1] == 3 else _flat(file, values)
    highest = grey.max()
    for top in (1, 255, 65535):
        if highest <= top:
            return (grey > top // 2).astype(np.uint8)
    raise ValueError(
        f"{file} has values up to {highest}, expected a mask with values up to 1, 255 or 65535; "
        "rescale it"
    )


def read_label(file: File) -> np.ndarray:
    """Read a label map, one class number per pixel, (H, W) of integers.

    Grey values are returned unchanged; of a palette image, the indices if its palette is coloured
    and the grey values if it is grey.

    Args:
      file: as for `read_image`.

    Returns:
      The stored values, which need not be 0, 1, 2, ...

    Raises:
      FileNotFoundError: if it does not exist.
      PermissionError: if it is not readable.
      ValueError: if it is truncated, not an image, coloured, or has values that are not integers.
    """
    values = _values(file, indexed=True)
    if values.ndim == 3 and values.shape[-1] == 3:
        coloured = (values != values[..., :1]).any(-1)
        if coloured.any():
            colour = tuple(values[coloured][0].tolist())
            raise ValueError(
                f"{file} has colours such as {colour}, expected a label map with one class number "
                "per pixel; save it as a grey or palette image"
            )
        values = values[..., :1]
    label = _flat(file, values)
    if label.dtype.kind == "f":
        broken = ~np.isfinite(label) | (label != np.rint(label))
        if broken.any():
            raise ValueError(
                f"{file} contains {label[broken][0]}, expected a label map of whole numbers; round "
                "it, or save the original label map"
            )
        return label.astype(np.int64)
    return label.astype(np.uint8) if label.dtype == bool else label


def _values(file: File, indexed: bool = False) -> np.ndarray:
    """The stored values, (H, W) or (H, W, C) without transparency, of any type."""
    try:
        content = file.read()
        if file.name.lower().endswith(".npy"):
            values, count = np.load(io.BytesIO(content), allow_pickle=False), 1
        else:
            values, count = _tiff(content, indexed) or _pillow(content, indexed)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file} is missing; unpack the data set again") from error
    except PermissionError as error:
        raise PermissionError(
            f"{file} cannot be read ({error.strerror}); get read permission"
        ) from error
    except Exception as error:  # Pillow raises OSError, SyntaxError and others for damaged files.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "unknown format, or truncated" if unknown else error
        raise ValueError(
            f"{file} cannot be read as an image ({reason}); unpack or download it again"
        ) from error
    if count > 1:
        raise ValueError(
            f"{file} contains {count} images, expected one; save each to a separate file"
        )
    if not values.size:
        raise ValueError(f"{file} has shape {values.shape}, so it has no pixels; save it again")
    return values


def _tiff(content: bytes, indexed: bool) -> tuple[np.ndarray, int] | None:
    """A TIFF's first image and the number of images; None if Pillow should read it."""
    if not content.startswith(TIFF):
        return None
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        pages = [
            page
            for page in tiff.pages
            if isinstance(page, tifffile.TiffPage) and not page.is_reduced  # not a thumbnail
        ]
        page = pages[0]
        if page.photometric not in (MIN_IS_BLACK, RGB):
            return None
        try:
            values = page.asarray()
        except ValueError as error:  # tifffile has no decoder for it; Pillow may have one.
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
    """An image and the number of images in the file; if `indexed`, indices of coloured palettes."""
    with Image.open(io.BytesIO(content)) as image:
        # The additional images in an MPO are previews that the camera adds to a JPEG.
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
    """The luminance of (..., 3) colours by Rec. 601, as in Pillow, of the same type."""
    weighted = colours.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    return np.rint(weighted).astype(colours.dtype)


def _flat(file: File, values: np.ndarray) -> np.ndarray:
    """The values of a single channel, (H, W)."""
    if values.ndim == 3 and values.shape[-1] == 1:
        return values[..., 0]
    if values.ndim != 2:
        raise ValueError(
            f"{file} has shape {values.shape}, expected (height, width); save a single channel"
        )
    return values
