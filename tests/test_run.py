"""The command line, end to end and in processes of its own."""

import json
import math
import re
import sys

import jax
import layouts
import layouts_3d
import numpy as np
import pytest
from PIL import Image
from runs import ROOT, call, command, final_state, tiny

from configs import base
from dicepp_jax.data import SETS
from dicepp_jax.rows import Comparison, Row, Summary, read_csv
from dicepp_jax.score_files import SplitScores
from experiments.setup import components
from experiments.training import single
from experiments.training.recorder import OutOfTimeError
from experiments.workdirs import directory, finished, log


def test_compares_two_losses(data_dir, tmp_path, capsys):
    config = tiny(data_dir, **{"loss.name": "dsc,dscpp+l1_ace", "loss.gamma": 3.0})
    text = single.train_and_evaluate(config, tmp_path)
    assert "dsc: Vessel phantom, 32/8/20 cases at 16 x 16, UNet of" in capsys.readouterr().out
    header, _, *lines = text.splitlines()[1:]
    assert header.split("  ")[0] == "class" and "p signed-rank" in header
    assert [line.split()[:3] for line in lines[:1]] == [["vessel", "image", "nll"]]
    assert (tmp_path / "report.txt").read_text() == text + "\n"
    for name, gamma in (("dsc", None), ("dscpp+l1_ace", 3.0)):
        folder = tmp_path / name
        kept = json.loads((folder / "run.json").read_text())
        assert kept["config"]["loss"]["name"] == name
        assert kept["config"]["loss"]["gamma"] == gamma
        assert kept["versions"]["jax"] == jax.__version__
        assert {"git_commit", "date", "command", "devices"} <= set(kept)
        entries = log.read(folder)
        assert [entry["epoch"] for entry in entries] == [0, 1]
        assert all(np.isfinite(list(entry.values())).all() for entry in entries)
        rows = read_csv(folder / "test" / "cases.csv", Row)
        assert len({row.case for row in rows}) == 20
        assert {row.metric for row in rows} >= {"nll", "nll_full", "brier", "dice", "jaccard"}
        summary = read_csv(folder / "test" / "summary.csv", Summary)
        assert {(s.label, s.cases + s.undefined) for s in summary} == {
            ("background", 20),
            ("vessel", 20),
            ("all", 20),
        }
        places = [s[:3] for s in summary if s.label != "background"]
        compared = read_csv(tmp_path / "comparison.csv", Comparison)
        assert [row[:5] for row in compared] == [
            ("dsc", "dscpp+l1_ace", *place) for place in places
        ]
        assert list((folder / "tensorboard").iterdir())
        assert directory.read_spec(folder) == SETS["phantom"].spec
    assert directory.read_spec(tmp_path) == SETS["phantom"].spec
    for name in ("phantom_040.png", "reliability.png", "training.png"):
        with Image.open(tmp_path / "figures" / name) as image:
            assert min(image.size) > 200
    assert not list(tmp_path.rglob("*.part"))


def test_a_finished_run_is_scored_again_and_not_trained(data_dir, tmp_path):
    config = tiny(data_dir)
    first = single.train_and_evaluate(config, tmp_path)
    entries = log.read(tmp_path)
    assert single.train_and_evaluate(config, tmp_path) == first
    config.inference.mirror = True
    single.train_and_evaluate(config, tmp_path)
    assert log.read(tmp_path) == entries
    assert json.loads((tmp_path / "run.json").read_text())["config"]["inference"]["mirror"]
    assert not (tmp_path / "comparison.csv").exists()


def test_every_two_of_several_losses_are_compared_without_the_background():
    scored = {
        name: SplitScores(
            [
                Row(case, label, "image", "dice", case_value + better)
                for case, case_value in (("a", 0.5), ("b", 0.625))
                for label in ("background", "vessel")
            ],
            None,
            {},
            [],
        )
        for name, better in (("ce", 0), ("dsc", 0.125), ("dscpp", 0.375))
    }
    assert [
        (row.method_a, row.method_b, row.label, row.difference)
        for row in single.comparisons(scored, "background")
    ] == [
        ("ce", "dsc", "vessel", -0.125),
        ("ce", "dscpp", "vessel", -0.375),
        ("dsc", "dscpp", "vessel", -0.25),
    ]


def test_more_epochs_go_on_to_where_a_longer_run_ends(data_dir, tmp_path):
    longer = tiny(data_dir, **{"train.epochs": 4})
    single.train_and_evaluate(longer, tmp_path / "whole")
    single.train_and_evaluate(tiny(data_dir), tmp_path / "parts")
    with pytest.raises(OutOfTimeError):
        single.train_and_evaluate(longer, tmp_path / "parts", deadline=-math.inf)
    # Nobody takes the scores of fewer epochs for those of this run.
    with pytest.raises(FileNotFoundError, match="contains no scores"):
        finished.find([tmp_path / "parts"])
    single.train_and_evaluate(longer, tmp_path / "parts")
    (_, whole), (_, pieces) = (final_state(tmp_path / n, longer) for n in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, whole.state, pieces.state)
    assert whole.schedule == pieces.schedule
    losses = [
        [entry["val_loss"] for entry in log.read(tmp_path / name)] for name in ("whole", "parts")
    ]
    assert losses[0] == losses[1]


def test_three_dimensions(data_dir, tmp_path):
    config = tiny(
        data_dir,
        **{"data.name": "phantom_3d", "data.size": (8, 16, 16), "train.epochs": 1},
    )
    text = single.train_and_evaluate(config, tmp_path)
    assert "kidney" in text and "tumour" in text
    assert (tmp_path / "figures" / "reliability.png").exists()


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """KiTS19 in miniature, prepared; its config."""
    folder = tmp_path_factory.mktemp("kits19")
    layouts_3d.kits19(folder / "files")
    return {
        "data.name": "kits19",
        "data.manual_dir": str(folder / "files"),
        "data.data_dir": str(folder / "prepared"),
        "data.size": (8, 8, 16),
    }


def test_volumes_are_trained_on_and_predicted_by_patches(volumes, tmp_path, capsys):
    config = tiny("", **volumes, **{"data.foreground": 0.33, "evaluation.figures": 0})
    text = single.train_and_evaluate(config, tmp_path / "whole")
    assert "kidney" in text and "tumour" in text
    said = capsys.readouterr().out
    assert "cases at patches of 8 x 8 x 16, UNet" in said
    assert re.search(r"^dscpp: a training step takes [\d.]+ MiB of [\d.]+ GiB \(", said, re.M)
    rows = read_csv(tmp_path / "whole" / "test" / "cases.csv", Row)
    assert {row.label for row in rows} == {"background", "kidney", "tumour", "all"}
    assert directory.read_spec(tmp_path / "whole") == SETS["kits19"].spec
    # Broken off after an epoch, it sees the same patches.
    for epochs in (1, 2):
        config.train.epochs = epochs
        single.train_and_evaluate(config, tmp_path / "parts")
    logs = [log.read(tmp_path / name) for name in ("whole", "parts")]
    losses = [[(e["train_loss"], e["val_loss"]) for e in entries] for entries in logs]
    assert losses[0] == losses[1] and losses[0][0] != losses[0][1]


def test_the_validation_loss_may_be_of_all_windows(volumes, tmp_path):
    fields = {"data.validation": "sliding_window", "train.epochs": 1, "evaluation.figures": 0}
    config = tiny("", **volumes, **fields)
    made = components.build(config)
    single.fit(config, made, tmp_path)
    state = final_state(tmp_path, config)[1].state
    losses = [
        float(made.loss(made.apply(state.params, tile["image"][None]), tile["label"][None])[0])
        for tile in map(dict, components.examples(made, config, "validation"))
    ]
    assert log.read(tmp_path)[0]["val_loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_patches_of_training_and_validation(volumes):
    def examples(split, **fields):
        config = tiny("", **volumes, **fields)
        made = components.build(config)
        return made, components.examples(made, config, split)

    made, training = examples("train", **{"data.foreground": 0.25, "seed": 3})
    assert (training.seed, training.stream, training.foreground) == (3, "train", 0.25)
    assert len(training) == len(made.splits["train"]) and training.size == (8, 8, 16)
    _, validation = examples("validation", **{"data.foreground": 0.25, "seed": 3})
    assert (validation.seed, validation.stream, validation.foreground) == (3, "validation", 0)
    # The windows of prediction: 10 x 11 x 11 voxels, starts 0, 2 along two axes, 0 along the third.
    fields = {"data.validation": "sliding_window", "inference.overlap": 0.45}
    made, tiles = examples("validation", **fields)
    shape = made.splits["validation"][0]["label"].shape
    assert shape == (10, 11, 11) and components.windows(tiny("", **fields), (8, 8, 16)).overlap == (
        3,
        3,
        7,
    )
    assert len(tiles) == 2 * 2 * len(made.splits["validation"])


def test_the_facts_of_a_set_are_kept_for_prediction(tmp_path):
    for _, (spec, _) in SETS.items():
        directory.write_spec(tmp_path, spec)
        again = directory.read_spec(tmp_path)
        assert again == spec and again.patches == spec.patches
        assert all(type(a) is type(b) for a, b in zip(again.downloads, spec.downloads, strict=True))
    with pytest.raises(FileNotFoundError, match=r"spec\.json does not exist; give the directory"):
        directory.read_spec(tmp_path / "none")


def test_another_config_in_the_same_directory_is_refused(data_dir, tmp_path, capsys):
    config = tiny(data_dir, **{"train.epochs": 1})
    single.train_and_evaluate(config, tmp_path / "run")
    config.loss.gamma = 3.0
    with pytest.raises(ValueError, match=r"loss\.gamma: None there, 3\.0 here.*--workdir"):
        single.train_and_evaluate(config, tmp_path / "run")
    config.resume = False
    single.train_and_evaluate(config, tmp_path / "run")
    assert f"is now in {tmp_path / 'run.1'}" in capsys.readouterr().out
    kept = [json.loads((tmp_path / n / "run.json").read_text()) for n in ("run", "run.1")]
    assert [k["config"]["loss"]["gamma"] for k in kept] == [3.0, None]


def test_a_comparison_is_one_experiment(data_dir, tmp_path):
    config = tiny(data_dir, **{"loss.name": "dsc, dscpp", "train.epochs": 1})
    single.train_and_evaluate(config, tmp_path / "run")
    config.loss.name = "dscpp"
    with pytest.raises(ValueError, match=r"loss\.name: dsc, dscpp there, dscpp here"):
        single.train_and_evaluate(config, tmp_path / "run")
    config.resume = False
    single.train_and_evaluate(config, tmp_path / "run")
    assert (tmp_path / "run.1" / "dsc" / "run.json").exists()
    assert not (tmp_path / "run" / "dsc").exists()


def test_a_loss_that_is_not_finite_stops_the_run_in_one_clear_line(data_dir, tmp_path):
    failed = call(command(data_dir, tmp_path, "--config.train.learning_rate=1e38"))
    assert failed.returncode == 1
    assert "error: the training loss is nan at step" in failed.stderr
    assert "learning rate 1e+38" in failed.stderr and "not finite, the first is" in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "--config.loss.gama=3",
            "error: the config has no field loss.gama, did you mean loss.gamma?",
        ),
        ("--config=configs/nosuch.py", "configs/nosuch.py"),
        ("--config.loss.gamma=9", "error: gamma must lie in [0.5, 5], got 9.0"),
        ("surplus", "unexpected surplus"),
    ],
)
def test_a_wrong_command_line_ends_in_one_clear_line(data_dir, tmp_path, flag, message):
    place = f"--config.data.data_dir={data_dir}", f"--workdir={tmp_path / 'run'}"
    done = call([sys.executable, "-m", "experiments.run", flag, *place])
    assert done.returncode != 0
    assert message in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("loss.name", "dicepp", "unknown loss 'dicepp', did you mean 'dscpp'?"),
        ("loss.beta", 1.0, "loss 'dscpp' has no beta; it takes gamma"),
        ("data.name", "drvie", "unknown data set 'drvie', did you mean 'drive'?"),
        ("data.name", "drive", "DRIVE needs --config.data.manual_dir. 1. Register"),
        ("data.size", (96,), "data.size is (96,); it must be a tuple of 2 or 3 values"),
        ("data.size", (8, 16, 16), "data.size is (8, 16, 16); Vessel phantom has 2 spatial axes"),
        ("data.size", (0, 4), "data.size is (0, 4); it must be"),
        ("data.batch_size", 0, "data.batch_size is 0"),
        ("seed", -1, "seed is -1; it must be a whole number from 0 to "),
        ("model.filters", 0, "model.filters is 0"),
        ("train.learning_rate", -1.0, "train.learning_rate is -1.0"),
        ("model.name", "vnet", "model.name is 'vnet', did you mean 'unet'? Known: unet"),
        ("model.dtype", "float16", "model.dtype is 'float16'"),
        ("augment.mirror", 2.0, "augment.mirror is 2.0; it must be a number from 0 to 1"),
        ("train.epochs", 0, "train.epochs is 0"),
        ("data.validation", "windows", "is 'windows'; it must be patch or sliding_window, as in"),
        ("data.validation", "sliding_window", "but Vessel phantom is trained on whole images"),
        ("data.foreground", 0.5, "data.foreground is 0.5, but Vessel phantom is trained on whole"),
        ("data.foreground", 1.5, "data.foreground is 1.5; it must be a number from 0 to 1"),
        ("inference.overlap", 1.0, "it must be a number of at least 0 and below 1, as in"),
        (
            "inference.weighting",
            "hann",
            "inference.weighting is 'hann'. Known: gaussian, uniform",
        ),
        ("inference.batch_size", 0, "inference.batch_size is 0"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_is_written(
    data_dir, tmp_path, field, value, message
):
    config = tiny(data_dir, **{field: value})
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        single.train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_hyper_parameter_that_no_compared_loss_takes_is_refused(data_dir, tmp_path):
    config = tiny(data_dir, **{"loss.name": "dsc,dscpp", "loss.beta": 1.0})
    with pytest.raises(ValueError, match="loss.beta is set, but none of dsc, dscpp takes it"):
        single.train_and_evaluate(config, tmp_path / "run")


def test_a_hyper_parameter_of_two_terms_is_refused_also_beside_a_loss_that_takes_it(data_dir):
    config = tiny(data_dir, **{"loss.name": "dscpp,dscpp+exp_ce", "loss.gamma": 1.0})
    with pytest.raises(ValueError, match="gamma is a hyper-parameter of dscpp and of exp_ce"):
        components.build_all(single.of_each_loss(config))


def test_every_config_can_be_read():
    for path in (ROOT / "configs").glob("*.py"):
        if path.stem in ("__init__", "fields"):
            continue
        namespace: dict = {"__file__": str(path)}
        exec(compile(path.read_text(), path, "exec"), namespace)
        cell = ("reduced/drive/dscpp",) if path.stem == "paper" else ()
        config = namespace["get_config"](*cell)
        assert set(config) == set(base.get_config())
        assert "Command:" in namespace["__doc__"] or path.stem == "base"


def own_set(folder, cases=8):
    """A folder of images and masks."""
    for number in range(cases):
        rng = np.random.default_rng([1, number])
        image = rng.integers(0, 256, (16, 16, 3), np.uint8)
        layouts.write_rgb(folder / "images" / f"{number}.png", image)
        layouts.write_mask(folder / "masks" / f"{number}.png", image[..., 0] // 128)


@pytest.mark.parametrize("change", ["removed", "added", "label", "split"])
def test_a_run_does_not_go_on_with_other_cases_than_it_began_with(tmp_path, change):
    own_set(tmp_path / "set")
    config = tiny(
        str(tmp_path / "prepared"),
        **{"data.name": "folder", "data.manual_dir": str(tmp_path / "set"), "data.size": (16, 16)},
    )
    single.train_and_evaluate(config, tmp_path / "run")
    report = (tmp_path / "run" / "report.txt").read_text()
    if change == "removed":
        for part in ("images", "masks"):
            (tmp_path / "set" / part / "3.png").unlink()
    elif change == "added":
        own_set(tmp_path / "set", cases=9)
    elif change == "label":
        layouts.write_mask(tmp_path / "set/masks/3.png", np.eye(16, dtype=np.uint8))
    else:
        split = json.loads((tmp_path / "run" / "split.json").read_text())
        split["train"], split["test"] = split["test"], split["train"]
        (tmp_path / "split.json").write_text(json.dumps(split))
        config.data.split_file = str(tmp_path / "split.json")
    with pytest.raises(ValueError, match="its cases, their masks or their split have changed"):
        single.train_and_evaluate(config, tmp_path / "run")
    assert (tmp_path / "run" / "report.txt").read_text() == report
    single.train_and_evaluate(config, tmp_path / "another")


def test_two_processes_do_not_share_a_directory(data_dir, tmp_path):
    with directory.lock(tmp_path / "run"):
        second = call(command(data_dir, tmp_path / "run"))
        assert second.returncode == 1
        assert f"error: another process is working in {tmp_path / 'run'}" in second.stderr
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file; choose another --workdir"):
        single.train_and_evaluate(tiny(data_dir), tmp_path / "file")


def test_help_names_the_flags():
    shown = call([sys.executable, "-m", "experiments.run", "--help"])
    for flag in ("--config", "--workdir", "--[no]debug"):
        assert flag in shown.stdout + shown.stderr
