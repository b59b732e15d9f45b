"""Calibration errors as losses: the mean error of probability bins.

The error of a bin is the ratio of two sums over voxels, of w (p - y) and of w, where w is by how
much a voxel is in the bin. The sums of the parts of a volume that is split over devices add up to
those of the whole volume.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dicepp_jax.losses import inputs
from dicepp_jax.losses.inputs import AxisName

BINS = 20
"""Number of bins of equal width."""

_EMPTY = 0.01
"""Of the sum of weights, in voxels: what is below is an empty bin, as in the authors' code."""

_ROUNDING = 1e-5
"""In widths of a bin: so close to the edge above, a probability is taken to lie on it."""


def l1_ace(
    logits: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """L1 average calibration error, to be added to a loss: the error of the mean non-empty bin.

    mean_c mean_{k: n_k > 0} |sum_{i in k} (p_i - y_i)| / n_k

    The 20 bins k have equal width and n_k voxels each. A probability on an edge belongs to the bin
    above, 1 to the last one. The gradient is that of the mean probability of each bin: in which bin
    a voxel is has no gradient. With integer labels it is the mean over classes of `metrics.ace`.

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      axis_name: name of the mapped axis (`jax.shard_map` or `jax.pmap`) over which the voxels of
        one example are split; the loss is then that of the whole example.

    Returns:
      `(B,)` losses in [0, 1].

    Raises:
      ValueError: if the shapes do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> print(l1_ace(jnp.zeros((1, 4, 2)), jnp.array([[0, 0, 0, 1]])))
      [0.25]

    Reference:
      Barfoot et al., Average calibration error: a differentiable loss for improved reliability in
      image segmentation, MICCAI 2024, its mL1-ACE. Its code has the lower edge of a bin in the bin
      below, and later takes 0 for the error of a class that is absent; both are here as printed.
    """
    v = inputs.voxels(logits, labels, where)
    positions = [jnp.floor(BINS * jnp.exp(x) + _ROUNDING) for x in v.log_p]
    return _average_error(v, positions, axis_name)


def soft_l1_ace(
    logits: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """L1 average calibration error with soft bins: `l1_ace`, each voxel in the two nearest bins.

    mean_c mean_{k: n_k >= 0.01} |sum_i w_ik (p_i - y_i)| / n_k, n_k = sum_i w_ik,
    w_ik = max(0, 1 - |20 p_i - 1/2 - k|)

    The weight w falls from 1 at the centre of bin k to 0 at the centres of its neighbours; beyond
    the centre of the first and the last bin it is 1. The gradient includes that of the weights.

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      axis_name: name of the mapped axis (`jax.shard_map` or `jax.pmap`) over which the voxels of
        one example are split; the loss is then that of the whole example.

    Returns:
      `(B,)` losses in [0, 1].

    Raises:
      ValueError: if the shapes do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> print(soft_l1_ace(jnp.zeros((1, 4, 2)), jnp.array([[0, 0, 0, 1]])))
      [0.25]

    Reference:
      Barfoot et al., Average calibration losses for reliable uncertainty in medical image
      segmentation, 2025 (arXiv 2506.03942). Its code takes 0 for the error of a class that is
      absent.
    """
    v = inputs.voxels(logits, labels, where)
    positions = [BINS * jnp.exp(x) - 0.5 for x in v.log_p]
    return _average_error(v, positions, axis_name)


def _average_error(
    v: inputs.Voxels, positions: list[jax.Array], axis_name: AxisName | None
) -> jax.Array:
    """The mean over classes and non-empty bins, `(B,)`.

    Args:
      v: the voxels.
      positions: of each class, `(B, *spatial)`, among bins at 0 to BINS - 1: at a whole number a
        voxel is in that bin, elsewhere in the bins on both sides, more in the nearer one.
      axis_name: of the devices.
    """
    bins = np.arange(BINS).reshape(1, BINS, *(1 for _ in v.included.shape[1:]))
    of_bins = jax.vmap(functools.partial(inputs.sum_voxels, axis_name=axis_name), 1, 1)

    # Recomputed for the gradient, which would else keep all weights.
    @jax.checkpoint
    def of_class(log_p: jax.Array, y: jax.Array, position: jax.Array) -> jax.Array:
        distance = jnp.abs(jnp.clip(position, 0, BINS - 1)[:, None] - bins)
        weights = jnp.maximum(1 - distance, 0) * v.included[:, None]
        n, excess = of_bins(weights), of_bins(weights * (jnp.exp(log_p) - y)[:, None])
        empty = n < _EMPTY  # NaN is not.
        errors = jnp.where(empty, 0, jnp.abs(excess) / jnp.where(empty, 1, n))
        return errors.sum(-1) / jnp.maximum((~empty).sum(-1), 1)

    each = map(of_class, v.log_p, v.labels, positions)
    return inputs.add(list(each)) / len(positions)
