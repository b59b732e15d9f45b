"""What figures show of scored cases, kept with the scores; loads no matplotlib."""

from typing import NamedTuple

import numpy as np

from dicepp_jax import preprocess
from dicepp_jax.scoring import ScoredCase

OVERLAY = 1024


class View(NamedTuple):
    """The 2-D image or slice that is shown of a case.

    Attributes:
      case: name of the case.
      where: the slice of a volume, such as "slice 12 of 44"; empty for an image.
      image: `(H, W, channels)`.
      label: `(H, W)` true classes.
      probs: `(H, W, C)` predicted probabilities.

    If a side is longer than 1024 pixels, only every second (third, ...) pixel is shown.
    """

    case: str
    where: str
    image: np.ndarray
    label: np.ndarray
    probs: np.ndarray


def views(result: ScoredCase) -> tuple[View, ...]:
    """What is shown of a case for each foreground class, without a hold on the whole volume.

    Args:
      result: the scored case.

    Returns:
      One view per foreground class. An image is shown whole. For a volume it is the slice with the
      most voxels of the class in the truth or, if there are none, the slice in which the class is
      most probable. Slices are on the grid of the label.
    """
    return tuple(_view(result, target) for target in range(1, result.probs.shape[-1]))


def _view(result: ScoredCase, target: int) -> View:
    case, image, label, probs = result.case, result.image, result.label, result.probs
    if label.ndim == 2:
        return View(case, "", *(thinned(array, OVERLAY) for array in (image, label, probs)))
    amounts = np.count_nonzero(label == target, axis=(1, 2))
    if not amounts.any():
        amounts = probs[..., target].sum(axis=(1, 2))
    index, slices = int(amounts.argmax()), len(label)
    # The slices of a volume that is stored resampled differ from those of its label.
    image = image[min(len(image) - 1, int((index + 0.5) * len(image) / slices))]
    label, probs = label[index].copy(), probs[index].copy()
    image = (
        image.copy() if image.shape[:2] == label.shape else preprocess.resize(image, label.shape)
    )
    thin = (thinned(array, OVERLAY) for array in (image, label, probs))
    return View(case, slice_title(index, slices), *thin)


def slice_title(index: int, slices: int) -> str:
    """Which slice of a volume is shown, counted from 1."""
    return f"slice {index + 1} of {slices}"


def thinned(image: np.ndarray, longest: int) -> np.ndarray:
    """Every second (third, ...) pixel, so that no side exceeds the longest length."""
    step = -(-max(image.shape[:2]) // longest)
    return image[::step, ::step]
