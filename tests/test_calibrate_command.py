"""Temperature scaling of a run and the ensemble of several, as commands."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from configs import paper as cells
from dicepp_jax import inference, score_files
from dicepp_jax.affine import Affine
from dicepp_jax.losses import ce, from_probabilities
from dicepp_jax.predictions import outputs
from dicepp_jax.rows import Row, read_csv
from experiments import calibrate, predict
from experiments.setup import components
from experiments.training import calibrators, posthoc, single
from experiments.workdirs import derived, finished, log, trained

CELL = "tiny/phantom/dsc"


def config_of(cell, data_dir):
    config = cells.get_config(cell)
    config.data.data_dir = data_dir
    return config


@pytest.fixture(scope="module")
def runs(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("calibrate")
    for seed in (0, 1):
        single.train_and_evaluate(
            config_of(f"{CELL}_seed={seed}", data_dir), workdir / f"seed={seed}"
        )
    return workdir


def values(folder, metric):
    rows = read_csv(folder / "test" / "cases.csv", Row)
    return np.array([row.value for row in rows if row.metric == metric and row.label != "vessel"])


def test_a_temperature_is_fitted_on_validation_and_scored_on_test(runs, data_dir, capsys):
    workdir = runs / "seed=0"
    calibrate.main([str(workdir)])
    found = finished.read(workdir / "temperature")
    assert found.method == "dsc, temperature"
    assert found.temperature is not None
    config = config_of(CELL, data_dir)
    made = components.build(config)
    predict = single.best_predictor(config, made, workdir, "")

    def mean_ce(temperature):
        losses = []
        for case in made.splits["validation"]:
            label = case["label"]
            z = from_probabilities(predict(case["image"], label.shape)) / temperature
            losses.append(float(ce(z[None], label[None].astype(np.int32))[0]))
        return np.mean(losses)

    best = mean_ce(found.temperature)
    assert best < mean_ce(1.0)
    assert best < min(mean_ce(found.temperature * 1.1), mean_ce(found.temperature / 1.1))
    # Which class is the most likely stays the same, how likely it is does not.
    np.testing.assert_array_equal(values(workdir, "dice"), values(workdir / "temperature", "dice"))
    assert values(workdir / "temperature", "nll_full").mean() < values(workdir, "nll_full").mean()
    assert f"T = {found.temperature:.2f}" in capsys.readouterr().out


def test_maps_of_logits_are_fitted_on_validation_and_scored_on_test(runs, data_dir, capsys):
    workdir = runs / "seed=1"
    made = components.build(config_of(f"{CELL}_seed=1", data_dir))
    predict = single.best_predictor(config_of(CELL, data_dir), made, workdir, "")
    cases = made.splits["validation"]
    probs = [predict(case["image"], case["label"].shape) for case in cases]

    def mean_ce(of_prediction):
        values = [
            -np.log(np.take_along_axis(p, case["label"][..., None].astype(int), -1)).mean()
            for p, case in zip(map(of_prediction, probs), cases, strict=True)
        ]
        return np.mean(values)

    values = [mean_ce(lambda p: p)]
    for method, title in list(derived.METHODS.items())[1:4]:
        calibrate.main([str(workdir), f"--method={method}"])
        told = capsys.readouterr().out
        assert f"dsc, {title}" in told
        found, about = finished.read(workdir / method), derived.read(workdir / method)
        assert (found.method, found.evaluations) == (f"dsc, {method}", 1)
        trained_for = sum(entry["seconds"] for entry in log.read(workdir))
        assert 0 < about["seconds"] == pytest.approx(found.seconds - trained_for)
        mapping = Affine(np.array(about["weight"]), np.array(about["offset"]))
        if method != "auxiliary":
            assert f"(weight {mapping.weight.flat[0]:.2f}" in told
            assert f"; offset 0.00, {mapping.offset[1]:.2f})" in told
        fitted = inference.affine(lambda p, native: p, mapping)
        values.append(mean_ce(lambda p, fitted=fitted: fitted(p, p.shape[:-1])))
        # The scores are of the same map.
        stored = made.splits["test"][0]
        p = fitted(predict(stored["image"], stored["label"].shape), stored["label"].shape)
        rows = {row[:4]: row.value for row in found.scores().rows}
        brier = np.mean((p[..., 1] - (stored["label"] == 1)) ** 2)
        place = (stored["id"].decode(), "vessel", "image", "brier")
        assert rows[place] == pytest.approx(brier, rel=1e-4)
    # Platt scaling is a special case of the next two.
    plain, platt, vector, auxiliary = values
    assert platt < plain and vector < platt and auxiliary < platt


def test_an_ensemble_of_runs(runs, data_dir, capsys):
    pair = [runs / "seed=0", runs / "seed=1"]
    output = runs / "ensemble"
    calibrate.main([*map(str, pair), f"--output={output}"])
    found = finished.read(output)
    assert (found.method, found.members, found.seed) == ("dsc, ensemble", 2, 0)
    assert found.evaluations == 2
    made = components.build(config_of(CELL, data_dir))
    stored = made.splits["test"][0]
    probs = np.mean(
        [
            single.best_predictor(config_of(f"{CELL}_seed={n}", data_dir), made, folder, "")(
                stored["image"], stored["label"].shape
            )
            for n, folder in enumerate(pair)
        ],
        axis=0,
    )
    rows = {row[:4]: row.value for row in found.scores().rows}
    brier = np.mean((probs[..., 1] - (stored["label"] == 1)) ** 2)
    place = (stored["id"].decode(), "vessel", "image", "brier")
    assert rows[place] == pytest.approx(brier, rel=1e-5)
    assert "seed 1" in capsys.readouterr().out


def test_what_was_made_of_runs_that_changed_is_told(runs):
    workdir = runs / "changed"
    shutil.copytree(runs / "seed=0", workdir, ignore=shutil.ignore_patterns("temperature"))
    shutil.copytree(runs / "seed=0" / "test", workdir / "temperature" / "test")
    derived.write(workdir / "temperature", derived.TEMPERATURE, [workdir], temperature=2.0)
    assert derived.is_current(workdir / "temperature")
    assert derived.is_current(workdir / "temperature", [workdir])
    assert not derived.is_current(workdir / "temperature", [workdir, runs / "seed=1"])
    path = workdir / "test" / score_files.CASES
    path.write_text(path.read_text().replace("0.1", "0.2"))
    assert not derived.is_current(workdir / "temperature")
    with pytest.raises(ValueError, match="runs that have changed since; derive it again"):
        finished.read(workdir / "temperature")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere/run.json does not exist; give the --workdir of experiments.run"),
        (["{0}", "{0}", "--output={1}"], "two of the runs have the same seed"),
        (["{0}", "{2}", "--output={1}"], "differ in more than their seed .*loss.name: dsc there"),
        (["{0}", "{3}", "--output={1}"], "has no scores yet; repeat the command of that run"),
        (["{0}", "{4}", "--output={4}"], "seed=1 holds a run, whose scores would be overwritten"),
        (["{0}", "--method=mc_dropout"], "was trained without dropout .*=0.5$"),
        (["{5}"], r"holds several runs; give one of them: .*seed=0, .*seed=1"),
    ],
)
def test_what_cannot_be_calibrated_ends_in_one_line(runs, tmp_path, arguments, message):
    other, unscored = tmp_path / "other", tmp_path / "unscored"
    for folder in (other, unscored):
        shutil.copytree(runs / "seed=1", folder)
    about = json.loads((other / "run.json").read_text())
    about["config"]["loss"]["name"] = "dscpp"
    (other / "run.json").write_text(json.dumps(about))
    shutil.rmtree(unscored / "test")
    first, second = runs / "seed=0", runs / "seed=1"
    places = list(map(str, (first, tmp_path / "out", other, unscored, second, tmp_path / "both")))
    for folder in (first, second):
        shutil.copytree(folder, tmp_path / "both" / folder.name)
    shutil.copy(first / "run.json", tmp_path / "both" / "run.json")
    with pytest.raises(SystemExit, match=message):
        calibrate.main([argument.format(*places) for argument in arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "b"], "several runs need --output=DIR, and a single run takes none"),
        (["a", "--output=b"], "several runs need --output=DIR, and a single run takes none"),
        (["a", "b", "--output=c", "--method=platt"], "--method=platt is for a single run; omit it"),
        (["a", "--samples=3"], "--samples is for --method=mc_dropout"),
        (["a", "--method=mc_dropout", "--samples=0"], "--samples is 0; it must be at least 1"),
        (["a", "--method=plat"], "invalid choice: 'plat'"),
    ],
)
def test_options_that_do_not_go_together(arguments, message, capsys):
    with pytest.raises(SystemExit):
        calibrate.main(arguments)
    assert message in capsys.readouterr().err


def test_voxels_are_drawn_of_large_images(monkeypatch):
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 1, (2, 64, 64, 2)).astype(np.float32)
    p = jax.nn.softmax(logits, axis=-1)
    labels = (rng.random((2, 64, 64)) < np.asarray(p)[..., 1]).astype(np.uint8)
    cases = [
        {"image": np.asarray(jax.nn.softmax(2 * z, axis=-1)), "label": y}
        for z, y in zip(logits, labels, strict=True)
    ]
    monkeypatch.setattr(calibrators, "VOXELS", 2048)
    found = calibrators.fit(lambda image, native: image, cases, 2)
    assert found == pytest.approx(2, rel=0.15)
    assert found == calibrators.fit(lambda image, native: image, cases, 2)


def test_predictions_after_temperature_scaling(runs, data_dir, tmp_path, capsys):
    workdir = runs / "seed=0"
    posthoc.calibrate(workdir)
    model = trained.open_model(workdir)
    scaled = trained.calibrated(workdir, model)
    temperature = json.loads((workdir / "temperature" / "derived.json").read_text())["temperature"]
    stored = components.build(config_of(CELL, data_dir)).splits["test"][0]
    p = np.maximum(model.predict(stored["image"]), 1e-7).astype(np.float64) ** (1 / temperature)
    expected = p / p.sum(-1, keepdims=True)
    np.testing.assert_allclose(scaled.predict(stored["image"]), expected, rtol=1e-4)
    # A threshold for the one is none for the other: each has counts of its own.
    plain, counts = (trained.validation_counts(workdir, m) for m in (model, scaled))
    assert (np.asarray(plain.tp) != np.asarray(counts.tp)).any()
    assert (workdir / "temperature" / trained.CURVE).exists()
    Image.fromarray(stored["image"]).save(tmp_path / "a.png")
    options = [f"--workdir={workdir}", f"--input={tmp_path / 'a.png'}", "--calibrated"]
    with pytest.raises(SystemExit) as code:
        predict.main([*options, f"--output={tmp_path / 'out'}", "--probabilities=float32"])
    assert code.value.code == 0
    path = tmp_path / "out" / "probabilities" / "vessel" / "a.png"
    found = outputs.read_probability(path).pixels.array
    np.testing.assert_allclose(found, expected[..., 1], atol=1 / 65535)
    made = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert made["temperature"] == temperature
    assert f"temperature {temperature:.2f}" in capsys.readouterr().out
    copy = tmp_path / "copy"
    shutil.copytree(runs / "seed=1", copy, ignore=shutil.ignore_patterns("temperature"))
    with pytest.raises(FileNotFoundError, match="has no temperature yet; fit it by python -m exp"):
        trained.calibrated(copy, model)
