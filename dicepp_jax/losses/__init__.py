"""Segmentation losses: pure functions of logits and labels, one value per example.

The contract, for every function of `LOSSES`:

    loss(logits, labels, *, <hyper-parameters>, where=None, axis_name=None) -> (B,)

logits `(B, *spatial, C)` are unnormalised log-probabilities with any number of spatial axes, of
any float dtype, reduced in float32. Labels are integers `(B, *spatial)`, or one-hot or soft
`(B, *spatial, C)`. `where` `(B, *spatial)` leaves voxels out: `where=labels != 255` implements an
ignore index. `axis_name` is for an example whose voxels are split over devices. Averaging over the
batch is left to the caller. Hyper-parameters may be traced, so `jax.vmap` and `jax.grad` over them
work. Losses that distinguish the background take class 0 as the background.

Outside jit, values that make no sense are refused, such as an integer label outside 0 to C - 1, or
logits that are NaN or probabilities. Under jit they cannot be: there, a label outside 0 to C - 1
belongs to no class, and a NaN that `where` does not leave out makes the loss of its example NaN.
`checked` puts the same checks into a program, for `jax.experimental.checkify`.

To use probabilities instead of logits, pass `from_probabilities(probs)`; for K sigmoid channels,
pass `*binary_problems(logits, labels)`.

Importing this package loads only jax and numpy.
"""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax

from dicepp_jax.losses.compound import (
    asymmetric_focal,
    asymmetric_focal_map,
    asymmetric_focal_tversky,
    asymmetric_focal_tverskypp,
    combo,
    combopp,
    dsc_ce,
    dscpp_ce,
    unified_focal,
    unified_focalpp,
)
from dicepp_jax.losses.inputs import Scalar, binary_problems, checked, from_probabilities
from dicepp_jax.losses.pixelwise import (
    ce,
    ce_map,
    focal,
    focal_map,
    mean_voxels,
    weighted_ce,
)
from dicepp_jax.losses.region import (
    SoftCounts,
    dice_per_class,
    dsc,
    dscpp,
    focal_tversky,
    focal_tverskypp,
    soft_counts,
    tversky,
    tversky_per_class,
    tverskypp,
)

__all__ = [
    "LOSSES",
    "Loss",
    "SoftCounts",
    "asymmetric_focal",
    "asymmetric_focal_map",
    "asymmetric_focal_tversky",
    "asymmetric_focal_tverskypp",
    "binary_problems",
    "ce",
    "ce_map",
    "checked",
    "combo",
    "combopp",
    "dice_per_class",
    "dsc",
    "dsc_ce",
    "dscpp",
    "dscpp_ce",
    "focal",
    "focal_map",
    "focal_tversky",
    "focal_tverskypp",
    "from_probabilities",
    "get_loss",
    "mean_voxels",
    "soft_counts",
    "tversky",
    "tversky_per_class",
    "tverskypp",
    "unified_focal",
    "unified_focalpp",
    "weighted_ce",
]


class Loss(NamedTuple):
    """A row of `LOSSES`.

    Attributes:
      function: the loss function, which follows the contract of this module.
      plusplus: name of its ++ exponent, None for a loss without one.
    """

    function: Callable[..., jax.Array]
    plusplus: str | None = None

    @property
    def defaults(self) -> dict[str, float]:
        """The hyper-parameters with the values that the paper uses (its Table 2)."""
        parameters = inspect.signature(self.function).parameters.values()
        return {
            p.name: p.default
            for p in parameters
            if p.kind is p.KEYWORD_ONLY and p.default is not None
        }


LOSSES: dict[str, Loss] = {
    "ce": Loss(ce),
    "weighted_ce": Loss(weighted_ce),
    "focal": Loss(focal),
    "dsc": Loss(dsc),
    "dscpp": Loss(dscpp, "gamma"),
    "tversky": Loss(tversky),
    "tverskypp": Loss(tverskypp, "gamma"),
    "focal_tversky": Loss(focal_tversky),
    "focal_tverskypp": Loss(focal_tverskypp, "gamma_pp"),
    "combo": Loss(combo),
    "combopp": Loss(combopp, "gamma"),
    "asymmetric_focal": Loss(asymmetric_focal),
    "asymmetric_focal_tversky": Loss(asymmetric_focal_tversky),
    "asymmetric_focal_tverskypp": Loss(asymmetric_focal_tverskypp, "gamma_pp"),
    "unified_focal": Loss(unified_focal),
    "unified_focalpp": Loss(unified_focalpp, "gamma_pp"),
    "dsc_ce": Loss(dsc_ce),
    "dscpp_ce": Loss(dscpp_ce, "gamma"),
}
"""All losses by name. To add a loss, write a function and add a row here; the tests pick it up."""


def get_loss(name: str, **hyper: Scalar) -> Callable[..., jax.Array]:
    """Return a loss by name, with its hyper-parameters set.

    Args:
      name: a key of `LOSSES`.
      **hyper: hyper-parameters of that loss; those not given keep the paper's values.

    Returns:
      `loss(logits, labels, *, where=None, axis_name=None) -> (B,)`.

    Raises:
      ValueError: if there is no loss of that name or it does not have such a hyper-parameter.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = get_loss("dscpp", gamma=2.0)
      >>> logits, labels = jnp.zeros((2, 8, 8, 2)), jnp.zeros((2, 8, 8), int)
      >>> loss(logits, labels).shape
      (2,)
      >>> get_loss("dicepp")
      Traceback (most recent call last):
      ...
      ValueError: unknown loss 'dicepp', did you mean 'dscpp'? Known: asymmetric_focal, ...
    """
    if name not in LOSSES:
        spelt = name.lower()
        for other, ours in (("++", "pp"), ("dice", "dsc"), ("cross_entropy", "ce"), ("-", "_")):
            spelt = spelt.replace(other, ours)
        close = difflib.get_close_matches(spelt, LOSSES, n=1, cutoff=0.5)
        guess = f", did you mean {close[0]!r}?" if close else "."
        raise ValueError(f"unknown loss {name!r}{guess} Known: {', '.join(sorted(LOSSES))}")
    loss = LOSSES[name]
    unknown = sorted(set(hyper) - set(loss.defaults))
    if unknown:
        takes = ", ".join(loss.defaults) or "no hyper-parameter"
        raise ValueError(f"loss {name!r} has no {', '.join(unknown)}; it takes {takes}")
    return functools.partial(loss.function, **hyper)
