"""The phantoms as data sets: which of the endless drawings are train, validation and test."""

import functools
from pathlib import Path

from dicepp_jax.data import phantom
from dicepp_jax.data.builder import Case, Example
from dicepp_jax.data.specs import PHANTOM, PHANTOM_3D, Spec

SEED = 0


def vessels(manual_dir: Path | None = None) -> dict[str, list[Case]]:
    """The cases of the 2-D vessel phantom."""
    del manual_dir  # Nothing is read.
    return _splits(PHANTOM, lambda i: Example(*phantom.vessels(SEED, i, PHANTOM.size)))


def kidney(manual_dir: Path | None = None) -> dict[str, list[Case]]:
    """The cases of the 3-D kidney phantom."""
    del manual_dir  # Nothing is read.

    def draw(index: int) -> Example:
        image, label = phantom.kidney(SEED, index, PHANTOM_3D.size)
        return Example(image[..., None], label)

    return _splits(PHANTOM_3D, draw)


def _splits(spec: Spec, draw) -> dict[str, list[Case]]:
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
