"""The timing command: what it lists and tells. That numbers are times is all that is asked."""

import builtins
import json
import math
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest

from dicepp_jax import data
from dicepp_jax.losses import LOSSES
from dicepp_jax.models.unet import UNet
from dicepp_jax.plots.ratios import ratio_bars
from dicepp_jax.rows import read_csv
from experiments import bench
from experiments.benchmarks import machine, networks, results, startup, timing
from experiments.benchmarks.agreement import largest_difference
from experiments.benchmarks.commands import COMMANDS

SHAPE = ("--shapes", "2x8x8x2", "--repeats", "2")


@pytest.fixture(autouse=True)
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tests whether it is installed or not, and its like; the floor in no time."""
    found = builtins.__import__

    def without_peers(name: str, *args: Any, **kinds: Any) -> Any:
        if name.split(".")[0] in ("torch", "monai", "batchgenerators"):
            raise ImportError(name)
        return found(name, *args, **kinds)

    monkeypatch.setattr(builtins, "__import__", without_peers)
    monkeypatch.setattr(machine, "SIDE", 8)
    monkeypatch.setattr(machine, "BYTES", 64)


def test_every_loss_has_a_time_and_missing_torch_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "times.csv"
    bench.main(["losses", *SHAPE, "--output", str(path)])
    printed = capsys.readouterr().out
    rows = {row.name: row for row in read_csv(path, timing.Timing)}
    monai = {"torch_dscpp", "monai_dice", "monai_dice_focal"}
    assert set(rows) == {"read_write", "optax_dice", *LOSSES, *monai}
    for name in set(rows) - monai:
        row = rows[name]
        assert 0 < row.minimum_ms <= row.median_ms < np.inf
        assert 0 < row.ratio_low <= row.ratio <= row.ratio_high < np.inf
        assert (row.command, row.shape, row.repeats) == ("losses", "2x8x8x2", 2)
        assert row.reference == "optax_dice"
        assert name in printed
    for name in monai:
        assert rows[name].note == "not installed: pip install -e '.[bench]'"
        assert np.isnan(rows[name].median_ms) and rows[name].repeats == 0
        assert any(
            line.split()[1:2] == [name] and rows[name].note in line for line in printed.splitlines()
        )


def test_thresholds(tmp_path: Path) -> None:
    path = tmp_path / "times.csv"
    bench.main(["thresholds", *SHAPE, "--output", str(path)])
    rows = read_csv(path, timing.Timing)
    assert [row.name for row in rows] == ["thresholds_1", "thresholds_91"]
    assert all(0 < row.minimum_ms < np.inf for row in rows)


def test_windows_have_a_speed_and_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def peak_memory(cases: timing.Cases, shape: timing.Shape, name: str) -> float:
        measured.append((cases(shape)[name].items, shape, name))
        return 12.5

    monkeypatch.setattr(timing, "peak_memory", peak_memory)
    path = tmp_path / "times.csv"
    flags = ["--shapes", "1x40x70x2", "--window", "16x32", "--filters", "2", "--batch-size", "3"]
    bench.main(["inference", *flags, "--repeats", "2", "--output", str(path)])
    ours, monai = read_csv(path, timing.Timing)
    assert ours.options == "window 16x32, filters 2, channels 1, batch_size 3"
    # At 0, 8, 16, 24 of 40 and 0, 16, 32, 38 of 70.
    assert measured == [(16, (1, 40, 70, 2), "sliding_window")]
    assert ours.items_per_s == pytest.approx(1e3 * 16 / ours.median_ms)
    assert (ours.item, ours.reference, ours.ratio) == ("windows", "sliding_window", 1)
    assert (ours.name, ours.peak_mib) == ("sliding_window", 12.5)
    assert (monai.name, monai.note) == ("monai_sliding_window", timing.NOT_INSTALLED)
    assert np.isnan([monai.items_per_s, monai.peak_mib]).all()
    header, line = capsys.readouterr().out.splitlines()[5:8:2]
    assert header.split("  ")[-1] == "note" and "peak MiB" in header
    assert f"{ours.items_per_s:.2f} windows" in line and "12.50" in line


def take_20_mib(shape: timing.Shape) -> dict[str, timing.TimedCase]:
    """What is there before the call does not count, and what is given back during it does."""
    kept = np.ones((60, 2**17))
    return {
        "call": timing.TimedCase(
            lambda: [np.ones((20, 2**17)).sum() + kept[0, 0] for _ in range(2)]
        )
    }


def test_memory_is_what_a_call_adds_in_a_process_of_its_own() -> None:
    kept = np.ones((300, 2**17))
    peak = timing.peak_memory(take_20_mib, (1,), "call")
    assert kept.nbytes / 2**20 == 300
    assert 19.5 < peak < 40


def test_header_and_selection(capsys: pytest.CaptureFixture[str]) -> None:
    shapes = ("2x8x8x2", "1x4x4x4x3")
    bench.main(["losses", "--shapes", *shapes, "--repeats", "1", "--only", "dscpp"])
    header, line, floor, _, title, _, _, *lines = capsys.readouterr().out.splitlines()
    assert machine.hardware() in header and f"jax {jax.__version__}" in header
    assert line == (
        "python -m experiments.bench losses --shapes 2x8x8x2 1x4x4x4x3 --repeats 1 --only dscpp"
    )
    assert "GFLOP/s" in floor and "GB/s" in floor and title == "losses, 1 repeats"
    assert [line.split()[:2] for line in lines] == [
        [shape, name] for shape in shapes for name in ("optax_dice", "dscpp")
    ]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--only", "dicepp"], "there is no dicepp; known: read_write, optax_dice, ce"),
        (["--shapes", "8,512,512"], "'8,512,512' is not like 8x512x512x2"),
        (["--repeats", "0"], "'0' is not a number from 1"),
        (["--output", "nowhere/times.csv"], "--output: there is no directory nowhere"),
        (["--json", "nowhere/times.json"], "--json: there is no directory nowhere"),
    ],
)
def test_bad_flags_are_told(
    flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        bench.main(["losses", *SHAPE, *flags])
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--window", "16"], "'16' is not like 16x32x32"),
        (["--window", "16x24"], "--window 16x24: sides must be multiples of 16, and one 32 or"),
        (["--window", "16x16"], "--window 16x16: sides must be multiples of 16, and one 32 or"),
        (["--window", "16x32x32"], "a window of as many sides as the volume, such as 32x32"),
        (["--shapes", "2x32x32x2", "--window", "16x32"], "expected a batch of 1"),
        (["--filters", "0"], "'0' is not a number from 1"),
    ],
)
def test_bad_windows_are_told(
    flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        bench.main(["inference", "--shapes", "1x40x70x2", *flags])
    assert told in capsys.readouterr().err


def test_grids_are_timed_by_every_strategy(tmp_path: Path) -> None:
    path = tmp_path / "times.csv"
    flags = ["--shapes", "1x16x16x2", "--repeats", "1", "--members", "1,3", "--filters", "1"]
    bench.main(["sweep", *flags, "--output", str(path)])
    rows = {row.name: row for row in read_csv(path, timing.Timing)}
    # The session has several devices.
    assert list(rows) == ["alone", "sequential_1", "sequential_3", "vmap_3", "devices_3"]
    assert all(0 < row.minimum_ms < np.inf and "compiled in" in row.note for row in rows.values())


def test_every_command_has_a_setting_with_a_value_of_every_flag() -> None:
    for name, command in COMMANDS.items():
        for setting in timing.settings(command):
            assert setting.own.keys() == command.flags.keys(), name
    train = COMMANDS["train"]
    assert [own["filters"] for _, own in timing.settings(train)] == [32, 32, 32, 8, 16, 16]
    assert timing.settings(train, [(1, 32, 32, 1)], {"filters": 3, "classes": None}) == (
        timing.Setting((1, 32, 32, 1), {"filters": 3, "classes": 2}),
    )
    # A flag holds for the settings of the command too.
    assert {own["filters"] for _, own in timing.settings(train, (), {"filters": 3})} == {3}


def test_a_training_step_is_timed(tmp_path: Path) -> None:
    path = tmp_path / "times.csv"
    flags = ["--shapes", "1x32x32x3", "--filters", "1", "--repeats", "1"]
    bench.main(["train", *flags, "--output", str(path)])
    ours, *peers = read_csv(path, timing.Timing)
    assert (ours.name, ours.reference) == ("train_step", "train_step")
    assert ours.options == "filters 1, classes 2" and "parameters, compiled in" in ours.note
    assert 0 < ours.median_ms < np.inf
    assert {(row.name, row.note) for row in peers} == {
        ("torch_eager", timing.NOT_INSTALLED),
        ("torch_compile", timing.NOT_INSTALLED),
    }


def test_the_step_that_is_compared_is_that_of_the_first_parameters() -> None:
    """However often it was called, and though the state of a step is donated."""
    case = COMMANDS["train"].cases((1, 32, 32, 3), filters=1, classes=2)["train_step"]
    before = case.output()
    case.call()
    after = case.output()
    assert list(before) == ["logits", "loss", "loss after a step"]
    assert largest_difference("a", after, "b", before, tolerance=0) == 0
    assert before["loss"] != before["loss after a step"]


def test_parameters_have_the_places_and_sizes_of_the_network() -> None:
    network = networks.unet(2, 3, 2, 2)
    image = np.zeros((1, 32, 32, 3), np.float32)
    expected = jax.jit(UNet(num_classes=2, filters=2).init)(jax.random.key(0), image)
    assert jax.tree.map(np.shape, network.params) == jax.tree.map(np.shape, expected)
    assert network.size == sum(x.size for x in jax.tree.leaves(expected))
    # None is constant, so that none can take another's place unseen.
    assert all(np.ptp(x) > 0 for x in jax.tree.leaves(network.params) if x.size > 1)


def test_images_are_augmented_and_predicted_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "times.csv"
    flags = ["--shapes", "8x8x3", "--examples", "2", "--probability", "1", "--repeats", "1"]
    bench.main(["augment", *flags, "--output", str(path)])
    ours, *peers = read_csv(path, timing.Timing)
    assert (ours.name, ours.item, ours.note) == ("augment", "examples", "linear interpolation")
    assert ours.items_per_s == pytest.approx(2e3 / ours.median_ms)
    assert [row.name for row in peers] == ["batchgenerators", "batchgenerators_linear"]
    assert {row.note for row in peers} == {timing.NOT_INSTALLED}

    monkeypatch.setattr(timing, "peak_memory", lambda cases, shape, name: 1.0)
    flags = ["--shapes", "1x20x33x2", "--window", "whole", "--channels", "3", "--filters", "1"]
    bench.main(["inference", *flags, "--repeats", "1", "--output", str(path)])
    ours, peer = read_csv(path, timing.Timing)
    assert ours.options == "window whole, filters 1, channels 3, batch_size 1"
    assert (ours.name, peer.name, ours.item) == ("whole_image", "torch_whole_image", "images")
    case = COMMANDS["inference"].cases(
        (1, 20, 33, 2), window=(), filters=1, channels=3, batch_size=1
    )
    probs = case["whole_image"].output()["probabilities"]
    assert probs.shape == (20, 33, 2)
    np.testing.assert_allclose(probs.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "examples", "names"),
    [
        ("4x32x32x3", 32, ("cached", "uncached", "training")),
        # A network for volumes takes long to compile.
        ("1x16x32x32x1", 12, ("cached", "uncached")),
    ],
)
def test_epochs_of_the_phantoms(
    shape: str,
    examples: int,
    names: tuple[str, ...],
    tmp_path: Path,
    data_dir: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = data.load
    # They are prepared once in a session.
    monkeypatch.setattr(data, "load", lambda name, folder: load(name, data_dir))
    path = tmp_path / "times.csv"
    flags = ["--shapes", shape, "--filters", "1", "--repeats", "1", "--only", *names]
    bench.main(["data", *flags, "--output", str(path)])
    rows = read_csv(path, timing.Timing)
    assert tuple(row.name for row in rows) == names
    for row in rows:
        assert row.items_per_s == pytest.approx(1e3 * examples / row.median_ms)
        if row.name == "training":
            assert 0 < row.data_wait < 1
        else:
            assert math.isnan(row.data_wait)


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ("4x32x32x1", "images of Vessel phantom have 3 channels"),
        ("4x32x3", "expected two or three axes of space"),
    ],
)
def test_bad_shapes_of_batches_are_told(
    shape: str,
    told: str,
    data_dir: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    load = data.load
    monkeypatch.setattr(data, "load", lambda name, folder: load(name, data_dir))
    with pytest.raises(SystemExit):
        bench.main(["data", "--shapes", shape])
    assert told in capsys.readouterr().err


def test_startup_runs_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def run(arguments: list[str], environment: dict[str, str] | None = None) -> None:
        ran.append((arguments[-1], (environment or {}).get("JAX_COMPILATION_CACHE_DIR")))

    monkeypatch.setattr(startup, "_run", run)
    cases = COMMANDS["startup"].cases((1, 32, 32, 3), filters=1)
    assert cases["import_monai_losses"] == timing.TimedCase(None, timing.NOT_INSTALLED)
    for _ in range(2):
        for case in cases.values():
            if case.call is not None:
                case.call()
    caches = [cache for command, cache in ran if "first_step" in command]
    # A cold one is new each time, and is removed; the warm one stays the same.
    assert len(set(caches)) == 3 and caches[1] == caches[3]
    assert not any(Path(cache).exists() for cache in caches[::2])
    assert {command for command, cache in ran if cache is None} == {
        "--help",
        "import dicepp_jax.losses",
    }


def test_a_process_that_fails_is_told() -> None:
    with pytest.raises(ValueError, match="failed: ZeroDivisionError"):
        startup._run(["-c", "1 / 0"])


def test_the_first_step_of_a_run(data_dir: str) -> None:
    startup.first_step((2, 16, 16, 3), 1, data_dir)


def test_all_runs_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cases(shape: timing.Shape) -> dict[str, timing.TimedCase]:
        return {
            "theirs": timing.TimedCase(None, timing.NOT_INSTALLED),
            "ours": timing.TimedCase(lambda: None),
            "other": timing.TimedCase(lambda: None, items=3, item="things"),
        }

    small = timing.Command(
        cases, ("theirs", "ours"), "-", "-", tuple(map(timing.Setting, [(1, 2), (3,)])), repeats=4
    )
    monkeypatch.setattr(bench, "COMMANDS", {"a": small, "b": small})
    csv, file = tmp_path / "times.csv", tmp_path / "times.json"
    bench.main(["all", "--output", str(csv), "--json", str(file)])
    rows = read_csv(csv, timing.Timing)
    assert [(row.command, row.shape, row.name) for row in rows] == [
        (command, shape, name)
        for command in "ab"
        for shape in ("1x2", "3")
        for name in ("theirs", "ours", "other")
    ]
    assert {row.reference for row in rows} == {"ours"}
    printed = capsys.readouterr().out
    assert "\na, 4 repeats\n" in printed and "\nb, 4 repeats\n" in printed
    assert "1.00 (1.00-1.00)" in printed and "things" in printed
    content = json.loads(file.read_text())
    assert content["line"] == f"python -m experiments.bench all --output {csv} --json {file}"
    assert content["machine"]["floor"]["gflops"] > 0
    assert content["machine"]["versions"]["jax"] == jax.__version__
    assert content["rows"][0]["ratio"] is None
    assert content["rows"][2]["ratio_low"] <= content["rows"][2]["ratio_high"]
    # Reading gives what was written, NaN among it.
    assert repr(results.read_json(file).rows) == repr(rows)
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []

    figure = tmp_path / "figure.png"
    bench.main(["plot", str(file), str(file), "--output", str(figure)])
    assert figure.read_bytes().startswith(b"\x89PNG")
    every, some = (results.bars(results.read_json(file), names) for names in (["a", "b"], ["b"]))
    assert {name: bar for name, bar in every.items() if name.startswith("b: ")} == some
    assert 0 < len(some) < len(every)


def test_a_report_that_is_none_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "times.json"
    for content, told in (("{}", "is not a report of experiments.bench"), ("", "is not a report")):
        path.write_text(content)
        with pytest.raises(SystemExit):
            bench.main(["plot", str(path), "--output", str(tmp_path / "figure.png")])
        assert told in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bench.main(["plot", *[str(path)] * 3, "--output", str(tmp_path / "figure.png")])
    assert "found 3 reports; give one, or two" in capsys.readouterr().err


def test_sides_that_cannot_be_halved_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["train", "--shapes", "1x50x48x3", "--filters", "1"])
    assert "--shapes 1x50x48x3: sides must be multiples of 16" in capsys.readouterr().err


def test_bars_are_the_ratios() -> None:
    before, after = {"a": (2.0, 1.5, 4.0), "b": (0.5, 0.4, 0.6)}, {"b": (0.25, 0.2, 0.3)}
    figure = ratio_bars({"before": before, "after": after})
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    ends = [bar.get_x() + bar.get_width() for bar in axes.patches]
    assert ends == [2, 0.5, 0.25]
    assert [text.get_text() for text in axes.texts] == ["2.00", "0.50", "0.25"]
    plt.close(figure)
    with pytest.raises(ValueError, match="there are no ratios to draw"):
        ratio_bars({"before": {}})


def test_ratios_are_taken_within_a_round() -> None:
    """A slow round slows both, and says nothing of either."""
    reference = np.array([1.0, 100.0, 2.0, 1.0, 7.0])
    assert timing.ratios(3 * reference, reference) == (3, 3, 3)
    assert timing.ratios(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.ones(5)) == (3, 2, 4)


OUTPUT = {"loss": 0.5, "logits": np.array([[1.0, -4.0], [0.0, 2.0]])}


def test_what_is_the_same_is_timed_with_a_note() -> None:
    cases = {
        "ours": timing.TimedCase(lambda: None, output=lambda: OUTPUT),
        "theirs": timing.TimedCase(
            lambda: None, "eager", output=lambda: {**OUTPUT, "loss": 0.50001}, same_as="ours"
        ),
        "another": timing.TimedCase(lambda: None, "another formula", output=lambda: {"loss": 9.0}),
        "absent": timing.TimedCase(None, timing.NOT_INSTALLED, same_as="ours"),
    }
    found = timing.checked(cases, cases)
    assert found["theirs"].note == "eager; loss, logits as of ours to 2e-05"
    assert {**found, "theirs": cases["theirs"]} == cases
    # What it is the same as need not be timed.
    assert timing.checked({"theirs": cases["theirs"]}, cases) == {"theirs": found["theirs"]}


@pytest.mark.parametrize(
    ("altered", "told"),
    [
        ({"loss": 0.501}, "loss of theirs differs from that of ours by 0.002 of its largest value"),
        ({"logits": OUTPUT["logits"] + 1e-3}, "logits of theirs differs"),
        ({"loss": np.nan}, "loss of theirs differs from that of ours by nan"),
        ({"logits": OUTPUT["logits"].T}, "logits of theirs differs"),
        ({"logits": OUTPUT["logits"].ravel()}, r"logits of theirs has shape \(4,\)"),
        ({"gradient": 0.0}, "both must give the same to be compared"),
    ],
)
def test_what_differs_is_not_timed(altered: dict[str, object], told: str) -> None:
    timed = []
    cases = {
        "ours": timing.TimedCase(lambda: timed.append(1), output=lambda: OUTPUT),
        "theirs": timing.TimedCase(
            lambda: timed.append(1), output=lambda: {**OUTPUT, **altered}, same_as="ours"
        ),
    }
    command = timing.Command(lambda shape: cases, ("ours",), "-", "-", (timing.Setting((1,)),))
    with pytest.raises(ValueError, match=told):
        timing.bench("train", command, timing.settings(command))
    assert not timed


def test_an_altered_network_is_found_out() -> None:
    """Of every kind of parameter: a bias, a scale, a kernel mirrored or moved."""
    network = networks.unet(2, 1, 2, 1)
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 1)).astype(np.float32)
    apply = jax.jit(network.apply)

    def logits(params: object) -> dict[str, object]:
        return {"logits": apply(params, image)}

    for block, layer, name, change in (
        ("Block_0", "Conv_0", "kernel", lambda x: x[::-1]),
        ("Block_1", "InstanceNorm_1", "scale", lambda x: x[::-1]),
        ("Block_8", "InstanceNorm_0", "bias", lambda x: -x),
        ("ConvTranspose_3", None, "kernel", lambda x: x[::-1, ::-1]),
        ("Conv_0", None, "bias", lambda x: x[::-1]),
    ):
        altered = jax.tree.map(np.copy, network.params)
        layers = altered["params"][block]
        values = layers if layer is None else layers[layer]
        values[name] = np.ascontiguousarray(change(values[name]))
        with pytest.raises(ValueError, match="logits of theirs differs"):
            largest_difference("theirs", logits(altered), "ours", logits(network.params))


def test_what_cannot_be_compiled_is_told_and_not_timed() -> None:
    def output() -> dict[str, object]:
        raise timing.CannotTimeError("there is no compiler")

    cases = {
        "ours": timing.TimedCase(lambda: None, output=lambda: OUTPUT),
        "compiled": timing.TimedCase(lambda: None, "compiled", output=output, same_as="ours"),
    }
    found = timing.checked(cases, cases)
    assert found["compiled"] == timing.TimedCase(None, "there is no compiler")
