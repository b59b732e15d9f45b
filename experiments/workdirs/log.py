"""The log of a run: one JSON record an epoch."""

import json
from pathlib import Path

from dicepp_jax.atomic import naming, write_text
from dicepp_jax.train import Epoch

LOG = "log.jsonl"
FIELDS = ("train_loss", "val_loss", "learning_rate", "seconds", "data_wait")


def record(epoch: Epoch) -> dict[str, float]:
    """The fields of an epoch that are logged, beside its number."""
    return {name: getattr(epoch, name) for name in FIELDS}


def read(workdir: Path) -> list[dict[str, float]]:
    """The records of the epochs so far; a last line that was cut off is left out.

    Raises:
      ValueError: if another line is no record, naming it.
    """
    path = workdir / LOG
    if not path.exists():
        return []
    records = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if number == len(lines) and not line.endswith("\n"):
            break
        try:
            records.append({"epoch": (entry := json.loads(line))["epoch"], **entry})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number} is no record of an epoch: {line[:60].strip()!r}. Delete "
                "the line, or restore the file from a backup"
            ) from error
    return records


def trim(workdir: Path, epochs: int) -> None:
    """Drop the records of later epochs than the first so many, which the last checkpoint has."""
    records = [record for record in read(workdir) if record["epoch"] < epochs]
    if len(records) < epochs:
        print(f"{workdir / LOG} has {len(records)} of {epochs} epochs: curves lack the others")
    write_text(workdir / LOG, "".join(f"{json.dumps(record)}\n" for record in records))


def append(workdir: Path, epoch: Epoch) -> None:
    """Add the record of an epoch."""
    path = workdir / LOG
    with naming(path), path.open("a") as file:
        file.write(f"{json.dumps({'epoch': epoch.epoch, **record(epoch)})}\n")
