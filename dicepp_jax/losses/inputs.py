"""What every loss does first: check the arguments, put the classes in front, take logarithms.

Logits are unnormalised log-probabilities of shape `(B, *spatial, C)`. Inside this package arrays
are `(C, B, N)`: one contiguous row per class, N voxels, because sums and exponentials over a
trailing axis of two or three classes do not vectorise. Powers of a probability are taken in log
space, `p**g = exp(g log p)`, so that values and gradients stay finite for any exponent, however
confident the network.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

EPSILON = 1e-7
"""Probabilities are clipped here where they are given as such; also the region losses' epsilon."""

Scalar = float | jax.Array


class Voxels(NamedTuple):
    """Logits and labels in the layout of this package.

    Attributes:
      logits: `(C, B, N)` float32 (float64 if given so), the largest of each voxel at 0.
      labels: `(C, B, N)` one-hot or soft labels of the same dtype.
      mask: `(B, N)` True where a voxel counts, or None if all do.
      hard: whether the labels are known to be 0 or 1, as integer labels are.
    """

    logits: jax.Array
    labels: jax.Array
    mask: jax.Array | None
    hard: bool


def voxels(logits: jax.Array, labels: jax.Array, where: jax.Array | None) -> Voxels:
    """Bring the public arguments of a loss into the layout of this package.

    Args:
      logits: `(B, *spatial, C)`, any float dtype, C >= 2.
      labels: `(B, *spatial)` integer or boolean, or `(B, *spatial, C)` one-hot or soft.
      where: `(B, *spatial)` boolean, or None. Voxels left out have neither value nor gradient,
        whatever their logits hold.

    Returns:
      The `Voxels`.

    Raises:
      ValueError: if the shapes or dtypes do not fit together.
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if logits.ndim < 2 or logits.shape[-1] < 2 or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            "logits must be floating point of shape (B, *spatial, C) with C >= 2 classes, got "
            f"{logits.dtype} {logits.shape}; for sigmoid outputs see losses.binary_problems"
        )
    num_classes, spatial = logits.shape[-1], logits.shape[:-1]
    integer = jnp.issubdtype(labels.dtype, jnp.integer) or labels.dtype == jnp.bool_
    if labels.shape not in (spatial, logits.shape) or (labels.shape == spatial and not integer):
        raise ValueError(
            f"labels must be integer of shape {spatial} or one-hot or soft of shape "
            f"{logits.shape} to fit logits {logits.shape}, got {labels.dtype} {labels.shape}"
        )
    if where is not None and jnp.shape(where) != spatial:
        raise ValueError(f"where must have shape {spatial}, got {jnp.shape(where)}")

    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    rows = (logits.shape[0], -1)
    mask = None if where is None else jnp.asarray(where, bool).reshape(rows)
    z = _classes_first(logits.astype(dtype))
    if mask is not None:
        z = jnp.where(mask, z, 0)
    z = z - jax.lax.stop_gradient(z.max(axis=0, keepdims=True))
    if labels.shape == logits.shape:
        y = _classes_first(labels.astype(dtype))
        if mask is not None:
            y = jnp.where(mask, y, 0)
    else:
        classes = jnp.arange(num_classes, dtype=jnp.int32)[:, None, None]
        y = (labels.reshape(rows).astype(jnp.int32)[None] == classes).astype(dtype)
    return Voxels(z, y, mask, integer)


def _classes_first(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x.reshape(x.shape[0], -1, x.shape[-1]), -1, 0)


def log_p(v: Voxels) -> jax.Array:
    """log of the softmax, `(C, B, N)`."""
    return jax.nn.log_softmax(v.logits, axis=0)


def log_not_p(v: Voxels) -> jax.Array:
    """log(1 - p), `(C, B, N)`, exact at both ends.

    For the most probable class it is the logsumexp of the others less that of all, for the
    others, whose p is at most a half, log1p(-p): neither subtracts what is nearly equal.
    """
    log_prob = log_p(v)
    classes = jnp.arange(v.logits.shape[0])[:, None, None]
    top = jnp.argmax(v.logits, axis=0, keepdims=True) == classes
    rest = jax.nn.logsumexp(jnp.where(top, -jnp.inf, v.logits), axis=0, keepdims=True)
    log_total = jax.nn.logsumexp(v.logits, axis=0, keepdims=True)
    p = jnp.exp(jnp.where(top, -jnp.inf, log_prob))
    return jnp.where(top, rest - log_total, jnp.log1p(-p))


def power(x: jax.Array, exponent: Scalar) -> jax.Array:
    """x**exponent for x >= 0, with value and gradients 0 at x = 0."""
    positive = x > 0
    return jnp.where(positive, jnp.exp(exponent * jnp.log(jnp.where(positive, x, 1))), 0)


def sum_voxels(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Sum `(..., B, N)` over the voxels that count."""
    return jnp.sum(x if mask is None else jnp.where(mask, x, 0), axis=-1)


def voxel_map(x: jax.Array, v: Voxels, spatial: tuple[int, ...]) -> jax.Array:
    """Sum `(C, B, N)` over the classes to `(B, *spatial)`, 0 where a voxel does not count."""
    total = x.sum(axis=0)
    return (total if v.mask is None else jnp.where(v.mask, total, 0)).reshape(spatial)


def check_range(
    name: str, value: Scalar, low: float, high: float, *, half_open: bool = False, hint: str = ""
) -> None:
    """Refuse a hyper-parameter outside [low, high]; a traced one has no value to look at.

    Args:
      name: what the message calls it.
      value: the hyper-parameter.
      low: the smallest value allowed.
      high: the largest value allowed, itself excluded if half_open.
      half_open: whether the interval is [low, high).
      hint: what to add to the message.

    Raises:
      ValueError: naming the hyper-parameter, its value and the interval.
    """
    if isinstance(value, jax.core.Tracer):
        return
    values = np.asarray(value)
    below = values < high if half_open else values <= high
    if not np.all((values >= low) & below):
        end = ")" if half_open else "]"
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}{end}, got {value}{hint}")


def check_exponent(name: str, value: Scalar) -> None:
    """Refuse a ++ exponent, or the Focal loss's gamma, outside [0.5, 5]."""
    check_range(name, value, 0.5, 5.0)


def from_probabilities(probs: jax.Array) -> jax.Array:
    """Logits for the losses from probabilities: log(max(p, 1e-7)).

    Args:
      probs: `(..., C)` class probabilities.

    Returns:
      `(..., C)` logits, to be given to any loss.

    Example:
      >>> import jax.numpy as jnp
      >>> from dicepp_jax.losses import ce, from_probabilities
      >>> probs = jnp.array([[[0.75, 0.25]]])
      >>> bool(jnp.allclose(ce(from_probabilities(probs), jnp.array([[0]])), -jnp.log(0.75)))
      True
    """
    # In half precision the epsilon itself would be rounded.
    probs = jnp.asarray(probs).astype(jnp.promote_types(jnp.result_type(probs), jnp.float32))
    return jnp.log(jnp.maximum(probs, EPSILON))


def binary_problems(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """K sigmoid channels, whose labels may overlap, as K two-class problems per example.

    Args:
      logits: `(B, *spatial, K)` logits of K independent sigmoids.
      labels: `(B, *spatial, K)` 0 or 1 (or soft) for each channel.

    Returns:
      Logits `(B * K, *spatial, 2)` and labels `(B * K, *spatial, 2)`; a loss of the two has shape
      `(B * K,)` and `.reshape(B, K)` gives the loss of every channel.

    Example:
      >>> import jax.numpy as jnp
      >>> from dicepp_jax.losses import binary_problems, dscpp
      >>> z, y = jnp.zeros((2, 8, 8, 3)), jnp.ones((2, 8, 8, 3))
      >>> dscpp(*binary_problems(z, y)).reshape(2, 3).shape
      (2, 3)
    """
    z = _channels_to_batch(logits)
    y = _channels_to_batch(labels)
    return jnp.stack([jnp.zeros_like(z), z], axis=-1), jnp.stack([1 - y, y], axis=-1)


def _channels_to_batch(x: jax.Array) -> jax.Array:
    x = jnp.moveaxis(x, -1, 1)
    shape: Sequence[int] = (-1, *x.shape[2:])
    return x.reshape(shape)
