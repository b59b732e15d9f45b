"""Data sets by name: files to arrays, arrays to batches.

What `sets` has is had from here, as `data.load("drive")`, and loaded when it is first asked for:
`data.preprocess` and `data.specs` cost no more than numpy and scipy.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dicepp_jax.data.sets import (
        FOLDER,
        SETS,
        DataSet,
        Facts,
        Loaded,
        Options,
        Source,
        Spec,
        Subset,
        find,
        load,
        open_set,
    )

__all__ = [
    "FOLDER",
    "SETS",
    "DataSet",
    "Facts",
    "Loaded",
    "Options",
    "Source",
    "Spec",
    "Subset",
    "find",
    "load",
    "open_set",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("dicepp_jax.data.sets"), name)
