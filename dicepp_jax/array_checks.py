"""Checks of the arrays that losses and metrics are given: one list for all ways to run them.

Shapes and dtypes are always known. Values are known outside jit, where `enforce` raises for the
first check that fails; a traced array has none, so that a traced program contains no check, unless
`emit` puts the same checks into it for `jax.experimental.checkify`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from jax.typing import ArrayLike

STEP = 1 / 255
"""By how much each probability may be off, as from 8 bits or a half-precision softmax."""

_CHANCE = 16
"""Logits that sum to 1 at as many voxels do not do so by chance."""


class Check(NamedTuple):
    """One condition on values.

    Attributes:
      holds: scalar boolean.
      message: a format string for what was found, what was expected and the remedy.
      found: the scalars it names.
    """

    holds: jax.Array
    message: str
    found: dict[str, jax.Array]


Checks = Callable[..., list[Check]]
"""From arrays, and static settings by keyword, to conditions on their values."""


def enforce(checks: Checks, *arrays: jax.Array | None, **settings: Any) -> None:
    """Evaluate checks of arrays that have values, in one program; do nothing for traced arrays.

    Args:
      checks: what to evaluate.
      *arrays: its arrays, None for those not given.
      **settings: its settings, which are static.

    Raises:
      ValueError: for the first check that does not hold.

    Example:
      >>> labels = np.array([[0, 1, 255]])
      >>> enforce(classes, labels, None, name="labels", num_classes=2)
      Traceback (most recent call last):
      ...
      ValueError: labels hold 255, expected the classes 0 to 1; where=labels != 255 leaves ...
      >>> enforce(classes, labels, labels != 255, name="labels", num_classes=2)
    """
    if _traced(*arrays):
        return
    # A constant of a traced program has values too.
    with jax.ensure_compile_time_eval():
        if _all_hold(checks, tuple(settings.items()), *arrays):
            return
        for check in checks(*arrays, **settings):
            if not check.holds:
                raise ValueError(check.message.format(**jax.device_get(check.found)))


def _traced(*arrays: jax.Array | None) -> bool:
    return any(isinstance(array, jax.core.Tracer) for array in arrays)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _all_hold(
    checks: Checks, settings: tuple[tuple[str, Any], ...], *arrays: jax.Array | None
) -> jax.Array:
    return jnp.array([check.holds for check in checks(*arrays, **dict(settings))], bool).all()


def emit(checks: list[Check]) -> None:
    """Put checks into the program that is being traced, for `jax.experimental.checkify`."""
    for holds, message, found in checks:
        checkify.check(holds, message, debug=False, **found)


def as_array(name: str, x: Any) -> jax.Array:
    """An array of numbers as it is, or a list of numbers as an array.

    Args:
      name: its name in the message.
      x: an array of NumPy, JAX or another library, or a list.

    Returns:
      The array, whose values are still known if they were.

    Raises:
      ValueError: if it does not consist of real numbers.

    Example:
      >>> as_array("labels", [[0, 1]]).shape
      (1, 2)
      >>> as_array("labels", ["vessel"])
      Traceback (most recent call last):
      ...
      ValueError: labels must be an array of real numbers, got list of <U6 (1,); convert it ...
    """
    found = x
    if not isinstance(found, jax.Array):
        try:
            # Parameters of Flax NNX and the like.
            found = found.__jax_array__() if hasattr(found, "__jax_array__") else found
            traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(found))
            found = jnp.asarray(found) if traced else np.asarray(found)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name} must be an array of real numbers, got {type(x).__name__} ({error}); "
                "convert it to one array"
            ) from error
    kinds = jnp.bool_, jnp.integer, jnp.floating
    if not any(jnp.issubdtype(found.dtype, kind) for kind in kinds):
        raise ValueError(
            f"{name} must be an array of real numbers, got {type(x).__name__} of {found.dtype} "
            f"{found.shape}; convert it to numbers first"
        )
    return found


def is_integer(array: jax.Array) -> bool:
    """Whether the dtype is integer or boolean."""
    return jnp.issubdtype(array.dtype, jnp.integer) or array.dtype == jnp.bool_


def as_mask(where: ArrayLike | None, shape: tuple[int, ...], of: str) -> jax.Array | None:
    """The argument `where` of a loss or metric, checked.

    Args:
      where: of bool, or of integers, all of which but 0 are True.
      shape: that it must have.
      of: what has that shape, in the message.

    Returns:
      The array, or None for None.

    Raises:
      ValueError: if the shape or the dtype is another.

    Example:
      >>> as_mask([[0.5, 1.0]], (1, 2), "labels")
      Traceback (most recent call last):
      ...
      ValueError: where must be boolean, got float64; it leaves voxels out and does not weight ...
    """
    if where is None:
        return None
    mask = as_array("where", where)
    if mask.shape != shape:
        raise ValueError(
            f"where must have shape {shape}, got {mask.shape}; it has one value for each voxel of "
            f"{of}"
        )
    if not is_integer(mask):
        raise ValueError(
            f"where must be boolean, got {mask.dtype}; it leaves voxels out and does not weight "
            "them: pass where > 0 to include all others"
        )
    return mask


def _none(bad: jax.Array, where: jax.Array | None) -> jax.Array:
    """Whether a condition `(B, *spatial)` holds at no voxel that is included."""
    bad = bad if where is None else bad & jnp.asarray(where, bool)
    # XLA adds floats several times faster than booleans on a CPU; the sum of ones is never 0.
    return bad.astype(jnp.float32).sum() == 0


def _range(x: jax.Array, where: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """The smallest and the largest value at included voxels, NaN if there is any."""
    if where is None:
        return -(-x).max(), x.max()
    mask = jnp.asarray(where, bool)
    return -jnp.where(mask, -x, -jnp.inf).max(), jnp.where(mask, x, -jnp.inf).max()


def _per_class(x: jax.Array) -> list[jax.Array]:
    """One array per class, in single precision or better; reductions of a short axis are slow."""
    x = jnp.asarray(x)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return [x[..., c] for c in range(x.shape[-1])]


def classes(
    labels: jax.Array, where: jax.Array | None, *, name: str, num_classes: int, lowest: int = 0
) -> list[Check]:
    """Integer labels `(B, *spatial)` lie in [lowest, num_classes) where they are not left out."""
    if not labels.size or labels.dtype == jnp.bool_:
        return []
    y = jnp.asarray(labels)
    y = y.astype(jnp.int32) if y.dtype.itemsize < 4 else y
    included = y if where is None else jnp.where(jnp.asarray(where, bool), y, 0)
    low, high = included.min(), included.max()
    binary = f"; a mask of 0 and {{worst}} is {name} > 0" if num_classes == 2 else ""
    message = (
        f"{name} hold {{worst}}, expected the classes {lowest} to {num_classes - 1}; "
        f"where={name} != {{worst}} leaves such voxels out{binary}"
    )
    worst = jnp.where(high >= num_classes, high, low)
    return [Check(_none((y < lowest) | (y >= num_classes), where), message, {"worst": worst})]


def shares(
    x: jax.Array,
    where: jax.Array | None,
    *,
    name: str,
    remedy: str,
    sums: bool = True,
    may_be_nan: bool = False,
) -> list[Check]:
    """Numbers `(..., C)` lie in [0, 1], and sum to 1 over the classes, up to `STEP` each.

    A NaN is refused unless it may be there.
    """
    if not x.size:
        return []
    parts = _per_class(x)
    if may_be_nan:
        parts = [jnp.where(jnp.isnan(part), 0, part) for part in parts]
    outside = [~((part >= -STEP) & (part <= 1 + STEP)) for part in parts]
    low, _ = _range(functools.reduce(jnp.minimum, parts), where)
    _, high = _range(functools.reduce(jnp.maximum, parts), where)
    inside = Check(
        _none(functools.reduce(jnp.logical_or, outside), where),
        f"{name} must lie in [0, 1], found {{low:g}} to {{high:g}}; {remedy}",
        {"low": low, "high": high},
    )
    if not sums:
        return [inside]
    total = functools.reduce(jnp.add, parts)
    least, most = _range(total, where)
    one = Check(
        _none(~(jnp.abs(total - 1) <= len(parts) * STEP), where),
        f"{name} must sum to 1 over the last axis, the classes, found sums of {{least:g}} to "
        f"{{most:g}}; {remedy}",
        {"least": least, "most": most},
    )
    return [inside, one]


def usable(logits: jax.Array, where: jax.Array | None) -> list[Check]:
    """Logits `(B, *spatial, C)` give probabilities at every voxel, and are none themselves."""
    parts = _per_class(logits)
    # The largest is NaN if any is, and -inf if all are.
    bad = ~jnp.isfinite(functools.reduce(jnp.maximum, parts))
    counted = bad if where is None else bad & jnp.asarray(where, bool)
    number = Check(
        _none(bad, where),
        "logits must be finite at all included voxels, or -inf for some of the classes, found NaN, "
        "infinity or no finite one at {voxels} voxels; check the network and its images, or leave "
        "such voxels out by where",
        {"voxels": counted.sum()},
    )
    if jnp.finfo(logits.dtype).bits < 32:
        return [number]
    voxels = bad.size if where is None else jnp.asarray(where, bool).sum()
    _, high = _range(parts[0], where)
    # An output layer that has learnt nothing yet is the same at all voxels.
    by_chance = (voxels < _CHANCE) | _none(parts[0] != high, where)
    logit = Check(
        ~_none(~_is_share(parts), where) | by_chance,
        "logits are probabilities: none is negative, and they sum to 1 at all {voxels} voxels; "
        "pass the output before the softmax, or losses.from_probabilities of these",
        {"voxels": jnp.asarray(voxels)},
    )
    return [number, logit]


def enforce_usable(logits: jax.Array, where: jax.Array | None) -> None:
    """`enforce` that logits are `usable`; where they are, two sums show it, several times faster.

    Raises:
      ValueError: if they are not.
    """
    if _traced(logits, where):
        return
    with jax.ensure_compile_time_eval():
        if not _plainly_usable(logits, where):
            enforce(usable, logits, where)


@jax.jit
def _plainly_usable(logits: jax.Array, where: jax.Array | None) -> jax.Array:
    """Whether no logit is infinite or NaN, and those of a voxel are no probabilities."""
    parts = _per_class(logits)
    return jnp.isfinite(logits.astype(parts[0].dtype).sum()) & ~_none(~_is_share(parts), where)


def _is_share(parts: list[jax.Array]) -> jax.Array:
    """Whether the numbers of a voxel, one array per class, are not negative and sum to 1."""
    sums_to_1 = jnp.abs(functools.reduce(jnp.add, parts) - 1) <= 1e-5
    return sums_to_1 & (functools.reduce(jnp.minimum, parts) >= 0)
