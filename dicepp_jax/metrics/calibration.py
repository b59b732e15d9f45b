"""Calibration of class probabilities, per example and class.

Probabilities are `(B, *spatial, C)`, labels integers `(B, *spatial)`. Logarithms are taken of
probabilities clipped to [1e-7, 1 - 1e-7]. The metrics of an example without voxels are NaN. What
is refused outside jit is in `metrics.given`; under jit a NaN at an included voxel shows as NaN.

Calibration errors are computed over bins of the predicted probability: first sums per bin
(`Reliability`), then their ratios. Each class is treated separately, as a binary problem: its
probability against whether the voxel belongs to it.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dicepp_jax.array_checks import Checks, as_mask, classes, enforce
from dicepp_jax.metrics import given

CLIP = 1e-7
BINS = 20
"""Default number of probability bins."""

_CHUNK = 4096


def flat_voxels(
    probs: jax.Array, labels: jax.Array, where: jax.Array | None, checks: Checks = given.of_probs
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Flatten to probabilities (B, N, C) in float32, labels (B, N) and the (B, N) mask of `where`.

    Raises:
      ValueError: if the shapes or dtypes do not match, or `checks` do not hold.
    """
    probs, labels, where = given.probabilities(probs, labels, where, checks)
    probs, labels = jnp.asarray(probs, jnp.float32), jnp.asarray(labels)
    spatial, num_classes = probs.shape[:-1], probs.shape[-1]
    mask = jnp.ones(spatial, bool) if where is None else jnp.asarray(where, bool)
    # Not -1, which no size fits if there is no example.
    rows = (spatial[0], math.prod(spatial[1:]))
    return probs.reshape(*rows, num_classes), labels.reshape(rows), mask.reshape(rows)


def _rows(
    probs: jax.Array, labels: jax.Array, where: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """p and y as (C, B, N), and the (1, B, N) mask of the voxels to include."""
    probs, labels, mask = flat_voxels(probs, labels, where)
    classes = jnp.arange(probs.shape[-1])[:, None, None]
    return jnp.moveaxis(probs, -1, 0), labels[None] == classes, mask[None]


def _ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """The quotient, NaN where the denominator is 0."""
    return jnp.where(denominator > 0, numerator / jnp.maximum(denominator, 1), jnp.nan)


def _mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of (C, B, N) over the included voxels, (B, C)."""
    return _ratio(jnp.where(mask, x, 0).sum(-1), mask.sum(-1)).T


def nll(probs: jax.Array, labels: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Negative log likelihood of one class, as in the paper's tables: -mean_i y_c log p_c.

    The mean is over all voxels although only those of class c contribute; `nll_full` is the sum
    over classes and therefore larger.

    Args:
      probs: `(B, *spatial, C)` class probabilities.
      labels: `(B, *spatial)` true classes, integer.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `(B, C)`, non-negative.

    Raises:
      ValueError: if the shapes do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[[0.5, 0.5], [0.25, 0.75]]])
      >>> print(nll(probs, jnp.array([[0, 1]])))
      [[0.34657  0.143841]]

    Reference:
      DSC++ paper, section 2.6, as the authors' notebooks compute it.
    """
    p, y, mask = _rows(probs, labels, where)
    return _mean(jnp.where(y, -jnp.log(jnp.clip(p, CLIP, 1 - CLIP)), 0), mask)


def nll_full(probs: jax.Array, labels: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Negative log likelihood: -mean_i sum_c y_c log p_c.

    Args:
      probs: `(B, *spatial, C)` class probabilities.
      labels: `(B, *spatial)` true classes, integer.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `(B,)`, non-negative.

    Raises:
      ValueError: if the shapes do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[[0.5, 0.5], [0.25, 0.75]]])
      >>> print(nll_full(probs, jnp.array([[0, 1]])))
      [0.4904]

    Reference:
      DSC++ paper, Eq. 1.
    """
    return nll(probs, labels, where).sum(-1)


def brier(probs: jax.Array, labels: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Brier score of one class: mean_i (y_c - p_c)**2.

    Args:
      probs: `(B, *spatial, C)` class probabilities.
      labels: `(B, *spatial)` true classes, integer.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `(B, C)` in [0, 1]. With two classes, both values equal the average over classes in Eq. 11.

    Raises:
      ValueError: if the shapes do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[[0.5, 0.5], [0.25, 0.75]]])
      >>> print(brier(probs, jnp.array([[0, 1]])))
      [[0.15625 0.15625]]

    Reference:
      DSC++ paper, Eq. 11.
    """
    p, y, mask = _rows(probs, labels, where)
    return _mean(jnp.square(y - p), mask)


def nll_labelmap(probs: jax.Array, labels: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """What the authors' KiTS19 notebook calls NLL: -mean_i label_i log p_c, not a likelihood.

    It uses the label map of values 0, 1, 2 in place of one-hot labels.

    Args:
      probs: `(B, *spatial, C)` class probabilities.
      labels: `(B, *spatial)` true classes, integer.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `(B, C)`, non-negative.

    Raises:
      ValueError: if the shapes do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]])
      >>> print(nll_labelmap(probs, jnp.array([[0, 2]])).round(4))
      [[1.3863 1.3863 0.6931]]

    Reference:
      DSC++ paper, Table 5, which very probably reports this as NLL.
    """
    probs, labels, mask = flat_voxels(probs, labels, where)
    p = jnp.clip(jnp.moveaxis(probs, -1, 0), CLIP, 1 - CLIP)
    return _mean(-labels[None] * jnp.log(p), mask[None])


def brier_labelmap(
    probs: jax.Array, labels: jax.Array, where: jax.Array | None = None
) -> jax.Array:
    """What the authors' KiTS19 notebook calls Brier score: mean_i (label_i - p_c)**2.

    It uses the label map of values 0, 1, 2 in place of one-hot labels.

    Args:
      probs: `(B, *spatial, C)` class probabilities.
      labels: `(B, *spatial)` true classes, integer.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `(B, C)`, non-negative.

    Raises:
      ValueError: if the shapes do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]])
      >>> print(brier_labelmap(probs, jnp.array([[0, 2]])))
      [[1.65625 1.5625  1.15625]]

    Reference:
      DSC++ paper, Table 5, which very probably reports this as Brier score.
    """
    probs, labels, mask = flat_voxels(probs, labels, where)
    return _mean(jnp.square(labels[None] - jnp.moveaxis(probs, -1, 0)), mask[None])


class Reliability(NamedTuple):
    """Sums over the voxels of each probability bin, `(..., bins)`, and the calibration errors.

    The sums of `reliability` can be added over images, those of `adaptive_reliability` cannot. The
    error of a bin is the distance between its confidence and its frequency, |mean probability -
    fraction positive|. Empty bins are left out; if all are empty, the errors are NaN.

    Attributes:
      voxels: number of voxels in the bin.
      confidence: sum of their predicted probabilities.
      positives: number of them that belong to the class.

    Example:
      >>> import numpy as np
      >>> sums = Reliability(np.array([6, 0, 2]), np.array([0.6, 0, 1.8]), np.array([0, 0, 1]))
      >>> print(sums.ece.round(3), sums.ace.round(3), sums.mce.round(3))
      0.175 0.25 0.4
    """

    voxels: jax.Array
    confidence: jax.Array
    positives: jax.Array

    @property
    def ece(self) -> jax.Array:
        """Expected calibration error: mean error of the bins, weighted by their voxels, `(...)`."""
        voxels, confidence, positives = self._floats()
        return _ratio(jnp.abs(confidence - positives).sum(-1), voxels.sum(-1))

    @property
    def ace(self) -> jax.Array:
        """Average calibration error: unweighted mean error of the non-empty bins, `(...)`."""
        return _ratio(self._errors().sum(-1), (self._floats().voxels > 0).sum(-1))

    @property
    def mce(self) -> jax.Array:
        """Maximum calibration error: largest error of a bin, `(...)`."""
        seen = (self._floats().voxels > 0).any(-1)
        return jnp.where(seen, self._errors().max(-1), jnp.nan)

    def _floats(self) -> "Reliability":
        # Sums over many images, made with NumPy, may exceed int32.
        return Reliability(*(jnp.asarray(x, jnp.float32) for x in self))

    def _errors(self) -> jax.Array:
        """Error of every bin, 0 for an empty one."""
        voxels, confidence, positives = self._floats()
        return jnp.abs(confidence - positives) / jnp.maximum(voxels, 1)


def reliability(
    probs: jax.Array, labels: jax.Array, where: jax.Array | None = None, *, bins: int = BINS
) -> Reliability:
    """Sums per bin of the predicted probability, as plotted in a reliability diagram.

    Bin k of n contains k / n <= p < (k + 1) / n, and the last one p = 1 too.

    Args:
      probs: `(B, *spatial, C)` class probabilities.
      labels: `(B, *spatial)` true classes, integer.
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      bins: number of bins of equal width.

    Returns:
      `Reliability` of arrays `(B, C, bins)`. A diagram plots `positives / voxels` against
      `confidence / voxels`.

    Raises:
      ValueError: if the shapes do not match or bins is less than 1.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[[0.0, 1.0], [0.25, 0.75], [0.25, 0.75]]])
      >>> sums = reliability(probs, jnp.array([[1, 1, 0]]), bins=2)
      >>> sums.voxels[0, 1].tolist(), sums.confidence[0, 1].tolist(), sums.positives[0, 1].tolist()
      ([0, 3], [0.0, 2.5], [0, 2])
    """
    _check_bins(bins)
    p, y, mask = _rows(probs, labels, where)
    edges = jnp.asarray(np.arange(1, bins) / bins, p.dtype)
    return _sums(p, edges[None, None], y, mask)


def adaptive_reliability(
    probs: jax.Array, labels: jax.Array, where: jax.Array | None = None, *, bins: int = BINS
) -> Reliability:
    """Sums over bins with equal numbers of voxels, delimited by quantiles of the probability.

    If most of an image is background, nearly all voxels fall into the outer bins of `reliability`;
    these bins adapt to the distribution of the voxels. Their edges differ between images and
    between classes, so the sums of two images cannot be added.

    Args:
      probs: `(B, *spatial, C)` class probabilities.
      labels: `(B, *spatial)` true classes, integer.
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      bins: number of bins. Their numbers of voxels differ by at most one, except that voxels of
        equal probability share a bin, that of the middle one of them.

    Returns:
      `Reliability` of arrays `(B, C, bins)`, in order of ascending probability; its `ece` is the
      adaptive calibration error.

    Raises:
      ValueError: if the shapes do not match or bins is less than 1.

    Example:
      >>> import jax.numpy as jnp
      >>> p = jnp.array([[0.0, 0.01, 0.02, 0.03, 0.05, 0.9]])
      >>> sums = adaptive_reliability(jnp.stack([1 - p, p], -1), jnp.ones((1, 6), int), bins=3)
      >>> print(sums.voxels[0, 1], sums.confidence[0, 1])
      [2 2 2] [0.01 0.05 0.95]

    Reference:
      Nixon et al., Measuring calibration in deep learning, CVPR workshops 2019.
    """
    _check_bins(bins)
    p, y, mask = _rows(probs, labels, where)
    return _sums(p, _quantiles(p, mask, bins), y, mask)


def _quantiles(p: jax.Array, mask: jax.Array, bins: int) -> jax.Array:
    """Inner edges of bins with equal numbers of voxels, `(C, B, bins - 1)`."""
    # The bit patterns of non-negative floats, taken as integers, have the same order, and XLA sorts
    # integers faster on a CPU.
    bits = jax.lax.bitcast_convert_type(jnp.where(mask, jnp.maximum(p, 0), jnp.inf), jnp.int32)
    ordered = jax.lax.bitcast_convert_type(jnp.sort(bits), jnp.float32)
    count, k = mask.sum(-1, keepdims=True), jnp.arange(1, bins)[None, None]
    # count * k // bins, without the product, which may exceed int32.
    rank = count // bins * k + count % bins * k // bins
    rank = jnp.broadcast_to(rank, (*p.shape[:2], bins - 1))

    def at(index: jax.Array) -> jax.Array:
        return jnp.take_along_axis(ordered, index, -1, mode="fill", fill_value=jnp.inf)

    def search(side: str) -> jax.Array:
        return jax.vmap(jax.vmap(partial(jnp.searchsorted, side=side)))(ordered, at(rank))

    # Among equal probabilities on both sides of the rank, is the middle one below or above it?
    first, end = search("left"), search("right")
    return jnp.where(first + end >= 2 * rank, at(rank), at(end))


def _check_bins(bins: int) -> None:
    if not isinstance(bins, int | np.integer) or bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}; pass an integer")


def _sums(p: jax.Array, inner: jax.Array, y: jax.Array, mask: jax.Array) -> Reliability:
    """Sums over the voxels between neighbouring edges, the lower one included.

    Args:
      p: `(C, B, N)` probabilities. A NaN falls into every bin, so that it shows in the result.
      inner: `(C or 1, B or 1, bins - 1)` ascending edges. The outer bins extend to infinity, so
        that they include probabilities rounded to below 0 or above 1.
      y: `(C, B, N)` whether a voxel belongs to the class.
      mask: `(1, B, N)` voxels to include.
    """
    infinity = jnp.full((*inner.shape[:2], 1), jnp.inf, inner.dtype)
    low = jnp.concatenate([-infinity, inner], axis=-1)[..., None, :, None]
    high = jnp.concatenate([inner, infinity], axis=-1)[..., None, :, None]

    def reduce(*rows: jax.Array) -> Sequence[jax.Array]:
        """Sums over the last axis of `(C, B, rows, n)`, `(C, B, bins)`."""
        p, y, mask = (x[..., None, :] for x in rows)
        inside = mask & ~(p < low) & ~(p >= high)
        values = inside.astype(jnp.int32), jnp.where(inside, p, 0), (inside & y).astype(jnp.int32)
        # The three sums in one loop, which XLA vectorises on a CPU, unlike three separate loops.
        zeros = np.int32(0), np.float32(0), np.int32(0)
        totals = jax.lax.reduce(values, zeros, _add, (inside.ndim - 1,))
        return [x.sum(2) for x in totals]

    # In chunks, since a running float32 sum over a million voxels loses its last digits.
    voxels = p.shape[-1]
    whole = voxels - voxels % _CHUNK
    arrays = p, y, jnp.broadcast_to(mask, p.shape)
    chunks = reduce(
        *(x[..., :whole].reshape(*x.shape[:2], whole // _CHUNK, _CHUNK) for x in arrays)
    )
    rest = reduce(*(x[..., None, whole:] for x in arrays))
    return Reliability(*(jnp.swapaxes(a + b, 0, 1) for a, b in zip(chunks, rest, strict=True)))


def _add(a: Sequence[jax.Array], b: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def ece(
    probs: jax.Array, labels: jax.Array, where: jax.Array | None = None, *, bins: int = BINS
) -> jax.Array:
    """Expected calibration error: sum_k n_k |conf_k - freq_k| / sum_k n_k.

    Bin k contains n_k voxels of mean probability conf_k, and a fraction freq_k of them belongs to
    the class.

    Defined as in MONAI's `CalibrationErrorMetric`: for every image and class separately, over 20
    bins of equal width, without empty bins, p = 1 in the last one. There is one difference: a
    probability of exactly k / n belongs to the bin above, with MONAI's defaults to the bin below.

    Args:
      probs: `(B, *spatial, C)` class probabilities.
      labels: `(B, *spatial)` true classes, integer.
      where: `(B, *spatial)` boolean, False for voxels to leave out, such as those outside a
        `foreground_band`: most of an image is distant, correctly predicted background.
      bins: number of bins of equal width.

    Returns:
      `(B, C)` in [0, 1].

    Raises:
      ValueError: if the shapes do not match or bins is less than 1.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.2, 0.8]]])
      >>> print(ece(probs, jnp.array([[0, 0, 1, 1]])))
      [[0.22499995 0.225     ]]

    Reference:
      Naeini et al., Obtaining well calibrated probabilities using Bayesian binning, AAAI 2015.
    """
    return reliability(probs, labels, where, bins=bins).ece


def ace(
    probs: jax.Array, labels: jax.Array, where: jax.Array | None = None, *, bins: int = BINS
) -> jax.Array:
    """Average calibration error: the mean of |conf_k - freq_k| over the non-empty bins.

    Bins and their terms are those of `ece`, but all bins have the same weight, however few their
    voxels.

    Args:
      probs: `(B, *spatial, C)` class probabilities.
      labels: `(B, *spatial)` true classes, integer.
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      bins: number of bins of equal width.

    Returns:
      `(B, C)` in [0, 1].

    Raises:
      ValueError: if the shapes do not match or bins is less than 1.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.2, 0.8]]])
      >>> print(ace(probs, jnp.array([[0, 0, 1, 1]])))
      [[0.2166667 0.2166667]]

    Reference:
      Neumann et al., Relaxed softmax, 2018.
    """
    return reliability(probs, labels, where, bins=bins).ace


def mce(
    probs: jax.Array, labels: jax.Array, where: jax.Array | None = None, *, bins: int = BINS
) -> jax.Array:
    """Maximum calibration error: the largest |conf_k - freq_k| of a non-empty bin.

    Bins and their terms are those of `ece`.

    Args:
      probs: `(B, *spatial, C)` class probabilities.
      labels: `(B, *spatial)` true classes, integer.
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      bins: number of bins of equal width.

    Returns:
      `(B, C)` in [0, 1].

    Raises:
      ValueError: if the shapes do not match or bins is less than 1.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.2, 0.8]]])
      >>> print(mce(probs, jnp.array([[0, 0, 1, 1]])))
      [[0.2333333 0.2333333]]

    Reference:
      Naeini et al., Obtaining well calibrated probabilities using Bayesian binning, AAAI 2015.
    """
    return reliability(probs, labels, where, bins=bins).mce


def foreground_band(
    labels: jax.Array, width: int | Sequence[int], where: jax.Array | None = None
) -> jax.Array:
    """Voxels in or near the foreground, for use as `where`.

    Near means at most `width` voxels away along every axis. Every label above 0 is foreground, so
    an ignore index needs `where=labels != 255`. An image without foreground has an empty band, and
    its metrics over the band are NaN.

    Args:
      labels: `(B, *spatial)` true classes, integer.
      width: in voxels, one value for all spatial axes or one per axis. For a margin in mm, pass
        `[round(margin / s) for s in spacing]`.
      where: `(B, *spatial)` boolean, False for voxels to exclude from both foreground and band.

    Returns:
      `(B, *spatial)` boolean.

    Raises:
      ValueError: if a width is negative or there is not one per spatial axis.

    Example:
      >>> import jax.numpy as jnp
      >>> foreground_band(jnp.array([[0, 0, 0, 2, 0, 0]]), 1).astype(int).tolist()
      [[0, 0, 1, 1, 1, 0]]
    """
    labels = given.labels_of("labels", labels)
    where = as_mask(where, labels.shape, "labels (B, *spatial)")
    counted = jnp.ones(labels.shape, bool) if where is None else jnp.asarray(where, bool)
    enforce(classes, labels, where, name="labels", num_classes=np.iinfo(np.int32).max)
    band = (jnp.asarray(labels) > 0) & counted
    widths = list(width) if isinstance(width, Sequence) else [width] * (band.ndim - 1)
    if len(widths) != band.ndim - 1 or not all(
        isinstance(w, int | np.integer) and w >= 0 for w in widths
    ):
        raise ValueError(
            "width must be a non-negative number of voxels, or one for each spatial axis of "
            f"labels (B, *spatial) {band.shape}, got {width}"
        )
    for axis, w in enumerate(widths, start=1):
        window, strides = [1] * band.ndim, [1] * band.ndim
        window[axis] = 2 * w + 1
        band = jax.lax.reduce_window(band, False, jax.lax.bitwise_or, window, strides, "SAME")
    return band & counted
