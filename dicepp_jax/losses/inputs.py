"""Common first steps of all losses: check the arguments, split the classes, take logarithms.

Logits are unnormalised log-probabilities of shape `(B, *spatial, C)`. Inside this package each
class has its own array `(B, *spatial)`, because compilers generate poor code for exponentials and
sums when the last axis holds only two or three classes. Powers of a probability are taken in log
space, `p**g = exp(g log p)`, so that values and gradients stay finite for any exponent, however
confident the network is. Labels and masks are multiplied in rather than used as conditions: a sum
over voxels of a product takes one pass over memory.
"""

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dicepp_jax.array_checks import (
    Check,
    as_array,
    as_mask,
    classes,
    emit,
    enforce,
    enforce_usable,
    is_integer,
    shares,
    usable,
)

EPSILON = 1e-7
"""Lower bound of `from_probabilities`, and the epsilon of the region losses."""

_FLOOR = -1e30
"""Log-probability of a class whose logit is -inf: its exponential is 0, without inf times 0."""

Scalar = float | jax.Array
AxisName = str | tuple[str, ...]


class Voxels(NamedTuple):
    """Logits and labels in the layout of this package: C arrays `(B, *spatial)` each.

    Attributes:
      logits: float32 (float64 if they are given so), 0 at voxels that are left out.
      log_p: log of the softmax.
      labels: one-hot or soft labels y, 0 at voxels that are left out.
      others: 1 - y, 0 at voxels that are left out.
      included: 1, or 0 at voxels that are left out; a single array.
      hard: whether the labels are known to be 0 or 1, as integer labels are.
    """

    logits: list[jax.Array]
    log_p: list[jax.Array]
    labels: list[jax.Array]
    others: list[jax.Array]
    included: jax.Array
    hard: bool


def voxels(logits: jax.Array, labels: jax.Array, where: jax.Array | None) -> Voxels:
    """Convert the public arguments of a loss to the layout of this package.

    Args:
      logits: `(B, *spatial, C)`, any float dtype, C >= 2; -inf excludes a class.
      labels: `(B, *spatial)` integer or boolean, or `(B, *spatial, C)` one-hot or soft.
      where: `(B, *spatial)` boolean, or None. Voxels left out contribute neither to the value nor
        to the gradient, whatever their logits.

    Returns:
      The `Voxels` of logits and labels.

    Raises:
      ValueError: if `check` refuses them.
    """
    logits, labels, where = check(logits, labels, where)
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    num_classes, integer = logits.shape[-1], is_integer(labels)
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    z = [x.astype(dtype) for x in split(logits)]
    if labels.shape == logits.shape:
        y = [x.astype(dtype) for x in split(labels)]
    else:
        y = [(labels == c).astype(dtype) for c in range(num_classes)]
    included = jnp.ones(logits.shape[:-1], dtype)
    if where is not None:
        mask = jnp.asarray(where, bool)
        z, y = ([jnp.where(mask, x, 0) for x in part] for part in (z, y))
        included = mask.astype(dtype)
    return Voxels(z, log_softmax(z), y, [included - x for x in y], included, integer)


def check(
    logits: ArrayLike, labels: ArrayLike, where: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """The arguments of a loss as arrays, whose values are checked where they are known.

    Raises:
      ValueError: if shapes or dtypes do not match, a logit is not `usable`, logits are
        probabilities, or labels are neither classes nor shares.
    """
    logits, labels, where = accepted(logits, labels, where)
    enforce_usable(logits, where)
    enforce(label_checks, labels, where, num_classes=logits.shape[-1], ndim=logits.ndim)
    return logits, labels, where


def accepted(
    logits: ArrayLike, labels: ArrayLike, where: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """The arguments of a loss as arrays, whose shapes and dtypes match.

    Raises:
      ValueError: if they do not.
    """
    logits, labels = as_array("logits", logits), as_array("labels", labels)
    shape = logits.shape
    if len(shape) < 2 or shape[-1] < 2 or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            "logits must be floating point of shape (B, *spatial, C) with C >= 2 classes, got "
            f"{logits.dtype} {shape}; for sigmoid outputs see losses.binary_problems"
        )
    spatial, integer = shape[:-1], is_integer(labels)
    if labels.shape not in (spatial, shape) or (labels.shape == spatial and not integer):
        remedy = ""
        if labels.shape == spatial:
            remedy = "; pass labels.astype(int) if they are classes"
        elif labels.shape in (shape[:1] + shape[2:], shape[1:]):
            remedy = "; move the classes to the last axis: jnp.moveaxis(logits, 1, -1) for a batch"
        elif labels.shape in (spatial[1:], shape[1:]):
            remedy = "; pass labels[None] for a single image"
        raise ValueError(
            f"labels must be integers of shape {spatial}, or one-hot or soft labels of shape "
            f"{shape}, to match logits {shape}, got {labels.dtype} {labels.shape}{remedy}"
        )
    if not logits.size:
        raise ValueError(f"logits must have an example and a voxel, got shape {shape}")
    return logits, labels, as_mask(where, spatial, "logits (B, *spatial, C)")


def label_checks(
    labels: jax.Array, where: jax.Array | None, *, num_classes: int, ndim: int
) -> list[Check]:
    """Integer labels are classes, one-hot and soft ones are shares; ndim is that of the logits."""
    if labels.ndim < ndim:
        return classes(labels, where, name="labels", num_classes=num_classes)
    remedy = "pass labels (B, *spatial) of integers, or one-hot or soft labels (B, *spatial, C)"
    return shares(labels, where, name="labels", remedy=remedy)


def checked(loss: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The loss with checks of its arrays for `jax.experimental.checkify`, which work under jit.

    They are the checks that a loss makes outside jit: labels are classes, soft labels are shares,
    logits are numbers and no probabilities. They cost a pass over the arrays.

    Args:
      loss: a function of `LOSSES`, of `get_loss`, or another of this package that takes logits and
        labels.

    Returns:
      A function of the same arguments and result. To trace it, apply `checkify.checkify` to it or
      to a function that calls it, under or outside jit, vmap and grad.

    Raises:
      ValueError: as the loss does; outside jit also if a check does not hold.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jax.experimental import checkify
      >>> from dicepp_jax.losses import checked, dscpp
      >>> step = jax.jit(checkify.checkify(checked(dscpp)))
      >>> error, value = step(jnp.zeros((1, 3, 2)), jnp.array([[0, 1, 255]]))
      >>> error.throw()
      Traceback (most recent call last):
      ...
      jax...JaxRuntimeError: labels hold 255, expected the classes 0 to 1; where=labels != 255 ...
    """

    @functools.wraps(loss)
    def with_checks(
        logits: jax.Array, labels: jax.Array, *, where: jax.Array | None = None, **others: Any
    ) -> jax.Array:
        z, y, mask = accepted(logits, labels, where)
        emit(usable(z, mask) + label_checks(y, mask, num_classes=z.shape[-1], ndim=z.ndim))
        return loss(logits, labels, where=where, **others)

    return with_checks


def split(x: jax.Array) -> list[jax.Array]:
    """Split `(..., C)` into one array `(...)` per class.

    Indexing would give the same, but its transpose, used by the backward pass, is a sum of C padded
    arrays; the transpose of a split is a single concatenation.
    """
    last = x.ndim - 1
    return [jnp.squeeze(part, last) for part in jax.lax.split(x, [1] * x.shape[-1], axis=last)]


@jax.custom_jvp
def log_softmax(z: list[jax.Array]) -> list[jax.Array]:
    """Log-softmax over a list of classes, whose derivative computes p from the result.

    The losses compute p from the result too, so these are the only exponentials that the backward
    pass has to store.
    """
    largest = functools.reduce(jnp.maximum, z)
    z = [jnp.where(x == -jnp.inf, _FLOOR, x - largest) for x in z]
    log_total = jnp.log(add([jnp.exp(x) for x in z]))
    return [x - log_total for x in z]


@log_softmax.defjvp
def _log_softmax_jvp(
    primals: tuple[list[jax.Array]], tangents: tuple[list[jax.Array]]
) -> tuple[list[jax.Array], list[jax.Array]]:
    log_p = log_softmax(*primals)
    (z_dot,) = tangents
    mean = add([jnp.exp(x) * dot for x, dot in zip(log_p, z_dot, strict=True)])
    return log_p, [dot - mean for dot in z_dot]


def log_not_p(v: Voxels) -> list[jax.Array]:
    """log(1 - p) of every class: the log of the sum of the other classes' probabilities.

    Nothing is subtracted from 1, so the result is accurate however small 1 - p is. Where labels are
    hard, it holds at voxels of the class alone: losses need it nowhere else.
    """
    if v.hard and len(v.log_p) > 2:
        others = [jnp.where(y > 0, _FLOOR, x) for y, x in zip(v.labels, v.log_p, strict=True)]
        largest = jax.lax.stop_gradient(functools.reduce(jnp.maximum, others))
        total = jnp.log(add([jnp.exp(x - largest) for x in others]))
        return [largest + total] * len(others)
    before = list(itertools.accumulate(v.log_p, jnp.logaddexp))
    after = list(itertools.accumulate(v.log_p[::-1], jnp.logaddexp))[::-1]
    between = map(jnp.logaddexp, before[:-2], after[2:])
    return [after[1], *between, before[-2]]


def power(x: jax.Array, exponent: Scalar) -> jax.Array:
    """x**exponent for x >= 0; value and gradients are 0 at x = 0."""
    zero = x <= 0
    return jnp.where(zero, 0, jnp.exp(exponent * jnp.log(jnp.where(zero, 1, x))))


def sum_voxels(x: jax.Array, axis_name: AxisName | None = None) -> jax.Array:
    """Sum `(B, *spatial)` over the voxels, `(B,)`, and over the devices of `axis_name` if given."""
    total = jnp.sum(x, axis=range(1, x.ndim))
    return total if axis_name is None else jax.lax.psum(total, axis_name)


def add(x: Sequence[jax.Array]) -> jax.Array:
    """Sum over the classes, given one array per class."""
    return functools.reduce(operator.add, x)


def check_range(
    name: str, value: Scalar, low: float, high: float, *, half_open: bool = False, hint: str = ""
) -> None:
    """Check that a hyper-parameter lies in [low, high]; a traced one has no value to check.

    Args:
      name: its name in the message.
      value: the hyper-parameter.
      low: the smallest value allowed.
      high: the largest value allowed, or the first one excluded if half_open.
      half_open: whether the interval is [low, high).
      hint: text appended to the message.

    Raises:
      ValueError: if it lies outside; the message has its name, its value and the interval.
    """
    if isinstance(value, jax.core.Tracer):
        return
    values = np.asarray(value)
    if values.dtype.kind not in "biuf" and not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(f"{name} must be a number in [{low:g}, {high:g}], got {value!r}")
    below = values < high if half_open else values <= high
    if not np.all((values >= low) & below):
        end = ")" if half_open else "]"
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}{end}, got {value}{hint}")


def check_exponent(name: str, value: Scalar) -> None:
    """Check that a ++ exponent, or the gamma of the Focal loss, lies in [0.5, 5]."""
    check_range(name, value, 0.5, 5.0)


def from_probabilities(probs: jax.Array) -> jax.Array:
    """Convert probabilities to logits for the losses: log(max(p, 1e-7)).

    Args:
      probs: `(..., C)` class probabilities.

    Returns:
      `(..., C)` logits, valid input for every loss; NaN where a probability is NaN.

    Raises:
      ValueError: if a probability lies outside [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from dicepp_jax.losses import ce, from_probabilities
      >>> probs = jnp.array([[[0.75, 0.25]]])
      >>> bool(jnp.allclose(ce(from_probabilities(probs), jnp.array([[0]])), -jnp.log(0.75)))
      True
    """
    probs = as_array("probs", probs)
    remedy = "logits need no conversion: pass them to the loss"
    enforce(shares, probs, None, name="probs", remedy=remedy, sums=False, may_be_nan=True)
    # In half precision, epsilon itself would be rounded.
    probs = jnp.asarray(probs).astype(jnp.promote_types(jnp.result_type(probs), jnp.float32))
    return jnp.log(jnp.maximum(probs, EPSILON))


def binary_problems(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Convert K sigmoid channels, whose labels may overlap, to K two-class problems per example.

    Args:
      logits: `(B, *spatial, K)` logits of K independent sigmoids.
      labels: `(B, *spatial, K)` binary or soft label of each channel.

    Returns:
      Logits `(B * K, *spatial, 2)` and labels `(B * K, *spatial, 2)`; their loss has shape
      `(B * K,)`, and `.reshape(B, K)` gives the loss of every channel.

    Raises:
      ValueError: if the shapes differ, logits are integers, or a label lies outside [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from dicepp_jax.losses import binary_problems, dscpp
      >>> z, y = jnp.zeros((2, 8, 8, 3)), jnp.ones((2, 8, 8, 3))
      >>> dscpp(*binary_problems(z, y)).reshape(2, 3).shape
      (2, 3)
    """
    logits, labels = as_array("logits", logits), as_array("labels", labels)
    if logits.shape != labels.shape or logits.ndim < 2:
        raise ValueError(
            "logits and labels must have the same shape (B, *spatial, K), one label per channel, "
            f"got {logits.shape} and {labels.shape}"
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"logits must be floating point, got {logits.dtype}; are they the labels?")
    remedy = "pass 1 where a voxel belongs to the channel and 0 elsewhere"
    enforce(shares, labels, None, name="labels", remedy=remedy, sums=False)
    z = _channels_to_batch(logits)
    y = _channels_to_batch(labels)
    return jnp.stack([jnp.zeros_like(z), z], axis=-1), jnp.stack([1 - y, y], axis=-1)


def _channels_to_batch(x: jax.Array) -> jax.Array:
    x = jnp.moveaxis(x, -1, 1)
    shape: Sequence[int] = (-1, *x.shape[2:])
    return x.reshape(shape)
