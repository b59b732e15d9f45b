r"""Region losses: functions of soft true positives, false positives and false negatives.

Each is built from three public steps, so that a step can be replaced or inspected:

1. `soft_counts`: TP, FP, FN of shape `(B, C)`. They are sums over voxels, so the counts of the
   parts of a volume that is split over devices add up to the counts of the whole volume.
2. a loss per class, `(B, C)`: `dice_per_class` or `tversky_per_class`. For class weights, or to
   leave out the background, average these losses yourself.
3. the mean over classes, `(B,)`: `dsc`, `dscpp`, `tversky`, `tverskypp`, `focal_tversky`,
   `focal_tverskypp`.

`dml` is a Dice loss of L1 norms instead of soft counts, for labels that are soft.

The ++ exponent is applied to the false positive and false negative of every voxel, inside the sum:
`FP = sum_i (p_i (1 - y_i))**gamma`, `FN = sum_i ((1 - p_i) y_i)**gamma` (Eq. 9). At gamma = 1 a ++
loss equals the original loss.

`1 - TP / (TP + errors)` is computed as `errors / (TP + errors)`: the same value without
cancellation when a prediction is nearly perfect.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dicepp_jax.losses import inputs
from dicepp_jax.losses.inputs import EPSILON, AxisName, Scalar, check_exponent, check_range


class SoftCounts(NamedTuple):
    """Soft true positives, false positives and false negatives, each of shape `(B, C)`."""

    tp: jax.Array
    fp: jax.Array
    fn: jax.Array


def soft_counts(
    logits: jax.Array,
    labels: jax.Array,
    *,
    gamma: Scalar = 1.0,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> SoftCounts:
    r"""Soft true positives, false positives and false negatives per example and class.

    TP = sum_i p y, FP = sum_i (p (1 - y))**gamma, FN = sum_i ((1 - p) y)**gamma

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      gamma: the ++ exponent, in [0.5, 5]; 1 gives the ordinary soft counts.
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      axis_name: name of the mapped axis (`jax.shard_map` or `jax.pmap`) over which the voxels of
        one example are split; the loss is then that of the whole example.

    Returns:
      `SoftCounts` of float32 arrays `(B, C)`.

    Raises:
      ValueError: if the shapes do not match or gamma is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> counts = soft_counts(jnp.zeros((1, 4, 2)), jnp.array([[0, 0, 0, 1]]))
      >>> counts.tp.tolist(), counts.fp.tolist(), counts.fn.tolist()
      ([[1.5, 0.5]], [[0.5, 1.5]], [[1.5, 0.5]])

    Reference:
      DSC++ paper, Eq. 5 and 9.
    """
    check_exponent("gamma", gamma)
    v = inputs.voxels(logits, labels, where)
    labels_pp, others_pp = v.labels, v.others
    if not v.hard:
        labels_pp, others_pp = (
            [inputs.power(y, gamma) for y in part] for part in (v.labels, v.others)
        )
    terms = (
        [y * jnp.exp(log_p) for y, log_p in zip(v.labels, v.log_p, strict=True)],
        [y * jnp.exp(gamma * log_p) for y, log_p in zip(others_pp, v.log_p, strict=True)],
        [y * jnp.exp(gamma * x) for y, x in zip(labels_pp, inputs.log_not_p(v), strict=True)],
    )
    sums = ([inputs.sum_voxels(x, axis_name) for x in of_classes] for of_classes in terms)
    return SoftCounts(*(jnp.stack(x, axis=-1) for x in sums))


def dice_per_class(counts: SoftCounts) -> jax.Array:
    """Dice loss per example and class: 1 - (2 TP + eps) / (2 TP + FP + FN + eps), eps = 1e-7.

    A class that is neither present nor predicted has loss 0 and gradient 0.

    Args:
      counts: `SoftCounts` of shape `(B, C)`.

    Returns:
      `(B, C)` losses in [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> counts = SoftCounts(jnp.array([[3.0]]), jnp.array([[1.0]]), jnp.array([[1.0]]))
      >>> dice_per_class(counts).tolist()
      [[0.25]]

    Reference:
      DSC++ paper, Eq. 5.
    """
    errors = counts.fp + counts.fn
    return errors / (2 * counts.tp + errors + EPSILON)


def tversky_per_class(counts: SoftCounts, alpha: Scalar, beta: Scalar) -> jax.Array:
    """Tversky loss per example and class, 1 - TI.

    TI = (TP + eps) / (TP + alpha FP + beta FN + eps), eps = 1e-7

    Args:
      counts: `SoftCounts` of shape `(B, C)`.
      alpha: non-negative weight of the false positives.
      beta: non-negative weight of the false negatives.

    Returns:
      `(B, C)` losses in [0, 1].

    Raises:
      ValueError: if a weight is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> counts = SoftCounts(jnp.array([[3.0]]), jnp.array([[1.0]]), jnp.array([[1.0]]))
      >>> tversky_per_class(counts, alpha=0.5, beta=0.5).tolist()
      [[0.25]]

    Reference:
      DSC++ paper, Eq. 16.
    """
    check_range("alpha", alpha, 0.0, float("inf"))
    check_range("beta", beta, 0.0, float("inf"))
    errors = alpha * counts.fp + beta * counts.fn
    # The gradient of a plain quotient overflows under a focal exponent, for a class that is absent
    # and whose predicted probability approaches 0.
    return errors * (1 / (counts.tp + errors + EPSILON))


def dsc(
    logits: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Dice loss: 1 - mean_c 2 TP / (2 TP + FP + FN).

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
      >>> print(dsc(jnp.zeros((1, 4, 4, 2)), jnp.eye(4, dtype=int)[None]).round(4))
      [0.5333]

    Reference:
      DSC++ paper, Eq. 3 to 5.
    """
    return dice_per_class(soft_counts(logits, labels, where=where, axis_name=axis_name)).mean(-1)


def dscpp(
    logits: jax.Array,
    labels: jax.Array,
    *,
    gamma: Scalar = 2.0,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """DSC++ loss: Dice loss with an exponent on the false positive and negative of every voxel.

    1 - mean_c 2 TP / (2 TP + sum_i (p (1 - y))**gamma + sum_i ((1 - p) y)**gamma)

    A larger gamma penalises uncertain errors less and confident errors as before, which improves
    the calibration of the probabilities. With gamma = 1 it is `dsc`.

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      gamma: the ++ exponent, in [0.5, 5].
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      axis_name: name of the mapped axis (`jax.shard_map` or `jax.pmap`) over which the voxels of
        one example are split; the loss is then that of the whole example.

    Returns:
      `(B,)` losses in [0, 1].

    Raises:
      ValueError: if the shapes do not match or gamma is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> print(dscpp(jnp.zeros((1, 4, 4, 2)), jnp.eye(4, dtype=int)[None]).round(4))
      [0.375]

    Reference:
      DSC++ paper, Eq. 9.
    """
    return dice_per_class(
        soft_counts(logits, labels, gamma=gamma, where=where, axis_name=axis_name)
    ).mean(-1)


def tversky(
    logits: jax.Array,
    labels: jax.Array,
    *,
    alpha: Scalar = 0.3,
    beta: Scalar = 0.7,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Tversky loss: mean_c 1 - TP / (TP + alpha FP + beta FN).

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      alpha: non-negative weight of the false positives.
      beta: non-negative weight of the false negatives.
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      axis_name: name of the mapped axis (`jax.shard_map` or `jax.pmap`) over which the voxels of
        one example are split; the loss is then that of the whole example.

    Returns:
      `(B,)` losses in [0, 1].

    Raises:
      ValueError: if the shapes do not match or a weight is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> print(tversky(jnp.zeros((1, 4, 4, 2)), jnp.eye(4, dtype=int)[None]).round(4))
      [0.5299]

    Reference:
      DSC++ paper, Eq. 15 and 16; averaged over classes as in the authors' code, where the
      paper prints a sum.
    """
    return tversky_per_class(
        soft_counts(logits, labels, where=where, axis_name=axis_name), alpha, beta
    ).mean(-1)


def tverskypp(
    logits: jax.Array,
    labels: jax.Array,
    *,
    alpha: Scalar = 0.3,
    beta: Scalar = 0.7,
    gamma: Scalar = 2.0,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Tversky++ loss: `tversky` with exponent gamma on every false positive and false negative.

    mean_c 1 - TP / (TP + alpha sum_i (p (1 - y))**gamma + beta sum_i ((1 - p) y)**gamma)

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      alpha: non-negative weight of the false positives.
      beta: non-negative weight of the false negatives.
      gamma: the ++ exponent, in [0.5, 5].
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      axis_name: name of the mapped axis (`jax.shard_map` or `jax.pmap`) over which the voxels of
        one example are split; the loss is then that of the whole example.

    Returns:
      `(B,)` losses in [0, 1].

    Raises:
      ValueError: if the shapes do not match, gamma is out of range or a weight is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> print(tverskypp(jnp.zeros((1, 4, 4, 2)), jnp.eye(4, dtype=int)[None]).round(4))
      [0.3651]

    Reference:
      DSC++ paper, Eq. 9 and 16.
    """
    counts = soft_counts(logits, labels, gamma=gamma, where=where, axis_name=axis_name)
    return tversky_per_class(counts, alpha, beta).mean(-1)


def focal_tversky(
    logits: jax.Array,
    labels: jax.Array,
    *,
    alpha: Scalar = 0.3,
    beta: Scalar = 0.7,
    gamma: Scalar = 4 / 3,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Focal Tversky loss: mean_c (1 - TI)**(1 / gamma).

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      alpha: non-negative weight of the false positives.
      beta: non-negative weight of the false negatives.
      gamma: the focal exponent, in [1, 5].
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      axis_name: name of the mapped axis (`jax.shard_map` or `jax.pmap`) over which the voxels of
        one example are split; the loss is then that of the whole example.

    Returns:
      `(B,)` losses in [0, 1].

    Raises:
      ValueError: if the shapes do not match, gamma is out of range or a weight is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> print(focal_tversky(jnp.zeros((1, 4, 4, 2)), jnp.eye(4, dtype=int)[None]).round(4))
      [0.6196]

    Reference:
      DSC++ paper, Eq. 17; averaged over classes as in the authors' code, where the paper prints
      a sum.
    """
    return focal_tverskypp(
        logits,
        labels,
        alpha=alpha,
        beta=beta,
        gamma=gamma,
        gamma_pp=1.0,
        where=where,
        axis_name=axis_name,
    )


def focal_tverskypp(
    logits: jax.Array,
    labels: jax.Array,
    *,
    alpha: Scalar = 0.3,
    beta: Scalar = 0.7,
    gamma: Scalar = 4 / 3,
    gamma_pp: Scalar = 2.0,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Focal Tversky++ loss: `focal_tversky` with the soft counts of `tverskypp`.

    mean_c (1 - TI)**(1 / gamma), with exponent gamma_pp on every false positive and false negative

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      alpha: non-negative weight of the false positives.
      beta: non-negative weight of the false negatives.
      gamma: the focal exponent, in [1, 5].
      gamma_pp: the ++ exponent, in [0.5, 5].
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      axis_name: name of the mapped axis (`jax.shard_map` or `jax.pmap`) over which the voxels of
        one example are split; the loss is then that of the whole example.

    Returns:
      `(B,)` losses in [0, 1].

    Raises:
      ValueError: if the shapes do not match, an exponent is out of range or a weight is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> print(focal_tverskypp(jnp.zeros((1, 4, 4, 2)), jnp.eye(4, dtype=int)[None]).round(4))
      [0.4676]

    Reference:
      DSC++ paper, Eq. 9 and 17.
    """
    check_range("gamma", gamma, 1.0, 5.0, hint="; the ++ exponent of focal_tverskypp is gamma_pp")
    check_exponent("gamma_pp", gamma_pp)
    counts = soft_counts(logits, labels, gamma=gamma_pp, where=where, axis_name=axis_name)
    return inputs.power(tversky_per_class(counts, alpha, beta), 1 / gamma).mean(-1)


def dml(
    logits: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Dice semimetric loss, for soft labels: 1 - mean_c (|p| + |y| - |p - y|) / (|p| + |y|).

    The norms are L1, sums over voxels: |p - y| = sum_i |p_i - y_i|. On hard labels it is `dsc`. On
    soft ones, where `dsc` is lowest at a hard prediction, it is 0 at p = y and nowhere else.

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
      >>> from dicepp_jax.losses import dml, dsc, from_probabilities
      >>> y = jnp.array([[[0.75, 0.25]]])
      >>> print(dml(from_probabilities(y), y).round(4), dsc(from_probabilities(y), y).round(4))
      [0.] [0.5]

    Reference:
      Wang et al., Dice semimetric losses: optimizing the Dice score with soft labels, MICCAI 2023,
      its DML1, here over the voxels of each example.
    """
    v = inputs.voxels(logits, labels, where)
    terms = [
        (jnp.abs(jnp.exp(x) * v.included - y), jnp.exp(x) * v.included + y)
        for x, y in zip(v.log_p, v.labels, strict=True)
    ]
    norms = [[inputs.sum_voxels(x, axis_name) for x in of_class] for of_class in terms]
    return inputs.add([error / (both + EPSILON) for error, both in norms]) / len(norms)
