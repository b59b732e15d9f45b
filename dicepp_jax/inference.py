"""Prediction: from an image to class probabilities on its native grid.

Images that the network processes whole are resized to its input size. Volumes that it processes in
patches are predicted window by window (`sliding_window`): every window has the input size of the
network, whatever the size of the volume, so one compilation serves all. Both can be averaged over
mirrored images.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from scipy import special

from dicepp_jax import preprocess
from dicepp_jax.affine import Affine
from dicepp_jax.losses.inputs import EPSILON
from dicepp_jax.spec import Spec

if TYPE_CHECKING:
    from dicepp_jax.train import ApplyFn

Forward = Callable[[np.ndarray], ArrayLike]
"""From images `(b, *size, channels)` to probabilities `(b, *size, C)`."""

Predict = Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
"""From an image `(*spatial, channels)` and a spatial size to probabilities `(*size, C)`."""

SIGMA = 1 / 8
"""Standard deviation of the Gaussian weights, as a fraction of the window length."""


def gaussian(window: int) -> np.ndarray:
    """Weights exp(-z**2 / 2), z the distance from the centre in units of an eighth of the window.

    The centre of a window has the largest weight, as the network sees the surroundings of a voxel
    on all sides there. At the ends z is below 4 and the weight above 3e-4, so no voxel has weight
    0. MONAI raises the products over axes to at least 1e-3, which makes its mean more uniform near
    the border of a volume.

    Args:
      window: length of the window in voxels.

    Returns:
      `(window,)` float64 weights.

    Example:
      >>> gaussian(8).round(4)
      array([0.0022, 0.0439, 0.3247, 0.8825, 0.8825, 0.3247, 0.0439, 0.0022])

    Reference:
      Isensee et al., nnU-Net, Nature Methods 18, 2021.
    """
    z = (np.arange(window) - (window - 1) / 2) / (SIGMA * window)
    return np.exp(-(z**2) / 2)


WEIGHTINGS: Mapping[str, Callable[[int], np.ndarray]] = {"uniform": np.ones, "gaussian": gaussian}
"""Functions from the length of a window to the weights of its voxels along an axis."""


class Windows(NamedTuple):
    """How `make_predict` applies a network; only `mirror` affects images that are predicted whole.

    Attributes:
      overlap: overlap of neighbouring windows, in voxels along each axis; None for half the window.
      weighting: weighting of the voxels of a window, a key of `WEIGHTINGS`.
      batch_size: number of windows per call of the network.
      mirror: whether to average the predictions over all mirrorings of the spatial axes.
    """

    overlap: tuple[int, ...] | None = None
    weighting: str = "uniform"
    batch_size: int = 1
    mirror: bool = False


DEFAULT_WINDOWS = Windows()


class Samples(NamedTuple):
    """The networks whose mean MC dropout predicts.

    Attributes:
      number: T, how many.
      key: that they are drawn with.
    """

    number: int
    key: jax.Array


def axis_windows(
    length: int, window: int, overlap: int, weighting: str
) -> list[tuple[slice, np.ndarray]]:
    """The windows along an axis, with weights that sum to 1 at every voxel.

    The weight of a voxel in a volume is the product of its weights along the axes, so these sum to
    1 as well, and the sum of weights does not have to be stored for the volume.

    Args:
      length: length of the axis in voxels, at least that of the window.
      window: length of the window in voxels.
      overlap: overlap of neighbouring windows in voxels, less than the window.
      weighting: a key of `WEIGHTINGS`.

    Returns:
      The position and the float32 weights `(window,)` of each window.

    Example:
      >>> for where, weights in axis_windows(5, 3, 1, "uniform"):
      ...     print(where, weights)
      slice(0, 3, None) [1.  1.  0.5]
      slice(2, 5, None) [0.5 1.  1. ]
    """
    weights = WEIGHTINGS[weighting](window)
    starts = preprocess.window_starts(length, window, overlap)
    places = [slice(start, start + window) for start in starts]
    total = np.zeros(length)
    for place in places:
        total[place] += weights
    return [(place, (weights / total[place]).astype(np.float32)) for place in places]


def sliding_window(
    forward: Forward,
    volume: np.ndarray,
    window: tuple[int, ...],
    overlap: tuple[int, ...],
    num_classes: int,
    weighting: str = "uniform",
    batch_size: int = 1,
) -> np.ndarray:
    """Probabilities of a volume of any size: the weighted mean of those of its windows.

    Windows start at 0 at intervals of window - overlap; the last one is shifted inwards to end at
    the border. A volume smaller than the window is padded at both ends with its minimum, and the
    result is cropped. The last batch is filled up so that all batches have the same shape. Besides
    the volume, only the result and one batch are held in memory.

    Args:
      forward: from windows `(batch_size, *window, channels)` to probabilities
        `(batch_size, *window, C)`.
      volume: `(*spatial, channels)` float32, normalised.
      window: spatial size of a window, in voxels.
      overlap: overlap of neighbouring windows, in voxels along each axis.
      num_classes: number of classes C.
      weighting: "uniform", or "gaussian" to weight the centre of each window most.
      batch_size: number of windows per call of `forward`.

    Returns:
      `(*spatial, C)` float32 probabilities.

    Raises:
      ValueError: if the overlap is not in [0, window), the weighting is unknown, or the volume or
        the output of `forward` has the wrong shape.

    Example:
      >>> volume = np.linspace(0, 1, 30, dtype=np.float32).reshape(6, 5, 1)
      >>> def forward(windows):
      ...     return np.concatenate([1 - windows, windows], axis=-1)
      >>> probs = sliding_window(forward, volume, (4, 4), (2, 2), num_classes=2)
      >>> probs.shape, float(abs(probs[..., 1:] - volume).max().round(6))
      ((6, 5, 2), 0.0)

    Reference:
      DSC++ paper, KiTS19: windows of 80 x 160 x 160, overlaps of 40 x 80 x 80, uniform weights.
    """
    check_windows(window, overlap, weighting, batch_size)
    if volume.ndim != len(window) + 1:
        raise ValueError(
            f"the volume has shape {volume.shape}, expected {len(window)} spatial axes, like the "
            f"window {tuple(window)}, and one of channels; add or move axes"
        )
    padded, inside = _padded(volume, window)
    axes = [
        axis_windows(*axis, weighting)
        for axis in zip(padded.shape[:-1], window, overlap, strict=True)
    ]
    tiles = [tuple(zip(*tile, strict=True)) for tile in itertools.product(*axes)]
    probs = np.zeros((*padded.shape[:-1], num_classes), np.float32)
    expected = (batch_size, *window, num_classes)
    for first in range(0, len(tiles), batch_size):
        batch = tiles[first : first + batch_size]
        windows = [padded[place] for place, _ in batch]
        windows += windows[-1:] * (batch_size - len(batch))
        predicted = np.asarray(forward(np.stack(windows)))
        if predicted.shape != expected:
            raise ValueError(
                f"forward returned shape {predicted.shape} for windows of shape "
                f"{(batch_size, *windows[0].shape)}, expected {expected}; it must keep the spatial "
                "size and return num_classes channels"
            )
        for (place, weights), part in zip(batch, predicted, strict=False):
            probs[place] += part * functools.reduce(np.multiply.outer, weights)[..., None]
    return probs[inside]


def check_windows(
    window: tuple[int, ...], overlap: tuple[int, ...], weighting: str, batch_size: int
) -> None:
    """Check that windows can cover a volume.

    Raises:
      ValueError: if they cannot; the message states the valid values.
    """
    if len(overlap) != len(window) or not all(
        0 <= shared < extent for shared, extent in zip(overlap, window, strict=True)
    ):
        raise ValueError(
            f"the overlap is {tuple(overlap)} and the window {tuple(window)}; give an overlap in "
            "voxels for each axis, at least 0 and less than the window"
        )
    if weighting not in WEIGHTINGS:
        raise ValueError(f"the weighting is {weighting!r}; known: {', '.join(WEIGHTINGS)}")
    if batch_size < 1:
        raise ValueError(f"the batch size is {batch_size}; it must be at least 1")


def _padded(volume: np.ndarray, window: tuple[int, ...]) -> tuple[np.ndarray, tuple[slice, ...]]:
    """Pad the volume to at least the size of the window; also return its position in the result."""
    extra = [max(0, n - length) for n, length in zip(window, volume.shape, strict=False)]
    before = [n // 2 for n in extra]
    inside = tuple(slice(b, b + n) for b, n in zip(before, volume.shape, strict=False))
    if not any(extra):
        return volume, inside
    margins = [(b, n - b) for b, n in zip(before, extra, strict=True)]
    return np.pad(volume, [*margins, (0, 0)], constant_values=volume.min()), inside


def mirrored(forward: Forward) -> Forward:
    """Average a forward function over all mirrorings of the spatial axes, each mirrored back.

    Args:
      forward: from `(b, *size, channels)` to `(b, *size, C)`.

    Returns:
      A function of the same type, which calls it 2**axes times with batches of the same shape.

    Example:
      >>> forward = mirrored(lambda images: np.cumsum(images, axis=1))
      >>> np.asarray(forward(np.ones((1, 3, 1)))).ravel().tolist()
      [2.0, 2.0, 2.0]
    """

    def mean(images: np.ndarray) -> np.ndarray:
        axes = range(1, images.ndim - 1)
        flips = [axis for n in range(len(axes) + 1) for axis in itertools.combinations(axes, n)]
        total = np.asarray(forward(images)).copy()
        for flip in flips[1:]:
            total += np.flip(np.asarray(forward(np.flip(images, flip))), flip)
        total /= len(flips)
        return total

    return mean


@functools.partial(jax.jit, static_argnums=0)
def _softmax(apply: "ApplyFn", params: Any, images: jax.Array, *keys: jax.Array) -> jax.Array:
    # One program for all parameters of a network, such as the members of an ensemble.
    return jax.nn.softmax(apply(params, images, *keys), axis=-1)


def monte_carlo(forward: Callable[..., ArrayLike], samples: Samples) -> Forward:
    """MC dropout: the mean of the predictions of networks whose units are dropped at random.

    p(c | x) = 1/T sum_t p(c | x, mask_t)

    Each mask is the same for all images and windows of a size, as if T networks were an ensemble,
    so that a prediction does not depend on what else is predicted.

    Args:
      forward: `(images, keys (b,)) -> probabilities`, with dropout by the keys.
      samples: number and key of the masks.

    Returns:
      A function of images alone.

    Example:
      >>> def forward(images, keys):
      ...     return np.stack([jax.random.uniform(key) for key in keys])
      >>> mean = monte_carlo(forward, Samples(1000, jax.random.key(0)))(np.zeros(2))
      >>> print(mean.round(1), mean[0] == mean[1])
      [0.5 0.5] True

    Reference:
      Gal and Ghahramani, Dropout as a Bayesian approximation, ICML 2016.
    """

    def mean(images: np.ndarray) -> np.ndarray:
        def sample(index: int) -> np.ndarray:
            key = jax.random.fold_in(samples.key, index)
            return np.asarray(forward(images, jnp.broadcast_to(key, len(images))))

        total = sample(0).copy()
        for index in range(1, samples.number):
            total += sample(index)
        total /= samples.number
        return total

    return mean


def ensemble(predicts: Sequence[Predict]) -> Predict:
    """A deep ensemble: the mean of the predictions of its members.

    p(c | x) = 1/M sum_m p_m(c | x)

    Args:
      predicts: the members, such as one network trained with several seeds.

    Returns:
      A function of the same type.

    Example:
      >>> predict = ensemble([lambda x, native: x, lambda x, native: 3 * x])
      >>> predict(np.array([0.1, 0.2]), (2,))
      array([0.2, 0.4])

    Reference:
      Lakshminarayanan et al., Simple and scalable predictive uncertainty estimation using deep
      ensembles, NeurIPS 2017.
    """

    def predict(image: np.ndarray, native: tuple[int, ...]) -> np.ndarray:
        total = predicts[0](image, native).copy()
        for other in predicts[1:]:
            total += other(image, native)
        total /= len(predicts)
        return total

    return predict


def tempered(predict: Predict, temperature: float) -> Predict:
    """Probabilities after temperature scaling: softmax(log p / T), or p**(1 / T) over its sum.

    Args:
      predict: the predictions to scale.
      temperature: T, as fitted by `calibrate.fit_temperature`; above 1 lowers the confidence.

    Returns:
      A function of the same type. The most probable class does not change.

    Example:
      >>> predict = tempered(lambda x, native: np.array([[0.9, 0.1]]), 2.0)
      >>> predict(np.zeros(1), (1,)).round(3)  # The odds of 9 become 3.
      array([[0.75, 0.25]])

    Reference:
      Guo et al., On calibration of modern neural networks, ICML 2017.
    """

    def scaled(image: np.ndarray, native: tuple[int, ...]) -> np.ndarray:
        # Clipped as by `losses.from_probabilities`, to whose logits T is fitted.
        probs = np.maximum(predict(image, native), EPSILON)
        probs **= 1 / temperature
        probs /= probs.sum(axis=-1, keepdims=True)
        return probs

    return scaled


def affine(predict: Predict, mapping: Affine) -> Predict:
    """Probabilities after Platt scaling or a relative: softmax of an affine map of log p.

    Args:
      predict: the predictions to calibrate.
      mapping: as fitted by `affine.fit_affine`.

    Returns:
      A function of the same type. The most probable class may change.

    Example:
      >>> mapping = Affine(np.full((1, 1), 0.5), np.array([0, np.log(2)]))
      >>> predict = affine(lambda x, native: np.array([[0.8, 0.2]]), mapping)
      >>> predict(np.zeros(1), (1,)).round(3)  # The odds of 1/4 become 1/2, times 2.
      array([[0.5, 0.5]])

    Reference:
      As of `affine.fit_affine`.
    """

    def mapped(image: np.ndarray, native: tuple[int, ...]) -> np.ndarray:
        logits = mapping(np.log(np.maximum(predict(image, native), EPSILON)))
        return special.softmax(logits, axis=-1)

    return mapped


def make_predict(
    apply: "ApplyFn",
    params: Any,
    spec: Spec,
    size: tuple[int, ...],
    *,
    windows: Windows = DEFAULT_WINDOWS,
    samples: Samples | None = None,
) -> Predict:
    """Make the function from a stored image to native probabilities.

    The image is normalised as in training. If the network is trained on whole images, the image is
    resized to its input size first; if on patches, it is predicted window by window. The softmax is
    resized linearly to the native grid, on which everything is scored and thresholded.

    Args:
      apply: `(params, images) -> logits`, such as a flax module's.
      params: parameters of the network.
      spec: description of the data set.
      size: spatial input size of the network.
      windows: overlap, weighting and batch size of the windows, and whether to mirror.
      samples: of MC dropout, for which apply takes keys too; None for the network without dropout.

    Returns:
      `predict(image (*stored, channels), native) -> (*native, C)` float32 probabilities; the two
      sizes differ for volumes that are stored resampled.

    Raises:
      ValueError: if the overlap, the weighting or the batch size is invalid; `predict` raises it if
        the image has other axes than the network, or values that are not finite, real numbers.

    Example:
      >>> from dicepp_jax.data.specs import PHANTOM
      >>> predict = make_predict(lambda params, x: params * x, 0.0, PHANTOM, (8, 8))
      >>> image = np.arange(9 * 7 * 3).reshape(9, 7, 3)
      >>> probs = predict(image, (9, 7))
      >>> probs.shape, probs[0, 0].round(4).tolist()
      ((9, 7, 3), [0.3333, 0.3333, 0.3333])
    """
    size = tuple(size)
    overlap, weighting, batch_size, mirror = windows
    overlap = tuple(n // 2 for n in size) if overlap is None else overlap
    check_windows(size, overlap, weighting, batch_size)
    forward: Forward = functools.partial(_softmax, apply, jax.device_put(params))
    if samples:
        forward = monte_carlo(forward, samples)
    if mirror:
        forward = mirrored(forward)

    def predict(image: np.ndarray, native: tuple[int, ...]) -> np.ndarray:
        image = _checked(image, native, len(size), spec.channels)
        if spec.patches:
            volume = preprocess.normalise(image, spec.intensity_range, spec.per_channel)
            probs = sliding_window(
                forward, volume, size, overlap, len(spec.classes), weighting, batch_size
            )
        else:
            prepared = preprocess.network_image(spec, image, size)
            probs = np.asarray(forward(prepared[None]))[0]
        # Returned without a copy, which would be gigabytes for a whole scan.
        return probs if probs.shape[:-1] == native else preprocess.resize(probs, native)

    return predict


def _checked(image: np.ndarray, native: tuple[int, ...], axes: int, channels: int) -> np.ndarray:
    """The image as an array, if a network can predict it."""
    image = np.asarray(image)
    if image.ndim != axes + 1 or image.shape[-1] != channels or not image.size:
        raise ValueError(
            f"image has shape {image.shape}, expected {axes} spatial axes and {channels} channels, "
            "channels last"
        )
    if image.dtype.kind not in "buif":
        raise ValueError(f"image is {image.dtype}, expected real numbers")
    # NaN if any is; no array of booleans, which takes a quarter of the memory of the image.
    if image.dtype.kind == "f" and not np.isfinite([image.min(), image.max()]).all():
        raise ValueError(
            "image has values that are NaN or infinite; replace them by finite numbers"
        )
    if len(native) != axes or min(native) < 1:
        raise ValueError(f"native is {tuple(native)}, expected {axes} lengths of at least 1")
    return image
