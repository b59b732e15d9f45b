"""What is kept of a scored run, read back."""

import jax
import numpy as np
import pytest

from dicepp_jax import metrics, score_files
from dicepp_jax.metrics import Confusion, Reliability
from dicepp_jax.plots.views import View
from dicepp_jax.rows import FalsePositives, LesionBin, Row, read_csv
from dicepp_jax.score_files import SplitScores
from dicepp_jax.split_calibration import SplitCalibration, pooled_ece, split_calibration
from dicepp_jax.text_table import calibration_table, normal_table

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


@pytest.mark.parametrize("name", ["thresholds.csv", "reliability.csv"])
def test_a_run_that_an_older_version_scored_is_told(tmp_path, name):
    score_files.write(tmp_path, scored(), CLASSES)
    (tmp_path / "test" / name).unlink()
    assert not score_files.is_complete(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"{name} does not exist; repeat the command"):
        score_files.read(tmp_path, CLASSES)


NORMAL = [
    FalsePositives("case, 1", "kidney", 20, 3),
    FalsePositives("case, 1", "tumour", 0, 0),
    FalsePositives("case, 2", "kidney", 0, 0),
    FalsePositives("case, 2", "tumour", 7, 1),
]


def test_what_was_predicted_in_normal_cases_is_kept(tmp_path):
    first = scored()._replace(false_positives=NORMAL)
    score_files.write(tmp_path, first, CLASSES)
    assert score_files.read(tmp_path, CLASSES).false_positives == NORMAL
    # Older versions wrote no such file, nor is there one without such cases.
    (tmp_path / "test" / "normal_cases.csv").unlink()
    assert score_files.is_complete(tmp_path)
    assert not score_files.read(tmp_path, CLASSES).false_positives
    score_files.write(tmp_path, first, CLASSES)
    score_files.write(tmp_path, scored(), CLASSES)
    assert not (tmp_path / "test" / "normal_cases.csv").exists()


def test_the_table_of_normal_cases():
    other = [row._replace(voxels=row.voxels + 1, components=1) for row in NORMAL]
    title, header, _, *lines = normal_table({"dsc": NORMAL, "dscpp": other}).strip().splitlines()
    assert title == "False positives in the 2 cases without foreground"
    assert header.split("  ")[0] == "class"
    assert [line.split() for line in lines] == [
        ["kidney", "dsc", "10.0", "20", "3"],
        ["kidney", "dscpp", "11.0", "21", "2"],
        ["tumour", "dsc", "3.5", "7", "1"],
        ["tumour", "dscpp", "4.5", "8", "2"],
    ]
    assert normal_table({"dsc": []}) == ""


def test_scores_of_different_cases_are_merged():
    first, whole = scored(), scored()
    parts = [
        first._replace(
            rows=[row for row in first.rows if row.case == case],
            thresholds={case: first.thresholds[case]},
            shown=[views],
            false_positives=[row for row in NORMAL if row.case == case],
        )
        for case, views in zip(first.thresholds, first.shown, strict=True)
    ]
    twice = Reliability(*(2 * array for array in first.reliability))
    merged = score_files.merge(parts, figures=2)
    assert_equal(merged, whole._replace(reliability=twice))
    assert merged.false_positives == NORMAL
    assert len(score_files.merge(parts, figures=1).shown) == 1


LESIONS = [
    LesionBin("case, 1", "kidney", 11, 2, 1.125, 1, 0.5),
    LesionBin("case, 2", "kidney", 11, 1, 0.5625, 1, 0.25),
    LesionBin("case, 2", "kidney", 19, 1, 1.0, 1, 0.0),
]


def by_case(seed=0):
    """Sums of two cases."""
    rng = np.random.default_rng(seed)
    shape = (len(CLASSES), 20)
    sums = {}
    for case in ("case, 1", "case, 2"):
        voxels = rng.integers(0, 100, shape)
        confidence = voxels * (np.arange(20) + rng.random(shape)) / 20
        sums[case] = Reliability(voxels, confidence, rng.binomial(voxels, 0.3))
    return sums


def test_what_is_known_of_each_case_is_kept(tmp_path):
    first = scored()._replace(case_reliability=by_case(), lesions=LESIONS)
    score_files.write(tmp_path, first, CLASSES)
    found = score_files.read(tmp_path, CLASSES)
    assert_equal(found, first)
    np.testing.assert_equal(found.case_reliability, first.case_reliability)
    assert found.lesions == LESIONS
    stored = read_csv(tmp_path / "test" / "calibration.csv", SplitCalibration)
    np.testing.assert_equal(stored, first.calibration(CLASSES))
    # Older versions wrote no such files.
    for name in ("case_reliability", "lesions", "calibration"):
        (tmp_path / "test" / f"{name}.csv").unlink()
    assert score_files.is_complete(tmp_path)
    older = score_files.read(tmp_path, CLASSES)
    assert_equal(older, first)
    assert not older.case_reliability and not older.lesions and older.calibration(CLASSES) == []
    # What is known of some cases only is not taken for that of all.
    assert score_files.merge([found, older]).calibration(CLASSES) == []
    assert score_files.merge([found, found]).lesions == 2 * LESIONS
    score_files.write(
        tmp_path, first._replace(case_reliability={"x": by_case()["case, 1"]}), CLASSES
    )
    with pytest.raises(ValueError, match="case_reliability.csv lacks some cases"):
        score_files.read(tmp_path, CLASSES)


def test_the_error_of_a_split_is_that_of_all_voxels_together():
    sums = by_case()
    whole = jax.tree.map(lambda *n: np.sum(n, axis=0), *sums.values())
    found = split_calibration(sums, LESIONS, CLASSES)
    assert [row.label for row in found] == ["kidney", "tumour"]
    for target, row in enumerate(found, 1):
        assert row.ece == pytest.approx(float(whole.ece[target]), rel=1e-5)
        one, other = (float(of.ece[target]) for of in sums.values())
        # The resamples of two cases are one twice, the other twice, or both.
        expected = [f(one, other, row.ece) for f in (min, max)]
        np.testing.assert_allclose([row.low, row.high], expected, rtol=1e-5)
    kidney, tumour = found
    assert (kidney.lesions, kidney.correct, kidney.lesion_ece) == (4, 3, (2 - 1.6875) / 4)
    assert kidney.lesion_brier == 0.75 / 4
    assert tumour[4:6] == (0, 0) and np.isnan(tumour[6:]).all()


def test_voxels_in_one_part_or_several_have_the_same_error():
    sums = by_case(1)
    doubled = {f"{case}{n}": of for case, of in sums.items() for n in range(2)}
    np.testing.assert_allclose(
        pooled_ece([*doubled.values()]).value, pooled_ece([*sums.values()]).value
    )
    whole = jax.tree.map(lambda *n: np.sum(n, axis=0), *sums.values())
    error, low, high = pooled_ece([whole])
    np.testing.assert_allclose(error, pooled_ece([*sums.values()]).value)
    assert np.isnan([low, high]).all()


def test_the_table_of_a_split():
    rows = split_calibration(by_case(), LESIONS, CLASSES)
    title, header, _, *lines = calibration_table({"dsc": rows, "old": []}).strip().splitlines()
    assert title.startswith("Calibration of all cases together")
    assert header.split("  ")[0] == "class"
    kidney, tumour = (line.split() for line in lines)
    assert kidney[:3] == ["kidney", "dsc", f"{rows[0].ece:.4f}"]
    assert kidney[3:] == [
        f"{rows[0].low:.4f}", "to", f"{rows[0].high:.4f}", "4", "3", "0.0781", "0.1875"
    ]  # fmt: skip
    assert tumour[-4:] == ["0", "0", "undefined", "undefined"]
    assert calibration_table({"old": []}) == ""
