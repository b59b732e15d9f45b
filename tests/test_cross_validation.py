"""Runs of all folds: trained, combined and reported."""

import json
import shutil

import numpy as np
import pytest
from test_folds import LISTED, NAMES, write_raw

from configs import base
from dicepp_jax import data
from dicepp_jax.rows import Row, read_csv
from experiments import calibrate
from experiments.report import write
from experiments.setup import components
from experiments.training import single
from experiments.workdirs import finished

FIELDS = {
    "data.size": (16, 16),
    "model.filters": 2,
    "model.depth": 1,
    "train.epochs": 1,
    "evaluation.figures": 0,
}


def config_of(fold, **fields):
    config = base.get_config()
    config.update_from_flattened_dict(FIELDS | {"data.fold": fold} | fields)
    return config


@pytest.fixture(scope="module")
def runs(data_dir, tmp_path_factory):
    """Runs of all folds of a set with a test split."""
    workdir = tmp_path_factory.mktemp("folds")
    for fold in range(5):
        single.train_and_evaluate(
            config_of(fold, **{"data.data_dir": data_dir}), workdir / f"fold={fold}"
        )
    return workdir


@pytest.fixture(scope="module")
def untested(tmp_path_factory):
    """Runs of all folds of a set in which every case is in a fold."""
    root = tmp_path_factory.mktemp("untested")
    write_raw(root / "raw")
    (root / "raw/splits_final.json").write_text(json.dumps(LISTED))
    places = {"data.name": "folder", "data.manual_dir": str(root / "raw")}
    for fold in range(len(LISTED)):
        config = config_of(fold, **places, **{"data.data_dir": str(root / "prepared")})
        single.train_and_evaluate(config, root / "runs" / f"fold={fold}")
    return root / "runs"


def combine(folders, output):
    calibrate.main([*map(str, folders), f"--output={output}"])


def rows_of(folder):
    return read_csv(folder / "test" / "cases.csv", Row)


def test_the_ensemble_is_the_mean_of_the_five_predictions(runs, data_dir, tmp_path, capsys):
    folders = [runs / f"fold={fold}" for fold in range(5)]
    combine(folders, tmp_path / "all")
    told = capsys.readouterr().out
    assert "Test split of Vessel phantom" in told and "fold 4" in told and "ensemble" in told
    rows = {row[:4]: row.value for row in rows_of(tmp_path / "all")}
    test = data.load("phantom", data_dir).splits["test"]
    assert {key[0] for key in rows} == set(test.ids)
    stored = test[3]
    probs = []
    for fold, folder in enumerate(folders):
        config = config_of(fold, **{"data.data_dir": data_dir})
        predict = single.best_predictor(config, components.build(config), folder, "")
        probs.append(predict(stored["image"], stored["label"].shape).astype(np.float64))
    brier = np.mean((np.mean(probs, axis=0)[..., 1] - (stored["label"] == 1)) ** 2)
    place = (stored["id"].decode(), "vessel", "image", "brier")
    assert rows[place] == pytest.approx(brier, rel=1e-5)
    found = finished.read(tmp_path / "all")
    assert (found.method, found.members, found.fold) == ("dscpp, ensemble", 5, 0)


def test_another_fold_needs_another_directory(runs, data_dir):
    with pytest.raises(ValueError, match=r"data\.fold: 1 there, 2 here"):
        single.train_and_evaluate(config_of(2, **{"data.data_dir": data_dir}), runs / "fold=1")


def test_folds_are_reported_like_seeds(runs, data_dir, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    folders = sorted((tmp_path / "runs").glob("fold=*"))
    combine(folders, tmp_path / "runs" / "all")
    single.train_and_evaluate(config_of(None, **{"data.data_dir": data_dir}), tmp_path / "plain")
    write.write([tmp_path / "runs", tmp_path / "plain"], tmp_path / "report", "none")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "6 networks, 1 ensemble." in text
    assert "Vessel phantom, custom scale, cross-validation" in text
    assert "Vessel phantom, custom scale 2" in text
    lines = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| DSC++")]
    assert {(line[0], cell) for line in lines for cell in line if "fold" in cell} == {
        ("DSC++, ensemble of 5", "5 folds"),
        *(("DSC++", f"0, fold {fold}") for fold in range(5)),
    }


def test_without_a_test_split_a_run_is_scored_on_its_validation_fold(untested):
    for number, fold in enumerate(LISTED):
        folder = untested / f"fold={number}"
        assert {row.case for row in rows_of(folder)} == set(fold["val"])
        text = (folder / "report.txt").read_text()
        assert text.startswith(
            "Validation split of raw, which also chose the epoch (no test split), "
            f"{len(fold['val'])} cases"
        )


def test_without_a_test_split_each_case_has_its_own_fold_s_score(untested, tmp_path, capsys):
    folders = sorted(untested.glob("fold=*"))
    combine(folders, tmp_path / "all")
    expected = [row for folder in folders for row in rows_of(folder)]
    found = rows_of(tmp_path / "all")
    assert found == expected and {row.case for row in found} == set(NAMES)
    printed = capsys.readouterr().out.splitlines()
    head = next(line for line in printed if line.split()[:2] == ["class", "region"])
    dice = [row.value for row in expected if (row.label, row.metric) == ("heart", "dice")]
    line = next(line for line in printed if line.split()[:3] == ["heart", "image", "dice"])
    assert head.endswith("  all folds") and f"{np.mean(dice):.4f} ± " in line.split("  ")[-1]
    read = finished.read(tmp_path / "all")
    assert (read.kind, read.members) == ("folds", 4)
    sums = [finished.read(folder).scores().reliability for folder in folders]
    np.testing.assert_allclose(
        read.scores().reliability.confidence, np.sum([s.confidence for s in sums], axis=0)
    )
    assert set(read.scores().thresholds) == set(NAMES)
    shutil.copytree(untested, tmp_path / "runs")
    combine(sorted((tmp_path / "runs").glob("fold=*")), tmp_path / "runs" / "all")
    write.write([tmp_path / "runs"], tmp_path / "report", "none")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "4 networks, 1 with all folds scored" in text and "| DSC++, all 4 folds |" in text


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ((0, 1, 3), "of folds 0, 1, 3, these cases validate in none: heart_0, heart_5; give one"),
        ((0, 1, 1), "two of the runs have the same seed and fold; give each run once"),
    ],
)
def test_a_missing_fold_is_named(untested, tmp_path, folds, message):
    with pytest.raises(SystemExit, match=message):
        combine([untested / f"fold={fold}" for fold in folds], tmp_path / "all")


def test_runs_with_and_without_folds_are_told_apart(runs, untested, tmp_path):
    with pytest.raises(SystemExit, match="differ in more than their seed or fold .*data.name"):
        combine([runs / "fold=0", untested / "fold=1"], tmp_path / "all")
