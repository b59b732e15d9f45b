"""Two processes joined over the loopback, as those of two hosts would be."""

import json
import signal
import socket
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from test_run import ROOT, command, final_state, tiny

from configs import base
from dicepp_jax import data, parallel
from dicepp_jax.data.specs import PHANTOM
from dicepp_jax.rows import Summary, read_csv
from experiments.workdirs import directory, log

BATCH = "--config.data.batch_size=4"
# The last of the batches of 32 training and of 8 validation cases have two.
UNEVEN = "--config.data.batch_size=6"
LIMIT = 300


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


def start(data_dir, workdirs, *flags):
    """A process for each working directory, usually the same one."""
    place = f"--coordinator=localhost:{free_port()}"
    return [
        subprocess.Popen(
            command(
                data_dir, workdir, BATCH, place, "--processes=2", f"--process={number}", *flags
            ),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, workdir in enumerate(workdirs)
    ]


def ended(processes):
    """The output, the errors and the exit code of each."""
    try:
        return [(*p.communicate(timeout=LIMIT), p.returncode) for p in processes]
    finally:
        for process in processes:
            process.kill()


def results(workdir):
    losses = [(entry["train_loss"], entry["val_loss"]) for entry in log.read(workdir)]
    return np.array(losses), [
        row.mean for row in read_csv(workdir / "test" / "summary.csv", Summary)
    ]


def test_two_processes_end_as_one_does(data_dir, tmp_path):
    one = subprocess.run(
        command(data_dir, tmp_path / "one", UNEVEN, "--config.train.epochs=2"),
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert one.returncode == 0, one.stderr
    two = tmp_path / "two"
    first, second = ended(start(data_dir, (two, two), UNEVEN, "--config.train.epochs=2"))
    assert first[2] == second[2] == 0, first[1] + second[1]
    assert "on 2 x cpu" in first[0] and (two / "report.txt").read_text() in first[0]
    assert "dscpp" not in second[0] + second[1]
    assert len(log.read(two)) == 2
    for found, expected in zip(results(two), results(tmp_path / "one"), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3)
    config = tiny(data_dir)
    a, b = (final_state(tmp_path / name, config)[1].state for name in ("one", "two"))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), a, b)


def test_if_one_is_killed_the_other_reports_it_and_the_same_command_resumes(data_dir, tmp_path):
    workdir = tmp_path / "run"
    for victim in (0, 1):
        before = len(log.read(workdir))
        flags = ("--config.train.epochs=5000", "--config.train.stop_patience=5000")
        processes = start(data_dir, (workdir, workdir), *flags)
        try:
            deadline = time.monotonic() + LIMIT
            while len(log.read(workdir)) < before + 2:
                assert all(p.poll() is None for p in processes)
                assert time.monotonic() < deadline
                time.sleep(0.01)
            processes[victim].send_signal(signal.SIGKILL)
            _, errors = processes[1 - victim].communicate(timeout=LIMIT)
        finally:
            for process in processes:
                process.kill()
                process.communicate()
        assert processes[1 - victim].returncode not in (0, -signal.SIGKILL)
        assert errors.count(f"error: {parallel.LOST}") == 1
    reached = len(log.read(workdir))
    assert 4 <= reached < 5000
    flags = (f"--config.train.epochs={reached + 1}", flags[1])
    first, second = ended(start(data_dir, (workdir, workdir), *flags))
    assert first[2] == second[2] == 0, first[1] + second[1]
    assert "epochs in" in first[0]
    assert [entry["epoch"] for entry in log.read(workdir)] == list(range(reached + 1))


def test_hosts_that_do_not_share_a_directory_end_with_an_error(data_dir, tmp_path):
    first, second = ended(start(data_dir, (tmp_path / "a", tmp_path / "b")))
    assert first[2] != 0 and second[2] == 1
    assert f"process 0 has opened {tmp_path / 'b'}, which this host does not see" in second[1]
    assert parallel.LOST in first[1] and parallel.LOST not in second[1]


def test_a_process_joins_only_with_the_same_config_and_cases(tmp_path):
    config, loaded = base.get_config(), data.Loaded(PHANTOM, {}, [], tmp_path)
    directory.open_workdir(tmp_path, config, loaded)
    config.data.data_dir, config.data.cache_gib = "/elsewhere", 1.0
    directory.check_joined(tmp_path, config, loaded.digest)
    config.train.epochs, config.seed = 3, 1
    with pytest.raises(ValueError, match=r"seed: 0 there, 1 here; train.epochs: 1000 there, 3 h"):
        directory.check_joined(tmp_path, config, loaded.digest)
    with pytest.raises(ValueError, match=r"\(the cases, their masks or their split\)"):
        directory.check_joined(tmp_path, base.get_config(), "another")
    assert json.loads((tmp_path / directory.RUN).read_text())["config"]["seed"] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--process=0"], "error: --coordinator, --processes and --process go together"),
        (["--distributed"], "error: no cluster was found that defines the processes ("),
    ],
)
def test_missing_flags_to_join_are_named(data_dir, tmp_path, flags, message):
    done = subprocess.run(
        command(data_dir, tmp_path / "run", *flags),
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert message in done.stderr and parallel.LOST not in done.stderr
    assert not Path(tmp_path / "run").exists()
