"""Runs that have been scored, found below directories, and what is known of each.

A run of experiments.run or a member of experiments.sweep has a `run.json`; what is made of runs
afterwards, by experiments.calibrate or as a sweep's ensemble, is `derived`.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import base
from dicepp_jax.data import Spec
from experiments import derived, record, runs, scores
from experiments import parts as parts_lib


class Scale(NamedTuple):
    """What the cost of a run depends on; only runs of one scale stand in one table.

    Attributes:
      size: of the images or patches that the network is given.
      filters: of the network's first level.
      depth: of the network.
      epochs: at most.
      patience: epochs without improvement before the rate is cut.
      stop_patience: and before training ends.
    """

    size: tuple[int, ...]
    filters: int
    depth: int | None
    epochs: int
    patience: int
    stop_patience: int


class Finished(NamedTuple):
    """A scored run, or what was made of runs.

    Attributes:
      folder: where `scores.read` finds its scores.
      spec: of its data set.
      loss: its loss, with the hyper-parameters that the config sets: "dscpp", "tverskypp gamma=3";
        of dscpp with a gamma of its own "gamma=3", as the paper's Table 3 has it.
      kind: "" for a single network, or as of `derived`: `TEMPERATURE`, `ENSEMBLE`.
      members: how many networks.
      temperature: None but after temperature scaling.
      seed: of the network, of an ensemble its first one's.
      scale: of the run.
      epochs: that were trained, all members' together.
      about: its `run.json`, of an ensemble the first member's.
    """

    folder: Path
    spec: Spec
    loss: str
    kind: str
    members: int
    temperature: float | None
    seed: int
    scale: Scale
    epochs: int
    about: Mapping[str, Any]

    @property
    def method(self) -> str:
        """Loss and kind: "dsc", "gamma=2", "dsc, temperature", "dsc, ensemble"."""
        return f"{self.loss}, {self.kind}" if self.kind else self.loss

    def scores(self) -> scores.Scored:
        """Its scores.

        Raises:
          FileNotFoundError: if a file of them is missing.
        """
        return scores.read(self.folder, self.spec.classes)


def find(workdirs: Iterable[Path]) -> list[Finished]:
    """Everything that is scored in directories and below them, in the order of their names.

    Args:
      workdirs: of runs, of grids, or above several of them.

    Returns:
      Each once.

    Raises:
      FileNotFoundError: if a directory does not exist or holds nothing that is scored.
    """
    folders: dict[Path, None] = {}
    for workdir in workdirs:
        if not workdir.is_dir():
            raise FileNotFoundError(f"there is no directory {workdir}; give the --workdir of runs")
        # What experiments.run put aside is no longer of interest; neither is what is half written.
        below = sorted(
            path.parent.parent
            for path in workdir.rglob(f"{scores.FOLDER}/{scores.CASES}")
            if not any(part.startswith(".") for part in path.relative_to(workdir).parts)
        )
        if not below:
            raise FileNotFoundError(
                f"nothing in {workdir} is scored; give the --workdir of a run that has ended"
            )
        folders.update(dict.fromkeys(folder.resolve() for folder in below))
    return [read(folder) for folder in folders]


def read(folder: Path) -> Finished:
    """What is known of a scored directory.

    Raises:
      FileNotFoundError: if what it was made of is gone.
      ValueError: if that has changed since.
    """
    made = derived.read(folder) if (folder / derived.DERIVED).exists() else {}
    of = [(folder / path).resolve() for path in made.get("of", ["."])]
    missing = [path for path in of if not (path / record.RUN).exists()]
    if missing:
        raise FileNotFoundError(f"{folder} is scored, but there is no {missing[0] / record.RUN}")
    config = runs.read_config(of[0])
    spec = record.read_spec(of[0])
    return Finished(
        folder=folder,
        spec=spec,
        loss=_loss(config),
        kind=made.get("kind", ""),
        members=len(of),
        temperature=made.get("temperature"),
        seed=config.seed,
        scale=scale(config, spec),
        epochs=sum(len(record.read_log(path)) for path in of),
        about=json.loads((of[0] / record.RUN).read_text()),
    )


def scale(config: ConfigDict, spec: Spec) -> Scale:
    """The scale of a run."""
    fields = config.train
    return Scale(
        tuple(config.data.size) or spec.size,
        config.model.filters,
        config.model.depth,
        fields.epochs,
        fields.patience,
        fields.stop_patience,
    )


def _loss(config: ConfigDict) -> str:
    name = config.loss.name
    given = parts_lib.hyper(config)
    default = base.get_config().train.learning_rate
    if config.train.learning_rate != default:
        given["learning_rate"] = config.train.learning_rate
    values = " ".join(f"{hyper}={value:g}" for hyper, value in given.items())
    if name == "dscpp" and list(given) == ["gamma"]:
        return values
    return f"{name} {values}" if values else name
