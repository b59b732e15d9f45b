"""How long commands take to begin, each in a process of its own."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax

import experiments
from configs import quickstart
from dicepp_jax.data import pipeline
from experiments.benchmarks.timing import NOT_INSTALLED, Shape, TimedCase
from experiments.setup import components

ROOT = Path(experiments.__file__).parents[1]
OURS = "import dicepp_jax.losses"
THEIRS = "import monai.losses"


def startup_cases(shape: Shape, filters: int) -> dict[str, TimedCase]:
    """Help, imports, and a run on images `(B, *spatial, channels)` until its first step is done.

    The persistent compilation cache of JAX is empty at every cold run, and holds what the run
    compiles at a warm one. The data set is prepared before.
    """
    folder = tempfile.mkdtemp(prefix="dicepp_jax_startup_")
    # The cases outlive this function.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    code = (
        "from experiments.benchmarks.startup import first_step; "
        f"first_step({shape!r}, {filters}, {os.path.join(folder, 'data')!r})"
    )

    def cold() -> None:
        with tempfile.TemporaryDirectory() as cache:
            _run(["-c", code], _cached(cache))

    def warm() -> None:
        _run(["-c", code], _cached(os.path.join(folder, "cache")))

    return {
        "first_step_cold": TimedCase(cold, "compilation cache empty"),
        "first_step_warm": TimedCase(warm, "compilation cache filled"),
        "run_help": TimedCase(lambda: _run(["-m", "experiments.run", "--help"]), "experiments.run"),
        "import_losses": TimedCase(lambda: _run(["-c", OURS]), OURS),
        "import_monai_losses": TimedCase(*_import_monai()),
    }


def _import_monai() -> tuple[Callable[[], object] | None, str]:
    try:
        import monai  # noqa: F401
    except ImportError:
        return None, NOT_INSTALLED
    return lambda: _run(["-c", THEIRS]), THEIRS


def _cached(folder: str) -> dict[str, str]:
    """Environment in which JAX keeps all compiled programs in a folder."""
    return {
        "JAX_COMPILATION_CACHE_DIR": folder,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def _run(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Python with these arguments.

    Raises:
      ValueError: if it fails, with the last line of what it told.
    """
    # The memory of an accelerator is this process's already.
    memory = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **memory, **(environment or {})},
        capture_output=True,
        text=True,
    )
    # Help of absl's flags ends with 1.
    if done.returncode and "--help" not in arguments:
        told = (done.stderr.strip().splitlines() or ["it told nothing"])[-1]
        raise ValueError(f"python {' '.join(arguments)} failed: {told}")


def first_step(shape: Shape, filters: int, data_dir: str) -> None:
    """What a run of the quickstart does until its first training step is done.

    Args:
      shape: of a batch of images.
      filters: of the U-Net at full resolution.
      data_dir: where its data set is, or is prepared.
    """
    config = quickstart.get_config()
    batch_size, *size, _ = shape
    config.loss.name = "dscpp"
    config.data.update({"data_dir": data_dir, "size": tuple(size), "batch_size": batch_size})
    config.model.filters = filters
    built = components.build(config)
    examples = components.examples(built, config, "train")
    state = components.init_state(built, config.seed)
    step = components.train_step(built)
    batch = next(pipeline.batches(examples, batch_size, shuffle_seed=config.seed))
    rate = config.train.learning_rate
    jax.block_until_ready(step(state, batch, components.step_key(config.seed), rate))
