"""A small set of .npy files, for tests of what is done with any set."""

import dataclasses
import functools
import io

import numpy as np

from dicepp_jax.data import files as files_lib
from dicepp_jax.data.builder import Case, DataSet, Example
from dicepp_jax.data.specs import PHANTOM

SPEC = dataclasses.replace(
    PHANTOM, name="toy", title="Toy", channels=1, counts=(), obtain="Draw it.", size=(16, 16)
)


def write(folder, count, first=0):
    """Write cases; returns `(image, label)` by name."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for number in range(first, first + count):
        rng = np.random.default_rng([1, number])
        size = (16, 16 + number)
        image = rng.integers(0, 256, (*size, 1), np.uint8)
        label = (rng.random(size) < 0.3).astype(np.uint8)
        np.save(folder / f"{number}.image.npy", image)
        np.save(folder / f"{number}.label.npy", label)
        written[str(number)] = image, label
    return written


def _read(image, label):
    try:
        return Example(*(np.load(io.BytesIO(file.read())) for file in (image, label)))
    except ValueError as error:
        raise ValueError(f"{image} cannot be read ({error})") from error


def cases(files):
    """The cases of the files there are."""
    images = files_lib.match(files, r"(?P<case>\d+)\.image\.npy")
    labels = files_lib.match(files, r"(?P<case>\d+)\.label\.npy")
    return [
        Case(name, functools.partial(_read, image, labels[name]), (image, labels[name]))
        for name, image in images.items()
    ]


TOY = DataSet(SPEC, cases)
