"""Runs that are killed, stopped, out of room or started elsewise end as if they had run through."""

import contextlib
import errno
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from runs import ROOT, call, command, final_state, tiny

from dicepp_jax import atomic, train, unfinished
from dicepp_jax.checkpoint import Checkpoints
from experiments.setup import failures, stopping
from experiments.training import grid, single
from experiments.workdirs import directory, log

TIMES = ("seconds", "data_wait")


def killed(point, arguments):
    """Run a command in a process that is killed at a point."""
    _, _, module, *flags = arguments
    done = call([sys.executable, "tests/killed.py", point, module, *flags])
    assert done.returncode == -signal.SIGKILL, (point, done.stderr)


def files(workdir):
    """The files of a run that do not say when it ran, by name; records without their times."""
    found = {}
    for path in sorted(workdir.rglob("*")):
        name = str(path.relative_to(workdir))
        if path.is_dir() or "checkpoints" in name or "tensorboard" in name:
            continue
        content = path.read_bytes()
        if path.name == directory.RUN:
            content = json.loads(content)["config"]
        if path.name == log.LOG:
            lines = map(json.loads, content.splitlines())
            content = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
        found[name] = content
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted: its command and directory."""
    place = tmp_path_factory.mktemp("whole")
    flags = "--config.train.epochs=4", "--config.evaluation.figures=1", "--config.data.batch_size=8"
    arguments = command(str(place / "data"), place / "run", *flags)
    done = call(arguments)
    assert done.returncode == 0, done.stderr
    return arguments, place / "run", place


def test_a_run_that_is_killed_again_and_again_ends_the_same(whole, tmp_path):
    arguments, run, place = whole
    arguments = [argument.replace(str(place), str(tmp_path)) for argument in arguments]
    points = "preparing", "compile", "step", "validation", "checkpoint", "log", "evaluation"
    for point in (*points, "report"):
        killed(point, arguments)
    done = call(arguments)
    assert done.returncode == 0, done.stderr
    there, here = files(run), files(tmp_path / "run")
    assert there.keys() == here.keys()
    replaced = [name for name in there if there[name] != here[name]]
    assert replaced == [directory.RUN]  # Its config names the folder of the data.
    config = tiny(str(place / "data"), **{"train.epochs": 4, "data.batch_size": 8})
    (last, one), (again, other) = (final_state(path, config) for path in (run, tmp_path / "run"))
    assert last == again == 3
    jax.tree.map(np.testing.assert_array_equal, one.state, other.state)


ELSEWISE = """
import runpy, sys
from dicepp_jax.data import pipeline
pipeline.READERS, pipeline.PREFETCH = 1, 1
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def test_an_equal_command_with_other_threads_and_hashes_gives_equal_bits(
    whole, tmp_path, monkeypatch
):
    arguments, run, place = whole
    _, _, *same = (argument.replace(str(place / "run"), str(tmp_path)) for argument in arguments)
    monkeypatch.setenv("PYTHONHASHSEED", "12345")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    done = call([sys.executable, "-c", ELSEWISE, *same])
    assert done.returncode == 0, done.stderr
    assert files(run) == files(tmp_path)
    config = tiny(str(place / "data"), **{"train.epochs": 4, "data.batch_size": 8})
    (_, one), (_, other) = (final_state(path, config) for path in (run, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, one.state, other.state)


def stopping_after(questions):
    """In place of `stopping.deferred`: stopping is requested at every so many questions."""
    asked = itertools.count(1)

    @contextlib.contextmanager
    def deferred():
        requested = []

        def is_requested():
            if next(asked) % questions == 0:
                requested.append(True)
            return bool(requested)

        yield is_requested
        if requested:
            raise KeyboardInterrupt

    return deferred


def repeated(train_and_evaluate, config, workdir):
    """Repeat a command that is stopped until it ends; the number of times."""
    for times in itertools.count(1):
        with contextlib.suppress(KeyboardInterrupt):
            train_and_evaluate(config, workdir)
            return times


# An epoch of 4 steps and a batch of validation asks 5 times.
@pytest.mark.parametrize(
    ("fields", "questions", "times"),
    [
        ({"train.epochs": 3}, 4, 4),
        # Once in each part.
        ({"train.epochs": 2, "train.then": "ce", "model.dropout": 0.5}, 7, 3),
    ],
)
def test_a_run_that_is_stopped_goes_on_after_the_step(
    data_dir, tmp_path, monkeypatch, fields, questions, times
):
    config = tiny(data_dir, **{"data.batch_size": 8, **fields})
    single.train_and_evaluate(config, tmp_path / "whole")
    monkeypatch.setattr(stopping, "deferred", stopping_after(questions))
    assert repeated(single.train_and_evaluate, config, tmp_path / "stopped") == times
    assert files(tmp_path / "whole") == files(tmp_path / "stopped")
    states = [final_state(tmp_path / name, config)[1].state for name in ("whole", "stopped")]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_a_grid_that_is_stopped_goes_on_after_the_step(data_dir, tmp_path, monkeypatch):
    fields = {"sweep.gamma": (1.0, 3.0), "sweep.strategy": "vmap"}
    config = tiny(data_dir, **fields, **{"data.batch_size": 8, "evaluation.figures": 0})
    grid.train_and_evaluate(config, tmp_path / "whole")
    monkeypatch.setattr(stopping, "deferred", stopping_after(7))
    assert repeated(grid.train_and_evaluate, config, tmp_path / "stopped") > 1
    assert files(tmp_path / "whole") == files(tmp_path / "stopped")
    for member in ("gamma=1", "gamma=3"):
        states = [final_state(tmp_path / n / member, config)[1] for n in ("whole", "stopped")]
        jax.tree.map(np.testing.assert_array_equal, states[0].state, states[1].state)


STATE = train.TrainState(np.int32(7), {"w": np.arange(6, dtype=np.float32)}, ())
UNFINISHED = unfinished.Unfinished(2, {"dsc": [0.25, 1 / 3]}, {"dsc": STATE})


def test_an_unfinished_epoch_is_read_as_written(tmp_path):
    unfinished.write(tmp_path / "file", UNFINISHED)
    found = unfinished.read(tmp_path / "file", 2, {"dsc": STATE})
    assert (found.epoch, found.losses) == (2, UNFINISHED.losses)
    jax.tree.map(np.testing.assert_array_equal, found.states["dsc"], STATE)
    assert unfinished.read(tmp_path / "file", 3, {"dsc": STATE}) is None  # Finished meanwhile.
    assert unfinished.read(tmp_path / "none", 2, {"dsc": STATE}) is None


@pytest.mark.parametrize("damage", ["bit", "half", "empty"])
def test_a_damaged_unfinished_epoch_begins_again(tmp_path, capsys, damage):
    path = tmp_path / "file"
    unfinished.write(path, UNFINISHED)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes({"bit": data, "half": data[: len(data) // 2], "empty": b""}[damage])
    assert unfinished.read(path, 2, {"dsc": STATE}) is None
    assert f"{path} is damaged and not used; epoch 3 begins again" in capsys.readouterr().out


def test_an_unfinished_epoch_of_other_networks_is_not_used(tmp_path, capsys):
    unfinished.write(tmp_path / "file", UNFINISHED)
    assert unfinished.read(tmp_path / "file", 2, {"ce": STATE}) is None
    assert "is of other networks" in capsys.readouterr().out


PROGRAM = """
import contextlib, sys, time
from experiments.setup import stopping
stopping.listen("the same command goes on")
with stopping.deferred() if sys.argv[1] == "deferred" else contextlib.nullcontext() as stop:
    print("ready", flush=True)
    # As in a compiler, which does not return to Python.
    time.sleep(60)
"""


def sent(mode, *signals):
    """The exit code and standard error of a program that signals are sent to."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, mode, "two words"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        lines = []
        for number in signals:
            process.send_signal(number)
            lines.append(process.stderr.readline())
        stderr = "".join([*lines, process.stderr.read()])
    return process.returncode, stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_what_does_not_return_to_python(number):
    code, stderr = sent("at once", number)
    assert code == 128 + number
    assert stderr.startswith("interrupted; the same command goes on:\n")
    assert stderr.endswith(" 'two words'\n")


def test_a_second_signal_ends_at_once_what_would_stop_by_itself():
    code, stderr = sent("deferred", signal.SIGTERM, signal.SIGINT)
    assert code == 130
    first, second, *_ = stderr.splitlines()
    assert first == "stopping after this step, which is then saved; once more: at once"
    assert second == "interrupted; the same command goes on:"


def test_ctrl_c_saves_the_step_and_prints_the_command_that_resumes(tmp_path):
    arguments = command(str(tmp_path / "data"), tmp_path / "run", "--config.train.epochs=100000")
    process = subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not log.read(tmp_path / "run"):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "dscpp: stopped after step " in stderr and "Traceback" not in stderr
    *_, line, again = stderr.splitlines()
    assert line == "interrupted; the same command resumes after the last saved step:"
    assert shlex.split(again)[1:] == arguments[1:]
    part = (tmp_path / "run" / directory.UNFINISHED).exists()
    epochs = len(log.read(tmp_path / "run"))
    with Checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
        assert part and checkpoints.last_epoch == epochs - 1


def test_no_room_for_a_file_is_an_error_that_names_it(tmp_path):
    def full(temporary):
        with open("/dev/full", "w") as file:
            file.write("more than nothing")

    path = tmp_path / "report.txt"
    path.write_text("older")
    with pytest.raises(OSError, match="No space left") as caught:
        atomic.write_atomically(path, full)
    assert caught.value.filename == str(path)
    assert failures.no_room(caught.value) == (path, os.strerror(errno.ENOSPC))
    line = failures.describe(caught.value)
    assert line.startswith(f"{path} could not be written (No space left on device; ")
    assert "MiB are free). All that was written before is whole. Make room" in line
    assert "\n" not in line and os.listdir(tmp_path) == ["report.txt"]
    assert path.read_text() == "older"


def test_words_of_a_library_about_a_full_disk_are_understood():
    error = ValueError('RESOURCE_EXHAUSTED: Failed writing "/a/b/c": No space left on device [28]')
    assert failures.no_room(error) == (Path("/a/b/c"), "No space left on device")
    assert failures.no_room(ValueError("something else")) is None
    limited = OSError(errno.EFBIG, os.strerror(errno.EFBIG), "/a/b")
    assert "Raise the limit of file sizes (ulimit -f)" in failures.describe(limited)


def test_an_error_without_a_name_tells_nothing_of_another_disk():
    line = failures.describe(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert line.startswith("a file could not be written (No space left on device). All that")


def test_a_run_on_a_full_disk_resumes_when_there_is_room(data_dir, tmp_path, monkeypatch):
    config = tiny(data_dir)
    single.train_and_evaluate(config, tmp_path / "whole")
    free = iter([2**30, 2**20])  # Room for the checkpoint of one epoch.

    with monkeypatch.context() as patch:
        usage = type("Usage", (), {"free": property(lambda _: next(free))})
        patch.setattr(shutil, "disk_usage", lambda _: usage())
        with pytest.raises(OSError, match="No space left on device: [0-9,]+ bytes, 1") as caught:
            single.train_and_evaluate(config, tmp_path / "full")
    assert caught.value.filename == str(tmp_path / "full" / "checkpoints")
    single.train_and_evaluate(config, tmp_path / "full")
    assert files(tmp_path / "whole") == files(tmp_path / "full")
