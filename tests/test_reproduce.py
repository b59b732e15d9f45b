"""The paper by one command, on drawn images at the smallest scale."""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs import paper as cells
from dicepp_jax import train
from experiments.report.published import FRONTIER, LOSSES, RIVALS
from experiments.reproduce import __main__ as reproduce_main
from experiments.reproduce import perform, plan
from experiments.reproduce.plan import AvailableData, Planned, Task
from experiments.setup import components
from experiments.training import posthoc, single
from experiments.training.recorder import OutOfTimeError
from experiments.workdirs import log

ROOT = Path(__file__).parents[1]
FIGURE = "--figure=5", "--data=phantom"


def command(data_dir, workdir, *arguments):
    flags = "--scale=tiny", f"--data_dir={data_dir}", f"--workdir={workdir}"
    return [sys.executable, "-m", "experiments.reproduce", *flags, *arguments]


def reproduce(data_dir, workdir, *arguments):
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        reproduce_main.main(command(data_dir, workdir, *arguments)[3:])
    return ended.value.code


def contents(folder):
    """The report's files, dates left out."""
    return {
        path.relative_to(folder): re.sub(rb"\d{4}-\d\d-\d\d", b"DATE", path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def figure(data_dir, tmp_path_factory):
    """Figure 5 on the phantom: DSC and DSC++, from nothing to the report."""
    workdir = tmp_path_factory.mktemp("reproduce")
    subprocess.run(command(data_dir, workdir, *FIGURE), cwd=ROOT, check=True)
    return workdir / "tiny"


def test_a_table_is_its_cells_then_what_goes_beyond_them():
    names = [task.name for task in plan.tasks([4], [], ["phantom"], seeds=3)]
    assert names[:4] == [f"phantom/{loss}" for loss in ("ce", "focal", "dsc", "dscpp")]
    assert names[4:6] == ["phantom/dsc/temperature", "phantom/dscpp/temperature"]
    assert names[6:9] == ["phantom/dsc_seed=1", "phantom/dsc_seed=2", "phantom/dsc_ensemble"]
    assert len(names) == 12
    alone = plan.tasks([4], [], ["phantom"], seeds=1)
    assert [task.name for task in alone] == names[:6]
    (ensemble,) = (task for task in plan.tasks([4], [], ["drive"], 2) if len(task.of) > 1
                   and "dscpp" in task.name)  # fmt: skip
    assert ensemble.of == ("drive/dscpp", "drive/dscpp_seed=1")


def test_everything_of_the_paper_is_planned_once():
    planned = plan.tasks([3, 4, 5, 6], [1, 2, 3, 4, 5], [], seeds=1)
    names = [task.name for task in planned if not task.of]
    assert len(names) == len(set(names)) == 1 + 5 * 4 + 4 + 8
    for name in names:
        cells.get_config(f"full/{name}")


@pytest.mark.parametrize(("number", "count"), [(1, 2), (2, 1), (3, 4), (5, 2)])
def test_a_figure_needs_less_than_a_table(number, count):
    assert len(plan.tasks([], [number], ["phantom"], seeds=3)) == count


def test_a_table_of_none_of_the_sets_is_refused():
    with pytest.raises(
        ValueError, match="--data=phantom has no data set of the request: --table=5 shows kits19"
    ):
        plan.tasks([5], [], ["phantom"], seeds=1)


def test_what_is_finished_is_not_run_again(figure, data_dir, monkeypatch, capsys):
    before = contents(figure / "report")
    assert {Path("tables.csv"), Path("comparisons.csv")} <= set(before)

    def fail(*args):
        raise AssertionError("it is finished")

    monkeypatch.setattr(single, "train_and_evaluate", fail)
    assert reproduce(data_dir, figure.parent, *FIGURE) == 0
    assert "2 in all, 2 finished" in capsys.readouterr().out
    assert contents(figure / "report") == before


def test_killed_anywhere_it_ends_with_the_same_report(figure, data_dir, tmp_path):
    same = command(data_dir, tmp_path, *FIGURE)
    # Killed once the second of the two runs has begun.
    process = subprocess.Popen(same, cwd=ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "tiny/phantom/dscpp/run.json").exists():
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "tiny" / "report").exists()
    subprocess.run(same, cwd=ROOT, check=True)
    assert contents(tmp_path / "tiny" / "report") == contents(figure / "report")


def test_one_that_fails_does_not_stop_the_rest(data_dir, tmp_path, monkeypatch, capsys):
    done = []

    def trains(config, workdir, deadline):
        if config.loss.name == "focal":
            raise train.NonFiniteLossError("the loss is nan")
        done.append(config.loss.name)

    monkeypatch.setattr(single, "train_and_evaluate", trains)
    monkeypatch.setattr(posthoc, "calibrate", lambda workdir, *args: done.append("T"))
    code = reproduce(data_dir, tmp_path, "--table=4", "--data=phantom,drive", "--seeds=1")
    told = capsys.readouterr()
    assert code == 1
    assert done == ["ce", "dsc", "dscpp", "T", "T"]
    assert "error: phantom/focal: the loss is nan" in told.err
    assert "drive is not available: DRIVE" in told.out and "--data=drive=FOLDER" in told.out
    assert "error: not available, see above: drive" in told.err


def test_what_fails_takes_along_what_is_made_of_it(monkeypatch):
    source = {"phantom": AvailableData("", "", None)}
    made = Task("phantom", "phantom/dsc/temperature", ("phantom/dsc",))
    planned = [Planned(t, "to do", 1.0) for t in (Task("phantom", "phantom/dsc"), made)]

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(perform, "_perform", fail)
    outcome = perform.perform(planned, source, "tiny", Path(), "", float("inf"))
    assert outcome.failed["phantom/dsc"] == "disk full"
    assert "phantom/dsc, from which it is derived" in outcome.failed[made.name]


def test_a_budget_breaks_off_at_the_end_of_an_epoch(data_dir, tmp_path, capsys):
    config = cells.get_config("tiny/phantom/dsc")
    config.data.data_dir = data_dir
    with pytest.raises(OutOfTimeError, match="after epoch 1"):
        single.train_and_evaluate(config, tmp_path / "tiny/phantom/dsc", deadline=0)
    assert len(log.read(tmp_path / "tiny/phantom/dsc")) == 1
    assert reproduce(data_dir, tmp_path, *FIGURE, "--budget_minutes=0") == perform.LEFT
    told = capsys.readouterr().out
    assert "1 epochs done" in told and "2 tasks are left; the same command resumes" in told
    # With time it goes on from there.
    single.train_and_evaluate(config, tmp_path / "tiny/phantom/dsc")
    assert len(log.read(tmp_path / "tiny/phantom/dsc")) == 2


def test_the_plan_is_shown_without_doing_it(data_dir, tmp_path, capsys):
    more = "--figure=4", "--data=phantom", "--dry_run"
    assert reproduce(data_dir, tmp_path, "--table=3", *more) == 0
    told = capsys.readouterr().out
    assert "--figure=4 shows kits19, kits19_synthetic, phantom_3d: left out" in told
    assert "phantom/gamma" in told and "to do" in told and "min" in told
    assert not (tmp_path / "tiny").exists()


def test_scales_one_after_another(figure, data_dir, tmp_path, capsys):
    """What is finished at one scale is reported although nothing is left of the time for others."""
    shutil.copytree(figure, tmp_path / "tiny")
    more = "--scale=tiny,32x2", "--budget_minutes=0"
    assert reproduce(data_dir, tmp_path, *FIGURE, *more) == perform.LEFT
    told = capsys.readouterr().out
    assert told.index("=== tiny scale") < told.index("2 in all, 2 finished")
    assert told.index("2 in all, 2 finished") < told.index("=== 32 x 32 with 2 filters")
    # All plans come before anything is done.
    assert told.index("all scales: training takes at most") < told.rindex("=== tiny scale")
    assert told.rindex("=== tiny scale") < told.index("writing the report")
    assert "2 tasks are left" in told and not (tmp_path / "report").exists()
    # With scores of both, a report of both.
    shutil.copytree(figure, tmp_path / "32x2")
    for run in (tmp_path / "32x2").rglob("run.json"):
        about = json.loads(run.read_text())
        about["config"]["train"] |= {"epochs": 1000, "patience": 25, "stop_patience": 50}
        about["config"]["model"]["depth"] = 4
        run.write_text(json.dumps(about))
    assert reproduce(data_dir, tmp_path, *FIGURE, *more) == 0
    lines = (tmp_path / "report/tables.csv").read_text().splitlines()
    scales = {line.split(",")[2] for line in lines}
    assert scales == {"scale", "tiny", "32x2"}


def test_a_scale_of_images_is_not_one_of_volumes(tmp_path, capsys):
    asked = "--table=5", "--data=phantom_3d", "--scale=64x8", "--dry_run"
    assert reproduce(tmp_path, tmp_path, *asked) == 1
    told = capsys.readouterr().out
    assert "phantom_3d is not available: 64x8 is a scale of images; of volumes: full" in told


def test_an_epoch_is_estimated_from_its_steps(data_dir, monkeypatch):
    config = cells.get_config("tiny/phantom/dsc")
    config.data.data_dir = data_dir
    made = components.build(config)
    clock = iter([0, 100, 200, 207, 300, 305, 400, 406])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    train_cases, validation = (len(made.splits[name]) for name in ("train", "validation"))
    expected = 6 * (train_cases + validation / 3)
    assert plan.epoch_seconds(config, made) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing requested; give --table=4, --figure=5, --all or --frontier"),
        (["--table=7"], "invalid choice: 7"),
        (["--table=4", "--data=dirve=x"], "'dirve' is not a data set; known: drive"),
        (["--all", "--scale=tiny,half"], "'half' is not a scale; known: full, reduced, tiny, or"),
        (["--all", "--scale=128x8,8x8"], "SIDE from 16 to 16384, FILTERS up to 4096"),
        (["--all", "--seeds=0"], "--seeds is 0"),
        (["--all", "--budget_minutes=-1"], "--budget_minutes is -1; it must not be negative"),
    ],
)
def test_a_wrong_command_line_ends_in_one_clear_line(arguments, message, capsys):
    with pytest.raises(SystemExit):
        reproduce_main.parse(arguments)
    assert message in capsys.readouterr().err


def test_folders_of_sets(tmp_path):
    parsed = reproduce_main.parse(["--all", f"--data=drive={tmp_path},phantom"])
    assert parsed.data == {"drive": str(tmp_path), "phantom": ""}
    assert isinstance(parsed, argparse.Namespace)


def test_the_table_beyond_the_paper_is_planned_with_its_baselines():
    names = [task.name for task in plan.tasks((FRONTIER,), (), ("drive",), seeds=2)]
    of = {task.name: task.of for task in plan.tasks((FRONTIER,), (), ("drive",), seeds=2)}
    assert {f"drive/{method}" for method in (*LOSSES, *RIVALS, *cells.BASELINES)} <= set(names)
    assert of["drive/dsc/platt"] == ("drive/dsc",)
    assert of["drive/dsc_dropout/mc_dropout"] == ("drive/dsc_dropout",)
    assert of["drive/dscpp_ensemble"] == ("drive/dscpp", "drive/dscpp_seed=1")
    for name in names:
        assert all(names.index(needed) < names.index(name) for needed in of[name])
        if not of[name]:
            cells.get_config(f"tiny/{name}")
