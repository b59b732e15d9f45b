"""Metrics at many probability thresholds: curves, areas under them, and the choice of a threshold.

A voxel is predicted as class c where p_c >= T. `threshold_counts` counts voxels for all thresholds
in one pass, and the properties of its `Confusion` are curves along the last axis. The counts of a
validation set are the sum of the counts of its images:

    >>> probs = jnp.array([[[0.7, 0.3], [0.1, 0.9]], [[0.4, 0.6], [0.2, 0.8]]])
    >>> counts = threshold_counts(probs, jnp.array([[0, 1], [0, 1]]), THRESHOLDS)
    >>> counts = jax.tree.map(lambda x: x.sum(0), counts)
    >>> print(average_precision(counts), threshold_for(counts, THRESHOLDS, precision=0.9))
    [1. 1.] [0.21 0.61]

A probability of NaN reaches no threshold, as comparisons with NaN are false.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dicepp_jax.array_checks import as_array
from dicepp_jax.metrics import given
from dicepp_jax.metrics.calibration import flat_voxels
from dicepp_jax.metrics.overlap import Confusion

THRESHOLDS: np.ndarray = np.arange(5, 96) / 100
"""The thresholds of the DSC++ paper's curves: 0.05, 0.06, ..., 0.95."""

# Probabilities processed at a time, few enough for the cache of a CPU.
_CHUNK = 2**19

# Probabilities that share the leading 16 bits of a float32 share a cell; the last begins at 1.
_CELL_BITS = 16
_CELLS = (int(np.float32(1).view(np.int32)) >> _CELL_BITS) + 1
_CELL_STARTS = (np.arange(_CELLS, dtype=np.int32) << _CELL_BITS).view(np.float32)
_CELL_STARTS[0] = -np.inf


def threshold_counts(
    probs: jax.Array, labels: jax.Array, thresholds: jax.Array, where: jax.Array | None = None
) -> Confusion:
    """Count hits and errors of every class at every threshold: p_c >= T against labels == c.

    This takes about as long as one threshold: voxels are counted between neighbouring thresholds,
    separately for voxels of the class and others, and the counts are summed from the highest
    threshold down. Counts are exact for float32, in which XLA may treat numbers below 1e-38 as 0.

    Args:
      probs: `(B, *spatial, C)` class probabilities.
      labels: `(B, *spatial)` true classes, integer.
      thresholds: `(T,)` in any order.
      where: `(B, *spatial)` boolean, False for voxels to leave out.

    Returns:
      `Confusion` of int32 arrays `(B, C, T)`.

    Raises:
      ValueError: if the shapes do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[[0.5, 0.5], [0.25, 0.75]]])
      >>> counts = threshold_counts(probs, jnp.array([[0, 1]]), jnp.array([0.4, 0.5, 0.6]))
      >>> counts.tp[0, 1].tolist(), counts.fp[0, 1].tolist()
      ([1, 1, 1], [1, 1, 0])
    """
    thresholds = jnp.asarray(as_array("thresholds", thresholds), jnp.float32)
    if thresholds.ndim != 1 or not len(thresholds):
        raise ValueError(f"thresholds must be a non-empty list (T,), got shape {thresholds.shape}")
    table = jnp.sort(thresholds)
    between = _histogram(*flat_voxels(probs, labels, where, given.of_scores), table)
    reached = lax.cumsum(between, axis=3, reverse=True)
    total = reached[..., :1]
    predicted = reached[..., jnp.searchsorted(table, thresholds, side="right")]
    missed = total - predicted
    return Confusion(predicted[:, :, 1], predicted[:, :, 0], missed[:, :, 1], missed[:, :, 0])


def _histogram(probs: jax.Array, labels: jax.Array, mask: jax.Array, table: jax.Array) -> jax.Array:
    """Count voxels `(B, C, 2, T + 1)` by whether they are of the class and the thresholds reached.

    probs are `(B, N, C)`, labels and mask `(B, N)`; the table of thresholds `(T,)` is ascending.
    """
    batch, voxels, num_classes = probs.shape
    bins = len(table) + 1
    below = jnp.searchsorted(table, _CELL_STARTS)
    crowd = jnp.diff(jnp.append(below, len(table))).max()
    # No probability reaches NaN.
    table = jnp.append(table, jnp.nan)
    row = jnp.arange(batch * num_classes).reshape(batch, 1, num_classes)
    # A multiple of 128, as XLA's loops over odd numbers are about three times slower on a CPU.
    size = min(voxels, max(128, _CHUNK // max(1, batch * num_classes) // 128 * 128))

    def add_chunk(i: jax.Array, histogram: jax.Array) -> jax.Array:
        # The last chunk starts early so that it is complete; what overlaps is masked out.
        first = jnp.minimum(i * size, voxels - size)
        p, y, counted = (
            lax.dynamic_slice_in_dim(x, first, size, axis=1) for x in (probs, labels, mask)
        )
        counted &= (first + jnp.arange(size) >= i * size)[None]
        of_class = y[..., None] == jnp.arange(num_classes)[None, None]
        k = (2 * row + of_class) * bins + _reached(p, table, below, crowd)
        weight = jnp.broadcast_to(counted[..., None], k.shape)
        return histogram.at[k.reshape(-1)].add(weight.reshape(-1).astype(jnp.int32))

    chunks = -(-voxels // max(1, size))
    zeros = jnp.zeros(batch * num_classes * 2 * bins, jnp.int32)
    return lax.fori_loop(0, chunks, add_chunk, zeros).reshape(batch, num_classes, 2, bins)


def _reached(p: jax.Array, table: jax.Array, below: jax.Array, crowd: jax.Array) -> jax.Array:
    """Number of thresholds that p reaches: those below its cell, plus those it reaches in the cell.

    The table is ascending and ends in NaN, `below` is the number of thresholds below each cell, and
    `crowd` the largest number in one cell. Most cells have at most one, for which one comparison is
    enough.
    """
    bits = lax.bitcast_convert_type(jnp.where(p > 0, p, 0), jnp.int32)
    cell = jnp.minimum(bits >> _CELL_BITS, _CELLS - 1)
    steps = 32 - lax.clz(crowd)

    def climb(i: jax.Array, k: jax.Array) -> jax.Array:
        stride = 1 << (steps - 1 - i)
        return k + stride * (p >= table.at[k + stride - 1].get(mode="clip"))

    return lax.fori_loop(0, steps, climb, below.at[cell].get(mode="promise_in_bounds"))


def roc_auc(counts: Confusion) -> jax.Array:
    """Area under the ROC curve, recall against false positive rate, by the trapezoidal rule.

    The curve runs from (0, 0) through the thresholds to (1, 1). The area is exact if the thresholds
    separate all distinct probabilities. Otherwise the error is at most half the total area of the
    rectangles between neighbouring points, whose sides are the differences in recall and in false
    positive rate.

    Args:
      counts: of shape `(*shape, T)` from `threshold_counts`, thresholds in any order.

    Returns:
      `(*shape)` in [0, 1], NaN for a class that no voxel or every voxel belongs to.

    Raises:
      ValueError: if the counts are not of one shape, or negative.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]]])
      >>> counts = threshold_counts(probs, jnp.array([[0, 0, 1, 1]]), THRESHOLDS)
      >>> print(roc_auc(counts))
      [[0.75 0.75]]
    """
    curve = _curve(counts)
    return jnp.trapezoid(curve.recall, 1 - curve.specificity, axis=-1)


def average_precision(counts: Confusion) -> jax.Array:
    """Area under the precision-recall curve, as a step function: sum_k (R_k - R_(k-1)) P_k.

    k runs from the highest threshold down and ends with threshold 0, at which all voxels are
    predicted as the class. The area is exact if the thresholds separate all distinct probabilities.
    Otherwise the exact area has, in place of P_k, a precision between
    TP_(k-1) / (TP_(k-1) + FP_k) and TP_k / (TP_k + FP_(k-1)).

    Args:
      counts: of shape `(*shape, T)` from `threshold_counts`, thresholds in any order.

    Returns:
      `(*shape)` in [0, 1], NaN for a class that is absent from the truth.

    Raises:
      ValueError: if the counts are not of one shape, or negative.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]]])
      >>> counts = threshold_counts(probs, jnp.array([[0, 0, 1, 1]]), THRESHOLDS)
      >>> print(average_precision(counts))
      [[0.83333 0.83333]]
    """
    curve = _curve(counts)
    gain = jnp.diff(curve.recall, axis=-1)
    # Where no voxel is predicted as the class, precision is NaN and recall does not increase.
    return jnp.where(gain == 0, 0, gain * curve.precision[..., 1:]).sum(-1)


def _curve(counts: Confusion) -> Confusion:
    """Counts by descending threshold, preceded by no and followed by all voxels as positives."""
    tp, fp, fn, tn = (jnp.asarray(x, jnp.float32) for x in _checked(counts))

    def falling(called: jax.Array, total: jax.Array) -> jax.Array:
        # The lower the threshold, the more voxels are predicted as the class.
        return jnp.concatenate([0 * total, jnp.sort(called, axis=-1), total], axis=-1)

    positives, negatives = (tp + fn)[..., :1], (fp + tn)[..., :1]
    tp, fp = falling(tp, positives), falling(fp, negatives)
    return Confusion(tp, fp, positives - tp, negatives - fp)


def _checked(counts: Confusion) -> Confusion:
    arrays = [as_array("counts", x) for x in counts]
    shapes = {x.shape for x in arrays}
    if not isinstance(counts, Confusion) or len(shapes) > 1 or not arrays[0].ndim:
        raise ValueError(
            "counts must be a Confusion of arrays of one shape (*shape, T), as from "
            f"threshold_counts, got {type(counts).__name__} of {sorted(shapes)}"
        )
    if any(not isinstance(x, jax.core.Tracer) and (np.asarray(x) < 0).any() for x in arrays):
        raise ValueError("counts must not be negative; sum them over images in int64")
    return counts


def threshold_for(
    counts: Confusion,
    thresholds: jax.Array,
    *,
    recall: float | None = None,
    precision: float | None = None,
) -> jax.Array:
    """The threshold that reaches a target recall or a target precision on the voxels counted.

    For a recall it is the highest threshold that reaches it: all lower ones do too, but predict
    more voxels as the class. For a precision it is the lowest threshold that reaches it: higher
    ones may or may not, as precision is not monotonic, but none of them has a higher recall.

    Args:
      counts: of shape `(*shape, T)` from `threshold_counts`, summed over validation images.
      thresholds: `(T,)`, the thresholds of the counts.
      recall: the target recall, in [0, 1].
      precision: the target precision, in [0, 1]; give either this or the recall.

    Returns:
      `(*shape)` thresholds, NaN where none reaches the target.

    Raises:
      ValueError: if neither or both are given, one is out of range, or shapes do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]]])
      >>> counts = threshold_counts(probs, jnp.array([[0, 0, 1, 1]]), THRESHOLDS)
      >>> print(threshold_for(counts, THRESHOLDS, recall=0.9))
      [[0.6  0.35]]
      >>> print(threshold_for(counts, THRESHOLDS, precision=0.9))
      [[0.66 0.41]]
    """
    _checked(counts)
    thresholds = jnp.asarray(as_array("thresholds", thresholds), jnp.float32)
    if thresholds.shape != counts.tp.shape[-1:]:
        raise ValueError(
            f"counts of shape (*shape, T) {counts.tp.shape} need T thresholds (T,), got "
            f"{thresholds.shape}"
        )
    candidates = jnp.broadcast_to(thresholds, counts.tp.shape)

    def reaching(name: str, wanted: float) -> jax.Array:
        if not 0 <= wanted <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {wanted}")
        return jnp.where(getattr(counts, name) >= wanted, candidates, jnp.nan)

    if recall is not None and precision is None:
        return jnp.nanmax(reaching("recall", recall), axis=-1)
    if precision is not None and recall is None:
        return jnp.nanmin(reaching("precision", precision), axis=-1)
    raise ValueError(f"give either recall or precision, got {recall=} and {precision=}")
