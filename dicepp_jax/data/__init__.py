"""Data sets by name: files to arrays, arrays to batches.

`SETS` is the table of sets. A new one is a `Spec` in `specs.py`, a function that lists its cases
in a file of its own, and one row here.
"""

import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from dicepp_jax.data import drive, phantom_cases, specs
from dicepp_jax.data.builder import ListCases, make_builder
from dicepp_jax.data.specs import Spec

__all__ = ["SETS", "DataSet", "Spec", "find_set", "load"]


class DataSet(NamedTuple):
    """A row of `SETS`: the facts of a set and the function that lists its cases."""

    spec: Spec
    list_cases: ListCases


SETS: dict[str, DataSet] = {
    "drive": DataSet(specs.DRIVE, drive.cases),
    "phantom": DataSet(specs.PHANTOM, phantom_cases.vessels),
    "phantom_3d": DataSet(specs.PHANTOM_3D, phantom_cases.kidney),
}


def find_set(name: str) -> DataSet:
    """The set of that name.

    Raises:
      ValueError: if there is none, with the nearest name.
    """
    if name not in SETS:
        close = difflib.get_close_matches(name.lower(), SETS, n=1, cutoff=0.5)
        guess = f", did you mean {close[0]!r}?" if close else "."
        raise ValueError(f"unknown data set {name!r}{guess} Known: {', '.join(sorted(SETS))}")
    return SETS[name]


def load(
    name: str, data_dir: str | None = None, manual_dir: str | None = None
) -> Mapping[str, Sequence[Any]]:
    """Prepare a set, if it has not been, and open it.

    Args:
      name: a key of `SETS`.
      data_dir: where prepared sets are kept, None for tfds's default, `~/tensorflow_datasets`.
      manual_dir: where the files of a set that must be obtained by hand are.

    Returns:
      The splits "train", "validation" and "test", each a random-access sequence of stored cases:
      dicts with "id", "image", "label" and, for a set with a `Spec.region`, "region".

    Raises:
      ValueError: if the set is unknown or a case is not what it should be.
      FileNotFoundError: if files are missing.
    """
    spec, list_cases = find_set(name)
    folder = None if not manual_dir else Path(manual_dir).expanduser()
    builder = make_builder(spec, list_cases, data_dir or None, folder)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    if folder is not None and builder.is_prepared():
        print(f"{spec.title}: prepared before; to read it anew, delete {builder.data_path}")
    builder.download_and_prepare()
    return builder.as_data_source()
