"""The phantoms as data sets: which of the endless drawings are train, validation and test."""

import functools
from collections.abc import Callable
from pathlib import Path

from dicepp_jax.data import phantom
from dicepp_jax.data.builder import Case, Example
from dicepp_jax.data.specs import PHANTOM, PHANTOM_3D, Spec

SEED = 0


def vessels(manual_dir: Path | None = None) -> dict[str, list[Case]]:
    """The cases of the 2-D vessel phantom."""
    del manual_dir  # Nothing is read.
    height, width = PHANTOM.size
    return _splits(PHANTOM, lambda i: Example(*phantom.vessels(SEED, i, (height, width))))


def kidney(manual_dir: Path | None = None) -> dict[str, list[Case]]:
    """The cases of the 3-D kidney phantom."""
    del manual_dir  # Nothing is read.

    depth, height, width = PHANTOM_3D.size

    def draw(index: int) -> Example:
        image, label = phantom.kidney(SEED, index, (depth, height, width))
        return Example(image[..., None], label)

    return _splits(PHANTOM_3D, draw)


def _splits(spec: Spec, draw: Callable[[int], Example]) -> dict[str, list[Case]]:
    cases = [
        Case(f"{spec.name}_{index:03d}", functools.partial(draw, index))
        for index in range(sum(spec.counts))
    ]
    train, validation, _ = spec.counts
    return {
        "train": cases[:train],
        "validation": cases[train : train + validation],
        "test": cases[train + validation :],
    }
