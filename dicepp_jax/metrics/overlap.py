"""Overlap metrics of a label map against the truth, per example and class.

Counts first, ratios last: `confusion` gives sums over voxels, which add up over parts of an image,
and every metric is a ratio of them. A ratio 0 / 0 is NaN: the metric says nothing about a class
that is neither there nor predicted, and a mean over cases should leave it out.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Confusion(NamedTuple):
    """Numbers of true positive, false positive and false negative voxels, each `(B, C)`."""

    tp: jax.Array
    fp: jax.Array
    fn: jax.Array


def confusion(
    mask: jax.Array, labels: jax.Array, num_classes: int, where: jax.Array | None = None
) -> Confusion:
    """Count agreements and errors of every class.

    Args:
      mask: `(B, *spatial)` predicted classes, integer.
      labels: `(B, *spatial)` true classes, integer.
      num_classes: C.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `Confusion` of integer arrays `(B, C)`.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> counts = confusion(jnp.array([[0, 1, 1, 1]]), jnp.array([[0, 0, 1, 1]]), 2)
      >>> counts.tp.tolist(), counts.fp.tolist(), counts.fn.tolist()
      ([[1, 2]], [[0, 1]], [[1, 0]])
    """
    mask, labels = jnp.asarray(mask), jnp.asarray(labels)
    if mask.shape != labels.shape or (where is not None and jnp.shape(where) != mask.shape):
        raise ValueError(
            f"mask, labels and where must have one shape (B, *spatial), got {mask.shape}, "
            f"{labels.shape} and {None if where is None else jnp.shape(where)}"
        )
    rows = (mask.shape[0], -1)
    classes = jnp.arange(num_classes)[:, None, None]
    predicted = mask.reshape(rows)[None] == classes
    true = labels.reshape(rows)[None] == classes
    if where is not None:
        counted = jnp.asarray(where, bool).reshape(rows)[None]
        predicted, true = predicted & counted, true & counted
    tp = (predicted & true).sum(-1)
    return Confusion(tp.T, (predicted.sum(-1) - tp).T, (true.sum(-1) - tp).T)


def _ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    empty = denominator == 0
    return jnp.where(empty, jnp.nan, numerator / jnp.where(empty, 1, denominator))


def dice(
    mask: jax.Array, labels: jax.Array, num_classes: int, where: jax.Array | None = None
) -> jax.Array:
    """Dice similarity coefficient: 2 TP / (2 TP + FP + FN).

    Args:
      mask: `(B, *spatial)` predicted classes, integer.
      labels: `(B, *spatial)` true classes, integer.
      num_classes: C.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `(B, C)` in [0, 1], NaN for a class absent from both.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> print(dice(jnp.array([[0, 1, 1, 0]]), jnp.array([[0, 0, 1, 1]]), 2))
      [[0.5 0.5]]

    Reference:
      DSC++ paper, Eq. 3.
    """
    n = confusion(mask, labels, num_classes, where)
    return _ratio(2 * n.tp, 2 * n.tp + n.fp + n.fn)


def jaccard(
    mask: jax.Array, labels: jax.Array, num_classes: int, where: jax.Array | None = None
) -> jax.Array:
    """Jaccard index, intersection over union: TP / (TP + FP + FN).

    Args:
      mask: `(B, *spatial)` predicted classes, integer.
      labels: `(B, *spatial)` true classes, integer.
      num_classes: C.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `(B, C)` in [0, 1], NaN for a class absent from both.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> print(jaccard(jnp.array([[0, 1, 1, 0]]), jnp.array([[0, 0, 1, 0]]), 2))
      [[0.6666667 0.5      ]]

    Reference:
      DSC++ paper, Eq. 12.
    """
    n = confusion(mask, labels, num_classes, where)
    return _ratio(n.tp, n.tp + n.fp + n.fn)


def precision(
    mask: jax.Array, labels: jax.Array, num_classes: int, where: jax.Array | None = None
) -> jax.Array:
    """Precision, positive predictive value: TP / (TP + FP).

    Args:
      mask: `(B, *spatial)` predicted classes, integer.
      labels: `(B, *spatial)` true classes, integer.
      num_classes: C.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `(B, C)` in [0, 1], NaN for a class never predicted.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> print(precision(jnp.array([[0, 0, 1, 1]]), jnp.array([[0, 0, 0, 1]]), 2))
      [[1.  0.5]]

    Reference:
      DSC++ paper, Eq. 7.
    """
    n = confusion(mask, labels, num_classes, where)
    return _ratio(n.tp, n.tp + n.fp)


def recall(
    mask: jax.Array, labels: jax.Array, num_classes: int, where: jax.Array | None = None
) -> jax.Array:
    """Recall, sensitivity: TP / (TP + FN).

    Args:
      mask: `(B, *spatial)` predicted classes, integer.
      labels: `(B, *spatial)` true classes, integer.
      num_classes: C.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `(B, C)` in [0, 1], NaN for a class that is not there.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> print(recall(jnp.array([[0, 1, 1, 1]]), jnp.array([[0, 0, 1, 1]]), 2))
      [[0.5 1. ]]

    Reference:
      DSC++ paper, Eq. 6.
    """
    n = confusion(mask, labels, num_classes, where)
    return _ratio(n.tp, n.tp + n.fn)
