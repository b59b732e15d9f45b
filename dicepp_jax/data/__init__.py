"""Data sets by name: from files to arrays, from arrays to batches.

Importing this package registers the sets with tfds, so that `tfds.builder("drive")` finds them,
and therefore loads tfds and the readers. What also serves a trained network that reads no data set
lies outside: `dicepp_jax.spec` and `dicepp_jax.preprocess`.
"""

from dicepp_jax.data.sets import (
    FOLDER,
    SETS,
    DataSet,
    Facts,
    Loaded,
    Options,
    Origin,
    Source,
    Spec,
    Subset,
    find,
    load,
    open_for_testing,
    open_set,
)

__all__ = [
    "FOLDER",
    "SETS",
    "DataSet",
    "Facts",
    "Loaded",
    "Options",
    "Origin",
    "Source",
    "Spec",
    "Subset",
    "find",
    "load",
    "open_for_testing",
    "open_set",
]
