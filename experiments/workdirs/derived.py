"""Directories of scores derived from runs: by calibration after training, of ensembles, over folds.

Such a directory has scores like those of a run, and `derived.json`, which names the runs, in paths
relative to it, has digests of their scores, what was fitted, the seconds that this took and the
number of network evaluations that a prediction takes.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dicepp_jax.atomic import write_text
from experiments.workdirs import stored

DERIVED = "derived.json"
FIELDS = {"kind": str, "of": list, "scores": list}
TEMPERATURE, ENSEMBLE = "temperature", "ensemble"
MC_DROPOUT = "mc_dropout"
METHODS = {
    TEMPERATURE: "temperature scaling",
    "platt": "Platt scaling",
    "vector": "vector scaling",
    "auxiliary": "auxiliary network",
    MC_DROPOUT: "MC dropout",
}
"""Kinds of a single network, with their titles."""
FOLDS = "folds"
"""Every case scored with the network of the fold in which it validates."""


def write(
    folder: Path,
    kind: str,
    of: Sequence[Path],
    *,
    seconds: float = 0.0,
    evaluations: int = 1,
    **fitted: Any,
) -> None:
    """Write from which runs a directory's scores are derived.

    Args:
      folder: the directory, which exists.
      kind: a key of `METHODS`, `ENSEMBLE` or `FOLDS`.
      of: the runs' directories.
      seconds: that fitting took.
      evaluations: of a network in a prediction.
      fitted: parameters of the kind, such as temperature.
    """
    about = {
        "kind": kind,
        "of": [os.path.relpath(path.resolve(), folder.resolve()) for path in of],
        "scores": [digest(path) for path in of],
        "seconds": seconds,
        "evaluations": evaluations,
        **fitted,
    }
    write_text(folder / DERIVED, json.dumps(about, indent=1) + "\n")


def is_current(folder: Path, of: Sequence[Path] | None = None) -> bool:
    """Whether a directory holds scores derived from runs that have not changed since.

    Args:
      folder: the directory.
      of: the runs that they must be derived from, None for any.
    """
    from dicepp_jax import score_files  # Here, since it loads JAX.

    path = folder / DERIVED
    if not (path.exists() and score_files.is_complete(folder)):
        return False
    about = stored.read(path, FIELDS)
    sources = [(folder / run).resolve() for run in about["of"]]
    if of is not None and sources != [run.resolve() for run in of]:
        return False
    return about["scores"] == [digest(folder / run) for run in about["of"]]


def read(folder: Path) -> dict[str, Any]:
    """The contents of a directory's `derived.json`.

    Raises:
      ValueError: if the runs have changed since.
    """
    if not is_current(folder):
        raise ValueError(
            f"{folder} is derived from runs that have changed since; derive it again by python -m "
            "experiments.calibrate, or delete it"
        )
    return stored.read(folder / DERIVED, FIELDS)


def digest(run: Path) -> str | None:
    """The digest of a run's scores; None if there are none."""
    from dicepp_jax import score_files  # Here, since it loads JAX.

    path = run / score_files.FOLDER / score_files.CASES
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
