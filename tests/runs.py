"""The smallest run that does everything, as a config and as a command line."""

import subprocess
import sys
from pathlib import Path

from ml_collections import ConfigDict

from configs import base
from dicepp_jax.checkpoint import Checkpoints
from experiments.setup import components

ROOT = Path(__file__).parents[1]


def tiny(data_dir: str, **fields) -> ConfigDict:
    """The smallest run that does everything."""
    config = base.get_config()
    config.data.data_dir = data_dir
    config.data.size = (16, 16)
    config.model.filters = 2
    config.model.depth = 1
    config.train.epochs = 2
    config.evaluation.figures = 1
    config.update_from_flattened_dict(fields)
    return config


def command(data_dir: str, workdir: Path, *flags: str) -> list[str]:
    """The command line of `tiny`."""
    fields = [
        f"--config.data.data_dir={data_dir}",
        "--config.data.size=(16,16)",
        "--config.model.filters=2",
        "--config.model.depth=1",
        "--config.evaluation.figures=0",
        "--config.loss.name=dscpp",
    ]
    return [sys.executable, "-m", "experiments.run", f"--workdir={workdir}", *fields, *flags]


def call(arguments: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)


def final_state(workdir: Path, config: ConfigDict):
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        epoch = checkpoints.last_epoch
        return epoch, checkpoints.restore(epoch, components.state_shapes(components.build(config)))
