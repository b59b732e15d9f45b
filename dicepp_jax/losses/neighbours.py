"""Losses that look at the labels of neighbouring voxels, in the 3 x 3 (x 3) around each.

Neighbours that `where` leaves out do not count: frequencies and smoothed labels are those of the
included ones. A device that has a part of an example does not see the neighbours across the border,
so these losses refuse `axis_name`.
"""

import math

import jax
import jax.numpy as jnp

from dicepp_jax.array_checks import as_array, is_integer
from dicepp_jax.losses import inputs
from dicepp_jax.losses.inputs import AxisName, Scalar, check_range
from dicepp_jax.losses.pixelwise import mean_voxels

_STEP = math.exp(-0.5)
"""Weight of a voxel one step away, of a Gaussian with a standard deviation of one voxel."""


def nacl(
    logits: jax.Array,
    labels: jax.Array,
    *,
    weight: Scalar = 0.1,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Neighbour-aware calibration loss: `ce` and the distance of logits from local frequencies.

    mean_i [sum_c -y log p + weight sum_c |f - z|], z the logits, f the frequency of class c among
    the 3 x 3 (x 3) voxels around voxel i

    A class that a logit of -inf excludes has no penalty.

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      weight: of the penalty, non-negative.
      where: `(B, *spatial)` boolean, False for voxels to leave out, as neighbours too.
      axis_name: refused, since neighbours across the border of a part would be missing.

    Returns:
      `(B,)` non-negative losses.

    Raises:
      ValueError: if the shapes do not match, weight is negative, or axis_name is given.

    Example:
      >>> import jax.numpy as jnp
      >>> print(nacl(jnp.zeros((1, 4, 2)), jnp.array([[0, 0, 1, 1]])).round(4))
      [0.7931]

    Reference:
      Murugesan et al., Trust your neighbours: penalty-based constraints for model calibration,
      MICCAI 2023. Its equation sums over the classes; its code averages over them, which makes the
      penalty C times smaller, and counts voxels beyond the border of the image as class 0, which
      are left out here.
    """
    _check_whole("nacl", axis_name, "split the examples of a batch over the devices instead")
    check_range("weight", weight, 0.0, math.inf)
    v = inputs.voxels(logits, labels, where)
    count = _around(v.included, 1.0, "constant")
    terms = []
    for z, log_p, y in zip(v.logits, v.log_p, v.labels, strict=True):
        frequency = _around(y, 1.0, "constant") / jnp.maximum(count, 1)
        distance = jnp.abs(frequency - jnp.where(z == -jnp.inf, frequency, z))
        terms.append(weight * distance - y * log_p)
    return mean_voxels(inputs.add(terms), where)


def svls(
    logits: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Spatially varying label smoothing: `ce` of the labels that `smooth_labels` makes.

    mean_i sum_c -s log p, s the mean of y over the 3 x 3 (x 3) voxels around voxel i, of which the
    centre weighs as much as all others together

    Args:
      logits: `(B, *spatial, C)` unnormalised log-probabilities.
      labels: `(B, *spatial)` integer, or `(B, *spatial, C)` one-hot or soft.
      where: `(B, *spatial)` boolean, False for voxels to leave out, as neighbours too.
      axis_name: refused, since neighbours across the border of a part would be missing; smooth the
        labels of whole examples by `smooth_labels` and pass them to `ce`.

    Returns:
      `(B,)` non-negative losses.

    Raises:
      ValueError: if the shapes do not match, or axis_name is given.

    Example:
      >>> import jax.numpy as jnp
      >>> z, y = jnp.array([[[2.0, 0.0], [2.0, 0.0], [0.0, 2.0]]]), jnp.array([[0, 0, 1]])
      >>> print(svls(z, y).round(4))
      [0.4603]

    Reference:
      Islam and Glocker, Spatially varying label smoothing: capturing uncertainty from expert
      annotations, IPMI 2021.
    """
    _check_whole("svls", axis_name, "pass the labels of losses.smooth_labels to losses.ce")
    v = inputs.voxels(logits, labels, where)
    terms = [-y * x for y, x in zip(_smoothed(v.labels, v.included), v.log_p, strict=True)]
    return mean_voxels(inputs.add(terms), where)


def smooth_labels(labels: jax.Array, num_classes: int, where: jax.Array | None = None) -> jax.Array:
    """Labels blurred over neighbours, more at the border of a class: those of `svls`.

    The weight of a neighbour is that of a Gaussian with a standard deviation of one voxel, and the
    centre weighs as much as all neighbours together. Voxels beyond the border of the image have the
    label of the nearest one within.

    Args:
      labels: `(B, *spatial)` integer classes, or `(B, *spatial, C)` one-hot or soft, as floats.
      num_classes: the number C of classes.
      where: `(B, *spatial)` boolean, False for voxels to leave out: they are no neighbours, and
        their own labels are 0.

    Returns:
      `(B, *spatial, C)` soft labels, for `ce` and every other loss.

    Raises:
      ValueError: if the shapes do not match or labels are neither classes nor shares.

    Example:
      >>> import jax.numpy as jnp
      >>> print(smooth_labels(jnp.array([[0, 0, 0, 1, 1]]), 2)[..., 1])
      [[0.   0.   0.25 0.75 1.  ]]

    Reference:
      Islam and Glocker, Spatially varying label smoothing: capturing uncertainty from expert
      annotations, IPMI 2021, with sigma = 1.
    """
    labels = as_array("labels", labels)
    shape = labels.shape if is_integer(labels) else labels.shape[:-1]
    v = inputs.voxels(jnp.zeros((*shape, num_classes)), labels, where)
    return jnp.stack(_smoothed(v.labels, v.included), axis=-1)


def _smoothed(labels: list[jax.Array], included: jax.Array) -> list[jax.Array]:
    """The smoothed labels of each class, 0 at voxels that are left out."""
    # Without spatial axes there are no neighbours.
    neighbours = (1 + 2 * _STEP) ** (included.ndim - 1) - 1 or 1.0

    def blurred(x: jax.Array) -> jax.Array:
        return x + (_around(x, _STEP, "edge") - x) / neighbours

    total = jnp.where(included > 0, blurred(included), 1)
    return [included * blurred(y) / total for y in labels]


def _around(x: jax.Array, step: float, mode: str) -> jax.Array:
    """Sum over the 3 x 3 (x 3) around each voxel, weighted by `step` for every axis it is off.

    Args:
      x: `(B, *spatial)`.
      step: the weight of a neighbour along one axis.
      mode: of `jnp.pad`, for what lies beyond the border.
    """
    for axis in range(1, x.ndim):
        margins = [(int(a == axis),) * 2 for a in range(x.ndim)]
        padded, n = jnp.pad(x, margins, mode=mode), x.shape[axis]
        before, after = (jax.lax.slice_in_dim(padded, i, i + n, axis=axis) for i in (0, 2))
        x = x + step * (before + after)
    return x


def _check_whole(name: str, axis_name: AxisName | None, remedy: str) -> None:
    """Refuse parts of examples, which lack the neighbours across their borders."""
    if axis_name is not None:
        raise ValueError(
            f"{name} needs all neighbours of a voxel, but axis_name is {axis_name!r}, so that "
            f"voxels are split over devices; {remedy}"
        )
