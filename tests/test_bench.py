"""The timing command: what it lists and tells. That numbers are times is all that is asked."""

import sys
from pathlib import Path

import numpy as np
import pytest

from dicepp_jax.losses import LOSSES
from dicepp_jax.rows import read_csv
from experiments import bench
from experiments.benchmarks import timing

SHAPE = ("--shapes", "2x8x8x2", "--repeats", "2")


@pytest.fixture(autouse=True)
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tests whether it is installed or not."""
    monkeypatch.setitem(sys.modules, "torch", None)


def test_every_loss_has_a_time_and_missing_torch_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "times.csv"
    bench.main(["losses", *SHAPE, "--output", str(path)])
    printed = capsys.readouterr().out
    rows = {row.name: row for row in read_csv(path, timing.Timing)}
    monai = {"monai_dice", "monai_dice_focal"}
    assert set(rows) == {"read_write", "optax_dice", *LOSSES, *monai}
    for name in set(rows) - monai:
        row = rows[name]
        assert 0 < row.minimum_ms <= row.median_ms < np.inf
        assert row.ratio == row.median_ms / rows["optax_dice"].median_ms
        assert (row.shape, row.repeats) == ("2x8x8x2", 2)
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
        measured.append((cases(shape)[name].windows, shape, name))
        return 12.5

    monkeypatch.setattr(timing, "peak_memory", peak_memory)
    path = tmp_path / "times.csv"
    flags = ["--shapes", "1x40x70x2", "--window", "16x32", "--filters", "2", "--batch-size", "3"]
    bench.main(["inference", *flags, "--repeats", "2", "--output", str(path)])
    ours, monai = read_csv(path, timing.Timing)
    # At 0, 8, 16, 24 of 40 and 0, 16, 32, 38 of 70.
    assert measured == [(16, (1, 40, 70, 2), "sliding_window")]
    assert ours.windows_per_s == pytest.approx(1e3 * 16 / ours.median_ms)
    assert (ours.name, ours.peak_mib) == ("sliding_window", 12.5)
    assert (monai.name, monai.note) == ("monai_sliding_window", timing.NOT_INSTALLED)
    assert np.isnan([monai.windows_per_s, monai.peak_mib]).all()
    header, line = capsys.readouterr().out.splitlines()[1:4:2]
    assert "windows/s  peak MiB  note" in header
    assert f"{ours.windows_per_s:.2f}" in line and "12.50" in line


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
    header, _, _, *lines = capsys.readouterr().out.splitlines()
    assert timing.hardware() in header and "jax" in header
    assert [line.split()[:2] for line in lines] == [
        [shape, name] for shape in shapes for name in ("optax_dice", "dscpp")
    ]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--only", "dicepp"], "there is no dicepp; known: read_write, optax_dice, ce"),
        (["--shapes", "8,512,512"], "'8,512,512' is not like 8x512x512x2"),
        (["--repeats", "0"], "'0' is not a number from 1"),
        (["--output", "nowhere/times.csv"], "there is no directory nowhere"),
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
