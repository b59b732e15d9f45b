"""Compiled programs kept on disk: the same results, the user's choice, and folders in bad shape."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from dicepp_jax.checkpoint import Checkpoints
from experiments.setup import components

ROOT = Path(__file__).parents[1]
PROGRAM = """
import jax, jax.numpy as jnp
from experiments.setup import compiled
compiled.keep()
step = jax.pmap(lambda x: jnp.tanh(x @ x).sum(), devices=jax.devices()[:1])
print(jax.config.jax_compilation_cache_dir or "off", float(step(jnp.ones((1, 8, 8)))[0]))
"""


def environment(caches: Path, **more: str) -> dict[str, str]:
    """That of a user whose caches are in a folder, and who keeps also what compiles quickly."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    quick = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PLATFORMS": "cpu"}
    return {**ours, **quick, "XDG_CACHE_HOME": str(caches), "PYTHONPATH": str(ROOT), **more}


def start(caches: Path, **more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=environment(caches, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(caches: Path, **more: str) -> tuple[str, str, str]:
    """Where the program keeps what it compiles, its result, and its complaints."""
    process = start(caches, **more)
    out, complaints = process.communicate()
    assert process.returncode == 0, complaints
    where, result = out.split()
    return where, result, complaints


def programs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*-cache")}


def losses(workdir: Path) -> list[tuple[float, float]]:
    lines = (workdir / "log.jsonl").read_text().splitlines()
    return [(log["train_loss"], log["val_loss"]) for log in map(json.loads, lines)]


def parameters(workdir: Path) -> list[np.ndarray]:
    config = ConfigDict(json.loads((workdir / "run.json").read_text())["config"])
    like = components.state_shapes(components.build(config))
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return jax.tree.leaves(checkpoints.restore(checkpoints.last_epoch, like).state)


def test_a_run_that_compiles_nothing_has_the_same_bits(tmp_path, data_dir):
    done = []
    for name in ("first", "second"):
        command = [
            *(sys.executable, "-m", "experiments.run", "--config.loss.name=dscpp"),
            *("--config.data.size=(16,16)", "--config.model.filters=2", "--config.model.depth=1"),
            *("--config.train.epochs=2", "--config.evaluation.figures=0"),
            *(f"--config.data.data_dir={data_dir}", f"--workdir={tmp_path / name}"),
        ]
        subprocess.run(
            command, cwd=ROOT, env=environment(tmp_path), check=True, capture_output=True
        )
        done.append(programs(tmp_path / "dicepp_jax" / "compiled"))
    before, after = done
    assert before == after and any("initial" in name for name in before)
    first, second = tmp_path / "first", tmp_path / "second"
    assert losses(first) == losses(second)
    for one, other in zip(parameters(first), parameters(second), strict=True):
        np.testing.assert_array_equal(one, other)
    for file in ("report.txt", "test/cases.csv", "test/reliability.csv"):
        assert (first / file).read_bytes() == (second / file).read_bytes()


def test_where_programs_are_kept(tmp_path):
    where, result, complaints = run(tmp_path)
    assert Path(where).parent == tmp_path / "dicepp_jax" / "compiled" and not complaints
    assert programs(tmp_path)
    own = str(tmp_path / "own")
    assert run(tmp_path / "other", JAX_COMPILATION_CACHE_DIR=own) == (own, result, "")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "off", [{"JAX_COMPILATION_CACHE_DIR": ""}, {"JAX_ENABLE_COMPILATION_CACHE": "0"}]
)
def test_keeping_can_be_turned_off(tmp_path, off):
    where, _, complaints = run(tmp_path, **off)
    assert where == "off" and not complaints and not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "dicepp_jax").write_text("in the way")
    where, _, complaints = run(tmp_path)
    assert where == "off"
    (line,) = complaints.splitlines()
    assert line.startswith("compiled programs are not kept: ") and str(tmp_path) in line


@pytest.mark.parametrize("remains", [b"", b"half a pro"])
def test_a_damaged_program_is_compiled_again(tmp_path, remains):
    where, result, _ = run(tmp_path)
    for path in Path(where).glob("*-cache"):
        path.write_bytes(remains)
    assert run(tmp_path)[:2] == (where, result)


def test_what_a_killed_process_left_is_removed(tmp_path):
    where, result, _ = run(tmp_path)
    whole = programs(tmp_path)
    for path in Path(where).glob("*-atime"):
        path.unlink()
    (Path(where) / "unfinished-cache").write_bytes(b"half")
    assert run(tmp_path) == (where, result, "")
    assert programs(tmp_path).keys() == whole.keys()


def test_several_processes_at_once(tmp_path):
    processes = [start(tmp_path) for _ in range(3)]
    answers = [process.communicate() for process in processes]
    assert len(set(answers)) == 1 and not answers[0][1]
