"""Segmentation losses: pure functions of logits and labels, one value per example.

The contract, for every function of `LOSSES`:

    loss(logits, labels, *, <hyper-parameters>, where=None, axis_name=None) -> (B,)

logits `(B, *spatial, C)` are unnormalised log-probabilities with any number of spatial axes, of
any float dtype, reduced in float32. Labels are integers `(B, *spatial)`, or one-hot or soft
`(B, *spatial, C)`. `where` `(B, *spatial)` leaves voxels out: `where=labels != 255` implements an
ignore index. `axis_name` is for an example whose voxels are split over devices; `nacl` and `svls`,
which look at neighbours, refuse it. Averaging over the batch is left to the caller.
Hyper-parameters may be traced, so `jax.vmap` and `jax.grad` over them work. Losses that distinguish
the background take class 0 as the background.

Outside jit, values that make no sense are refused, such as an integer label outside 0 to C - 1, or
logits that are NaN or probabilities. Under jit they cannot be: there, a label outside 0 to C - 1
belongs to no class, and a NaN that `where` does not leave out makes the loss of its example NaN.
`checked` puts the same checks into a program, for `jax.experimental.checkify`.

`get_loss` also takes a sum of losses, such as "dscpp+l1_ace".

To use probabilities instead of logits, pass `from_probabilities(probs)`; for K sigmoid channels,
pass `*binary_problems(logits, labels)`.

Importing this package loads only jax and numpy.
"""

import difflib
import functools
import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from dicepp_jax.losses.binned import l1_ace, soft_l1_ace
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
from dicepp_jax.losses.inputs import Scalar, add, binary_problems, checked, from_probabilities
from dicepp_jax.losses.neighbours import nacl, smooth_labels, svls
from dicepp_jax.losses.pixelwise import (
    ce,
    ce_map,
    exp_ce,
    focal,
    focal_map,
    label_smoothing,
    mbls,
    mean_voxels,
    weighted_ce,
)
from dicepp_jax.losses.region import (
    SoftCounts,
    dice_per_class,
    dml,
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
    "dml",
    "dsc",
    "dsc_ce",
    "dscpp",
    "dscpp_ce",
    "exp_ce",
    "find_loss",
    "focal",
    "focal_map",
    "focal_tversky",
    "focal_tverskypp",
    "from_probabilities",
    "get_loss",
    "l1_ace",
    "label_smoothing",
    "mbls",
    "mean_voxels",
    "nacl",
    "smooth_labels",
    "soft_counts",
    "soft_l1_ace",
    "svls",
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
      shared: of a sum, the hyper-parameters that several terms have, which cannot be set.
    """

    function: Callable[..., jax.Array]
    plusplus: str | None = None
    shared: tuple[str, ...] = ()

    @property
    def defaults(self) -> dict[str, float]:
        """The hyper-parameters with the values of the DSC++ paper's Table 2, or of its source."""
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
    "l1_ace": Loss(l1_ace),
    "soft_l1_ace": Loss(soft_l1_ace),
    "nacl": Loss(nacl),
    "mbls": Loss(mbls),
    "svls": Loss(svls),
    "label_smoothing": Loss(label_smoothing),
    "dml": Loss(dml),
    "exp_ce": Loss(exp_ce),
}
"""All losses by name. To add a loss, write a function and add a row here; the tests pick it up."""


def find_loss(name: str) -> Loss:
    """The row of a loss, or of a sum of losses, each with weight 1.

    A hyper-parameter of a sum is that of the only term which has one of this name. Those that
    several terms have cannot be set, so that all of them keep their defaults.

    Args:
      name: a key of `LOSSES`, or several joined by +, as in "dsc+l1_ace".

    Returns:
      Its row.

    Raises:
      ValueError: if there is no loss of a name, or a sum has one twice.

    Example:
      >>> find_loss("dscpp+l1_ace").defaults, find_loss("dscpp+l1_ace").plusplus
      ({'gamma': 2.0}, 'gamma')
    """
    names = name.split("+")
    if not set(names) <= set(LOSSES):
        raise ValueError(_unknown(name))
    if len(set(names)) < len(names):
        raise ValueError(f"loss {name!r} has a term twice; give each loss once")
    return LOSSES[name] if len(names) == 1 else _sum([LOSSES[term] for term in names])


def _unknown(name: str) -> str:
    """The error of a name that is not known, with the nearest that is."""
    spelt = name.lower()
    for other, ours in (("++", "pp"), ("dice", "dsc"), ("cross_entropy", "ce"), ("-", "_")):
        spelt = spelt.replace(other, ours)
    close = [difflib.get_close_matches(t, LOSSES, n=1, cutoff=0.5) for t in spelt.split("+")]
    guess = f", did you mean {'+'.join(t[0] for t in close)!r}?" if all(close) else "."
    return f"unknown loss {name!r}{guess} Known: {', '.join(sorted(LOSSES))}"


def _sum(terms: Sequence[Loss]) -> Loss:
    counts = Counter(hyper for loss in terms for hyper in loss.defaults)
    shared = tuple(hyper for hyper, count in counts.items() if count > 1)
    of_terms = (inspect.signature(loss.function).parameters for loss in terms)
    parameters = {name: p for of_term in of_terms for name, p in of_term.items()}
    signature = inspect.Signature([p for name, p in parameters.items() if name not in shared])

    def total(logits: jax.Array, labels: jax.Array, **options: Any) -> jax.Array:
        signature.bind(logits, labels, **options)
        values = []
        for loss in terms:
            taken = {"where", "axis_name", *loss.defaults} & set(options)
            values.append(loss.function(logits, labels, **{k: options[k] for k in taken}))
        return add(values)

    total.__signature__ = signature  # type: ignore[attr-defined]
    plusplus = [loss.plusplus for loss in terms if loss.plusplus not in (None, *shared)]
    return Loss(total, plusplus[0] if len(plusplus) == 1 else None, shared)


def get_loss(name: str, **hyper: Scalar) -> Callable[..., jax.Array]:
    """Return a loss by name, with its hyper-parameters set.

    Args:
      name: a key of `LOSSES`, or a sum of several, as in "dsc+l1_ace".
      **hyper: hyper-parameters of that loss; those not given keep their defaults.

    Returns:
      `loss(logits, labels, *, where=None, axis_name=None) -> (B,)`.

    Raises:
      ValueError: if there is no loss of that name, it does not have such a hyper-parameter, or
        several terms of a sum have one of that name.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = get_loss("dscpp", gamma=2.0)
      >>> logits, labels = jnp.zeros((2, 8, 8, 2)), jnp.zeros((2, 8, 8), int)
      >>> loss(logits, labels).shape
      (2,)
      >>> get_loss("dscpp+l1_ace", gamma=2.0)(logits, labels).shape
      (2,)
      >>> get_loss("dicepp")
      Traceback (most recent call last):
      ...
      ValueError: unknown loss 'dicepp', did you mean 'dscpp'? Known: asymmetric_focal, ...
    """
    loss = find_loss(name)
    for shared in set(hyper) & set(loss.shared):
        owners = [term for term in name.split("+") if shared in LOSSES[term].defaults]
        raise ValueError(
            f"{shared} is a hyper-parameter of {' and of '.join(owners)}, so that it cannot be set "
            f"for their sum {name!r}; leave it unset, which keeps the default of each"
        )
    unknown = sorted(set(hyper) - set(loss.defaults))
    if unknown:
        takes = ", ".join(loss.defaults) or "no hyper-parameter"
        raise ValueError(f"loss {name!r} has no {', '.join(unknown)}; it takes {takes}")
    return functools.partial(loss.function, **hyper)
