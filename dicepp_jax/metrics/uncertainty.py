"""How well uncertainty ranks errors: risk against coverage, and the entropy of errors.

The predicted class of a voxel is the most probable one; a voxel is wrong if that is not the true
one. `confidence_ranking` and `entropy_ranking` count right and wrong voxels by their uncertainty,
in fixed bins, and the properties of their `Ranking` are curves and areas. Counts add up over parts
of an image, over images and over devices:

    >>> import jax
    >>> probs = jnp.array([[[0.9, 0.1], [0.4, 0.6]], [[0.8, 0.2], [0.3, 0.7]]])
    >>> counts = confidence_ranking(probs, jnp.array([[0, 0], [0, 1]]))
    >>> print(jax.tree.map(lambda n: n.sum(0), counts).aurc)
    0.0625

The bins are the numbers that bfloat16 can represent, so values in a bin differ by less than 1 %,
however small they are: most voxels of an image are background with a confidence close to 1.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dicepp_jax.array_checks import as_array, enforce, shares
from dicepp_jax.metrics.calibration import flat_voxels

# The leading 16 bits of a float32 are a bfloat16; the last bin is that of 1.
_BITS = 16
BINS = (int(np.float32(1).view(np.int32)) >> _BITS) + 1
"""Number of bins of a `Ranking`."""


class Ranking(NamedTuple):
    """Numbers of right and wrong voxels by uncertainty, `(..., bins)`, the most certain first.

    Attributes:
      right: number of voxels in the bin whose most probable class is the true one.
      wrong: number of other voxels in the bin.

    Example:
      >>> counts = Ranking(np.array([2, 1, 0]), np.array([0, 0, 1]))
      >>> print(counts.coverage, counts.risk, counts.aurc, counts.auroc)
      [0.5  0.75 1.  ] [0.   0.   0.25] 0.0625 1.0
    """

    right: jax.Array
    wrong: jax.Array

    @property
    def coverage(self) -> jax.Array:
        """Share of the voxels up to each bin, `(..., bins)`."""
        right, wrong = self._floats()
        reached = jnp.cumsum(right + wrong, axis=-1)
        return reached / jnp.where(reached[..., -1:] > 0, reached[..., -1:], jnp.nan)

    @property
    def risk(self) -> jax.Array:
        """Share of wrong voxels among those up to each bin, `(..., bins)`; NaN before the first."""
        right, wrong = self._floats()
        reached = jnp.cumsum(right + wrong, axis=-1)
        errors = jnp.cumsum(wrong, axis=-1)
        return jnp.where(reached > 0, errors / jnp.maximum(reached, 1), jnp.nan)

    @property
    def aurc(self) -> jax.Array:
        """Area under the risk-coverage curve, `(...)`; NaN without voxels."""
        right, wrong = self._floats()
        voxels = right + wrong
        total = voxels.sum(-1)
        area = jnp.where(voxels > 0, voxels * self.risk, 0).sum(-1)
        return jnp.where(total > 0, area / jnp.maximum(total, 1), jnp.nan)

    @property
    def auroc(self) -> jax.Array:
        """P(a wrong voxel is less certain than a right one), `(...)`; NaN if all are of a kind."""
        right, wrong = self._floats()
        pairs = right.sum(-1) * wrong.sum(-1)
        # Voxels in a bin are as certain as each other.
        ranked = (wrong * (jnp.cumsum(right, axis=-1) - right / 2)).sum(-1)
        return jnp.where(pairs > 0, ranked / jnp.maximum(pairs, 1), jnp.nan)

    def _floats(self) -> "Ranking":
        # Sums over many images, made with NumPy, may exceed int32.
        return Ranking(*(jnp.asarray(n, jnp.float32) for n in self))


def entropy(probs: jax.Array) -> jax.Array:
    """Predictive entropy in nats: -sum_c p_c log p_c.

    Args:
      probs: `(*shape, C)` class probabilities.

    Returns:
      `(*shape)`, between 0 and log C.

    Raises:
      ValueError: if these are no probabilities.

    Example:
      >>> print(entropy(jnp.array([[0.5, 0.5], [1.0, 0.0]])))
      [0.6931472 0.       ]

    Reference:
      Shannon, A mathematical theory of communication, 1948.
    """
    probs = as_array("probs", probs)
    enforce(shares, probs, None, name="probs", remedy="pass jax.nn.softmax(logits)")
    return _entropy(jnp.asarray(probs, jnp.float32))


def _entropy(probs: jax.Array) -> jax.Array:
    terms = jax.scipy.special.entr(jnp.maximum(probs, 0))
    # XLA does not vectorise a logarithm on a CPU once it is part of the loop that counts.
    return lax.optimization_barrier(terms).sum(-1)


def confidence_ranking(
    probs: jax.Array, labels: jax.Array, where: jax.Array | None = None
) -> Ranking:
    """Count right and wrong voxels by 1 - max_c p_c, for curves of risk against coverage.

    Args:
      probs: `(B, *spatial, C)` class probabilities.
      labels: `(B, *spatial)` true classes, integer.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `Ranking` of int32 arrays `(B, BINS)`.

    Raises:
      ValueError: if the shapes do not match.

    Example:
      >>> counts = confidence_ranking(jnp.array([[[0.9, 0.1], [0.4, 0.6]]]), jnp.array([[0, 0]]))
      >>> print(counts.risk[0, -1], int(counts.wrong.sum()))
      0.5 1
    """
    probs, labels, mask = flat_voxels(probs, labels, where)
    return _ranking(1 - probs.max(-1), probs, labels, mask)


def entropy_ranking(probs: jax.Array, labels: jax.Array, where: jax.Array | None = None) -> Ranking:
    """Count right and wrong voxels by their entropy, divided by its maximum log C.

    Args:
      probs: `(B, *spatial, C)` class probabilities.
      labels: `(B, *spatial)` true classes, integer.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `Ranking` of int32 arrays `(B, BINS)`.

    Raises:
      ValueError: if the shapes do not match.

    Example:
      >>> counts = entropy_ranking(jnp.array([[[0.9, 0.1], [0.4, 0.6]]]), jnp.array([[0, 0]]))
      >>> print(counts.auroc)
      [1.]
    """
    probs, labels, mask = flat_voxels(probs, labels, where)
    return _ranking(_entropy(probs) / math.log(probs.shape[-1]), probs, labels, mask)


def _ranking(
    uncertainty: jax.Array, probs: jax.Array, labels: jax.Array, mask: jax.Array
) -> Ranking:
    """Counts `(B, BINS)` of voxels by uncertainty `(B, N)` in [0, 1]; one of NaN is not counted."""
    batch = uncertainty.shape[0]
    wrong = jnp.argmax(probs, axis=-1) != labels
    # Rounding may leave [0, 1]. Of non-negative floats the bit patterns have the same order.
    bits = lax.bitcast_convert_type(jnp.clip(uncertainty, 0, 1), jnp.int32)
    row = jnp.arange(batch)[:, None]
    k = (2 * row + wrong) * BINS + (bits >> _BITS)
    k = jnp.where(jnp.isnan(uncertainty), 2 * batch * BINS, k)
    counts = jnp.zeros(2 * batch * BINS, jnp.int32)
    counts = counts.at[k.reshape(-1)].add(mask.reshape(-1).astype(jnp.int32), mode="drop")
    right, wrong = jnp.moveaxis(counts.reshape(batch, 2, BINS), 1, 0)
    return Ranking(right, wrong)


def aurc(probs: jax.Array, labels: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Area under the risk-coverage curve: mean_i risk(t_i), t_i = max_c p_ic.

    risk(t) is the share of wrong voxels among those of confidence max_c p_c >= t. It is low if few
    voxels are wrong and if those are the least confident.

    The area is exact if the bins separate all distinct confidences. Otherwise, with r_k right and
    e_k wrong voxels in bin k, and N and E voxels and errors in the bins before it, the exact area
    has in place of the bin's risk one between E / (N + r_k) and (E + e_k) / (N + e_k).

    Args:
      probs: `(B, *spatial, C)` class probabilities.
      labels: `(B, *spatial)` true classes, integer.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `(B,)` in [0, 1]; smaller is better.

    Raises:
      ValueError: if the shapes do not match.

    Example:
      >>> probs = jnp.array([[[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]]])
      >>> print(aurc(probs, jnp.array([[0, 0, 1, 0]])))
      [0.0625]

    Reference:
      Geifman, Uziel and El-Yaniv, Bias-reduced uncertainty estimation for deep neural classifiers,
      ICLR 2019; the curve: Geifman and El-Yaniv, Selective classification for deep neural networks,
      NeurIPS 2017.
    """
    return _or_nan(confidence_ranking(probs, labels, where).aurc, probs, where)


def entropy_auroc(probs: jax.Array, labels: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Area under the ROC curve of the entropy as a detector of wrong voxels.

    It is the probability that a wrong voxel has a higher entropy than a right one, a tie counting
    one half: 1 if the entropy tells them apart, 0.5 if it says nothing. It does not depend on how
    many are wrong.

    The area is exact if the bins separate all distinct entropies. Otherwise the error is at most
    half the share of pairs of a right and a wrong voxel that are in one bin.

    Args:
      probs: `(B, *spatial, C)` class probabilities.
      labels: `(B, *spatial)` true classes, integer.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `(B,)` in [0, 1], NaN if no voxel is wrong or all are; larger is better.

    Raises:
      ValueError: if the shapes do not match.

    Example:
      >>> probs = jnp.array([[[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]]])
      >>> print(entropy_auroc(probs, jnp.array([[0, 0, 0, 1]])))
      [0.6666667]

    Reference:
      Hendrycks and Gimpel, A baseline for detecting misclassified and out-of-distribution examples
      in neural networks, ICLR 2017, with the entropy in place of the largest probability.
    """
    return _or_nan(entropy_ranking(probs, labels, where).auroc, probs, where)


def _or_nan(value: jax.Array, probs: jax.Array, where: jax.Array | None) -> jax.Array:
    """The value `(B,)`, NaN where a probability of an included voxel is NaN."""
    unknown = jnp.isnan(jnp.asarray(probs)).any(-1)
    if where is not None:
        unknown &= jnp.asarray(where, bool)
    return jnp.where(unknown.any(tuple(range(1, unknown.ndim))), jnp.nan, value)
