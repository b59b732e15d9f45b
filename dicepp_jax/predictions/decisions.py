"""How the class of a voxel is decided: the most likely one, or one class by a threshold.

The threshold is given, or is the one that reaches a wanted recall or precision on validation.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dicepp_jax import metrics
from dicepp_jax.metrics import Confusion

THRESHOLDS: np.ndarray = np.arange(1, 1000) / 1000
"""Finer than the paper's 0.05, ..., 0.95, since overconfident networks have many voxels beyond."""


class Decision(NamedTuple):
    """How the class of a voxel is decided.

    Attributes:
      threshold: the target class where p >= threshold; None for the most likely class.
      target: the number of the class that the threshold is for.
      description: the rule in words, with how the threshold was found.
    """

    threshold: float | None
    target: int
    description: str


def decide(
    classes: Sequence[str],
    target: str | None,
    validation_counts: Callable[[], Confusion],
    *,
    threshold: float | None = None,
    recall: float | None = None,
    precision: float | None = None,
) -> Decision:
    """Decide how voxels are classified; at most one of the last three options is given.

    Args:
      classes: names, the background first.
      target: the class that the threshold is for; may be None if there is one foreground class.
      validation_counts: gives the counts `(C, T)` of the validation split at `THRESHOLDS`; it is
        called for a wanted recall or precision.
      threshold: the threshold.
      recall: the wanted recall.
      precision: the wanted precision.

    Returns:
      The decision.

    Raises:
      ValueError: if no threshold reaches the wanted value, or the class is missing or unknown.
    """
    wanted = {"recall": recall, "precision": precision}
    given = {name: value for name, value in wanted.items() if value is not None}
    if threshold is None and not given:
        if target is not None:
            raise ValueError(
                f"--target={target} is the class of a threshold; add --threshold, --recall or "
                "--precision, or omit --target"
            )
        return Decision(None, 1, "the most likely class")
    index = _index(classes, target)
    label = classes[index]
    if threshold is not None:
        if not 0 < threshold <= 1:
            raise ValueError(f"--threshold is {threshold}; it must be above 0 and at most 1")
        return Decision(threshold, index, f"{label} where p >= {threshold:g}")
    ((name, value),) = given.items()
    if not 0 < value <= 1:
        raise ValueError(f"--{name} is {value}; it must be above 0 and at most 1")
    counts = jax.tree.map(lambda n: n[index], validation_counts())
    found = float(metrics.threshold_for(counts, jnp.asarray(THRESHOLDS), **given))
    reached = {name: np.asarray(getattr(counts, name)) for name in wanted}
    if np.isnan(reached[name]).all():
        raise ValueError(f"the {name} of {label} is undefined, as validation has no {label}")
    if np.isnan(found):
        best = int(np.nanargmax(reached[name]))
        raise ValueError(
            f"no threshold from {THRESHOLDS[0]:g} to {THRESHOLDS[-1]:g} reaches a {name} of "
            f"{value:g} for {label} on validation; the highest is {reached[name][best]:.4f}, at "
            f"{THRESHOLDS[best]:g}"
        )
    nearest = int(np.argmin(np.abs(THRESHOLDS - found)))
    rates = " and ".join(f"{name} {values[nearest]:.4f}" for name, values in reached.items())
    exact = float(THRESHOLDS[nearest])
    return Decision(exact, index, f"{label} where p >= {exact:g}, {rates} on validation")


def _index(classes: Sequence[str], target: str | None) -> int:
    foreground = classes[1:]
    if target is None and len(foreground) == 1:
        return 1
    if target not in foreground:
        found = "no --target" if target is None else f"--target={target}"
        raise ValueError(f"{found}; a threshold is for one class: {', '.join(foreground)}")
    return classes.index(target)
