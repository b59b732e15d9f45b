"""The directory of a run: its lock, and the files that say which experiment it holds.

`run.json` has the resolved config, where the data set was prepared from, command, versions,
hardware, date and git commit; `spec.json` the facts of the data set; `split.json` the cases of each
part.
"""

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

from configs import base
from dicepp_jax import data
from dicepp_jax.atomic import NO_ROOM, write_text
from dicepp_jax.data.specs import Download, Spec
from experiments.workdirs import stored

RUN = "run.json"
CHECKPOINTS = "checkpoints"
FIRST = "first"
"""The directory within a run's of its training before `train.then`."""
UNFINISHED = "unfinished.msgpack"
REPORT = "report.txt"
SPLIT = "split.json"
SPEC = "spec.json"
FIELDS = {"config": dict, "data": str}
"""Of `run.json`, what a run cannot do without."""
PACKAGES = ("dicepp_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy")
CPU_INFO = Path("/proc/cpuinfo")
# Fields that do not change what is trained, only for how long, from where and how fast; nor, apart
# from the rounding of sums, on what: a run may resume with more devices, or fewer.
FREE = ("resume", "devices", "train.epochs", "inference", "evaluation", "data.manual_dir",
        "data.data_dir", "data.download", "data.cache_gib", "sweep.strategy")  # fmt: skip
# Those of them that do not change the scores either.
SCORED_ALIKE = tuple(
    field for field in FREE if field not in ("train.epochs", "inference", "evaluation")
) + ("inference.batch_size", "evaluation.figures")
# Fields that may differ from host to host.
LOCAL = ("data.manual_dir", "data.data_dir", "data.cache_gib")


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Keep other processes out of a run's directory.

    Raises:
      ValueError: if another process has locked it, or it cannot be created or written to.
    """
    # Beside the directory, which `set_aside` may rename.
    file_lock = FileLock(workdir.with_name(f".{workdir.name}.lock"))
    if workdir.is_file():
        raise ValueError(f"{workdir} is a file; choose another --workdir")
    try:
        workdir.parent.mkdir(parents=True, exist_ok=True)
        file_lock.acquire(timeout=0)
    except Timeout as error:
        if not Path(file_lock.lock_file).exists():
            raise ValueError(f"{workdir} cannot be created; choose another --workdir") from error
        raise ValueError(
            f"another process is working in {workdir}; wait for it, or choose another --workdir"
        ) from error
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        raise ValueError(
            f"{workdir} is not writable ({error.strerror}: {error.filename}); choose another "
            "--workdir"
        ) from error
    try:
        yield
    finally:
        file_lock.release()


def open_workdir(workdir: Path, config: ConfigDict, loaded: data.Loaded) -> None:
    """Create a run's directory, or check that an existing one holds the same experiment.

    `run.json` keeps the command, versions, hardware, date and git commit that the run began with,
    and lists under `continued` those of other code or another machine that it resumed with.

    Args:
      workdir: the directory.
      config: of the run.
      loaded: its data set.

    Raises:
      ValueError: if the directory holds a run of another config or on other data, naming what
        differs.
    """
    path = workdir / RUN
    resolved = json.loads(config.to_json())
    if path.exists() and not config.resume:
        set_aside(workdir)
    if path.exists():
        there = stored.read(path, FIELDS)
        changes = list(_differences(completed(there["config"]), resolved, FREE))
        if there.get("data") != loaded.digest:
            changes.append("its cases, their masks or their split have changed")
        if changes:
            raise ValueError(
                f"{workdir} holds another run ({'; '.join(changes)}). Choose another "
                "--workdir, or add --config.resume=False to set that run aside and start afresh"
            )
    workdir.mkdir(parents=True, exist_ok=True)
    about, source = _about(), loaded.origin._asdict()
    if path.exists():
        # It is not finished until there is a new report.
        (workdir / REPORT).unlink(missing_ok=True)
        then = {name: there[name] for name in about if name in there}
        later = there.get("continued", [])
        if not any(_same_environment(about, other) for other in (then, *later)):
            later = [*later, about]
        about = then | ({"continued": later} if later else {})
        source = there.get("source", source)
    contents = {
        "config": resolved,
        "data": loaded.digest,
        "test_data": loaded.test_digest,
        "source": source,
        **about,
    }
    write_text(path, json.dumps(contents, indent=2) + "\n")
    write_spec(workdir, loaded.spec)
    write_split(workdir, loaded)


def write_spec(workdir: Path, spec: Spec) -> None:
    """Write the facts of the data set, which prediction needs where the set is not available."""
    write_text(workdir / SPEC, json.dumps(dataclasses.asdict(spec), indent=1) + "\n")


def write_split(workdir: Path, loaded: data.Loaded) -> None:
    """Write the names of the cases of each part, in the format of `data.split_file`."""
    split = {part: list(subset.ids) for part, subset in loaded.splits.items()}
    write_text(workdir / SPLIT, json.dumps(split, indent=1) + "\n")


def _about() -> dict[str, Any]:
    """The command, the code and the machine of this process."""
    return {
        "command": [Path(sys.executable).name, *sys.argv],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "git_commit": _git_commit(),
        "devices": [f"{d.platform} {d.device_kind}" for d in jax.devices()],
        "cpu": _cpu_model(),
        "cpu_cores": os.cpu_count(),
    }


def _cpu_model() -> str | None:
    """The processor's name, on whose instructions the rounding of sums depends."""
    if CPU_INFO.exists():
        for line in CPU_INFO.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or None


def _same_environment(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether code and machine are the same, whatever the command and the date."""
    # Older versions recorded less.
    both = one.keys() & other.keys() - {"command", "date"}
    return all(one[name] == other[name] for name in both)


def is_finished(workdir: Path, config: ConfigDict, digest: str) -> bool:
    """Whether a directory holds this experiment, trained to its end and reported.

    Args:
      workdir: the directory.
      config: of the run.
      digest: of its cases and their split.
    """
    path = workdir / RUN
    if not (path.exists() and (workdir / REPORT).exists()):
        return False
    there, resolved = stored.read(path, FIELDS), json.loads(config.to_json())
    return there["data"] == digest and not any(
        _differences(completed(there["config"]), resolved, SCORED_ALIKE)
    )


def check_joined(workdir: Path, config: ConfigDict, digest: str) -> None:
    """Check, in a process other than the first, that all run the same experiment in one directory.

    Args:
      workdir: the directory, which the first process has opened.
      config: of the run, as this process was given it.
      digest: of the cases and their split, as this process has them.

    Raises:
      ValueError: if it does not exist or holds another experiment.
    """
    path = workdir / RUN
    if not path.exists():
        raise ValueError(
            f"process 0 has opened {workdir}, which this host does not see; choose a --workdir on "
            "a file system that all hosts share"
        )
    there = stored.read(path, FIELDS)
    changes = list(_differences(there["config"], json.loads(config.to_json()), LOCAL))
    if there["data"] != digest:
        changes.append("the cases, their masks or their split")
    if changes:
        raise ValueError(
            f"process 0 runs another experiment ({'; '.join(changes)}); give all hosts the same "
            "command and the same data"
        )


def read_spec(workdir: Path) -> Spec:
    """The facts of a run's data set, for prediction where the set is not available.

    Raises:
      FileNotFoundError: if the directory is not that of a run.
    """
    path = workdir / SPEC
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; give the directory of a run of experiments.run, or repeat its "
            "command, which writes the file and does not train again what has been trained"
        )
    content = stored.read(path, {"name": str, "downloads": list})
    known = data.SETS.get(content["name"])
    if known:  # Runs from before these fields existed lack them.
        content = {"drawn": known.spec.drawn, "stands_for": known.spec.stands_for} | content
    fields = {name: _tuples(value) for name, value in content.items()}
    try:
        downloads = tuple(Download(*download) for download in fields["downloads"])
        return Spec(**{**fields, "downloads": downloads})
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); repeat the command of the run, which writes it and does "
            "not train again what has been trained"
        ) from error


def _tuples(value: Any) -> Any:
    """Lists, which JSON makes of tuples, as tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def set_aside(workdir: Path) -> None:
    """Rename a run's directory by adding the first free number."""
    number = 1
    while (aside := workdir.with_name(f"{workdir.name}.{number}")).exists():
        number += 1
    workdir.rename(aside)
    print(f"the run that was in {workdir} is now in {aside}")


def completed(config: dict[str, Any]) -> dict[str, Any]:
    """The config of a `run.json`, where fields that did not exist when it began have defaults."""
    return _merged(json.loads(base.get_config().to_json()), config)


def _merged(defaults: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    both = defaults | config
    return {
        name: _merged(defaults.get(name, {}), value) if isinstance(value, dict) else value
        for name, value in both.items()
    }


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
    """Where two configs differ, apart from given fields or groups of fields."""
    old, new = (json.loads(config.to_json()) for config in (one, other))
    return list(_differences(old, new, but))


def _git_commit() -> str | None:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None  # An installed package; a repository above it would be another one.
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def check_single(workdir: Path) -> None:
    """Refuse a directory that holds several runs, as of a grid or of several losses.

    Raises:
      ValueError: naming them.
    """
    if (workdir / CHECKPOINTS).exists():
        return
    members = sorted(path.parent for path in workdir.glob(f"*/{CHECKPOINTS}"))
    if members:
        raise ValueError(
            f"{workdir} holds several runs; give one of them: {', '.join(map(str, members))}"
        )
