"""Read image, mask and label files into arrays; every error names the file.

TIFFs are read by tifffile, which supports variants that Pillow rejects or misreads, such as three
samples declared as grey (CVC-ClinicDB), 16 bits per colour, or 16 bits with white as 0. Pillow
reads all other formats, and TIFFs that tifffile has no decoder for. A 16-bit colour PNG is reduced
to 8 bits by Pillow.

Images of more pixels than Pillow reads, 179 million, are refused, and so is a header that states
more than its file can hold, before memory is reserved. Arrays of Python objects are never loaded.

Images and masks are turned upright if their EXIF data (JPEG, PNG, TIFF) say so.
"""

import io
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from dicepp_jax.data import limits
from dicepp_jax.data.files import File

TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)
"""What Pillow raises for more pixels than it reads; the second for half of them, where warnings
are errors."""

AS_STORED = (np.uint8, np.uint16, np.float32)
"""Image types returned as stored; others become float32."""

GREY_SPREAD = 8
"""The largest difference between the channels of a grey palette; DRIVE has one with (4, 2, 4)."""

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first bytes of a TIFF."""

MIN_IS_WHITE, MIN_IS_BLACK, RGB = 0, 1, 2
"""Photometric interpretations of TIFFs that need at most an inversion."""

ORIENTATION = 274
"""The tag of the orientation, in TIFF and EXIF; 1 is upright."""

NEAR = 64
"""Lossy compression leaves grey values of a binary mask within this distance of 0 and 255."""

NOISE = 0.1
"""At most this share of the pixels of a binary mask is farther from both after compression."""

LOSSY = 8
"""More grey values than this result from lossy compression; fewer may be classes."""

COLOUR = 1 << 32
"""In codes of masks, the colour #RRGGBB is this plus 0xRRGGBB; grey values are themselves."""


class Codes(NamedTuple):
    """A mask, one number per pixel.

    Attributes:
      array: `(H, W)` integers: grey values, colours as in `COLOUR`, or indices into a palette.
      palette: the colours of the indices 0 to the largest that occurs, as in `COLOUR`; empty if
        there is no palette.
      turned: the EXIF orientation that was undone, 1 for none.
    """

    array: np.ndarray
    palette: Mapping[int, int]
    turned: int


class Stored(NamedTuple):
    """The content of a file, upright.

    Attributes:
      values: `(H, W)` or `(H, W, C)` of any type, without transparency; or indices into a palette.
      palette: `(n, 3)` colours of the indices 0 to the largest that occurs, or None.
      turned: the EXIF orientation that was undone, 1 for none.
      images: how many images the file contains.
      problem: why it cannot be read as a mask; empty if it can.
    """

    values: np.ndarray
    palette: np.ndarray | None = None
    turned: int = 1
    images: int = 1
    problem: str = ""


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
    return read_upright(file)[0]


def read_upright(file: File) -> tuple[np.ndarray, int]:
    """As `read_image`, and the EXIF orientation that was undone, 1 for none."""
    stored = _stored(file)
    values = _shades(stored)
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
    return values.astype(native if native in AS_STORED else np.float32, copy=False), stored.turned


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
      ValueError: if it is truncated, not an image, or has values that no binary mask has, as a
        photograph does.
    """
    stored = _stored(file, mask=True)
    values = _shades(stored)
    if values.ndim == 3 and values.shape[-1] == 3:
        _check_colours(file, values)
        grey = _luminance(values)
    else:
        grey = _flat(file, values)
    if grey.dtype.kind == "f":
        _check_whole(file, grey)
    highest = grey.max()
    for top in (1, 255, 65535):
        if highest <= top:
            _check_binary(file, grey, top)
            return (grey > top // 2).astype(np.uint8)
    raise ValueError(
        f"{file} has values up to {highest}, expected a mask with values up to 1, 255 or 65535; "
        "rescale it"
    )


def is_bimodal(counts: Mapping[int, int]) -> bool:
    """Whether nearly all values are near 0 and 255, as those of a binary mask.

    Example:
      >>> is_bimodal({0: 50, 9: 1, 250: 20, 255: 30}), is_bimodal({40: 5, 100: 5, 140: 5})
      (True, False)
    """
    near = sum(n for v, n in counts.items() if v < NEAR or v > 255 - NEAR)
    return min(counts) >= 0 and max(counts) <= 255 and near >= (1 - NOISE) * sum(counts.values())


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
    codes = read_codes(file)
    if codes.palette:
        grey = grey_of(codes.palette, np.unique(codes.array).tolist())
        return codes.array if grey is None else recoded(codes.array, grey)
    if codes.array.max() >= COLOUR:
        colours = np.unique(codes.array[codes.array >= COLOUR])
        raise ValueError(
            f"{file} has colours such as {shown(int(colours[0]))}, {len(colours)} in all, expected "
            "a label map with one class number per pixel; save it as a grey or palette image, or "
            "give another file if it is not a mask but an image"
        )
    return codes.array


def read_codes(file: File) -> Codes:
    """Read a mask whose colours, if it has any, have yet to be given a meaning.

    Args:
      file: as for `read_image`.

    Returns:
      A number for each pixel, and the palette.

    Raises:
      FileNotFoundError: if it does not exist.
      PermissionError: if it is not readable.
      ValueError: if it is truncated, not an image, or has values that are not integers.
    """
    values, palette, turned, *_ = _stored(file, mask=True)
    if palette is not None:
        return Codes(values, dict(enumerate(_packed(palette).tolist())), turned)
    if values.ndim == 3 and values.shape[-1] == 3:
        if values.dtype != np.uint8 and (values != values[..., :1]).any():
            raise ValueError(
                f"{file} has colours of type {values.dtype}, expected a mask with 8 bits per "
                "colour; save it as a grey or palette image, or give another file if it is an image"
            )
        values = _packed(values)
        if values.max() >= COLOUR:
            return Codes(values, {}, turned)
    label = _flat(file, values)
    if label.dtype.kind == "f":
        _check_whole(file, label)
        label = label.astype(np.int64)
    return Codes(label.astype(np.uint8) if label.dtype == bool else label, {}, turned)


def shown(code: int) -> str:
    """A value of a mask in messages.

    Example:
      >>> shown(7), shown(COLOUR + 0xFF8000)
      ('7', '#ff8000')
    """
    return f"#{code - COLOUR:06x}" if code >= COLOUR else str(code)


def code_of(value: int | str) -> int:
    """The inverse of `shown`; a number stands for itself, and a grey colour for its grey value.

    Raises:
      ValueError: if it is neither a number nor a colour.

    Example:
      >>> code_of(7), code_of("#070707"), shown(code_of("#FF8000"))
      (7, 7, '#ff8000')
    """
    if isinstance(value, int):
        return value
    if not re.fullmatch("#[0-9a-fA-F]{6}", value):
        raise ValueError(
            f"{value!r} in folder.mask_values is neither a number nor a colour such as '#ff8000'"
        )
    return int(_packed(np.frombuffer(bytes.fromhex(value[1:]), np.uint8)))


def grey_of(palette: Mapping[int, int], used: Iterable[int]) -> dict[int, int] | None:
    """The grey value of each index of a palette.

    Args:
      palette: codes of its colours.
      used: the indices that occur.

    Returns:
      None if the palette is coloured, or if two indices that occur have the same grey value, which
      therefore is not what they mean.

    Example:
      >>> grey_of({0: COLOUR + 0x040204, 1: 255}, [1]), grey_of({0: 0, 1: COLOUR + 0xFF0000}, [0])
      ({0: 3, 1: 255}, None)
    """
    rgb = [code - COLOUR if code >= COLOUR else code * 0x010101 for code in palette.values()]
    colours = np.array([list(colour.to_bytes(3)) for colour in rgb], np.uint8)
    if np.ptp(colours, axis=1).max() > GREY_SPREAD:
        return None
    grey = dict(zip(palette, _luminance(colours).tolist(), strict=True))
    of_used = [grey[index] for index in used]
    return grey if len(set(of_used)) == len(of_used) else None


def recoded(indices: np.ndarray, codes: Mapping[int, int]) -> np.ndarray:
    """Indices, each replaced by its code."""
    table = np.array([codes[index] for index in range(int(indices.max()) + 1)])
    return table.astype(np.uint8 if table.max() < 256 else np.int64)[indices]


def _packed(colours: np.ndarray) -> np.ndarray:
    """The codes of (..., 3) colours; of uint8 or, if all are grey, of any type.

    Noise of lossy compression in the hue of a black and white mask is removed.
    """
    # Channel by channel, since NumPy is slow along an axis of length 3.
    first, second, third = (colours[..., channel] for channel in range(3))
    coloured = (first != second) | (first != third)
    if not coloured.any():
        return first
    packed = (first.astype(np.int64) << 16) + (second.astype(np.int64) << 8) + third
    codes = np.where(coloured, COLOUR + packed, first)
    highest, lowest = (f(f(first, second), third) for f in (np.maximum, np.minimum))
    if (highest - lowest).max() <= GREY_SPREAD and len(np.unique(codes)) > LOSSY:
        grey = _luminance(colours)
        if grey.max() > 255 - NEAR and is_bimodal(count_values(grey)):
            return grey
    return codes


def _check_colours(file: File, values: np.ndarray) -> None:
    """Refuse a photograph; a binary mask may have two colours, and noise in its hue."""
    share = (np.ptp(values, axis=-1) > GREY_SPREAD).mean()
    if share <= NOISE:
        return
    colours = len(np.unique(values.reshape(-1, 3), axis=0))
    if colours > LOSSY:
        raise ValueError(
            f"{file} is not a mask: it has {colours} colours, and the channels of {share:.0%} of "
            "its pixels differ; expected two values. Are images and masks swapped?"
        )


def _check_binary(file: File, grey: np.ndarray, top: int) -> None:
    """Refuse a grey image, and two values of which neither is near the top."""
    if top == 1:
        return
    values = np.unique(grey)
    low, high = values[0], values[-1]
    if len(values) > LOSSY and not is_bimodal(count_values(grey // (top // 255))):
        raise ValueError(
            f"{file} is not a mask: it has {len(values)} grey values from {low} to {high}, and "
            f"many are far from 0 and {top}; expected two values. Are images and masks swapped?"
        )
    if len(values) == 2 and high <= top // 2:
        raise ValueError(
            f"{file} has the values {low} and {high}, expected 0 and 1 or 0 and {top}; convert it"
        )


def _check_whole(file: File, label: np.ndarray) -> None:
    broken = ~np.isfinite(label) | (label != np.rint(label))
    if broken.any():
        hint = ""
        if np.isfinite(label).all() and label.min() >= 0 and label.max() <= 1:
            hint = "; if these are probabilities, apply a threshold"
        raise ValueError(
            f"{file} contains {label[broken][0]}, expected a label map of whole numbers; round it, "
            f"or save the original label map{hint}"
        )


def _stored(file: File, mask: bool = False) -> Stored:
    """The stored values; a mask with several meanings is refused."""
    try:
        content = file.read()
        if file.name.lower().endswith(".npy"):
            stored = Stored(_numpy(content))
        else:
            stored = _tiff(content) or _pillow(content)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file} is missing; unpack the data set again") from error
    except PermissionError as error:
        raise PermissionError(
            f"{file} cannot be read ({error.strerror}); get read permission"
        ) from error
    except TOO_LARGE as error:
        raise ValueError(
            f"{file} cannot be read as an image ({error}); cut it into tiles, or save it as TIFF"
        ) from error
    except Exception as error:  # Pillow raises OSError, SyntaxError and others for damaged files.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "unknown format, or truncated" if unknown else error
        raise ValueError(
            f"{file} cannot be read as an image ({reason}); unpack or download it again"
        ) from error
    if stored.images > 1:
        raise ValueError(
            f"{file} contains {stored.images} images, expected one; save each to a separate file"
        )
    if not stored.values.size:
        raise ValueError(
            f"{file} has shape {stored.values.shape}, so it has no pixels; save it again"
        )
    if mask and stored.problem:
        raise ValueError(f"{file} {stored.problem}")
    return stored


def _numpy(content: bytes) -> np.ndarray:
    """The array of an NPY file, whose size and type its header states."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    old = version == (1, 0)
    read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError(
            "Object arrays could run code when they are loaded; save an array of numbers"
        )
    limits.check_array(shape, dtype.itemsize, len(content))
    return np.load(io.BytesIO(content), allow_pickle=False)


def _tiff(content: bytes) -> Stored | None:
    """A TIFF's first image; None if Pillow should read it."""
    if not content.startswith(TIFF):
        return None
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        pages = [
            page
            for page in tiff.pages
            if isinstance(page, tifffile.TiffPage) and not page.is_reduced  # not a thumbnail
        ]
        page = pages[0]
        if page.photometric not in (MIN_IS_WHITE, MIN_IS_BLACK, RGB):
            return None
        limits.check_array(page.shape, -(-page.bitspersample // 8), len(content))
        try:
            values = page.asarray()
        except ValueError as error:  # tifffile has no decoder for it; Pillow may have one.
            try:
                stored = _pillow(content)
            except UnidentifiedImageError:
                raise error from None
            if page.photometric == MIN_IS_WHITE and page.bitspersample > 8:  # Pillow leaves it.
                stored = stored._replace(values=_inverted(stored.values, page.bitspersample))
            return stored
        alpha = sum(int(sample) > 0 for sample in page.extrasamples)
        problem = ""
        if "S" in page.axes:
            values = np.moveaxis(values, page.axes.index("S"), -1)
            problem = _hidden(values) if alpha else ""
            values = values[..., : values.shape[-1] - alpha]
        if page.photometric == MIN_IS_WHITE:
            values = _inverted(values, page.bitspersample)
        turned = _orientation(page.tags.valueof(ORIENTATION, 1))
    return Stored(_upright(values, turned), turned=turned, images=len(pages), problem=problem)


def _inverted(values: np.ndarray, bits: int) -> np.ndarray:
    """Values whose 0 is white, as values whose 0 is black."""
    if values.dtype == bool:
        return ~values
    if values.dtype.kind != "u":
        raise ValueError("white is said to be 0, but the values are not unsigned integers")
    return ((1 << bits) - 1 - values).astype(values.dtype)


def _pillow(content: bytes) -> Stored:
    with Image.open(io.BytesIO(content)) as image:
        # The additional images in an MPO are previews that the camera adds to a JPEG.
        count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        # Of the samples in the file, such as "RGB;16B".
        limits.check_array(image.size, len(image.getbands()), len(content))
        deep = image.format == "PNG" and str(image.tile[0][3]).endswith("16B")
        turned = _exif_orientation(image)
        image.load()
        left = _exif_orientation(image)  # Pillow itself turns TIFFs.
        problem, palette = "", None
        if image.mode in ("LA", "RGBA"):
            problem = _hidden(np.asarray(image))
        if deep and image.mode in ("LA", "RGB", "RGBA"):
            problem = "has 16 bits per colour, of which 8 are lost; save the mask as a grey image"
        if image.mode == "P":
            values = np.asarray(image)
            palette = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
            palette = palette[: int(values.max()) + 1]
        elif image.mode == "LA":
            values = np.asarray(image.convert("L"))
        elif image.mode in ("1", "L", "I", "F", "RGB") or image.mode.startswith("I;16"):
            values = np.asarray(image)
        else:
            values = np.asarray(image.convert("RGB"))
    return Stored(_upright(values, left), palette, turned, count, problem)


def _hidden(samples: np.ndarray) -> str:
    """Why an image with transparency, (H, W, C), cannot be read as a mask; empty if it can."""
    flat = samples.reshape(-1, samples.shape[-1])
    constant = flat.min(0) == flat.max(0)
    if constant[:-1].all() and not constant[-1]:
        return (
            "has the same colour everywhere and differs in transparency, which is not read; save "
            "the mask as a grey image"
        )
    return ""


def _exif_orientation(image: Image.Image) -> int:
    try:
        return _orientation(image.getexif().get(ORIENTATION, 1))
    except Exception:  # EXIF data may be damaged in any way; the pixels are readable without them.
        return 1


def _orientation(tag: object) -> int:
    """A valid orientation; a tag of another value is disregarded, as by other programs."""
    return tag if isinstance(tag, int) and 1 <= tag <= 8 else 1


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """An image (H, W) or (H, W, C) turned or mirrored according to its orientation."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    # The row and the column that are stored first lie at these sides of the picture.
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return values[::rows, ::columns]


def _shades(stored: Stored) -> np.ndarray:
    """The values, or those that a palette stands for; grey if it is grey."""
    if stored.palette is None:
        return stored.values
    if np.ptp(stored.palette, axis=1).max() <= GREY_SPREAD:
        return _luminance(stored.palette)[stored.values]
    return stored.palette[stored.values]


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
