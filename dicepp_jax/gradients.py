"""The gradient of a loss in the logits, by the size of the object.

No network is trained: logits are drawn for a disc of a given size as a network would give them in
one of three `STATES` of its training, with noise. `norms_by_size` does so for many sizes and draws
of the noise. How much the norm varies between draws is the instability of the gradient.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LossFn = Callable[[jax.Array, jax.Array], jax.Array]
"""`(logits, labels) -> (B,)`, as returned by `losses.get_loss`."""

NOISE = 1.0
"""Standard deviation of the noise of the log-odds, in every state."""


class Norms(NamedTuple):
    """Euclidean norms of the gradient of a loss in the logits.

    Attributes:
      total: over all voxels and classes.
      object: over the classes, averaged over the voxels of the object; 0 if there are none.
      background: likewise of the other voxels.
    """

    total: jax.Array
    object: jax.Array
    background: jax.Array


def gradient_norms(loss: LossFn, logits: jax.Array, labels: jax.Array) -> Norms:
    """Norms of the gradient of the loss of each example in its logits.

    total = sqrt(sum_{i, c} g**2), object = mean_{i: y_i > 0} sqrt(sum_c g_i**2), with g = dL / dz

    Args:
      loss: from logits and labels to one loss per example, which depends on that example alone.
      logits: `(B, *spatial, C)`.
      labels: `(B, *spatial)` integer; all that is not class 0 is the object.

    Returns:
      `Norms` of shape `(B,)`.

    Raises:
      ValueError: if the loss refuses the arrays.

    Example:
      >>> import jax.numpy as jnp
      >>> from dicepp_jax.losses import ce
      >>> norms = gradient_norms(ce, jnp.zeros((1, 8, 8, 2)), jnp.zeros((1, 8, 8), int))
      >>> bool(jnp.allclose(norms.total, jnp.sqrt(0.5 / 64)))  # Each voxel (1/2, -1/2) / 64.
      True
    """
    gradient = jax.grad(lambda z: loss(z, labels).sum())(logits)
    of_voxels = jnp.sqrt((gradient**2).sum(-1)).reshape(len(labels), -1)
    inside = (labels > 0).reshape(of_voxels.shape)
    return Norms(
        jnp.sqrt((of_voxels**2).sum(-1)), *(_mean(of_voxels, part) for part in (inside, ~inside))
    )


def _mean(x: jax.Array, where: jax.Array) -> jax.Array:
    """Mean along the last axis, 0 where nothing is included."""
    return jnp.where(where, x, 0).sum(-1) / jnp.maximum(where.sum(-1), 1)


def disc(voxels: int, shape: Sequence[int]) -> np.ndarray:
    """A label of the voxels that are closest to the centre of an image.

    Args:
      voxels: their number.
      shape: of the image; in 3-D the disc is a ball.

    Returns:
      Integers of that shape, 1 on the disc.

    Raises:
      ValueError: if the disc has no voxel, or more than the image.

    Example:
      >>> disc(5, (5, 5))[1:4, 1:4].tolist()
      [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    """
    size = int(np.prod(shape))
    if not 1 <= voxels <= size:
        raise ValueError(f"a disc has from 1 to {size} voxels in an image of {shape}, not {voxels}")
    centre = np.reshape([n // 2 for n in shape], (-1, *[1] * len(shape)))
    distance = ((np.indices(shape) - centre) ** 2).sum(0)
    label = np.zeros(size, int)
    label[np.argsort(distance, axis=None, kind="stable")[:voxels]] = 1
    return label.reshape(shape)


def untrained(key: jax.Array, labels: jax.Array) -> jax.Array:
    """Log-odds of the object about 0 everywhere: p is near 1/2, with noise."""
    return NOISE * jax.random.normal(key, labels.shape)


def half_trained(key: jax.Array, labels: jax.Array) -> jax.Array:
    """Log-odds of a network that is right with p = 0.8, with noise."""
    return untrained(key, labels) + jnp.where(labels > 0, 1, -1) * _log_odds(0.8)


def confident(key: jax.Array, labels: jax.Array) -> jax.Array:
    """Log-odds of p = 0.999 for a disc that is misplaced by one voxel, with noise.

    The network errs on a rim of the object and on one beside it; a single voxel is missed.
    """
    return untrained(key, labels) + jnp.where(jnp.roll(labels, 1, axis=-1) > 0, 1, -1) * _log_odds(
        0.999
    )


def _log_odds(p: float) -> float:
    return float(np.log(p / (1 - p)))


STATES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "untrained": untrained,
    "half-trained": half_trained,
    "confident": confident,
}
"""From a key and labels `(B, *spatial)` to log-odds `(B, *spatial)`, by the state of training."""


def norms_by_size(
    losses: Mapping[str, LossFn],
    sizes: Sequence[int],
    *,
    shape: Sequence[int] = (64, 64),
    draws: int = 16,
    seed: int = 0,
) -> dict[str, dict[str, Norms]]:
    """Gradient norms of losses over object sizes, states of training and draws of the noise.

    All losses see the same logits, of two classes, and every size has the same noise.

    Args:
      losses: functions of logits and labels, by name.
      sizes: numbers of voxels of the object, at least 1.
      shape: of the image.
      draws: of the noise, at least 2.
      seed: of the noise.

    Returns:
      By name of the loss and of the state, `Norms` of float32 arrays `(sizes, draws)`.

    Raises:
      ValueError: if a size does not fit the image, or there is one draw or none.

    Example:
      >>> from dicepp_jax.losses import get_loss
      >>> found = norms_by_size({"ce": get_loss("ce")}, (1, 32), shape=(8, 8))
      >>> found["ce"]["confident"].total.shape
      (2, 16)
    """
    if draws < 2:
        raise ValueError(f"draws is {draws}; it takes at least 2 to see a variation")
    labels = np.stack([disc(size, shape) for size in sizes])
    keys = jax.random.split(jax.random.key(seed), draws)

    def of_draw(state: Callable[[jax.Array, jax.Array], jax.Array], key: jax.Array) -> jax.Array:
        return jax.vmap(lambda label: state(key, label))(jnp.asarray(labels))

    log_odds = jnp.concatenate([of_draw(state, key) for state in STATES.values() for key in keys])
    logits = jnp.stack([jnp.zeros_like(log_odds), log_odds], axis=-1)
    repeated = jnp.asarray(np.tile(labels, (len(STATES) * draws, *[1] * len(shape))))

    # All losses in one program, which compiles several times faster than each in its own.
    @jax.jit
    def of_all(logits: jax.Array, labels: jax.Array) -> dict[str, Norms]:
        return {name: gradient_norms(loss, logits, labels) for name, loss in losses.items()}

    found = of_all(logits, repeated)

    def of_state(norms: Norms, index: int) -> Norms:
        parts = (x.reshape(len(STATES), draws, len(sizes)) for x in norms)
        return Norms(*(x[index].T for x in parts))

    return {  # In the order given, which jit does not keep.
        name: {state: of_state(found[name], index) for index, state in enumerate(STATES)}
        for name in losses
    }


def variation(norms: jax.Array) -> jax.Array:
    """Coefficient of variation over the draws: standard deviation / mean.

    Args:
      norms: `(..., draws)`, positive.

    Returns:
      `(...)`.

    Example:
      >>> print(variation(jnp.array([[1.0, 3.0]])).round(3))
      [0.707]
    """
    return norms.std(-1, ddof=1) / norms.mean(-1)
