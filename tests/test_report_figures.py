"""Which figures a report has of which runs, and what goes into them."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

from configs import paper as cells
from dicepp_jax import metrics, score_files
from dicepp_jax.atomic import write_text
from dicepp_jax.data import SETS
from dicepp_jax.metrics import Confusion, Reliability
from dicepp_jax.plots import views
from dicepp_jax.rows import Row
from dicepp_jax.score_files import SplitScores
from experiments.report import figures, groups, write
from experiments.report.published import PLOTTED
from experiments.workdirs import directory, finished


def write_run(folder, cell, gamma=None, cases=("a", "b")):
    """The directory of a scored run that drew these cases."""
    config = cells.get_config(cell)
    config.loss.gamma = gamma
    spec = SETS[config.data.name].spec
    about = {
        "config": json.loads(config.to_json()),
        "data": "d",
        "date": "2023-04-05T06:07:08+00:00",
        "versions": {"jax": "0.10.2"},
        "git_commit": None,
        "devices": ["cpu cpu"],
        "cpu_cores": 2,
    }
    folder.mkdir(parents=True)
    write_text(folder / directory.RUN, json.dumps(about))
    directory.write_spec(folder, spec)
    rng = np.random.default_rng(len(cell))
    classes = len(spec.classes)
    rows = [
        Row(case, label, "image", metric, float(rng.random()))
        for case in ("a", "b")
        for label in spec.classes
        for metric in PLOTTED
    ]
    counts = Confusion(*rng.integers(1, 9, (4, classes, len(metrics.THRESHOLDS))))
    bins = Reliability(*(rng.integers(1, 9, (classes, 20)) for _ in range(3)))
    probs = rng.dirichlet(np.ones(classes), (6, 7)).astype(np.float32)
    label = rng.integers(0, classes, (6, 7), np.uint8)
    image = np.zeros((6, 7, 3), np.uint8)
    shown = [
        tuple(views.View(case, "", image, label, probs) for _ in spec.classes[1:]) for case in cases
    ]
    score_files.write(
        folder, SplitScores(rows, bins, {"a": counts, "b": counts}, shown), spec.classes
    )


def drawn(folder):
    """Names of the figures of runs below a folder."""
    gathered = groups.gather(finished.find([folder]))
    return [figure.name for figure in figures.figures(gathered)]


def test_of_dsc_and_dscpp_there_are_those_that_compare_two(tmp_path):
    for loss in ("dsc", "dscpp"):
        write_run(tmp_path / loss, f"tiny/drive/{loss}")
    assert drawn(tmp_path) == [
        "figure1_drive_tiny",
        "figure3_drive_tiny",
        "figure5_curves_drive_tiny",
        "figure5_drive_tiny",
        "reliability_losses_drive_tiny",
    ]


def test_of_volumes_there_is_one_for_each_class(tmp_path):
    for loss in ("ce", "focal"):
        write_run(tmp_path / loss, f"tiny/kits19_synthetic/{loss}")
    assert drawn(tmp_path) == [
        "figure4_kits19_synthetic_tiny_kidney",
        "figure4_kits19_synthetic_tiny_tumour",
        "reliability_losses_kits19_synthetic_tiny",
    ]


def test_of_gammas_and_of_variants(tmp_path):
    for gamma in (1.0, 2.0):
        write_run(tmp_path / f"gamma={gamma:g}", "tiny/drive/dscpp", gamma)
    write_run(tmp_path / "tversky", "tiny/drive/tversky")
    assert drawn(tmp_path) == [
        "figure2_drive_tiny",
        "gamma_drive_tiny",
        "reliability_gamma_drive_tiny",
        "reliability_variants_drive_tiny",
    ]


def test_all_of_them_can_be_drawn(tmp_path):
    for loss in ("dsc", "dscpp"):
        write_run(tmp_path / loss, f"tiny/drive/{loss}")
    for gamma in (1.0, 2.0):
        write_run(tmp_path / f"gamma={gamma:g}", "tiny/drive/dscpp", gamma)
    gathered = groups.gather(finished.find([tmp_path]))
    for figure in figures.figures(gathered):
        shown = figure.draw()
        shown.canvas.draw()
        plt.close(shown)
        assert figure.title and figure.caption


@pytest.mark.parametrize(("of_dscpp", "expected"), [(("b",), "b"), (("c",), None), ((), None)])
def test_cases_are_those_that_all_have_drawn(tmp_path, of_dscpp, expected):
    write_run(tmp_path / "dsc", "tiny/drive/dsc")
    write_run(tmp_path / "dscpp", "tiny/drive/dscpp", cases=of_dscpp)
    gathered = groups.gather(finished.find([tmp_path]))
    found = {figure.name: figure for figure in figures.figures(gathered)}
    assert ("figure1_drive_tiny" in found) == (expected is not None)
    assert "figure5_curves_drive_tiny" in found
    if expected:
        shown = found["figure1_drive_tiny"].draw()
        assert expected in [axes.get_title() for axes in shown.axes]
        plt.close(shown)


def test_what_shows_images_may_be_left_out(tmp_path):
    for loss in ("dsc", "dscpp"):
        write_run(tmp_path / "runs" / loss, f"tiny/drive/{loss}")
    write.write([tmp_path / "runs"], tmp_path / "out", "numbers")
    names = sorted(path.stem for path in (tmp_path / "out" / "figures").iterdir())
    assert names == ["figure5_curves_drive_tiny", "reliability_losses_drive_tiny"]
    assert "figure1" not in (tmp_path / "out" / "report.md").read_text()
    write.write([tmp_path / "runs"], tmp_path / "out", "none")
    assert list((tmp_path / "out" / "figures").iterdir()) == []
