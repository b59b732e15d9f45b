"""From a stored case to the input of the network, and back.

Images are resized linearly without anti-aliasing, with sample positions at pixel centres; training
labels are resized class by class, and each pixel gets the class with the largest share; the z-score
is computed over all pixels of one image, for all channels together or for each separately. Volumes
are first resampled to one spacing. Evaluation uses the unchanged native labels, so probabilities
are resized to the native grid instead, by `resize`.
"""

import math

import numpy as np
from scipy import ndimage

from dicepp_jax.spec import Spec


def resize(array: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Resize the leading axes of an array linearly, without anti-aliasing.

    Output pixel i samples the input at (i + 0.5) * n_in / n_out - 0.5; positions beyond the border
    get the border's value.

    Args:
      array: `(*spatial, channels)` of any real dtype.
      size: new spatial size, in pixels.

    Returns:
      `(*size, channels)` float32.

    Raises:
      ValueError: if the array is empty or not of real numbers, or the size does not fit its axes.

    Example:
      >>> resize(np.array([[0.0], [1.0]]), (4,)).ravel().tolist()
      [0.0, 0.25, 0.75, 1.0]
    """
    array, spatial = _real("array", array), np.shape(array)[:-1]
    if len(size) != len(spatial) or min(size, default=1) < 1:
        raise ValueError(
            f"size is {tuple(size)}, expected {len(spatial)} lengths of at least 1, one for each "
            f"spatial axis of the array (*spatial, channels) {array.shape}"
        )
    if spatial == tuple(size):
        return array.astype(np.float32)
    factors = [new / old for new, old in zip(size, spatial, strict=True)]
    resized = np.empty((*size, array.shape[-1]), np.float32)
    for channel in range(array.shape[-1]):
        ndimage.zoom(
            array[..., channel].astype(np.float32),
            factors,
            output=resized[..., channel],
            order=1,
            mode="nearest",
            grid_mode=True,
        )
    return resized


def resize_label(label: np.ndarray, size: tuple[int, ...], num_classes: int) -> np.ndarray:
    """Resize a label map: each class linearly, then the class with the largest share per pixel.

    Ties go to the lowest class.

    Args:
      label: `(*spatial)` classes.
      size: new spatial size, in pixels.
      num_classes: C.

    Returns:
      `(*size)` classes of the same dtype.

    Raises:
      ValueError: if a label is not a class, or the size does not fit the axes.

    Example:
      >>> resize_label(np.array([0, 0, 2, 2]), (2,), 3).tolist()
      [0, 2]
    """
    label = _real("label", label)
    low, high = label.min(), label.max()
    if label.dtype.kind == "f" or low < 0 or high >= num_classes:
        raise ValueError(
            f"label is {label.dtype} of {low} to {high}, expected integers from 0 to "
            f"{num_classes - 1}; renumber the classes"
        )
    if label.shape == tuple(size):
        return label
    # Class by class, because the shares of all classes of a large volume might not fit in memory.
    highest = np.full(size, -np.inf, np.float32)
    winner = np.zeros(size, label.dtype)
    for index in range(num_classes):
        share = resize((label == index)[..., None], size)[..., 0]
        np.copyto(winner, index, where=share > highest)
        np.maximum(highest, share, out=highest)
    return winner


def resampled_shape(
    shape: tuple[int, ...], spacing: tuple[float, ...], target: tuple[float, ...]
) -> tuple[int, ...]:
    """The size of a volume after resampling: floor(size * spacing / target), at least 1.

    Args:
      shape: spatial size in voxels.
      spacing: mm between voxels, axis by axis.
      target: new mm between voxels.

    Returns:
      Spatial size in voxels.

    Raises:
      ValueError: if there is not one positive spacing per axis.

    Example:
      >>> resampled_shape((100, 512, 512), (3.0, 0.78, 0.78), (3.22, 1.62, 1.62))
      (93, 246, 246)
    """
    for name, lengths in (("spacing", spacing), ("target", target)):
        if len(lengths) != len(shape) or not all(0 < length < np.inf for length in lengths):
            raise ValueError(
                f"{name} is {tuple(lengths)}, expected {len(shape)} positive lengths in mm, one "
                f"for each axis of the volume {tuple(shape)}"
            )
    # Headers store float32, so a spacing may be this much smaller than intended.
    rounding = 1 + 1e-6
    axes = zip(shape, spacing, target, strict=True)
    return tuple(max(1, math.floor(n * old / new * rounding)) for n, old, new in axes)


def resample(
    array: np.ndarray, spacing: tuple[float, ...], target: tuple[float, ...]
) -> np.ndarray:
    """Resample an image to another spacing, linearly as in `resize`.

    Args:
      array: `(*spatial)` or `(*spatial, channels)`.
      spacing: mm between voxels, axis by axis.
      target: new mm between voxels.

    Returns:
      float32 of size `resampled_shape`, or the array itself if it has that size already.

    Example:
      >>> resample(np.array([0, 4], np.int16), (2.0,), (1.0,)).tolist()
      [0.0, 1.0, 3.0, 4.0]
    """
    spatial = array.shape[: len(spacing)]
    size = resampled_shape(spatial, spacing, target)
    if size == spatial:
        return array
    if array.ndim == len(spacing):
        return resize(array[..., None], size)[..., 0]
    return resize(array, size)


def resample_label(
    label: np.ndarray, spacing: tuple[float, ...], target: tuple[float, ...], num_classes: int
) -> np.ndarray:
    """Resample a label map to another spacing, as in `resize_label`.

    Args:
      label: `(*spatial)` classes.
      spacing: mm between voxels, axis by axis.
      target: new mm between voxels.
      num_classes: C.

    Returns:
      Classes of the same dtype, of size `resampled_shape`.

    Example:
      >>> resample_label(np.array([0, 2], np.uint8), (2.0,), (1.0,), 3).tolist()
      [0, 0, 2, 2]
    """
    return resize_label(label, resampled_shape(label.shape, spacing, target), num_classes)


def z_score(
    image: np.ndarray,
    intensity_range: tuple[float, float] | None = None,
    per_channel: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the standard deviation that `normalise` uses.

    Args:
      image: `(*spatial, channels)`.
      intensity_range: intensities are clipped to it first, None for no clipping.
      per_channel: whether mean and deviation are computed for each channel separately.

    Returns:
      Mean and deviation, float64, `(channels,)` or `()`.

    Raises:
      ValueError: if all pixels, or all of a channel if `per_channel`, have the same value, or if
        one is NaN or infinite.

    Example:
      >>> [float(x) for x in z_score(np.array([[1.0], [3.0]]))]
      [2.0, 1.0]
    """
    image = _clipped(image, intensity_range)
    axes = tuple(range(image.ndim - 1)) if per_channel else None
    with np.errstate(invalid="ignore"):
        mean = image.mean(axes, dtype=np.float64)
        deviation = image.std(axes, dtype=np.float64)
    if not np.isfinite(deviation).all():
        raise ValueError(
            "image has pixels that are NaN or infinite, so its z-score is undefined; replace them "
            "by a finite number, such as the value of the background"
        )
    constant = np.flatnonzero(~(deviation > 0))
    if constant.size:
        what = f"channel {constant[0]} (counted from 0) of an image" if per_channel else "an image"
        value = image[..., constant[0]].flat[0]
        raise ValueError(
            f"{what} is {value} everywhere"
            f"{f' after clipping to {intensity_range}' if intensity_range else ''}, so its z-score "
            "is undefined; remove the image"
        )
    return mean, deviation


def standardise(
    image: np.ndarray,
    mean: np.ndarray,
    deviation: np.ndarray,
    intensity_range: tuple[float, float] | None = None,
) -> np.ndarray:
    """Clip, then subtract a mean and divide by a standard deviation.

    For a part of an image, with the `z_score` of the whole, this gives that part of `normalise`.

    Args:
      image: `(*spatial, channels)`.
      mean: is subtracted, `(channels,)` or `()`.
      deviation: the divisor, of the same shape.
      intensity_range: intensities are clipped to it first, None for no clipping.

    Returns:
      float32 of the same shape.

    Example:
      >>> standardise(np.array([[1.0], [5.0]]), np.float64(2), np.float64(1), (0, 4)).tolist()
      [[-1.0], [2.0]]
    """
    return ((_clipped(image, intensity_range) - mean) / deviation).astype(np.float32)


def _clipped(image: np.ndarray, intensity_range: tuple[float, float] | None) -> np.ndarray:
    image = _real("image", image).astype(np.float32, copy=False)
    return image if intensity_range is None else np.clip(image, *intensity_range)


def _real(name: str, array: np.ndarray) -> np.ndarray:
    """The array, if it has pixels that are real numbers."""
    array = np.asarray(array)
    if array.dtype.kind not in "buif" or not array.ndim or not array.size:
        raise ValueError(
            f"{name} is {array.dtype} of shape {array.shape}, expected a non-empty array of real "
            "numbers"
        )
    return array


def normalise(
    image: np.ndarray,
    intensity_range: tuple[float, float] | None = None,
    per_channel: bool = False,
) -> np.ndarray:
    """Clip, then subtract the mean and divide by the standard deviation.

    Args:
      image: `(*spatial, channels)`.
      intensity_range: intensities are clipped to it first, None for no clipping.
      per_channel: whether mean and deviation are computed for each channel separately.

    Returns:
      float32 of the same shape, mean 0 and standard deviation 1.

    Raises:
      ValueError: if all pixels, or all of a channel if `per_channel`, have the same value, or if
        one is NaN or infinite.

    Example:
      >>> normalise(np.array([[1.0], [3.0]])).ravel().tolist()
      [-1.0, 1.0]
      >>> normalise(np.array([[1.0, 30.0], [3.0, 10.0]]), per_channel=True).tolist()
      [[-1.0, 1.0], [1.0, -1.0]]
    """
    mean, deviation = z_score(image, intensity_range, per_channel)
    return standardise(image, mean, deviation, intensity_range)


def window_starts(length: int, window: int, overlap: int) -> tuple[int, ...]:
    """The starts of windows along an axis: from 0, window - overlap apart, the last at the border.

    Args:
      length: of the axis, in voxels.
      window: in voxels.
      overlap: of neighbouring windows, in voxels, less than `window`; the last overlaps more.

    Returns:
      Ascending starts; (0,) if the axis is no longer than the window.

    Raises:
      ValueError: if the overlap is not less than the window, or negative.

    Example:
      >>> window_starts(200, 80, 40), window_starts(190, 80, 40), window_starts(70, 80, 40)
      ((0, 40, 80, 120), (0, 40, 80, 110), (0,))
    """
    if not 0 <= overlap < window:
        raise ValueError(
            f"the overlap is {overlap}, expected at least 0 and less than the window, {window}"
        )
    last = max(0, length - window)
    return (*range(0, last, window - overlap), last)


def network_image(spec: Spec, image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """The input of the network: the image resized, then normalised; `(*size, channels)` float32."""
    return normalise(resize(image, size), spec.intensity_range, spec.per_channel)
