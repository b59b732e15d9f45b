"""Overlap metrics between a predicted label map and the truth, per example and class.

`confusion` counts voxels, and every metric is a property of the counts. Counts can be added over
parts of an image, over images and over devices; ratios cannot:

    >>> import jax
    >>> top, bottom = Confusion(3, 1, 0, 4), Confusion(0, 1, 2, 5)
    >>> whole = jax.tree.map(jnp.add, top, bottom)
    >>> print(whole.dice, whole.recall)
    0.6 0.6

Counts are int32, exact up to 2**31 - 1 voxels. To sum over more, use NumPy's int64,
`jax.tree.map(lambda *x: np.sum(x, 0, np.int64), *counts)`; the properties work as before.

A ratio x / 0 is NaN: the metric is undefined, such as the recall of a class that is absent from the
truth, and a mean over cases should leave it out.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dicepp_jax.metrics import given


def _ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    a, b = jnp.asarray(numerator, jnp.float32), jnp.asarray(denominator, jnp.float32)
    return jnp.where(b == 0, jnp.nan, a / jnp.where(b == 0, 1, b))


class Confusion(NamedTuple):
    """Voxel counts, integer arrays of one shape such as `(B, C)`, and the metrics based on them.

    Attributes:
      tp: true positives, voxels of the class that are predicted as the class.
      fp: false positives, other voxels that are predicted as the class.
      fn: false negatives, voxels of the class that are predicted as another.
      tn: true negatives, other voxels that are predicted as another class.
    """

    tp: jax.Array
    fp: jax.Array
    fn: jax.Array
    tn: jax.Array

    @property
    def dice(self) -> jax.Array:
        """2 TP / (2 TP + FP + FN)."""
        # The errors are halved rather than TP doubled, as 2 TP may overflow int32.
        return _ratio(self.tp, self.tp + (self.fp + self.fn) / 2)

    @property
    def jaccard(self) -> jax.Array:
        """TP / (TP + FP + FN)."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def precision(self) -> jax.Array:
        """TP / (TP + FP)."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> jax.Array:
        """TP / (TP + FN)."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> jax.Array:
        """TN / (TN + FP)."""
        return _ratio(self.tn, self.tn + self.fp)

    @property
    def volume_difference(self) -> jax.Array:
        """(FP - FN) / (TP + FN)."""
        return _ratio(self.fp - self.fn, self.tp + self.fn)


def confusion(
    mask: jax.Array, labels: jax.Array, num_classes: int, where: jax.Array | None = None
) -> Confusion:
    """Count true and false positives and negatives of every class.

    Args:
      mask: `(B, *spatial)` predicted classes, integer.
      labels: `(B, *spatial)` true classes, integer.
      num_classes: number of classes C.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `Confusion` of integer arrays `(B, C)`.

    Raises:
      ValueError: if the shapes differ, or mask or labels are no classes.

    Example:
      >>> import jax.numpy as jnp
      >>> counts = confusion(jnp.array([[0, 1, 1, 1]]), jnp.array([[0, 0, 1, 1]]), 2)
      >>> counts.tp.tolist(), counts.fp.tolist(), counts.fn.tolist(), counts.tn.tolist()
      ([[1, 2]], [[0, 1]], [[1, 0]], [[2, 1]])
    """
    mask, labels, where = given.masks(mask, labels, num_classes, where)
    mask, labels = jnp.asarray(mask), jnp.asarray(labels)
    # Not -1, which no size fits if there is no example.
    rows = (mask.shape[0], math.prod(mask.shape[1:]))
    classes = jnp.arange(num_classes)[:, None, None]
    counted = jnp.ones(mask.shape, bool) if where is None else jnp.asarray(where, bool)
    counted = counted.reshape(rows)[None]
    predicted = counted & (mask.reshape(rows)[None] == classes)
    true = counted & (labels.reshape(rows)[None] == classes)
    tp = (predicted & true).sum(-1).T
    fp, fn = predicted.sum(-1).T - tp, true.sum(-1).T - tp
    return Confusion(tp, fp, fn, counted.sum(-1).T - tp - fp - fn)


def dice(
    mask: jax.Array, labels: jax.Array, num_classes: int, where: jax.Array | None = None
) -> jax.Array:
    """Dice similarity coefficient: 2 TP / (2 TP + FP + FN).

    Args:
      mask: `(B, *spatial)` predicted classes, integer.
      labels: `(B, *spatial)` true classes, integer.
      num_classes: number of classes C.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `(B, C)` in [0, 1], NaN for a class absent from both mask and truth.

    Raises:
      ValueError: if the shapes differ, or mask or labels are no classes.

    Example:
      >>> import jax.numpy as jnp
      >>> print(dice(jnp.array([[0, 1, 1, 0]]), jnp.array([[0, 0, 1, 1]]), 2))
      [[0.5 0.5]]

    Reference:
      DSC++ paper, Eq. 3.
    """
    return confusion(mask, labels, num_classes, where).dice


def jaccard(
    mask: jax.Array, labels: jax.Array, num_classes: int, where: jax.Array | None = None
) -> jax.Array:
    """Jaccard index, intersection over union: TP / (TP + FP + FN).

    Args:
      mask: `(B, *spatial)` predicted classes, integer.
      labels: `(B, *spatial)` true classes, integer.
      num_classes: number of classes C.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `(B, C)` in [0, 1], NaN for a class absent from both mask and truth.

    Raises:
      ValueError: if the shapes differ, or mask or labels are no classes.

    Example:
      >>> import jax.numpy as jnp
      >>> print(jaccard(jnp.array([[0, 1, 1, 0]]), jnp.array([[0, 0, 1, 0]]), 2))
      [[0.6666667 0.5      ]]

    Reference:
      DSC++ paper, Eq. 12.
    """
    return confusion(mask, labels, num_classes, where).jaccard


def precision(
    mask: jax.Array, labels: jax.Array, num_classes: int, where: jax.Array | None = None
) -> jax.Array:
    """Precision, positive predictive value: TP / (TP + FP).

    Args:
      mask: `(B, *spatial)` predicted classes, integer.
      labels: `(B, *spatial)` true classes, integer.
      num_classes: number of classes C.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `(B, C)` in [0, 1], NaN for a class that is not predicted anywhere.

    Raises:
      ValueError: if the shapes differ, or mask or labels are no classes.

    Example:
      >>> import jax.numpy as jnp
      >>> print(precision(jnp.array([[0, 0, 1, 1]]), jnp.array([[0, 0, 0, 1]]), 2))
      [[1.  0.5]]

    Reference:
      DSC++ paper, Eq. 7.
    """
    return confusion(mask, labels, num_classes, where).precision


def recall(
    mask: jax.Array, labels: jax.Array, num_classes: int, where: jax.Array | None = None
) -> jax.Array:
    """Recall, sensitivity: TP / (TP + FN).

    Args:
      mask: `(B, *spatial)` predicted classes, integer.
      labels: `(B, *spatial)` true classes, integer.
      num_classes: number of classes C.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `(B, C)` in [0, 1], NaN for a class that is absent from the truth.

    Raises:
      ValueError: if the shapes differ, or mask or labels are no classes.

    Example:
      >>> import jax.numpy as jnp
      >>> print(recall(jnp.array([[0, 1, 1, 1]]), jnp.array([[0, 0, 1, 1]]), 2))
      [[0.5 1. ]]

    Reference:
      DSC++ paper, Eq. 6.
    """
    return confusion(mask, labels, num_classes, where).recall


def specificity(
    mask: jax.Array, labels: jax.Array, num_classes: int, where: jax.Array | None = None
) -> jax.Array:
    """Specificity, true negative rate: TN / (TN + FP).

    Args:
      mask: `(B, *spatial)` predicted classes, integer.
      labels: `(B, *spatial)` true classes, integer.
      num_classes: number of classes C.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `(B, C)` in [0, 1], NaN for a class that all voxels belong to.

    Raises:
      ValueError: if the shapes differ, or mask or labels are no classes.

    Example:
      >>> import jax.numpy as jnp
      >>> print(specificity(jnp.array([[0, 1, 1, 1]]), jnp.array([[0, 0, 1, 1]]), 2))
      [[1.  0.5]]
    """
    return confusion(mask, labels, num_classes, where).specificity


def volume_difference(
    mask: jax.Array, labels: jax.Array, num_classes: int, where: jax.Array | None = None
) -> jax.Array:
    """Relative volume difference, (predicted - true) / true: (FP - FN) / (TP + FN).

    Args:
      mask: `(B, *spatial)` predicted classes, integer.
      labels: `(B, *spatial)` true classes, integer.
      num_classes: number of classes C.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `(B, C)`, at least -1, negative where too few voxels are predicted. NaN for a class that is
      absent from the truth.

    Raises:
      ValueError: if the shapes differ, or mask or labels are no classes.

    Example:
      >>> import jax.numpy as jnp
      >>> print(volume_difference(jnp.array([[0, 1, 1, 1]]), jnp.array([[0, 0, 1, 1]]), 2))
      [[-0.5  0.5]]
    """
    return confusion(mask, labels, num_classes, where).volume_difference
