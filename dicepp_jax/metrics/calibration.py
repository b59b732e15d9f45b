"""Calibration of class probabilities, per example and class.

Probabilities are `(B, *spatial, C)`, labels integers `(B, *spatial)`. Logarithms see probabilities
clipped to [1e-7, 1 - 1e-7]. An example without a voxel to count has NaN.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

CLIP = 1e-7


def _rows(
    probs: jax.Array, labels: jax.Array, where: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """p and y as (C, B, N), and the (1, B, N) mask of the voxels that count."""
    probs, labels = jnp.asarray(probs, jnp.float32), jnp.asarray(labels)
    spatial = probs.shape[:-1]
    if labels.shape != spatial or (where is not None and jnp.shape(where) != spatial):
        raise ValueError(
            f"probs (B, *spatial, C) {probs.shape} need integer labels and where of shape "
            f"{spatial}, got {labels.shape} and {None if where is None else jnp.shape(where)}"
        )
    batch, num_classes = probs.shape[0], probs.shape[-1]
    p = jnp.moveaxis(probs.reshape(batch, -1, num_classes), -1, 0)
    y = labels.reshape(1, batch, -1) == jnp.arange(num_classes)[:, None, None]
    mask = jnp.ones(spatial, bool) if where is None else jnp.asarray(where, bool)
    return p, y, mask.reshape(1, batch, -1)


def _mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of (C, B, N) over the voxels that count, (B, C)."""
    count = mask.sum(-1)
    return jnp.where(count > 0, jnp.where(mask, x, 0).sum(-1) / count, jnp.nan).T


def nll(probs: jax.Array, labels: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Negative log likelihood of one class, as the paper's tables have it: -mean_i y_c log p_c.

    The mean is over all voxels, the sum over those of class c alone; `nll_full` is the sum over
    classes and a larger number.

    Args:
      probs: `(B, *spatial, C)` class probabilities.
      labels: `(B, *spatial)` true classes, integer.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `(B, C)`, not negative.

    Raises:
      ValueError: if shapes do not fit.

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
      `(B,)`, not negative.

    Raises:
      ValueError: if shapes do not fit.

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
      `(B, C)` in [0, 1]. For two classes both equal the average over classes of Eq. 11.

    Raises:
      ValueError: if shapes do not fit.

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


class Reliability(NamedTuple):
    """Sums over the voxels of each probability bin, `(B, C, bins)`; they add over images.

    Attributes:
      voxels: their number.
      confidence: sum of their predicted probabilities.
      positives: number of them that are of the class.
    """

    voxels: jax.Array
    confidence: jax.Array
    positives: jax.Array


def reliability(
    probs: jax.Array, labels: jax.Array, where: jax.Array | None = None, *, bins: int = 10
) -> Reliability:
    """What happened where a probability was predicted: the sums behind a reliability diagram.

    Bin k of n holds k / n <= p < (k + 1) / n, the last also p = 1.

    Args:
      probs: `(B, *spatial, C)` class probabilities.
      labels: `(B, *spatial)` true classes, integer.
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      bins: number of bins of equal width.

    Returns:
      `Reliability` of arrays `(B, C, bins)`. A diagram plots `positives / voxels` against
      `confidence / voxels`.

    Raises:
      ValueError: if shapes do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[[0.0, 1.0], [0.25, 0.75], [0.25, 0.75]]])
      >>> sums = reliability(probs, jnp.array([[1, 1, 0]]), bins=2)
      >>> sums.voxels[0, 1].tolist(), sums.confidence[0, 1].tolist(), sums.positives[0, 1].tolist()
      ([0.0, 3.0], [0.0, 2.5], [0.0, 2.0])
    """
    p, y, mask = _rows(probs, labels, where)
    p, y, mask = (x[..., None, :] for x in (p, y, mask))
    edges = jnp.asarray(np.arange(bins + 1) / bins, p.dtype).at[-1].set(jnp.inf)[:, None]
    in_bin = mask & (p >= edges[None, None, :-1]) & (p < edges[None, None, 1:])

    def add(x: jax.Array) -> jax.Array:
        return jnp.swapaxes(jnp.where(in_bin, x, 0.0).sum(-1), 0, 1)

    return Reliability(add(jnp.ones(())), add(p), add(y))
