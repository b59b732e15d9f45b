"""An ultrasound layout, with brackets and several masks, prepared and trained with no code."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import layouts
import numpy as np
import pytest

from dicepp_jax.data import load
from dicepp_jax.rows import Row, read_csv

ROOT = Path(__file__).parent.parent


def command(name, workdir, *flags):
    """A command on the folder, at the smallest size, and what it prints."""
    arguments = [
        *(sys.executable, "-m", f"experiments.{name}", "--config=configs/folder.py"),
        *(f"--config.data.manual_dir={workdir / 'set'}", f"--workdir={workdir / name}"),
        f"--config.data.data_dir={workdir / 'prepared'}",
        *flags,
    ]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=[False, True], ids=["subfolders", "flat"])
def ultrasound(request, tmp_path_factory):
    """The folder with the set, its cases, and an image that is there twice."""
    workdir = tmp_path_factory.mktemp("ultrasound")
    written = layouts.ultrasound(workdir / "set", flat=request.param, each=4)
    place = workdir / "set" / ("" if request.param else "normal")
    for ending in ("", "_mask"):
        shutil.copy(place / f"normal (1){ending}.png", place / f"normal (9){ending}.png")
    written["normal (9)"] = written["normal (1)"]
    (workdir / "set" / "Thumbs.db").touch()
    (workdir / "set" / "overview.webp").touch()
    return workdir, written


def test_it_is_inspected(ultrasound):
    workdir, _ = ultrasound
    told = command("prepare", workdir)
    lines = told.splitlines()
    assert lines[0].startswith("NOT USED: image files or archives that belong to no case (1): over")
    assert "odd: the mask has no foreground (5 cases): normal (1); normal (2); normal (3);" in told
    assert "odd: 6 cases: benign (2), its 2 mask files overlap in " in told
    card = (workdir / "prepare" / "card.txt").read_text()
    assert "detected: several masks: 6 of 13 cases have up to 4 mask files" in card


@pytest.mark.parametrize("ultrasound", [False], ids=["subfolders"], indirect=True)
def test_it_is_trained_and_scored(ultrasound):
    workdir, written = ultrasound
    split = {
        "train": sorted(set(written) - {"normal (9)", "normal (2)", "benign (4)"}),
        "validation": ["benign (4)", "normal (2)"],
        "test": ["normal (9)"],
    }
    (workdir / "split.json").write_text(json.dumps(split))
    told = command(
        "run",
        workdir,
        f"--config.data.split_file={workdir / 'split.json'}",
        "--config.data.size=(16,16)",
        "--config.model.filters=2",
        "--config.model.depth=1",
        "--config.train.epochs=1",
        "--config.evaluation.figures=1",
    )
    assert (
        "set: LEAK: the same image in different parts of the split (1 time): "
        "normal (1) (train), normal (9) (test)"
    ) in told
    rows = read_csv(workdir / "run" / "test" / "cases.csv", Row)
    assert {row.case for row in rows} == {"normal (9)"}
    assert (workdir / "run" / "figures" / "normal (9).png").exists()


def test_all_foreground_is_kept(ultrasound):
    workdir, written = ultrasound
    loaded = load("folder", str(workdir / "prepared"), str(workdir / "set"))
    assert [case.id for case in loaded.facts] == list(written)
    for case in loaded.facts:
        assert case.voxels[1] == np.count_nonzero(written[case.id].label)
