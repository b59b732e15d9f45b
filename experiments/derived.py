"""What is made of scored runs afterwards: temperature scaling and ensembles.

Its directory holds scores as those of a run, and `derived.json`, which says of which runs they are
made, in paths relative to it, and what these runs' scores were.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import record, scores

DERIVED = "derived.json"
TEMPERATURE, ENSEMBLE = "temperature", "ensemble"


def write(folder: Path, kind: str, of: Sequence[Path], temperature: float | None = None) -> None:
    """Write of which runs a directory's scores are made.

    Args:
      folder: the directory, which exists.
      kind: `TEMPERATURE` or `ENSEMBLE`.
      of: the runs' directories.
      temperature: if that is the kind.
    """
    about = {
        "kind": kind,
        "of": [os.path.relpath(path.resolve(), folder.resolve()) for path in of],
        "scores": [_digest(path) for path in of],
        "temperature": temperature,
    }
    record.write_text(folder / DERIVED, json.dumps(about, indent=1) + "\n")


def is_current(folder: Path, of: Sequence[Path] | None = None) -> bool:
    """Whether a directory holds scores made of runs that have not changed since.

    Args:
      folder: the directory.
      of: the runs of which they are to be made, None for any.
    """
    path = folder / DERIVED
    if not (path.exists() and scores.is_complete(folder)):
        return False
    made = json.loads(path.read_text())
    there = [(folder / run).resolve() for run in made["of"]]
    if of is not None and there != [run.resolve() for run in of]:
        return False
    return made["scores"] == [_digest(folder / run) for run in made["of"]]


def read(folder: Path) -> dict[str, Any]:
    """What a directory's scores were made of: kind, of, scores and temperature.

    Raises:
      ValueError: if that has changed since.
    """
    if not is_current(folder):
        raise ValueError(
            f"{folder} was made of runs that have changed since; make it again by python -m "
            "experiments.calibrate, or delete it"
        )
    return json.loads((folder / DERIVED).read_text())


def _digest(run: Path) -> str | None:
    """Of a run's scores; None where there are none."""
    path = run / scores.FOLDER / scores.CASES
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
