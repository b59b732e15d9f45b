"""The phantoms as data sets: the images for training, validation and testing."""

import functools
from collections.abc import Callable

import numpy as np

from dicepp_jax.data import phantom
from dicepp_jax.data.builder import Case, Example
from dicepp_jax.data.files import Tree
from dicepp_jax.data.specs import PHANTOM, PHANTOM_3D, RARE
from dicepp_jax.spec import Spec

SEED = 0


def vessels(files: Tree) -> list[Case]:
    """The cases of the 2-D vessel phantom: train, then validation, then test."""
    del files  # Nothing is read.
    height, width = PHANTOM.size
    return _cases(PHANTOM, lambda i: Example(*phantom.vessels(SEED, i, (height, width))))


def lesions(share: float, files: Tree) -> list[Case]:
    """The cases of the lesion phantom with this share of foreground."""
    del files  # Nothing is read.
    height, width = RARE[share].size

    def draw(index: int) -> Example:
        image, label = phantom.lesion(SEED, index, share, (height, width))
        return Example(image[..., None], label)

    return _cases(RARE[share], draw)


def kidney(files: Tree) -> list[Case]:
    """The cases of the 3-D kidney phantom: train, then validation, then test."""
    del files  # Nothing is read.
    depth, height, width = PHANTOM_3D.size

    def draw(index: int) -> Example:
        image, label = phantom.kidney(SEED, index, (depth, height, width))
        return Example(image[..., None], label)

    return _cases(PHANTOM_3D, draw)


def _cases(spec: Spec, draw: Callable[[int], Example]) -> list[Case]:
    parts = np.repeat(("train", "validation", "test"), spec.counts)
    return [
        Case(f"{spec.name}_{index:03d}", functools.partial(draw, index), part=str(part))
        for index, part in enumerate(parts)
    ]
