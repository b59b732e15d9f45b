"""What metrics are given: predictions, labels and `where`, checked in one place."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from dicepp_jax.array_checks import (
    Check,
    Checks,
    as_array,
    as_mask,
    classes,
    emit,
    enforce,
    is_integer,
    shares,
)

_SOFTMAX = "pass jax.nn.softmax(logits)"


def labels_of(name: str, x: ArrayLike) -> jax.Array:
    """Integer labels `(B, *spatial)`, or a predicted mask.

    Raises:
      ValueError: if they are of another dtype, or have no axis of examples or no spatial axis.

    Example:
      >>> labels_of("mask", [[0.2, 0.8]])
      Traceback (most recent call last):
      ...
      ValueError: mask must be integer of shape (B, *spatial), got float64 (1, 2); pass ...
    """
    labels = as_array(name, x)
    if not is_integer(labels) or labels.ndim < 2:
        remedy = f"pass {name}[None] for a single image"
        if not is_integer(labels):
            remedy = f"pass {name}.astype(int) if they are classes, probs.argmax(-1) otherwise"
        raise ValueError(
            f"{name} must be integer of shape (B, *spatial), got {labels.dtype} {labels.shape}; "
            f"{remedy}"
        )
    return labels


def check_number(num_classes: int) -> None:
    """Check a number of classes.

    Raises:
      ValueError: if it is not an integer of at least 2.
    """
    if not isinstance(num_classes, int | np.integer) or num_classes < 2:
        raise ValueError(
            f"num_classes must be an integer of at least 2, the background included, got "
            f"{num_classes!r}"
        )


def masks(
    mask: ArrayLike,
    labels: ArrayLike,
    num_classes: int,
    where: ArrayLike | None,
    lowest: int = 0,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """The arguments of a metric of a mask.

    Raises:
      ValueError: if shapes or dtypes do not match, or values that are known are no classes.
    """
    mask, labels, where = _matching(mask, labels, num_classes, where)
    enforce(of_masks, mask, labels, where, num_classes=int(num_classes), lowest=lowest)
    return mask, labels, where


def _matching(
    mask: ArrayLike, labels: ArrayLike, num_classes: int, where: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    mask, labels = as_array("mask", mask), as_array("labels", labels)
    included = None if where is None else as_array("where", where)
    if mask.shape != labels.shape or (included is not None and included.shape != mask.shape):
        raise ValueError(
            f"mask, labels and where must have the same shape (B, *spatial), got {mask.shape}, "
            f"{labels.shape} and {None if included is None else included.shape}"
        )
    check_number(num_classes)
    mask, labels = labels_of("mask", mask), labels_of("labels", labels)
    return mask, labels, as_mask(included, mask.shape, "mask (B, *spatial)")


def of_masks(
    mask: jax.Array,
    labels: jax.Array,
    where: jax.Array | None,
    *,
    num_classes: int,
    lowest: int = 0,
) -> list[Check]:
    """Mask and labels are classes."""
    return [
        check
        for name, x in (("mask", mask), ("labels", labels))
        for check in classes(x, where, name=name, num_classes=num_classes, lowest=lowest)
    ]


def probabilities(
    probs: ArrayLike, labels: ArrayLike, where: ArrayLike | None, checks: Checks
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """The arguments of a metric of probabilities.

    Args:
      probs: `(B, *spatial, C)` class probabilities.
      labels: `(B, *spatial)` true classes, integer.
      where: `(B, *spatial)` boolean, or None.
      checks: `of_probs` or `of_scores`.

    Raises:
      ValueError: if shapes or dtypes do not match, or values that are known are refused.
    """
    probs, labels = as_array("probs", probs), as_array("labels", labels)
    included = None if where is None else as_array("where", where)
    shape = probs.shape[:-1]
    if labels.shape != shape or (included is not None and included.shape != shape):
        raise ValueError(
            f"probs (B, *spatial, C) {probs.shape} need integer labels and a where of shape "
            f"{shape}, got {labels.shape} and {None if included is None else included.shape}"
        )
    labels, included = labels_of("labels", labels), as_mask(included, shape, "labels")
    if probs.shape[-1] < 2:
        raise ValueError(
            f"probs must be of C >= 2 classes, got shape {probs.shape}; for p of a sigmoid pass "
            "jnp.concatenate([1 - p, p], axis=-1)"
        )
    enforce(checks, probs, labels, included)
    return probs, labels, included


def of_probs(probs: jax.Array, labels: jax.Array, where: jax.Array | None) -> list[Check]:
    """Probabilities sum to 1, and labels are classes."""
    found = shares(probs, where, name="probs", remedy=_SOFTMAX)
    return found + classes(labels, where, name="labels", num_classes=probs.shape[-1])


def of_scores(probs: jax.Array, labels: jax.Array, where: jax.Array | None) -> list[Check]:
    """As `of_probs` for classes compared with thresholds one by one: NaN reaches no threshold."""
    found = shares(probs, where, name="probs", remedy=_SOFTMAX, sums=False, may_be_nan=True)
    return found + classes(labels, where, name="labels", num_classes=probs.shape[-1])


def checked(metric: Callable[..., Any]) -> Callable[..., Any]:
    """The metric with checks of its arrays for `jax.experimental.checkify`, which work under jit.

    They are the checks that a metric makes outside jit: masks and labels are classes, probabilities
    lie in [0, 1] and sum to 1. They cost a pass over the arrays.

    Args:
      metric: a function of this package that takes labels and a mask or probabilities.

    Returns:
      A function of the same arguments and result. To trace it, apply `checkify.checkify` to it or
      to a function that calls it, under or outside jit and vmap.

    Raises:
      ValueError: as the metric does; outside jit also if a check does not hold.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jax.experimental import checkify
      >>> from dicepp_jax.metrics import brier, checked
      >>> error, value = jax.jit(checkify.checkify(checked(brier)))(
      ...     jnp.array([[[-2.0, 3.0]]]), jnp.array([[1]])
      ... )
      >>> error.throw()
      Traceback (most recent call last):
      ...
      jax...JaxRuntimeError: probs must lie in [0, 1], found -2 to 3; pass jax.nn.softmax(logits)...
    """
    signature = inspect.signature(metric)

    @functools.wraps(metric)
    def with_checks(*arguments: Any, **others: Any) -> Any:
        given = {"where": None, **signature.bind(*arguments, **others).arguments}
        if "mask" in given:
            number = given["num_classes"]
            arrays = _matching(given["mask"], given["labels"], number, given["where"])
            emit(of_masks(*arrays, num_classes=number))
        else:
            checks = of_scores if "thresholds" in given else of_probs
            emit(checks(*probabilities(given["probs"], given["labels"], given["where"], checks)))
        return metric(*arguments, **others)

    return with_checks
