"""Runs scored off distribution, as a command: under corruptions, and on a second data set."""

import json
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image
from runs import tiny

from dicepp_jax import inference
from dicepp_jax.corruptions import corrupt
from dicepp_jax.plots import severities
from dicepp_jax.rows import Row, Summary, read_csv
from dicepp_jax.score_files import score_split
from experiments import shift
from experiments.setup import components
from experiments.training import posthoc, shifted, single
from experiments.training.shifted import CLEAN, Shift, ShiftRow, ShiftSummary
from experiments.workdirs import derived

# Just enough for masks that are not empty.
TRAINED = {
    **{"data.name": "phantom", "data.size": (32, 32), "data.batch_size": 4},
    **{"loss.name": "dsc", "model.filters": 4, "train.epochs": 4},
}
FLAGS = ["--corruptions=noise,jpeg", "--severities=5,2"]


@pytest.fixture(scope="module")
def made(data_dir, tmp_path_factory):
    """A run, its components, and its scores under two corruptions at two severities."""
    workdir = tmp_path_factory.mktemp("shift") / "run"
    config = tiny(data_dir, **TRAINED)
    single.train_and_evaluate(config, workdir)
    shift.main([str(workdir), *FLAGS])
    return workdir, config, components.build(config)


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run."""
    return shutil.copytree(made[0], tmp_path / "run")


def exact(rows):
    """Rows to be compared, NaN included."""
    return [*map(repr, rows)]


def scores(workdir, at):
    return read_csv(workdir / "shift" / "cases" / f"{at.shift}_{at.severity}.csv", Row)


def test_severity_0_has_the_scores_of_the_run_and_others_those_of_corrupted_images(made):
    workdir, config, built = made
    # Shifts are scored on the native grid alone.
    of_run = read_csv(workdir / "test" / "cases.csv", Row)
    clean = [row for row in of_run if row.region != "input"]
    assert exact(scores(workdir, CLEAN)) == exact(clean)
    stored = built.splits["test"][3]
    case, label = stored["id"].decode(), stored["label"]
    predict = single.best_predictor(config, built, workdir, "")
    for at in (Shift("noise", 5), Shift("jpeg", 2)):
        probs = predict(corrupt(stored["image"], *at, case), label.shape)[..., 1]
        found = {row[:4]: row.value for row in scores(workdir, at)}
        place = case, "vessel", "image"
        brier = np.mean(np.square(probs - (label == 1)))
        assert found[*place, "brier"] == pytest.approx(brier, rel=1e-5)
        mask = probs > 0.5
        dice = 2 * (mask & (label == 1)).sum() / (mask.sum() + (label == 1).sum())
        assert found[*place, "dice"] == pytest.approx(dice, rel=1e-6)


def test_tables_hold_every_number_and_means_over_the_corruptions(made):
    workdir, _, built = made
    long = read_csv(workdir / "shift" / "shift.csv", ShiftRow)
    shifts = [CLEAN, *(Shift(name, s) for name in ("noise", "jpeg") for s in (2, 5))]
    assert list(dict.fromkeys(row.at for row in long)) == shifts
    by_shift = {at: np.array([r.row.value for r in long if r.at == at]) for at in shifts}
    expected = [row.value for at in shifts for row in scores(workdir, at)]
    np.testing.assert_array_equal(np.concatenate(list(by_shift.values())), expected)
    means = read_csv(workdir / "shift" / "summary.csv", ShiftSummary)
    assert {row.summary.metric for row in means} == set(shifted.METRICS)
    for found in means:
        label, region, metric = found.summary[:3]
        of = [Shift(name, found.at.severity) for name in ("noise", "jpeg")]
        of = of if found.at.shift == "mean" else [found.at]
        chosen = [r.row[1:4] == (label, region, metric) for r in long if r.at == CLEAN]
        expected = np.mean([by_shift[at][chosen] for at in of])
        assert found.summary.mean == pytest.approx(expected, rel=1e-9)
        assert found.summary.cases == len(built.splits["test"]) and found.summary.error > 0
    assert {row.at for row in means} == {*shifts, Shift("mean", 2), Shift("mean", 5)}
    text = (workdir / "shift" / "summary.txt").read_text()
    assert "20 cases, means over noise, jpeg" in text
    (line,) = [line for line in text.splitlines() if line.startswith("severity 5: DSC")]
    dice = next(r.summary for r in means if r.at == Shift("mean", 5) and r.summary.metric == "dice")
    assert f"{dice.mean:.4f} ± {dice.error:.4f}" in line
    assert (workdir / "shift" / "shift.png").stat().st_size > 10_000


def test_what_is_scored_is_not_scored_again(run, monkeypatch, capsys):
    before = {path.name: path.read_text() for path in (run / "shift").glob("*.csv")}
    path = run / "shift" / "cases" / "jpeg_2.csv"
    path.unlink()
    score, scored = shifted.score_cases, []

    def noted(*args, **kwargs):
        for case in score(*args, **kwargs):
            scored.append(case.case)
            yield case

    monkeypatch.setattr(shifted, "score_cases", noted)
    shift.main([str(run), *FLAGS])
    assert len(scored) == len(set(scored)) == 20 and path.exists()
    assert "DSC: 4 of 5 shifts are already scored" in capsys.readouterr().out
    assert {path.name: path.read_text() for path in (run / "shift").glob("*.csv")} == before
    # With nothing left to score, not even images are needed.
    monkeypatch.setattr(posthoc, "open_run", None)
    shift.main([str(run), *FLAGS])


def test_scores_of_a_run_or_of_severities_that_changed_are_made_again(run):
    found = shifted._find(run)
    cases = shifted._kept(found)
    assert (cases / "noise_5.csv").exists()
    path = run / "test" / "cases.csv"
    path.write_text(path.read_text() + "\n")
    assert [path.name for path in shifted._kept(found).iterdir()] == ["made_of.json"]
    (cases / "noise_5.csv").touch()
    made_of = json.loads((cases / "made_of.json").read_text())
    made_of["levels"]["noise"][4] = 0.5
    (cases / "made_of.json").write_text(json.dumps(made_of))
    assert not (shifted._kept(found) / "noise_5.csv").exists()


def test_a_temperature_and_an_ensemble_beside_their_run(made, run, tmp_path):
    _, config, built = made
    predict = inference.tempered(single.best_predictor(config, built, run, ""), 2.0)
    score_split(predict, built.splits["test"], built.spec, run / "temperature", size=built.size)
    derived.write(run / "temperature", derived.TEMPERATURE, [run], temperature=2.0)
    # Of two equal members, the mean is each of them.
    twin, ensemble = shutil.copytree(run, tmp_path / "twin"), tmp_path / "ensemble"
    shutil.copytree(run / "test", ensemble / "test")
    derived.write(ensemble, derived.ENSEMBLE, [run, twin])
    output = tmp_path / "out"
    places = map(str, (run, run / "temperature", ensemble))
    shift.main([*places, "--corruptions=noise", "--severities=5", f"--output={output}"])
    rows = read_csv(output / "shift.csv", ShiftRow)
    names = ["DSC", "DSC, temperature 2.00", "DSC, ensemble of 2"]
    assert list(dict.fromkeys(row.method for row in rows)) == names
    values = {
        name: {
            metric: np.array([
                row.row.value for row in rows
                if (row.method, row.row.metric, row.at.shift) == (name, metric, "noise")
            ])
            for metric in ("dice", "nll")
        }
        for name in names
    }  # fmt: skip
    one, scaled, several = values.values()
    np.testing.assert_allclose(several["nll"], one["nll"], rtol=1e-6)
    np.testing.assert_array_equal(scaled["dice"], one["dice"])
    assert (scaled["nll"] != one["nll"]).all()


def write_set(folder, cases, mode="RGB", mask="{}.png"):
    """Cases of the run's data set as a folder of images and masks."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for stored in cases:
        case = stored["id"].decode()
        Image.fromarray(stored["image"]).convert(mode).save(folder / "images" / f"{case}.png")
        Image.fromarray(255 * stored["label"]).save(folder / "masks" / mask.format(case))
    return folder


def test_a_folder_as_the_shifted_set(made, run, tmp_path, capsys):
    """Of the test split's own images: its scores are those of the test split."""
    cases = made[2].splits["test"][:2]
    folder = write_set(tmp_path / "clinic", cases)
    shift.main([str(run), "--corruptions=", f"--shifted={folder}"])
    rows = read_csv(run / "shift" / "shift.csv", ShiftRow)
    found = [row.row for row in rows if row.at == Shift("shifted: clinic", 0)]
    clean = [row.row for row in rows if row.at == CLEAN]
    names = {stored["id"].decode() for stored in cases}
    assert exact(found) == exact(row for row in clean if row.case in names)
    assert len({row.at for row in rows}) == 2 and len(clean) == 10 * len(found)
    out = capsys.readouterr().out
    assert "clinic: cases: 2" in out and "shifted: clinic: DSC" in out and "proposed" not in out
    # Of another content, it is scored again; grey images suit a network of colours.
    shutil.rmtree(folder)
    write_set(folder, cases, "L")
    shift.main([str(run), "--corruptions=", f"--shifted={folder}"])
    rows = read_csv(run / "shift" / "shift.csv", ShiftRow)
    grey = [row.row for row in rows if row.at == Shift("shifted: clinic", 0)]
    assert [row[:4] for row in grey] == [row[:4] for row in found] and grey != found


def test_a_set_that_does_not_fit_is_refused(made, run, tmp_path):
    cases = made[2].splits["test"][:2]
    other = write_set(tmp_path / "other", cases, mask="{}_cyst.png")
    (tmp_path / "empty").mkdir()
    for folder, message in (
        (other, "other has the classes background, cyst, and .*run was trained on background, ves"),
        (tmp_path / "empty", "--shifted=.*empty is not recognised: .*takes no --config: arrange"),
        (tmp_path / "nowhere", "nowhere does not exist"),
    ):
        with pytest.raises(SystemExit, match=message):
            shift.main([str(run), "--corruptions=", f"--shifted={folder}"])


def other_data(folder):
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(about | {"data": "another"}))


def of_folds(folder):
    (folder / "run.json").unlink()
    derived.write(folder, derived.FOLDS, [folder.with_name("run")])


def other_scores(folder):
    path = folder / "test" / "cases.csv"
    rows = path.read_text().splitlines()
    changed = [f"{row.rsplit(',', 1)[0]},0.987" if ",dice," in row else row for row in rows]
    path.write_text("\n".join(changed) + "\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "one of the runs is given twice"),
        (other_data, "run is on Vessel phantom and .*other on Vessel phantom, or their cases, mas"),
        (of_folds, "other has scores of the kind 'folds', which no network predicts for every"),
        (other_scores, r"dice of background in the case \S+ is 0\.\d+ and 0.9870 in .*other; rep"),
        (shutil.rmtree, "other/run.json does not exist; give the --workdir of experiments.run"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(run, change, message):
    other = run
    if change:
        other = shutil.copytree(run, run.with_name("other"))
        change(other)
    with pytest.raises(SystemExit, match=message):
        shift.main([str(run), str(other), *FLAGS])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--corruptions=blur,fog"], "'fog' is no corruption; known: blur, noise, contrast"),
        (["--severities=1,6"], "'1,6'; expected numbers from 1 to 5, as 1,3,5"),
        (["--corruptions="], "nothing requested; give --corruptions=blur or --shifted=FOLDER"),
    ],
)
def test_mistakes_in_flags(flags, message, capsys):
    with pytest.raises(SystemExit):
        shift.parse(["RUN", *flags])
    assert message in capsys.readouterr().err


def test_seeds_of_one_method_are_told_apart(run):
    found = shifted._find(run)
    assert [*shifted._named([found])] == ["DSC"]
    seeds = [found, found._replace(seed=1)]
    assert [*shifted._named(seeds)] == ["DSC, seed 0", "DSC, seed 1"]
    twins = [found, found._replace(folder=run.with_name("twin"))]
    assert [*shifted._named(twins)] == [str(run), str(run.with_name("twin"))]


def test_the_figure_joins_severities_and_not_sets_of_images():
    def group(mean):
        place = ("vessel", "image")
        return [
            Summary(*place, m, mean, 0.1, mean - 0.2, mean + 0.1, 9, 0) for m in ("dice", "nll")
        ]

    def points(offset, *at):
        return {point: group(offset + number / 8) for number, point in enumerate(at)}

    columns = {
        "blur": {"DSC": points(0.5, 0, 1, 5), "DSC++": points(0.6, 0, 1, 5)},
        "shifted: clinic": {
            "DSC": points(0.1, "test", "other"),
            "DSC++": points(0.2, "test", "other"),
        },
    }
    figure = severities.by_severity(columns, "vessel", {"dice": "Dice", "nll": "NLL"})
    panels = np.array(figure.axes).reshape(2, 2)
    assert [axis.get_title() for axis in panels[0]] == [*columns]
    assert [axis.get_ylabel() for axis in panels[:, 0]] == ["Dice", "NLL"]
    assert [axis.get_xlabel() for axis in panels[1]] == ["severity", ""]
    for panel, methods in zip(panels[1], columns.values(), strict=True):
        for drawn, of_method in zip(panel.containers, methods.values(), strict=True):
            line, _, (bars,) = drawn.lines
            means = [of[1].mean for of in of_method.values()]
            np.testing.assert_allclose(line.get_ydata(), means)
            ends = np.array(bars.get_segments())[..., 1]
            np.testing.assert_allclose(ends - np.array(means)[:, None], [[-0.2, 0.1]] * len(means))
            joined = 0 in of_method
            assert (line.get_linestyle() == "None") == (not joined)
            if joined:
                np.testing.assert_array_equal(line.get_xdata(), [0, 1, 5])
    assert [t.get_text() for t in panels[1, 1].get_xticklabels()] == ["test", "other"]
    plt.close(figure)
