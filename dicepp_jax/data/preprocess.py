"""From a stored case to what the network sees, and back.

Images are resized linearly without anti-aliasing, sample positions at pixel centres; training
labels are resized per class and the winning class taken; the z-score is over all pixels and
channels of one image. Evaluation uses native labels untouched, so probabilities are brought to
the native grid instead (`resize` again).
"""

import numpy as np
from scipy import ndimage

from dicepp_jax.data.specs import Spec


def resize(array: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Resize the leading axes of an array linearly, without anti-aliasing.

    Output pixel i samples the input at (i + 0.5) * n_in / n_out - 0.5, beyond the border the
    border's value.

    Args:
      array: `(*spatial, channels)` of any real dtype.
      size: new spatial size, in pixels.

    Returns:
      `(*size, channels)` float32.

    Example:
      >>> resize(np.array([[0.0], [1.0]]), (4,)).ravel().tolist()
      [0.0, 0.25, 0.75, 1.0]
    """
    spatial = array.shape[:-1]
    if spatial == tuple(size):
        return array.astype(np.float32)
    factors = [new / old for new, old in zip(size, spatial, strict=True)]
    channels = np.moveaxis(array.astype(np.float32), -1, 0)
    resized = [
        ndimage.zoom(channel, factors, order=1, mode="nearest", grid_mode=True)
        for channel in channels
    ]
    return np.stack(resized, axis=-1)


def resize_label(label: np.ndarray, size: tuple[int, ...], num_classes: int) -> np.ndarray:
    """Resize a label map: every class linearly, then the winning class, the lowest at a tie.

    Args:
      label: `(*spatial)` classes.
      size: new spatial size, in pixels.
      num_classes: C.

    Returns:
      `(*size)` classes of the same dtype.

    Example:
      >>> resize_label(np.array([0, 0, 2, 2]), (2,), 3).tolist()
      [0, 2]
    """
    if label.shape == tuple(size):
        return label
    one_hot = label[..., None] == np.arange(num_classes)
    return resize(one_hot, size).argmax(-1).astype(label.dtype)


def normalise(image: np.ndarray, intensity_range: tuple[float, float] | None = None) -> np.ndarray:
    """Clip, then subtract the mean and divide by the standard deviation of all pixels and channels.

    Args:
      image: `(*spatial, channels)`.
      intensity_range: what to clip to first, None for no clipping.

    Returns:
      float32 of the same shape, mean 0 and standard deviation 1.

    Raises:
      ValueError: if all pixels have one value.

    Example:
      >>> normalise(np.array([[1.0], [3.0]])).ravel().tolist()
      [-1.0, 1.0]
    """
    image = np.asarray(image, np.float32)
    if intensity_range is not None:
        image = np.clip(image, *intensity_range)
    mean, deviation = image.mean(dtype=np.float64), image.std(dtype=np.float64)
    if not deviation > 0:
        raise ValueError(
            f"the z-score of an image that is {image.flat[0]} everywhere"
            f"{f' after clipping to {intensity_range}' if intensity_range else ''} is undefined"
        )
    return ((image - mean) / deviation).astype(np.float32)


def network_image(spec: Spec, image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """The image as the network sees it: resized, then normalised; `(*size, channels)` float32."""
    return normalise(resize(image, size), spec.intensity_range)
