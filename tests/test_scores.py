"""What is kept of a scored run, read back."""

import numpy as np
import pytest

from dicepp_jax import metrics, score_files
from dicepp_jax.metrics import Confusion, Reliability
from dicepp_jax.plots.cases import View
from dicepp_jax.rows import Row
from dicepp_jax.score_files import SplitScores

CLASSES = ("background", "kidney", "tumour")


def scored():
    rng = np.random.default_rng(3)
    shape = (len(CLASSES), len(metrics.THRESHOLDS))
    counts = {f"case, {n}": Confusion(*rng.integers(0, 10**12, (4, *shape))) for n in (1, 2)}
    rows = [Row(case, "kidney", "image", "dice", float(rng.random())) for case in counts]
    bins = (rng.integers(0, 10**12, (3, 20)), rng.random((3, 20)), rng.integers(0, 9, (3, 20)))
    image = rng.integers(-1000, 1000, (4, 5, 1)).astype(np.int16)
    views = [
        tuple(
            View(
                case,
                f"slice {target} of 9",
                image,
                rng.integers(0, 3, (4, 5), np.uint8),
                rng.random((4, 5, 3)).astype(np.float32),
            )
            for target in (1, 2)
        )
        for case in counts
    ]
    return SplitScores(rows, Reliability(*bins), counts, views)


def assert_equal(found, expected):
    assert found.rows == expected.rows
    np.testing.assert_equal(found.reliability, expected.reliability)
    assert list(found.thresholds) == list(expected.thresholds)
    for case, counts in expected.thresholds.items():
        np.testing.assert_equal(found.thresholds[case], counts)
    for some, same in zip(found.shown, expected.shown, strict=True):
        for view, other in zip(some, same, strict=True):
            assert view[:2] == other[:2]
            for array, twin in zip(view[2:], other[2:], strict=True):
                assert array.dtype == twin.dtype
                np.testing.assert_array_equal(array, twin)


def test_scores_are_read_as_they_were_written(tmp_path):
    first = scored()
    score_files.write(tmp_path, first, CLASSES)
    assert score_files.is_complete(tmp_path)
    assert_equal(score_files.read(tmp_path, CLASSES), first)
    once = {path.name: path.read_bytes() for path in (tmp_path / "test").iterdir()}
    score_files.write(tmp_path, first, CLASSES)
    assert {path.name: path.read_bytes() for path in (tmp_path / "test").iterdir()} == once
    nothing_drawn = first._replace(shown=[])
    score_files.write(tmp_path, nothing_drawn, CLASSES)
    assert_equal(score_files.read(tmp_path, CLASSES), nothing_drawn)


def test_half_written_scores_are_not_seen(tmp_path, monkeypatch):
    before = scored()
    score_files.write(tmp_path, before, CLASSES)

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(score_files, "_bins", fail)
    with pytest.raises(OSError, match="disk full"):
        score_files.write(tmp_path, before._replace(rows=before.rows[:1]), CLASSES)
    monkeypatch.undo()
    assert_equal(score_files.read(tmp_path, CLASSES), before)


@pytest.mark.parametrize("name", ["thresholds.csv", "shown.npz"])
def test_a_run_that_an_older_version_scored_is_told(tmp_path, name):
    score_files.write(tmp_path, scored(), CLASSES)
    (tmp_path / "test" / name).unlink()
    assert not score_files.is_complete(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"{name} does not exist; repeat the command"):
        score_files.read(tmp_path, CLASSES)
