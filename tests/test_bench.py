"""The timing command: what it lists and tells. That numbers are times is all that is asked."""

import sys
from pathlib import Path

import numpy as np
import pytest

from dicepp_jax.losses import LOSSES
from dicepp_jax.rows import read_csv
from experiments import bench

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
    rows = {row.name: row for row in read_csv(path, bench.Timing)}
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
    rows = read_csv(path, bench.Timing)
    assert [row.name for row in rows] == ["thresholds_1", "thresholds_91"]
    assert all(0 < row.minimum_ms < np.inf for row in rows)


def test_header_and_selection(capsys: pytest.CaptureFixture[str]) -> None:
    shapes = ("2x8x8x2", "1x4x4x4x3")
    bench.main(["losses", "--shapes", *shapes, "--repeats", "1", "--only", "dscpp"])
    header, _, _, *lines = capsys.readouterr().out.splitlines()
    assert bench.hardware() in header and "jax" in header
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
