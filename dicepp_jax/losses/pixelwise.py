"""Pixelwise losses: a loss map over the voxels, then its mean.

`ce_map` and `focal_map` give the loss of every voxel, `(B, *spatial)`; `ce` and `focal` are their
means over the voxels that `where` includes, `(B,)`. If it includes none, the mean is 0.

`label_smoothing`, `mbls` and `exp_ce` are cross entropies too: of smoothed labels, with a penalty
of differences between logits, and with an exponent and class weights. `weighted_ce` is the mean
over classes of means over voxels.
"""

import functools
import math

import jax
import jax.numpy as jnp

from dicepp_jax.array_checks import as_array, as_mask
from dicepp_jax.losses import inputs
from dicepp_jax.losses.inputs import AxisName, Scalar, check_exponent, check_range


def mean_voxels(
    x: jax.Array, where: jax.Array | None = None, *, axis_name: AxisName | None = None
) -> jax.Array:
    """Mean of a per-voxel map over the included voxels, 0 if there are none.

    Args:
      x: `(B, *spatial)` value of each voxel.
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      axis_name: name of the mapped axis (`jax.shard_map` or `jax.pmap`) over which the voxels of
        one example are split; the mean is then that of the whole example.

    Returns:
      `(B,)` means.

    Raises:
      ValueError: if x has no voxel, or where is not boolean or has another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> mean_voxels(jnp.array([[1.0, 2.0, 6.0]]), jnp.array([[True, True, False]])).tolist()
      [1.5]
    """
    x = as_array("x", x)
    if not x.ndim or not x.size:
        raise ValueError(
            f"x must have a value for each voxel, (B, *spatial), and a voxel, got shape {x.shape}"
        )
    where = as_mask(where, x.shape, "x (B, *spatial)")
    if where is not None:
        x = jnp.where(where, x, 0)
    counted = jnp.ones(x.shape, bool) if where is None else jnp.asarray(where, bool)
    count = inputs.sum_voxels(counted, axis_name)
    return inputs.sum_voxels(x, axis_name) / jnp.maximum(count, 1)


def ce_map(logits: jax.Array, labels: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    """Cross entropy of every voxel: sum_c -y log p.

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      where: `(B, *spatial)` boolean, False for voxels to leave out; their value is 0.

    Returns:
      `(B, *spatial)` losses.

    Raises:
      ValueError: if the shapes do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> print(ce_map(jnp.zeros((1, 2, 2)), jnp.zeros((1, 2), int)).round(3))
      [[0.693 0.693]]

    Reference:
      DSC++ paper, Eq. 1.
    """
    v = inputs.voxels(logits, labels, where)
    return -inputs.add([y * log_p for y, log_p in zip(v.labels, v.log_p, strict=True)])


def ce(
    logits: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Cross entropy loss: mean_i sum_c -y log p.

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      axis_name: name of the mapped axis (`jax.shard_map` or `jax.pmap`) over which the voxels of
        one example are split; the loss is then that of the whole example.

    Returns:
      `(B,)` non-negative losses.

    Raises:
      ValueError: if the shapes do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> print(ce(jnp.zeros((1, 4, 4, 2)), jnp.eye(4, dtype=int)[None]).round(4))
      [0.6931]

    Reference:
      DSC++ paper, Eq. 1.
    """
    return mean_voxels(ce_map(logits, labels, where=where), where, axis_name=axis_name)


def weighted_ce(
    logits: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Cross entropy with the classes weighted by their inverse frequency in the example.

    mean_i sum_c -w_c y log p with w_c = N / (C N_c), for N voxels, N_c = sum_i y of them of class c

    This is the mean over classes of the mean over the voxels of a class; a class that is absent
    counts as 0. The p of lowest loss is not the frequency of a class, but is larger for rare ones.

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      axis_name: name of the mapped axis (`jax.shard_map` or `jax.pmap`) over which the voxels of
        one example are split; the loss is then that of the whole example.

    Returns:
      `(B,)` non-negative losses.

    Raises:
      ValueError: if the shapes do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.log(jnp.array([[[0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.5, 0.5]]]))
      >>> expected = -(jnp.log(0.8) + jnp.log(0.5)) / 2
      >>> bool(jnp.allclose(weighted_ce(logits, jnp.array([[0, 0, 0, 1]])), expected))
      True

    Reference:
      The weights are scikit-learn's "balanced" ones, after G. King, L. Zeng: Logistic regression
      in rare events data. Political Analysis 9, 2001.
    """
    v = inputs.voxels(logits, labels, where)
    counts = [inputs.sum_voxels(y, axis_name) for y in v.labels]
    sums = [
        inputs.sum_voxels(-y * log_p, axis_name) for y, log_p in zip(v.labels, v.log_p, strict=True)
    ]
    means = [x / jnp.where(n > 0, n, 1) for x, n in zip(sums, counts, strict=True)]
    return inputs.add(means) / len(means)


def focal_map(
    logits: jax.Array,
    labels: jax.Array,
    *,
    alpha: Scalar = 0.5,
    gamma: Scalar = 2.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Focal loss of every voxel: sum_c alpha (1 - p)**gamma (-y log p).

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      alpha: overall factor, non-negative.
      gamma: the focal exponent, in [0.5, 5].
      where: `(B, *spatial)` boolean, False for voxels to leave out; their value is 0.

    Returns:
      `(B, *spatial)` losses.

    Raises:
      ValueError: if the shapes do not match, gamma is out of range or alpha is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> print(focal_map(jnp.zeros((1, 2, 2)), jnp.zeros((1, 2), int)).round(4))
      [[0.0866 0.0866]]

    Reference:
      DSC++ paper, Eq. 2.
    """
    check_range("alpha", alpha, 0.0, float("inf"))
    check_exponent("gamma", gamma)
    v = inputs.voxels(logits, labels, where)
    parts = zip(v.labels, v.log_p, inputs.log_not_p(v), strict=True)
    return -alpha * inputs.add([jnp.exp(gamma * not_p) * y * log_p for y, log_p, not_p in parts])


def focal(
    logits: jax.Array,
    labels: jax.Array,
    *,
    alpha: Scalar = 0.5,
    gamma: Scalar = 2.0,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Focal loss: mean_i sum_c alpha (1 - p)**gamma (-y log p).

    With alpha = 1 it approaches `ce` as gamma approaches 0.

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      alpha: overall factor, non-negative.
      gamma: the focal exponent, in [0.5, 5].
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      axis_name: name of the mapped axis (`jax.shard_map` or `jax.pmap`) over which the voxels of
        one example are split; the loss is then that of the whole example.

    Returns:
      `(B,)` non-negative losses.

    Raises:
      ValueError: if the shapes do not match, gamma is out of range or alpha is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> print(focal(jnp.zeros((1, 4, 4, 2)), jnp.eye(4, dtype=int)[None]).round(4))
      [0.0866]

    Reference:
      DSC++ paper, Eq. 2.
    """
    values = focal_map(logits, labels, alpha=alpha, gamma=gamma, where=where)
    return mean_voxels(values, where, axis_name=axis_name)


def label_smoothing(
    logits: jax.Array,
    labels: jax.Array,
    *,
    alpha: Scalar = 0.1,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Cross entropy of smoothed labels: mean_i sum_c -((1 - alpha) y + alpha / C) log p.

    It is lowest where p is the smoothed label, and very large where a logit of -inf excludes a
    class, unless alpha is 0.

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      alpha: share of each label that is spread evenly over the C classes, in [0, 1].
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      axis_name: name of the mapped axis (`jax.shard_map` or `jax.pmap`) over which the voxels of
        one example are split; the loss is then that of the whole example.

    Returns:
      `(B,)` non-negative losses.

    Raises:
      ValueError: if the shapes do not match or alpha is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> print(label_smoothing(jnp.array([[[2.0, 0.0]]]), jnp.array([[0]])).round(4))
      [0.2269]

    Reference:
      Szegedy et al., Rethinking the inception architecture for computer vision, CVPR 2016, its
      Section 7. There alpha is named epsilon.
    """
    check_range("alpha", alpha, 0.0, 1.0)
    v = inputs.voxels(logits, labels, where)
    even = alpha / len(v.labels)
    terms = [-((1 - alpha) * y + even) * x for y, x in zip(v.labels, v.log_p, strict=True)]
    return mean_voxels(inputs.add(terms), where, axis_name=axis_name)


def mbls(
    logits: jax.Array,
    labels: jax.Array,
    *,
    weight: Scalar = 0.1,
    margin: Scalar = 10.0,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Margin-based label smoothing: `ce` and a penalty of logits far below the largest one.

    mean_i [sum_c -y log p + weight sum_c max(0, max_k z_k - z_c - margin)], z the logits

    A class that a logit of -inf excludes has no penalty.

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      weight: of the penalty, non-negative.
      margin: by how much logits may differ without penalty, non-negative.
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      axis_name: name of the mapped axis (`jax.shard_map` or `jax.pmap`) over which the voxels of
        one example are split; the loss is then that of the whole example.

    Returns:
      `(B,)` non-negative losses.

    Raises:
      ValueError: if the shapes do not match, or weight or margin is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> print(mbls(jnp.array([[[15.0, 0.0]]]), jnp.array([[0]])).round(4))
      [0.5]

    Reference:
      Liu et al., The devil is in the margin: margin-based label smoothing for network calibration,
      CVPR 2022. Its equation sums over the classes; its code averages over them, which makes the
      penalty C times smaller.
    """
    check_range("weight", weight, 0.0, math.inf)
    check_range("margin", margin, 0.0, math.inf)
    v = inputs.voxels(logits, labels, where)
    largest = functools.reduce(jnp.maximum, v.logits)
    behind = [jnp.where(z == -jnp.inf, 0, largest - z) for z in v.logits]
    penalty = inputs.add([jnp.maximum(x - margin, 0) for x in behind])
    entropy = inputs.add([-y * x for y, x in zip(v.labels, v.log_p, strict=True)])
    return mean_voxels(entropy + weight * penalty, where, axis_name=axis_name)


def exp_ce(
    logits: jax.Array,
    labels: jax.Array,
    *,
    gamma: Scalar = 0.3,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Exponentially weighted cross entropy: mean_i sum_c w_c y (-log p)**gamma.

    w_c = sqrt(N / sum_i y), the inverse square root of the frequency of class c among the N voxels
    of the example. With gamma below 1 well predicted voxels keep more of their weight than in `ce`,
    with gamma above 1 less.

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      gamma: the exponent, in [0.1, 5].
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      axis_name: name of the mapped axis (`jax.shard_map` or `jax.pmap`) over which the voxels of
        one example are split; the loss is then that of the whole example.

    Returns:
      `(B,)` non-negative losses.

    Raises:
      ValueError: if the shapes do not match or gamma is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> print(exp_ce(jnp.zeros((1, 4, 2)), jnp.array([[0, 0, 0, 1]])).round(4))
      [1.2237]

    Reference:
      Wong et al., 3D segmentation with exponential logarithmic loss for highly unbalanced object
      sizes, MICCAI 2018, its L_Cross. There the frequencies are those of the training set.
    """
    check_range("gamma", gamma, 0.1, 5.0)
    v = inputs.voxels(logits, labels, where)
    voxels = inputs.sum_voxels(v.included, axis_name)
    losses = []
    for y, nll in zip(v.labels, _minus_log_p(v), strict=True):
        powers = y * inputs.power(jnp.where(y > 0, nll, 0), gamma)
        total, n = (inputs.sum_voxels(x, axis_name) for x in (powers, y))
        # The sum over a class that is absent is 0.
        losses.append(total * jax.lax.rsqrt(jnp.where(n > 0, n * voxels, 1)))
    return inputs.add(losses)


def _minus_log_p(v: inputs.Voxels) -> list[jax.Array]:
    """-log p of every class, which is accurate where p is nearly 1 and its root is not small.

    Where labels are hard, it holds at voxels of the class alone, as `inputs.log_not_p` does.
    """
    half = -math.log(2)
    return [
        jnp.where(x > half, -jnp.log1p(-jnp.exp(jnp.minimum(not_p, half))), -x)
        for x, not_p in zip(v.log_p, inputs.log_not_p(v), strict=True)
    ]
