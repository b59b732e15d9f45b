"""Scores of a case against all its raters, as rows beside those against the first.

Of a class that k of R raters gave a voxel, `p_marked_by_k_of_R` is the mean predicted probability
of such voxels. `rater_dice` is no score of the prediction: it is the Dice of the other raters
against the first, in the mean over them.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dicepp_jax import metrics
from dicepp_jax.parts import split
from dicepp_jax.rows import ALL_CLASSES, RATER_DICE, Row


class _Sums(NamedTuple):
    """Sums that can be added over the parts of an image.

    Attributes:
      voxels: number of included voxels.
      nll: its mean times that number, `()`.
      brier: likewise, `(C,)`.
      reliability: arrays `(C, bins)`.
      votes: arrays `(C, R + 1)`.
      agreement: of each other rater with the first, arrays `(R - 1, C)`.
    """

    voxels: jax.Array
    nll: jax.Array
    brier: jax.Array
    reliability: metrics.Reliability
    votes: metrics.Votes
    agreement: metrics.Confusion


def rows(
    case: str,
    classes: Sequence[str],
    region: str,
    probs: np.ndarray,
    raters: np.ndarray,
    where: np.ndarray,
    size: int,
) -> Iterator[Row]:
    """The scores of a case with several raters.

    Args:
      case: its name.
      classes: names of the C classes, the background first.
      region: name of the region.
      probs: `(*native, C)` predicted probabilities.
      raters: `(R, *native)` classes by each rater.
      where: `(*native)` the region.
      size: number of voxels scored at a time.

    Yields:
      `rater_nll`; `rater_brier` and `rater_ece` of each class; and of each foreground class
      `p_marked_by_k_of_R` for k = 0, ..., R, and `rater_dice`.
    """
    arrays = (probs, np.moveaxis(raters, 0, -1), where)
    parts = [jax.device_get(_sums(*part)) for part in split(size, where.ndim, *arrays)]
    # Counts below 2**53 are exact.
    whole = jax.tree.map(lambda *x: np.sum(x, axis=0, dtype=np.float64), *parts)
    share = 1 / whole.voxels if whole.voxels else np.nan
    yield Row(case, ALL_CLASSES, region, "rater_nll", float(whole.nll * share))
    for metric, values in (("brier", whole.brier * share), ("ece", whole.reliability.ece)):
        for label, value in zip(classes, values, strict=True):
            yield Row(case, label, region, f"rater_{metric}", float(value))
    means, agreement = whole.votes.mean_probability, np.asarray(whole.agreement.dice)
    for number, label in enumerate(classes[1:], 1):
        for k, value in enumerate(means[number]):
            metric = f"p_marked_by_{k}_of_{len(raters)}"
            yield Row(case, label, region, metric, float(value))
        yield Row(case, label, region, RATER_DICE, float(agreement[:, number].mean()))


@jax.jit
def _sums(probs: jax.Array, raters: jax.Array, where: jax.Array) -> _Sums:
    raters = jnp.moveaxis(raters, -1, 1).astype(jnp.int32)
    voxels, others = where.sum(), raters[0, 1:]
    first, included = (jnp.repeat(x, len(others), axis=0) for x in (raters[:, 0], where))
    nll, brier = (
        jnp.where(voxels > 0, metric(probs, raters, where)[0] * voxels, 0)
        for metric in (metrics.rater_nll, metrics.rater_brier)
    )
    sums = metrics.rater_reliability(probs, raters, where), metrics.votes(probs, raters, where)
    reliability, votes = jax.tree.map(lambda x: x[0], sums)
    agreement = metrics.confusion(others, first, probs.shape[-1], included)
    return _Sums(voxels, nll, brier, reliability, votes, agreement)
