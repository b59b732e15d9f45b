"""Class probabilities against several raters of the same image.

Raters are integers `(B, R, *spatial)`: R labels of each image. Their mean is the soft label
ybar_c, the share of raters who gave a voxel the class c. As in `metrics.calibration`, logarithms
are of probabilities clipped to [1e-7, 1 - 1e-7], an example without voxels gives NaN, and
calibration errors take each class separately.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dicepp_jax.metrics import given
from dicepp_jax.metrics.calibration import BINS, CLIP, Reliability, flat_voxels, reliability


class Votes(NamedTuple):
    """Sums over the voxels to which k = 0, ..., R raters gave a class, `(..., R + 1)`.

    They can be added over images that have as many raters.

    Attributes:
      voxels: number of these voxels.
      confidence: sum of their predicted probabilities of the class.

    Example:
      >>> import numpy as np
      >>> print(Votes(np.array([2, 0, 1]), np.array([0.5, 0, 1])).mean_probability)
      [0.25  nan 1.  ]
    """

    voxels: jax.Array
    confidence: jax.Array

    @property
    def mean_probability(self) -> jax.Array:
        """Mean predicted probability of the class, NaN where there is no such voxel, `(...)`."""
        voxels, confidence = (jnp.asarray(x, jnp.float32) for x in self)
        return jnp.where(voxels > 0, confidence / jnp.maximum(voxels, 1), jnp.nan)


def rater_nll(probs: jax.Array, raters: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Negative log likelihood of the raters: -mean_i sum_c ybar_c log p_c.

    It is the mean of `nll_full` over the raters, and smallest where p = ybar.

    Args:
      probs: `(B, *spatial, C)` class probabilities.
      raters: `(B, R, *spatial)` classes by each rater, integer.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `(B,)`, non-negative.

    Raises:
      ValueError: if the shapes do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[[0.5, 0.5], [0.25, 0.75]]])
      >>> print(rater_nll(probs, jnp.array([[[0, 1], [1, 1]]])))
      [0.4904]

    Reference:
      DSC++ paper, Eq. 1, with the mean of the raters as y.
    """
    p, counts, mask, number = _counts(probs, raters, where)
    losses = counts / number * -jnp.log(jnp.clip(p, CLIP, 1 - CLIP))
    return _mean(losses.sum(-1), mask)


def rater_brier(probs: jax.Array, raters: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Brier score of one class against the raters: mean_i (ybar_c - p_c)**2.

    It is 0 where p = ybar, also where raters disagree.

    Args:
      probs: `(B, *spatial, C)` class probabilities.
      raters: `(B, R, *spatial)` classes by each rater, integer.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `(B, C)` in [0, 1].

    Raises:
      ValueError: if the shapes do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[[0.5, 0.5], [0.25, 0.75]]])
      >>> print(rater_brier(probs, jnp.array([[[0, 1], [1, 1]]])))
      [[0.03125 0.03125]]

    Reference:
      DSC++ paper, Eq. 11, with the mean of the raters as y.
    """
    p, counts, mask, number = _counts(probs, raters, where)
    return _mean(jnp.square(counts / number - p), mask[..., None])


def rater_reliability(
    probs: jax.Array, raters: jax.Array, where: jax.Array | None = None, *, bins: int = BINS
) -> Reliability:
    """Sums per bin of the predicted probability, as `reliability`, with the raters' mean as y.

    Args:
      probs: `(B, *spatial, C)` class probabilities.
      raters: `(B, R, *spatial)` classes by each rater, integer.
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      bins: number of bins of equal width.

    Returns:
      `Reliability` of arrays `(B, C, bins)`, whose `positives` are sums of ybar_c.

    Raises:
      ValueError: if the shapes do not match or bins is less than 1.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[[0.5, 0.5], [0.25, 0.75]]])
      >>> rater_reliability(probs, jnp.array([[[0, 1], [1, 1]]]), bins=2).positives[0, 1].tolist()
      [0.0, 1.5]
    """
    of_each = [reliability(probs, labels, where, bins=bins) for labels in _each(probs, raters)]
    positives = jnp.stack([sums.positives for sums in of_each]).mean(0)
    return of_each[0]._replace(positives=positives)


def rater_ece(
    probs: jax.Array, raters: jax.Array, where: jax.Array | None = None, *, bins: int = BINS
) -> jax.Array:
    """Expected calibration error against the raters: sum_k n_k |conf_k - freq_k| / sum_k n_k.

    Bins are those of `ece`; freq_k is the mean of ybar_c over the n_k voxels of bin k.

    Args:
      probs: `(B, *spatial, C)` class probabilities.
      raters: `(B, R, *spatial)` classes by each rater, integer.
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      bins: number of bins of equal width.

    Returns:
      `(B, C)` in [0, 1].

    Raises:
      ValueError: if the shapes do not match or bins is less than 1.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[[0.5, 0.5], [0.25, 0.75]]])
      >>> print(rater_ece(probs, jnp.array([[[0, 1], [1, 1]]])))
      [[0.125 0.125]]

    Reference:
      Naeini et al., Obtaining well calibrated probabilities using Bayesian binning, AAAI 2015.
    """
    return rater_reliability(probs, raters, where, bins=bins).ece


def votes(probs: jax.Array, raters: jax.Array, where: jax.Array | None = None) -> Votes:
    """Predicted probabilities by the number of raters who gave a voxel the class.

    A calibrated network whose raters are exchangeable has a mean probability near k / R where k of
    R raters gave a voxel the class.

    Args:
      probs: `(B, *spatial, C)` class probabilities.
      raters: `(B, R, *spatial)` classes by each rater, integer.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `Votes` of arrays `(B, C, R + 1)`.

    Raises:
      ValueError: if the shapes do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[[0.5, 0.5], [0.25, 0.75]]])
      >>> print(votes(probs, jnp.array([[[0, 1], [1, 1]]])).mean_probability[0, 1])
      [ nan 0.5  0.75]
    """
    p, counts, mask, number = _counts(probs, raters, where)
    numbers = jnp.arange(number + 1)[:, None, None, None]
    found = (counts[None] == numbers) & mask[None, ..., None]
    sums = found.sum(-2), jnp.where(found, p[None], 0).sum(-2)
    return Votes(*(jnp.moveaxis(x, 0, -1) for x in sums))


def _each(probs: jax.Array, raters: jax.Array) -> list[jax.Array]:
    """The labels of each rater, `(B, *spatial)`.

    Raises:
      ValueError: if there is no axis of raters, or no rater.
    """
    raters, shape = given.labels_of("raters", raters), jnp.shape(probs)
    if raters.ndim != len(shape) or not raters.shape[1]:
        raise ValueError(
            f"raters must be of shape (B, R, *spatial) with R >= 1 for probs (B, *spatial, C) "
            f"{shape}, got {raters.shape}; pass labels[:, None] for one rater"
        )
    return list(jnp.moveaxis(jnp.asarray(raters), 1, 0))


def _counts(
    probs: jax.Array, raters: jax.Array, where: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array, int]:
    """p (B, N, C), how many raters gave each voxel each class (B, N, C), mask (B, N), and R."""
    flat = [flat_voxels(probs, labels, where) for labels in _each(probs, raters)]
    p, _, mask = flat[0]
    classes = jnp.arange(p.shape[-1])[None, None]
    counts = jnp.stack([labels[..., None] == classes for _, labels, _ in flat]).sum(0)
    return p, counts, mask, len(flat)


def _mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of (B, N, ...) over the included voxels."""
    number = mask.sum(1)
    return jnp.where(number > 0, jnp.where(mask, x, 0).sum(1) / jnp.maximum(number, 1), jnp.nan)
