"""Calibration after training: temperature scaling, fitted to validation images."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from dicepp_jax.losses import inputs

Arrays = jax.Array | Sequence[jax.Array]

_STEEP = 1e30
"""1 / T at which every softmax probability is 0 or 1."""


def fit_temperature(logits: Arrays, labels: Arrays, where: Arrays | None = None) -> float:
    """The temperature T that minimises the cross entropy of softmax(logits / T).

    The cross entropy is averaged over the included voxels of all images together. It is convex in
    1 / T; T is where its slope, the mean over voxels of sum_c (p_c - y_c) z_c, is 0. Use images
    that the network was not trained on: it makes fewer errors on its training images, for which T
    would be too small.

    The calibrated probabilities are `jax.nn.softmax(logits / T)`. The most probable class does not
    change. For a network that returns probabilities, the logits are
    `losses.from_probabilities(probs)`.

    Args:
      logits: `(B, *spatial, C)`, or a sequence of such arrays of any sizes. The arrays are accessed
        one after another, about 16 times each, so that a sequence may read them from disk.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft; a sequence if logits
        is one.
      where: `(B, *spatial)` boolean, False for voxels to leave out; a sequence if logits is one.

    Returns:
      T: above 1 if the network is overconfident, below 1 if it is underconfident.

    Raises:
      ValueError: if shapes or lengths do not match, there is no voxel, a logit is NaN or infinity,
        the logits are probabilities, a label is no class, or there is no optimal T: the cross
        entropy decreases for T -> 0 if every voxel is classified correctly, and for T -> infinity
        if the logits are no better than uniform ones.

    Example:
      >>> logits = jax.random.normal(jax.random.key(0), (4, 64, 64, 3))
      >>> labels = jax.random.categorical(jax.random.key(1), logits)
      >>> print(round(fit_temperature(2 * logits, labels), 1))
      2.0

    Reference:
      Guo et al., On calibration of modern neural networks, ICML 2017.
    """

    z, y = _sequence(logits), _sequence(labels)
    counted = [None] * len(z) if where is None else _sequence(where)
    if not len(z) == len(y) == len(counted):
        raise ValueError(
            "logits, labels and where must be arrays, or sequences of the same length, got "
            f"{len(z)}, {len(y)} and {len(counted)} arrays"
        )
    for images in zip(z, y, counted, strict=True):
        inputs.check(*images)

    def slope(inverse: float) -> float:
        """Derivative of the mean cross entropy with respect to 1 / T."""
        total, voxels = 0.0, 0
        for batch in zip(z, y, counted, strict=True):
            part, count = _slope(inverse, *batch)
            total, voxels = total + float(part), voxels + int(count)
        if voxels == 0:
            raise ValueError(
                "no voxel to fit a temperature to: logits are empty or where is all False"
            )
        if not np.isfinite(total):
            raise ValueError("logits must be finite at all included voxels, found NaN or infinity")
        return total / voxels

    if slope(0.0) >= 0:
        raise ValueError(
            "there is no optimal temperature: the logits are no better than uniform ones, so the "
            "cross entropy decreases for T -> infinity; check that the labels match the images"
        )
    if slope(_STEEP) <= 0:
        raise ValueError(
            "there is no optimal temperature: every voxel is classified correctly, so the cross "
            "entropy decreases for T -> 0; use more images, which the network was not trained on"
        )
    low = high = 1.0
    while slope(high) < 0:
        low, high = high, 2 * high
    while slope(low) > 0:
        low, high = low / 2, low
    return 1 / optimize.brentq(slope, low, high, xtol=1e-6 * low)


def _sequence(x: Arrays) -> Sequence[jax.Array]:
    return x if isinstance(x, Sequence) else [x]


@jax.jit
def _slope(
    inverse: float, logits: jax.Array, labels: jax.Array, where: jax.Array | None
) -> tuple[jax.Array, jax.Array | int]:
    """Sum over voxels of the derivative with respect to 1 / T, and the number of voxels."""
    v = inputs.voxels(logits, labels, where)
    scaled = inputs.log_softmax([inverse * x for x in v.log_p])
    parts = zip(scaled, v.log_p, v.labels, v.others, strict=True)
    slopes = inputs.add([(jnp.exp(s) * (y + other) - y) * x for s, x, y, other in parts])
    return slopes.sum(), slopes.size if where is None else jnp.asarray(where, bool).sum()
