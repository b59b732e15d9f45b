"""What a working directory keeps beside checkpoints: the config it was made with, and the log."""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from filelock import FileLock, Timeout
from ml_collections import ConfigDict

from dicepp_jax.data.specs import Download, Spec
from dicepp_jax.train import Epoch

RUN = "run.json"
LOG = "log.jsonl"
REPORT = "report.txt"
SPLIT = "split.json"
SPEC = "spec.json"
PACKAGES = ("dicepp_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy")
# Fields that do not change what is trained, only for how long, from where, how fast or, but for the
# rounding of sums, on what: a run may go on where there are more devices, or fewer.
FREE = ("resume", "devices", "train.epochs", "inference", "evaluation", "data.manual_dir",
        "data.data_dir", "data.download", "data.cache_gib", "sweep.strategy")  # fmt: skip
# Those that do not change the scores either.
SCORED_ALIKE = tuple(
    field for field in FREE if field not in ("train.epochs", "inference", "evaluation")
) + ("inference.batch_size", "evaluation.figures")
# Fields that may differ from host to host.
LOCAL = ("data.manual_dir", "data.data_dir", "data.cache_gib")


def write_text(path: Path, text: str) -> None:
    """Write a text file, which appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text)
    os.replace(temporary, path)


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Keep other processes out of a run's directory.

    Raises:
      ValueError: if another has it.
      OSError: if it cannot be made or written to.
    """
    # Beside the directory, which `put_aside` may rename.
    lock = FileLock(workdir.with_name(f".{workdir.name}.lock"))
    if workdir.is_file():
        raise ValueError(f"{workdir} is a file; give another --workdir")
    try:
        workdir.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"another process is at work in {workdir}; wait for it, or give another --workdir"
        ) from error
    except OSError as error:
        raise OSError(
            error.errno,
            f"{workdir} cannot be written to ({error.strerror}); give another --workdir",
        ) from error
    try:
        yield
    finally:
        lock.release()


def open_workdir(workdir: Path, config: ConfigDict, data: str) -> None:
    """Make a run's directory, or check that the one there holds the same experiment.

    The resolved config, the command, versions, hardware, date and git commit go into `run.json`:
    those that it was begun with, and under `continued` those of other code or another machine that
    it went on with.

    Args:
      workdir: the directory.
      config: of the run.
      data: the digest of its cases and their split.

    Raises:
      ValueError: if the directory holds a run of another config or on other data, naming what
        differs.
    """
    path = workdir / RUN
    resolved = json.loads(config.to_json())
    if path.exists() and not config.resume:
        put_aside(workdir)
    if path.exists():
        there = json.loads(path.read_text())
        changes = list(_differences(there["config"], resolved, FREE))
        if there.get("data") != data:
            changes.append("its cases, their masks or their split have changed since")
        if changes:
            raise ValueError(
                f"{workdir} holds another run ({'; '.join(changes)}). Give another "
                "--workdir, or --config.resume=False to put that run aside and start anew"
            )
    workdir.mkdir(parents=True, exist_ok=True)
    about = _about()
    if path.exists():
        # It is not finished until there is a new report.
        (workdir / REPORT).unlink(missing_ok=True)
        # What it was begun with is kept, and what goes on otherwise is added.
        then = {name: there[name] for name in about if name in there}
        later = there.get("continued", [])
        if not any(_made_alike(about, other) for other in (then, *later)):
            later = [*later, about]
        about = then | ({"continued": later} if later else {})
    write_text(path, json.dumps({"config": resolved, "data": data, **about}, indent=2) + "\n")


def _about() -> dict[str, Any]:
    """What a run is made by."""
    return {
        "command": [Path(sys.executable).name, *sys.argv],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "git_commit": _git_commit(),
        "devices": [f"{d.platform} {d.device_kind}" for d in jax.devices()],
        "cpu_cores": os.cpu_count(),
    }


def _made_alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether code and machine are the same, whatever the command and the date."""
    of_one, of_other = (
        {name: value for name, value in about.items() if name not in ("command", "date")}
        for about in (one, other)
    )
    return of_one == of_other


def is_finished(workdir: Path, config: ConfigDict, data: str) -> bool:
    """Whether a directory holds this experiment, trained to its end and reported.

    Args:
      workdir: the directory.
      config: of the run.
      data: the digest of its cases and their split.
    """
    path = workdir / RUN
    if not (path.exists() and (workdir / REPORT).exists()):
        return False
    there, resolved = json.loads(path.read_text()), json.loads(config.to_json())
    return there["data"] == data and not any(_differences(there["config"], resolved, SCORED_ALIKE))


def check_joined(workdir: Path, config: ConfigDict, data: str) -> None:
    """Check in another process than the first that all have one directory and one experiment.

    Args:
      workdir: the directory, which the first process has opened.
      config: of the run, as this process was given it.
      data: the digest of the cases and their split, as this process has them.

    Raises:
      ValueError: if it is not there or holds something else.
    """
    path = workdir / RUN
    if not path.exists():
        raise ValueError(
            f"process 0 has opened {workdir}, which this host does not see; give all of them a "
            "--workdir on a file system that they share"
        )
    there = json.loads(path.read_text())
    changes = list(_differences(there["config"], json.loads(config.to_json()), LOCAL))
    if there["data"] != data:
        changes.append("the cases, their masks or their split")
    if changes:
        raise ValueError(
            f"process 0 runs something else ({'; '.join(changes)}); give all hosts the same "
            "command and the same data"
        )


def write_spec(workdir: Path, spec: Spec) -> None:
    """Write the facts of the data set, which prediction needs where the set is not."""
    write_text(workdir / SPEC, json.dumps(dataclasses.asdict(spec), indent=1) + "\n")


def read_spec(workdir: Path) -> Spec:
    """The facts of the data set that a run was made with.

    Raises:
      FileNotFoundError: if there are none, as in the directory of something else.
    """
    path = workdir / SPEC
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; give the directory of a run of experiments.run, or run its "
            "command again, which writes the file and does not train what is trained"
        )
    fields = {name: _tuples(value) for name, value in json.loads(path.read_text()).items()}
    downloads = tuple(Download(*download) for download in fields["downloads"])
    return Spec(**{**fields, "downloads": downloads})


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def put_aside(workdir: Path) -> None:
    """Rename a run's directory to the first free name with a number behind it."""
    number = 1
    while (aside := workdir.with_name(f"{workdir.name}.{number}")).exists():
        number += 1
    workdir.rename(aside)
    print(f"the run that was in {workdir} is now in {aside}")


def _differences(
    old: dict[str, Any], new: dict[str, Any], free: tuple[str, ...], prefix: str = ""
) -> Iterator[str]:
    for name in sorted(set(old) | set(new)):
        path, before, after = f"{prefix}{name}", old.get(name), new.get(name)
        if path in free or before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after, free, f"{path}.")
        else:
            yield f"{path}: {before} there, {after} here"


def differences(one: ConfigDict, other: ConfigDict, but: tuple[str, ...]) -> list[str]:
    """Where two configs differ, apart from some fields or groups of fields."""
    old, new = (json.loads(config.to_json()) for config in (one, other))
    return list(_differences(old, new, but))


def _git_commit() -> str | None:
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def read_log(workdir: Path) -> list[dict[str, float]]:
    """The records of the epochs so far."""
    path = workdir / LOG
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def trim_log(workdir: Path, epochs: int) -> None:
    """Keep the records of the first so many epochs: those that the last checkpoint knows of."""
    kept = [record for record in read_log(workdir) if record["epoch"] < epochs]
    write_text(workdir / LOG, "".join(f"{json.dumps(record)}\n" for record in kept))


def logged(epoch: Epoch) -> dict[str, float]:
    """What the log says of an epoch beside its number."""
    names = ("train_loss", "val_loss", "learning_rate", "seconds", "data_wait")
    return {name: getattr(epoch, name) for name in names}


def append_log(workdir: Path, record: dict[str, float]) -> None:
    """Add the record of an epoch."""
    with (workdir / LOG).open("a") as file:
        file.write(f"{json.dumps(record)}\n")
