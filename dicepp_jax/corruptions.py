"""Corruptions of images in five severities, to score a network on images unlike those it has seen.

`CORRUPTIONS` names them. They apply to an image as it is stored, `(*spatial, channels)`, before it
is resized and normalised, and keep its shape, dtype and range. The result depends on nothing but
the image, its case's name, the corruption and the severity.

Strengths are shares of the image's own scale, its `Limits`: 0 to 255 for 8-bit images, the set's
range of intensities if it has one, else the 0.5th to the 99.5th percentile. Volumes are blurred and
compressed slice by slice, in the plane of the last two spatial axes.
"""

import hashlib
import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

PERCENTILES = (0.5, 99.5)
MOST = 5
"""The highest severity."""


class Limits(NamedTuple):
    """The intensities that count as darkest and brightest.

    Attributes:
      low: the darkest, `(channels,)` for channels that are no colours, else `()`.
      high: the brightest, likewise.
    """

    low: np.ndarray
    high: np.ndarray

    @property
    def span(self) -> np.ndarray:
        """Their difference."""
        return self.high - self.low


class Corruption(NamedTuple):
    """A corruption and its strengths.

    Attributes:
      apply: from an image `(*spatial, channels)` float32, a strength, its limits and a generator to
        the corrupted image, not yet rounded or clipped.
      levels: strengths at severities 1 to 5.
    """

    apply: Callable[[np.ndarray, float, Limits, np.random.RandomState], np.ndarray]
    levels: tuple[float, ...]


def blur(
    image: np.ndarray, level: float, limits: Limits, random: np.random.RandomState
) -> np.ndarray:
    """A Gaussian blur whose standard deviation is a share of the shorter side."""
    from scipy import ndimage  # Here, since commands parse their flags by this module's table.

    del limits, random
    sides = image.shape[-3:-1]
    sigma = (*[0.0] * (image.ndim - 3), *[level * min(sides)] * 2, 0.0)
    return ndimage.gaussian_filter(image, sigma)


def noise(
    image: np.ndarray, level: float, limits: Limits, random: np.random.RandomState
) -> np.ndarray:
    """Independent Gaussian noise whose standard deviation is a share of the limits' span."""
    drawn = random.standard_normal(image.shape).astype(np.float32)
    return image + level * limits.span * drawn


def contrast(
    image: np.ndarray, level: float, limits: Limits, random: np.random.RandomState
) -> np.ndarray:
    """Differences from the mean of each channel, multiplied by the level."""
    del limits, random
    mean = image.mean(tuple(range(image.ndim - 1)), dtype=np.float64).astype(np.float32)
    return mean + level * (image - mean)


def brightness(
    image: np.ndarray, level: float, limits: Limits, random: np.random.RandomState
) -> np.ndarray:
    """A share of the limits' span added to every pixel."""
    del random
    return image + level * limits.span


def jpeg(
    image: np.ndarray, level: float, limits: Limits, random: np.random.RandomState
) -> np.ndarray:
    """JPEG of a quality; what is not 8-bit is first scaled to 8 bits between its limits."""
    del random
    span = np.where(limits.span > 0, limits.span, 1)
    scaled = np.clip((image - limits.low) / span, 0, 1)
    pixels = np.rint(255 * scaled).astype(np.uint8)
    colour = pixels.shape[-1] == 3 and not limits.low.ndim
    planes = pixels.reshape(-1, *pixels.shape[-3:])
    if not colour:
        planes = np.moveaxis(planes, -1, 1).reshape(-1, *pixels.shape[-3:-1])
    decoded = np.stack([_compressed(plane, int(level)) for plane in planes])
    if not colour:
        channels = decoded.reshape(-1, pixels.shape[-1], *pixels.shape[-3:-1])
        decoded = np.moveaxis(channels, 1, -1)
    return limits.low + decoded.reshape(image.shape).astype(np.float32) / 255 * limits.span


def _compressed(plane: np.ndarray, quality: int) -> np.ndarray:
    """8-bit pixels, `(H, W)` or `(H, W, 3)`, after JPEG."""
    file = io.BytesIO()
    Image.fromarray(plane).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


CORRUPTIONS: dict[str, Corruption] = {
    "blur": Corruption(blur, tuple(sigma / 448 for sigma in (1, 2, 3, 4, 6))),
    "noise": Corruption(noise, (0.04, 0.06, 0.09, 0.13, 0.19)),
    "contrast": Corruption(contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "brightness": Corruption(brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "jpeg": Corruption(jpeg, (25, 18, 15, 10, 7)),
}
"""Corruptions by name, with the strengths of ImageNet-C.

Blur and noise have half of them, since the objects of biomedical images, such as vessels, are finer
than those of photographs. The blur's are for sides of 224 pixels there, hence 1 / 448.
"""


def corrupt(
    image: np.ndarray,
    name: str,
    severity: int,
    case: str,
    *,
    intensity_range: tuple[float, float] | None = None,
    per_channel: bool = False,
) -> np.ndarray:
    """Corrupt an image; the same arguments give the same bits.

    With limits low and high, k the level of the severity and n standard normal:

        blur        G_s * x, s = k times the shorter side
        noise       x + k (high - low) n
        contrast    m + k (x - m), m the mean of each channel
        brightness  x + k (high - low)
        jpeg        JPEG of quality k

    The result is rounded if the image has integers, and clipped to 0 to 255 if they have 8 bits,
    else to the range of each channel.

    Args:
      image: `(*spatial, channels)` of two or three spatial axes, uint8, uint16, int16 or float32.
      name: a key of `CORRUPTIONS`.
      severity: 1 to 5, or 0 for the image as it is.
      case: the name of the image; noise is drawn by it, the corruption and the severity.
      intensity_range: the limits of an image that is not 8-bit, None for its percentiles.
      per_channel: whether each channel has limits of its own, as the sequences of MR; three
        channels that share them are red, green and blue.

    Returns:
      The image of the same shape and dtype.

    Raises:
      ValueError: if the corruption or the severity does not exist, or the image has other axes.

    Example:
      >>> image = np.array([[[0], [100], [200]]], np.uint8)
      >>> corrupt(image, "brightness", 3, "a").ravel().tolist()  # 0.3 x 255 is added.
      [76, 176, 255]

    Reference:
      Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and
      perturbations, ICLR 2019.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"the corruption is {name!r}; known: {', '.join(CORRUPTIONS)}")
    if severity not in range(MOST + 1):
        raise ValueError(f"the severity is {severity}; it must be 0 to {MOST}")
    if image.ndim not in (3, 4):
        raise ValueError(
            f"image has shape {image.shape}, expected two or three spatial axes and one of channels"
        )
    if severity == 0:
        return image
    apply, levels = CORRUPTIONS[name]
    limits = _limits(image, intensity_range, per_channel)
    random = np.random.RandomState(_seed(f"{name}/{severity}/{case}"))
    changed = apply(image.astype(np.float32), levels[severity - 1], limits, random)
    if image.dtype.kind in "iu":
        changed = np.rint(changed)
    spatial = tuple(range(image.ndim - 1))
    eight = image.dtype == np.uint8
    low, high = (0, 255) if eight else (image.min(spatial), image.max(spatial))
    return np.clip(changed, low, high).astype(image.dtype)


def _limits(
    image: np.ndarray, intensity_range: tuple[float, float] | None, per_channel: bool
) -> Limits:
    """The limits of an image, see the module."""
    shape = (image.shape[-1],) if per_channel else ()
    axes = tuple(range(image.ndim - 1)) if per_channel else None
    if image.dtype == np.uint8:
        low, high = 0.0, 255.0
    elif intensity_range is not None:
        low, high = intensity_range
    else:
        low, high = np.percentile(image, PERCENTILES, axes)
        # Nearly all of a volume may be its background.
        low, high = np.where(low < high, (low, high), (image.min(axes), image.max(axes)))
    return Limits(*(np.broadcast_to(np.float32(limit), shape) for limit in (low, high)))


def _seed(text: str) -> np.ndarray:
    """The seed of a generator, whose stream NumPy has frozen."""
    return np.frombuffer(hashlib.blake2b(text.encode(), digest_size=16).digest(), "<u4")
