"""Compound losses: a combination of a pixelwise and a region loss.

The two terms of the Unified Focal loss, `asymmetric_focal` and `asymmetric_focal_tversky`, are also
available as separate losses.
"""

import jax
import jax.numpy as jnp

from dicepp_jax.losses import inputs
from dicepp_jax.losses.inputs import AxisName, Scalar, check_exponent, check_range
from dicepp_jax.losses.pixelwise import ce, mean_voxels
from dicepp_jax.losses.region import dsc, dscpp, soft_counts, tversky_per_class


def dsc_ce(
    logits: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Dice loss plus cross entropy: `dsc` + `ce`, the combination that nnU-Net trains with.

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
      >>> print(dsc_ce(jnp.zeros((1, 4, 4, 2)), jnp.eye(4, dtype=int)[None]).round(4))
      [1.2265]

    Reference:
      DSC++ paper, Eq. 1 and 4.
    """
    return dsc(logits, labels, where=where, axis_name=axis_name) + ce(
        logits, labels, where=where, axis_name=axis_name
    )


def dscpp_ce(
    logits: jax.Array,
    labels: jax.Array,
    *,
    gamma: Scalar = 2.0,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """DSC++ loss plus cross entropy: `dscpp` + `ce`.

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      gamma: the ++ exponent, in [0.5, 5].
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      axis_name: name of the mapped axis (`jax.shard_map` or `jax.pmap`) over which the voxels of
        one example are split; the loss is then that of the whole example.

    Returns:
      `(B,)` non-negative losses.

    Raises:
      ValueError: if the shapes do not match or gamma is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> print(dscpp_ce(jnp.zeros((1, 4, 4, 2)), jnp.eye(4, dtype=int)[None]).round(4))
      [1.0681]

    Reference:
      DSC++ paper, Eq. 1 and 9.
    """
    return dscpp(logits, labels, gamma=gamma, where=where, axis_name=axis_name) + ce(
        logits, labels, where=where, axis_name=axis_name
    )


def combo(
    logits: jax.Array,
    labels: jax.Array,
    *,
    alpha: Scalar = 0.5,
    beta: Scalar = 0.5,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Combo loss: alpha mCE - (1 - alpha) DSC.

    mCE = mean_i -(beta sum_{foreground} y log p + (1 - beta) y_bg log p_bg)

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities; class 0 is the background.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      alpha: weight of the cross entropy relative to the Dice term, in [0, 1].
      beta: weight of the foreground in the cross entropy, in [0, 1].
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      axis_name: name of the mapped axis (`jax.shard_map` or `jax.pmap`) over which the voxels of
        one example are split; the loss is then that of the whole example.

    Returns:
      `(B,)` losses, at least alpha - 1.

    Raises:
      ValueError: if the shapes do not match or a weight is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> print(combo(jnp.zeros((1, 4, 4, 2)), jnp.eye(4, dtype=int)[None]).round(4))
      [-0.06]

    Reference:
      DSC++ paper, Eq. 13 and 14.
    """
    return combopp(
        logits, labels, alpha=alpha, beta=beta, gamma=1.0, where=where, axis_name=axis_name
    )


def combopp(
    logits: jax.Array,
    labels: jax.Array,
    *,
    alpha: Scalar = 0.5,
    beta: Scalar = 0.5,
    gamma: Scalar = 2.0,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Combo++ loss: `combo` with the Dice term of the DSC++ loss.

    alpha mCE - (1 - alpha) mean_c 2 TP / (2 TP + FP + FN), with exponent gamma on every false
    positive and false negative

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities; class 0 is the background.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      alpha: weight of the cross entropy relative to the Dice term, in [0, 1].
      beta: weight of the foreground in the cross entropy, in [0, 1].
      gamma: the ++ exponent, in [0.5, 5].
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      axis_name: name of the mapped axis (`jax.shard_map` or `jax.pmap`) over which the voxels of
        one example are split; the loss is then that of the whole example.

    Returns:
      `(B,)` losses, at least alpha - 1.

    Raises:
      ValueError: if the shapes do not match, or a weight or gamma is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> print(combopp(jnp.zeros((1, 4, 4, 2)), jnp.eye(4, dtype=int)[None]).round(4))
      [-0.1392]

    Reference:
      DSC++ paper, Eq. 9, 13 and 14.
    """
    check_range("alpha", alpha, 0.0, 1.0)
    check_range("beta", beta, 0.0, 1.0)
    v = inputs.voxels(logits, labels, where)
    background, *foreground = (-y * x for y, x in zip(v.labels, v.log_p, strict=True))
    modified_ce = (1 - beta) * background + beta * inputs.add(foreground)
    dice = 1 - dscpp(logits, labels, gamma=gamma, where=where, axis_name=axis_name)
    return alpha * mean_voxels(modified_ce, where, axis_name=axis_name) - (1 - alpha) * dice


def _check_unified(delta: Scalar, gamma: Scalar) -> None:
    check_range("delta", delta, 0.0, 1.0)
    hint = "; the ++ exponent of the Unified Focal losses is gamma_pp"
    check_range("gamma", gamma, 0.0, 1.0, half_open=True, hint=hint)


def asymmetric_focal_map(
    logits: jax.Array,
    labels: jax.Array,
    *,
    delta: Scalar = 0.6,
    gamma: Scalar = 0.5,
    where: jax.Array | None = None,
) -> jax.Array:
    """Asymmetric Focal loss of every voxel, which suppresses only easy background voxels.

    -delta sum_{foreground} y log p - (1 - delta) (1 - p_bg)**gamma y_bg log p_bg

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities; class 0 is the background.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      delta: weight of the foreground, in [0, 1].
      gamma: the focal exponent, in [0, 1).
      where: `(B, *spatial)` boolean, False for voxels to leave out; their value is 0.

    Returns:
      `(B, *spatial)` losses.

    Raises:
      ValueError: if the shapes do not match or a hyper-parameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> print(asymmetric_focal_map(jnp.zeros((1, 2, 2)), jnp.array([[0, 1]])).round(4))
      [[0.1961 0.4159]]

    Reference:
      DSC++ paper, Eq. 19, as implemented in the authors' code.
    """
    _check_unified(delta, gamma)
    v = inputs.voxels(logits, labels, where)
    background, *foreground = (-y * x for y, x in zip(v.labels, v.log_p, strict=True))
    focus = jnp.exp(gamma * inputs.log_not_p(v)[0])
    return (1 - delta) * focus * background + delta * inputs.add(foreground)


def asymmetric_focal(
    logits: jax.Array,
    labels: jax.Array,
    *,
    delta: Scalar = 0.6,
    gamma: Scalar = 0.5,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Asymmetric Focal loss: the mean over voxels of `asymmetric_focal_map`.

    mean_i [-delta sum_{foreground} y log p - (1 - delta) (1 - p_bg)**gamma y_bg log p_bg]

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities; class 0 is the background.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      delta: weight of the foreground, in [0, 1].
      gamma: the focal exponent, in [0, 1).
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      axis_name: name of the mapped axis (`jax.shard_map` or `jax.pmap`) over which the voxels of
        one example are split; the loss is then that of the whole example.

    Returns:
      `(B,)` non-negative losses.

    Raises:
      ValueError: if the shapes do not match or a hyper-parameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> print(asymmetric_focal(jnp.zeros((1, 4, 4, 2)), jnp.eye(4, dtype=int)[None]).round(4))
      [0.251]

    Reference:
      DSC++ paper, Eq. 19, as implemented in the authors' code.
    """
    values = asymmetric_focal_map(logits, labels, delta=delta, gamma=gamma, where=where)
    return mean_voxels(values, where, axis_name=axis_name)


def asymmetric_focal_tversky(
    logits: jax.Array,
    labels: jax.Array,
    *,
    delta: Scalar = 0.6,
    gamma: Scalar = 0.5,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Asymmetric Focal Tversky loss, which enhances only the rare (foreground) classes.

    mean_c of (1 - TI) for the background, (1 - TI)**(1 - gamma) for each foreground class,
    TI = TP / (TP + delta FN + (1 - delta) FP)

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities; class 0 is the background.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      delta: weight of the false negatives relative to the false positives, in [0, 1].
      gamma: the focal exponent, in [0, 1).
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      axis_name: name of the mapped axis (`jax.shard_map` or `jax.pmap`) over which the voxels of
        one example are split; the loss is then that of the whole example.

    Returns:
      `(B,)` losses in [0, 1].

    Raises:
      ValueError: if the shapes do not match or a hyper-parameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> z, y = jnp.zeros((1, 4, 4, 2)), jnp.eye(4, dtype=int)[None]
      >>> print(asymmetric_focal_tversky(z, y).round(4))
      [0.6124]

    Reference:
      DSC++ paper, Eq. 20 and 21, as implemented in the authors' code.
    """
    return asymmetric_focal_tverskypp(
        logits, labels, delta=delta, gamma=gamma, gamma_pp=1.0, where=where, axis_name=axis_name
    )


def asymmetric_focal_tverskypp(
    logits: jax.Array,
    labels: jax.Array,
    *,
    delta: Scalar = 0.6,
    gamma: Scalar = 0.5,
    gamma_pp: Scalar = 2.0,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Asymmetric Focal Tversky++ loss: `asymmetric_focal_tversky` with ++ soft counts.

    mean_c of (1 - TI) for the background, (1 - TI)**(1 - gamma) for each foreground class, with
    exponent gamma_pp on every false positive and false negative

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities; class 0 is the background.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      delta: weight of the false negatives relative to the false positives, in [0, 1].
      gamma: the focal exponent, in [0, 1).
      gamma_pp: the ++ exponent, in [0.5, 5].
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      axis_name: name of the mapped axis (`jax.shard_map` or `jax.pmap`) over which the voxels of
        one example are split; the loss is then that of the whole example.

    Returns:
      `(B,)` losses in [0, 1].

    Raises:
      ValueError: if the shapes do not match or a hyper-parameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> z, y = jnp.zeros((1, 4, 4, 2)), jnp.eye(4, dtype=int)[None]
      >>> print(asymmetric_focal_tverskypp(z, y).round(4))
      [0.4783]

    Reference:
      DSC++ paper, Eq. 9, 20 and 21.
    """
    _check_unified(delta, gamma)
    check_exponent("gamma_pp", gamma_pp)
    counts = soft_counts(logits, labels, gamma=gamma_pp, where=where, axis_name=axis_name)
    loss = tversky_per_class(counts, alpha=1 - delta, beta=delta)
    foreground = inputs.power(loss[:, 1:], 1 - gamma)
    return jnp.concatenate([loss[:, :1], foreground], axis=-1).mean(-1)


def unified_focal(
    logits: jax.Array,
    labels: jax.Array,
    *,
    weight: Scalar = 0.5,
    delta: Scalar = 0.6,
    gamma: Scalar = 0.5,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Unified Focal loss: weight LAF + (1 - weight) LAFT.

    LAF is `asymmetric_focal`, LAFT `asymmetric_focal_tversky`.

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities; class 0 is the background.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      weight: weight of the pixelwise term, the paper's lambda, in [0, 1].
      delta: weight of the foreground and of the false negatives, in [0, 1].
      gamma: the focal exponent of both terms, in [0, 1).
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      axis_name: name of the mapped axis (`jax.shard_map` or `jax.pmap`) over which the voxels of
        one example are split; the loss is then that of the whole example.

    Returns:
      `(B,)` non-negative losses.

    Raises:
      ValueError: if the shapes do not match or a hyper-parameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> print(unified_focal(jnp.zeros((1, 4, 4, 2)), jnp.eye(4, dtype=int)[None]).round(4))
      [0.4317]

    Reference:
      DSC++ paper, Eq. 18 to 21. The authors' code weights the two terms the other way round; at
      their weight of 0.5 the result is the same.
    """
    return unified_focalpp(
        logits,
        labels,
        weight=weight,
        delta=delta,
        gamma=gamma,
        gamma_pp=1.0,
        where=where,
        axis_name=axis_name,
    )


def unified_focalpp(
    logits: jax.Array,
    labels: jax.Array,
    *,
    weight: Scalar = 0.5,
    delta: Scalar = 0.6,
    gamma: Scalar = 0.5,
    gamma_pp: Scalar = 2.0,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Unified Focal++ loss: `unified_focal` with `asymmetric_focal_tverskypp` as its region term.

    weight LAF + (1 - weight) LAFT++

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities; class 0 is the background.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      weight: weight of the pixelwise term, the paper's lambda, in [0, 1].
      delta: weight of the foreground and of the false negatives, in [0, 1].
      gamma: the focal exponent of both terms, in [0, 1).
      gamma_pp: the ++ exponent, in [0.5, 5].
      where: `(B, *spatial)` boolean, False for voxels to leave out.
      axis_name: name of the mapped axis (`jax.shard_map` or `jax.pmap`) over which the voxels of
        one example are split; the loss is then that of the whole example.

    Returns:
      `(B,)` non-negative losses.

    Raises:
      ValueError: if the shapes do not match or a hyper-parameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> print(unified_focalpp(jnp.zeros((1, 4, 4, 2)), jnp.eye(4, dtype=int)[None]).round(4))
      [0.3646]

    Reference:
      DSC++ paper, Eq. 9 and 18 to 21.
    """
    check_range("weight", weight, 0.0, 1.0)
    focal_part = asymmetric_focal(
        logits, labels, delta=delta, gamma=gamma, where=where, axis_name=axis_name
    )
    region_part = asymmetric_focal_tverskypp(
        logits,
        labels,
        delta=delta,
        gamma=gamma,
        gamma_pp=gamma_pp,
        where=where,
        axis_name=axis_name,
    )
    return weight * focal_part + (1 - weight) * region_part
