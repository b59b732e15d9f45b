"""Scored runs found below directories, and the facts of each.

A run of experiments.run or a member of experiments.sweep has a `run.json`; temperature scaling by
experiments.calibrate and ensembles are `derived`.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import base
from dicepp_jax import score_files
from dicepp_jax.data import Spec
from dicepp_jax.score_files import SplitScores
from experiments.setup import components
from experiments.workdirs import derived, directory, log, stored, trained


class Scale(NamedTuple):
    """What the cost of a run depends on; a table shows runs of one scale.

    Attributes:
      size: of the images or patches that the network sees.
      filters: of the network's first level.
      depth: of the network.
      epochs: at most.
      patience: epochs without improvement before the learning rate is cut.
      stop_patience: epochs without improvement before training ends.
    """

    size: tuple[int, ...]
    filters: int
    depth: int | None
    epochs: int
    patience: int
    stop_patience: int


class Finished(NamedTuple):
    """A scored run, or scores derived from runs.

    Attributes:
      folder: where `score_files.read` finds the scores.
      of: the directories of its networks, the folder itself unless it is derived.
      spec: of its data set.
      loss: its loss, with the hyper-parameters that the config sets: "dscpp", "tverskypp gamma=3";
        for dscpp with a gamma of its own "gamma=3", as in the paper's Table 3; then what else
        makes it another method: "dsc dropout=0.5", "dsc then=ce".
      kind: "" for a single network, or one of `derived.METHODS`, `derived.ENSEMBLE` and
        `derived.FOLDS`.
      temperature: None except after temperature scaling.
      seed: of the network; of an ensemble's first network.
      fold: that validates, likewise; None without cross-validation.
      scale: of the run.
      epochs: number of epochs trained, summed over members.
      seconds: of training, likewise, and of what was fitted after it.
      evaluations: of a network in a prediction: 1, or the number of members or samples.
      about: its `run.json`; of an ensemble's first member.
    """

    folder: Path
    of: tuple[Path, ...]
    spec: Spec
    loss: str
    kind: str
    temperature: float | None
    seed: int
    fold: int | None
    scale: Scale
    epochs: int
    seconds: float
    evaluations: int
    about: Mapping[str, Any]

    @property
    def members(self) -> int:
        """Number of networks."""
        return len(self.of)

    @property
    def method(self) -> str:
        """Loss and kind: "dsc", "gamma=2", "dsc, temperature", "dsc, ensemble"."""
        return f"{self.loss}, {self.kind}" if self.kind else self.loss

    def scores(self) -> SplitScores:
        """Its scores.

        Raises:
          FileNotFoundError: if one of their files is missing.
        """
        return score_files.read(self.folder, self.spec.classes)


def find(workdirs: Iterable[Path]) -> list[Finished]:
    """All scored runs in directories and below them, in the order of their names.

    Args:
      workdirs: of runs, of grids, or above several of them.

    Returns:
      Each once.

    Raises:
      FileNotFoundError: if a directory does not exist or contains no scores.
    """
    folders: dict[Path, None] = {}
    for workdir in workdirs:
        if not workdir.is_dir():
            raise FileNotFoundError(f"{workdir} does not exist; give the --workdir of runs")
        # Hidden folders are unfinished scores.
        below = sorted(
            path.parent.parent
            for path in workdir.rglob(f"{score_files.FOLDER}/{score_files.CASES}")
            if not any(part.startswith(".") for part in path.relative_to(workdir).parts)
        )
        if not below:
            raise FileNotFoundError(
                f"{workdir} contains no scores; give the --workdir of a run that has finished"
            )
        folders.update(dict.fromkeys(folder.resolve() for folder in below))
    return [read(folder) for folder in folders]


def read(folder: Path) -> Finished:
    """The facts of a scored directory.

    Raises:
      FileNotFoundError: if a run that it is derived from does not exist.
      ValueError: if such a run has changed since.
    """
    about = derived.read(folder) if (folder / derived.DERIVED).exists() else {}
    of = [(folder / path).resolve() for path in about.get("of", ["."])]
    missing = [path / directory.RUN for path in of if not (path / directory.RUN).exists()]
    if missing:
        raise FileNotFoundError(f"{folder} has scores, but {missing[0]} does not exist")
    config = trained.read_config(of[0])
    spec, kind = directory.read_spec(of[0]), about.get("kind", "")
    epochs = [e for path in of for part in (path, path / directory.FIRST) for e in log.read(part)]
    return Finished(
        folder=folder,
        of=tuple(of),
        spec=spec,
        loss=loss_of(config),
        kind=kind,
        temperature=about.get("temperature"),
        seed=config.seed,
        fold=config.data.fold,
        scale=scale(config, spec),
        epochs=len(epochs),
        seconds=sum(epoch.get("seconds", math.nan) for epoch in epochs) + about.get("seconds", 0.0),
        evaluations=about.get("evaluations", len(of) if kind == derived.ENSEMBLE else 1),
        about=stored.read(of[0] / directory.RUN, {"config": dict}),
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


def loss_of(config: ConfigDict) -> str:
    """What distinguishes runs of a data set and scale: `Finished.loss`."""
    name = config.loss.name
    given = components.hyper(config)
    default = base.get_config().train.learning_rate
    if config.train.learning_rate != default:
        given["learning_rate"] = config.train.learning_rate
    if config.model.dropout:
        given["dropout"] = config.model.dropout
    values = [f"{hyper}={value:g}" for hyper, value in given.items()]
    if config.train.then:
        values.append(f"then={config.train.then}")
    if name == "dscpp" and [*given] == ["gamma"] and not config.train.then:
        return values[0]
    return " ".join([name, *values])
