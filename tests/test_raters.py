"""Several raters of an image: metrics, scores, tables, users' folders, `experiments.evaluate`."""

import re
import types

import layouts
import layouts_3d
import numpy as np
import oracles
import pytest
from PIL import Image
from sklearn.metrics import brier_score_loss, f1_score, log_loss

from dicepp_jax import metrics, score_files
from dicepp_jax.data import files, folder
from dicepp_jax.data.builder import check_example, fingerprint
from dicepp_jax.data.folder import Options
from dicepp_jax.data.preparation import prepare
from dicepp_jax.data.specs import DRIVE, PHANTOM_3D
from dicepp_jax.rows import Row, compare, read_csv, summarise
from dicepp_jax.score_files import score_split
from dicepp_jax.scoring import score_cases
from dicepp_jax.text_table import rater_table, summary_table
from experiments import evaluate
from experiments.training.single import comparisons, report

SIZE = (7, 9)


def drawn(seed, classes=2, raters=2, size=SIZE):
    """Probabilities `(*size, C)`, some of them 0 and 1, and labels `(R, *size)` that are alike."""
    rng = np.random.default_rng([8, seed])
    probs = oracles.softmax(3 * rng.normal(size=(*size, classes)))
    certain = rng.random(size) < 0.2
    probs[certain] = np.eye(classes)[rng.integers(0, classes, certain.sum())]
    first = rng.integers(0, classes, size)
    others = rng.integers(0, classes, (raters - 1, *size))
    agreed = rng.random((raters - 1, *size)) < 0.7
    return probs.astype(np.float32), np.stack([first, *np.where(agreed, first, others)])


def expected(probs, raters, where):
    """By metric and class, in float64; sklearn's losses weigh each rater's label by 1 / R."""
    p, labels = probs[where].astype(np.float64), raters[:, where]
    number, classes = len(labels), np.arange(p.shape[-1])
    share = np.mean(labels[..., None] == classes, axis=0)
    clipped = np.clip(p, 1e-7, 1 - 1e-7)
    found = {("all", "rater_nll"): -np.mean(np.sum(share * np.log(clipped), axis=-1))}
    for c in classes:
        bins = np.minimum(np.floor(p[:, c].astype(np.float32) * np.float32(20)), 19)
        of_bins = [(bins == k, np.sum(bins == k)) for k in np.unique(bins)]
        gaps = [n * abs(p[at, c].mean() - share[at, c].mean()) for at, n in of_bins]
        found[c, "rater_ece"] = np.sum(gaps) / len(p)
        found[c, "rater_brier"] = np.mean((p[:, c] - share[:, c]) ** 2)
        if c:
            votes = np.sum(labels == c, axis=0)
            for k in range(number + 1):
                some = p[votes == k, c]
                metric = f"p_marked_by_{k}_of_{number}"
                found[c, metric] = some.mean() if some.size else np.nan
            dice = [
                f1_score(labels[0] == c, other == c, zero_division=np.nan) for other in labels[1:]
            ]
            found[c, "rater_dice"] = np.mean(dice)
    return found


def assert_scores(rows, case, spec, region, probs, raters, where):
    """Every number against several raters, of a case in a region."""
    of_region = {
        (spec.classes.index(row.label) if row.label != "all" else "all", row.metric): row.value
        for row in rows
        if (row.case, row.region) == (case, region) and re.match("rater_|p_marked_by_", row.metric)
    }
    scores = expected(probs, raters, where)
    assert of_region.keys() == scores.keys()
    for key, value in scores.items():
        np.testing.assert_allclose(of_region[key], value, rtol=2e-5, atol=1e-6, err_msg=str(key))


def stored_case(name, seed, spec, raters=2, size=SIZE):
    """A stored case and the probabilities predicted for it."""
    probs, labels = drawn(seed, len(spec.classes), raters, size)
    case = {
        "id": name.encode(),
        "image": np.zeros((*size, spec.channels), spec.dtype),
        "label": labels[0].astype(np.uint8),
        "raters": labels.astype(np.uint8),
    }
    if spec.region:
        case["region"] = np.random.default_rng([9, seed]).integers(0, 2, size, np.uint8)
    return case, probs


def scored(pairs, spec):
    """The results of cases with their predictions."""
    predictions = iter([probs for _, probs in pairs])
    cases = [case for case, _ in pairs]
    return score_cases(
        lambda image, native: next(predictions), cases, spec.classes, region=spec.region
    )


@pytest.mark.parametrize(("classes", "number"), [(2, 2), (3, 4)])
def test_metrics_are_their_formulae(classes, number):
    probs, raters = drawn(3, classes, number)
    where = np.random.default_rng(3).random(SIZE) < 0.7
    arguments = probs[None], raters[None], where[None]
    scores = expected(probs, raters, where)
    nll, brier, ece = (
        np.asarray(f(*arguments))[0]
        for f in (metrics.rater_nll, metrics.rater_brier, metrics.rater_ece)
    )
    votes = metrics.votes(*arguments).mean_probability[0]
    assert nll == pytest.approx(scores["all", "rater_nll"], rel=1e-5)
    for c in range(classes):
        assert brier[c] == pytest.approx(scores[c, "rater_brier"], rel=1e-5, abs=1e-6)
        assert ece[c] == pytest.approx(scores[c, "rater_ece"], rel=1e-5, abs=1e-6)
        if c:
            of_class = [scores[c, f"p_marked_by_{k}_of_{number}"] for k in range(number + 1)]
            np.testing.assert_allclose(votes[c], of_class, rtol=1e-5)


def test_the_oracle_is_that_of_sklearn():
    """A soft label is each rater's label with a weight of 1 / R."""
    probs, raters = drawn(0)
    scores = expected(probs, raters, np.ones(SIZE, bool))
    p = np.clip(np.tile(probs[..., 1].ravel(), 2).astype(np.float64), 1e-7, 1 - 1e-7)
    assert scores["all", "rater_nll"] == pytest.approx(log_loss(raters.ravel(), p), rel=1e-5)
    # The Brier score of single labels is larger by the variance of the raters.
    share = raters.mean(0)
    single = brier_score_loss(raters.ravel(), np.tile(probs[..., 1].ravel(), 2))
    variance = np.mean(share * (1 - share))
    assert scores[1, "rater_brier"] == pytest.approx(single - variance, rel=1e-5)


def test_one_rater_is_the_usual_metric():
    probs, raters = (x[None] for x in drawn(1, 3, 1))
    label = raters[:, 0]
    for one, usual in (
        (metrics.rater_nll, metrics.nll_full),
        (metrics.rater_brier, metrics.brier),
        (metrics.rater_ece, metrics.ece),
    ):
        np.testing.assert_allclose(one(probs, raters), usual(probs, label), rtol=1e-5)


def test_their_mean_is_a_perfect_prediction():
    _, raters = drawn(2, 3, 4)
    share = np.mean(raters[..., None] == np.arange(3), axis=0, dtype=np.float32)
    arguments = share[None], raters[None]
    np.testing.assert_allclose(metrics.rater_brier(*arguments), 0, atol=1e-12)
    np.testing.assert_allclose(metrics.rater_ece(*arguments), 0, atol=1e-6)
    means = np.asarray(metrics.votes(*arguments).mean_probability)[0]
    there = ~np.isnan(means)
    assert there.sum() > 10
    np.testing.assert_allclose(means[there], np.tile(np.arange(5) / 4, (3, 1))[there], atol=1e-6)


def test_what_makes_no_raters_is_refused():
    probs, raters = (x[None] for x in drawn(0))
    for bad, words in (
        (raters[:, 0], r"\(B, R, \*spatial\) .* got \(1, 7, 9\); pass labels\[:, None\]"),
        (raters[:, :0], r"R >= 1"),
        (raters + 1, r"labels hold 2"),
        (raters.astype(float), r"raters must be integer"),
        (raters[..., :-1], r"need integer labels"),
    ):
        for metric in (metrics.rater_nll, metrics.rater_brier, metrics.rater_ece, metrics.votes):
            with pytest.raises(ValueError, match=words):
                metric(probs, bad)


def test_without_voxels_they_are_undefined():
    probs, raters = (x[None] for x in drawn(0))
    nowhere = np.zeros((1, *SIZE), bool)
    for metric in (metrics.rater_nll, metrics.rater_brier, metrics.rater_ece):
        assert np.isnan(metric(probs, raters, nowhere)).all()
    assert np.isnan(metrics.votes(probs, raters, nowhere).mean_probability).all()


@pytest.mark.parametrize("part", [2**20, 16])
def test_every_number_of_cases_with_two_and_three_raters(part, monkeypatch):
    monkeypatch.setattr("dicepp_jax.scoring.PART", part)
    for spec, size in ((DRIVE, SIZE), (PHANTOM_3D, (3, 4, 5))):
        pairs = [stored_case(f"case {n}", n, spec, n, size) for n in (2, 3)]
        for result, (case, probs) in zip(scored(pairs, spec), pairs, strict=True):
            regions = {"image": np.ones(size, bool)}
            if spec.region:
                regions[spec.region] = case["region"] == 1
            for region, where in regions.items():
                raters = case["raters"].astype(int)
                assert_scores(result.rows, result.case, spec, region, probs, raters, where)


def test_other_rows_are_as_without_further_raters():
    pairs = [stored_case("a", 0, DRIVE), stored_case("b", 1, DRIVE, raters=1)]
    with_raters = [row for result in scored(pairs, DRIVE) for row in result.rows]
    plain = [({k: v for k, v in case.items() if k != "raters"}, p) for case, p in pairs]
    without = [row for result in scored(plain, DRIVE) for row in result.rows]
    others = [r for r in with_raters if not re.match("rater_|p_marked_by_", r.metric)]
    assert others == without and len(with_raters) > len(without)
    # A case with one rater is left out.
    assert {r.case for r in with_raters if r not in without} == {"a"}


def split_scores(tmp_path, seed=0):
    """Scores of three cases, one of which has one rater, written to a directory."""
    pairs = [stored_case(name, seed + ord(name), DRIVE, 2 - (name == "c")) for name in "abc"]
    predictions = iter([probs for _, probs in pairs])
    cases = [case for case, _ in pairs]
    return score_split(lambda image, native: next(predictions), cases, DRIVE, tmp_path, size=SIZE)


def test_scores_of_some_cases_are_written_read_and_compared(tmp_path):
    a = split_scores(tmp_path / "a")
    b = split_scores(tmp_path / "b", seed=7)
    assert repr(score_files.read(tmp_path / "a", DRIVE.classes).rows) == repr(a.rows)
    found = compare(a.rows, b.rows)
    (nll,) = (c for c in found if (c.metric, c.region) == ("rater_nll", "image"))
    assert (nll.cases, nll.undefined) == (2, 0)
    assert nll.mean_a == pytest.approx(
        np.mean([r.value for r in a.rows if r[2:4] == ("image", "rater_nll")])
    )


def test_comparisons_of_the_usual_metrics_do_not_depend_on_raters(tmp_path):
    scores = {name: split_scores(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 7))}
    found = comparisons(scores, "background")
    usual = {
        name: s._replace(rows=[r for r in s.rows if not re.match("rater_|p_marked", r.metric)])
        for name, s in scores.items()
    }
    expected_ = comparisons(usual, "background")
    assert repr(found[: len(expected_)]) == repr(expected_)
    assert {c.metric for c in found[len(expected_) :]} == {
        *("rater_nll", "rater_brier", "rater_ece"),
        *(f"p_marked_by_{k}_of_2" for k in range(3)),
    }


def test_the_table_of_several_raters(tmp_path):
    rows = split_scores(tmp_path).rows
    summaries = {"dsc": summarise(rows)}
    assert "rater" not in summary_table(summaries, "background")
    title, header, _, *lines = (
        rater_table({"dsc": rows, "b": rows}, "background").strip().splitlines()
    )
    assert title.startswith("Several raters, 2 cases: ")
    head = ["class", "region", "method", "dice", "rater_nll", "rater_brier", "rater_ece"]
    assert header.split() == [*head, *(f"p_marked_by_{k}_of_2" for k in range(3))]
    cells = [[c.strip() for c in re.split("  +", line)] for line in lines]
    assert [line[:3] for line in cells] == [
        ["vessel", region, name]
        for region in ("image", "field of view")
        for name in ("dsc", "b", "the other raters")
    ]
    # Of the cases with several raters alone.
    some = [row for row in rows if row.case in "ab"]
    for line in cells:
        metric = "rater_dice" if line[2] == "the other raters" else "dice"
        found = [
            r.value for r in some if (r.label, r.region, r.metric) == ("vessel", line[1], metric)
        ]
        assert line[3].split(" ± ")[0] == f"{np.mean(found):.4f}"
    assert rater_table({"dsc": [row for row in rows if row.case == "c"]}, "background") == ""


def test_the_report_of_a_run_has_the_table(tmp_path):
    scores = {name: split_scores(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 7))}
    built = types.SimpleNamespace(spec=DRIVE, scored_title="DRIVE, test split")
    text = report(scores, built, tmp_path)
    assert rater_table({name: s.rows for name, s in scores.items()}, "background") in text
    assert text.count("rater_brier") == 1


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".nii.gz"):
        layouts_3d.write_nifti(path, array, (3.0, 0.8, 0.7))
    else:
        Image.fromarray(array).save(path)


def write_set(root, where, raters, ending="png", size=(20, 24), lacking=()):
    """Images and the masks of raters; returns labels by case, `(raters, *size)` of those there."""
    labels = {}
    for number in range(3):
        rng = np.random.default_rng([6, number])
        case = f"c{number}"
        save(root / "images" / f"{case}.{ending}", rng.integers(0, 256, size, np.uint8))
        first = rng.integers(0, 2, size, np.uint8)
        of_case = [first ^ (rng.random(size) < 0.1) for _ in raters]
        there = [
            (name, x)
            for name, x in zip(raters, of_case, strict=True)
            if (name, case) not in lacking
        ]
        for name, label in there:
            save(root / where.format(rater=name, case=case, ending=ending), 255 * label)
        labels[case] = np.stack([label for _, label in there])
    return labels


def described(root, **options):
    """The spec, what is told, and the cases by name."""
    (spec, list_cases), told = folder.describe(
        root, files.tree(root), Options(**options), root.parent / "survey.json"
    )
    return spec, "\n".join(told), list_cases(files.tree(root))


@pytest.mark.parametrize(
    "where", ["masks/{rater}/{case}.{ending}", "labels/{case}_{rater}.{ending}"]
)
@pytest.mark.parametrize(
    "names",
    [
        ("rater1", "rater2"),
        ("observer_a", "observer_b"),
        ("1st_manual", "2nd manual"),
        ("Expert 2", "expert10"),
    ],
)
def test_raters_are_told_from_classes_by_their_names(tmp_path, where, names):
    labels = write_set(tmp_path / "set", where, names)
    spec, told, cases = described(tmp_path / "set")
    template = where.replace("{ending}", "*")
    assert f"--config.folder.masks='{template}'" in told
    assert f"raters: {names[0]} (3 cases), {names[1]} (3 cases); the first" in told
    assert spec.raters and spec.classes == ("background", "foreground")
    for case in cases:
        example = case.read()
        check_example(spec, example)
        np.testing.assert_array_equal(example.raters, labels[case.id])
        np.testing.assert_array_equal(example.label, labels[case.id][0])


def test_other_names_are_those_of_classes_until_rater_is_said(tmp_path):
    root = tmp_path / "set"
    labels = write_set(root, "masks/{rater}/{case}.png", ("anna", "bert"))
    spec, _, cases = described(root)
    assert spec.classes == ("background", "anna", "bert") and not spec.raters
    with pytest.raises(ValueError, match="raters, give both templates, as in --config"):
        cases[0].read()
    said = {"images": "images/{case}.*", "masks": "masks/{rater}/{case}.*"}
    spec, _, cases = described(root, **said)
    assert spec.raters
    np.testing.assert_array_equal(cases[1].read().raters, labels["c1"])
    # And raters' names those of classes, if that is said.
    (root / "masks" / "anna").rename(root / "masks" / "rater1")
    (root / "masks" / "bert").rename(root / "masks" / "rater2")
    spec, _, _ = described(root, images="images/{case}.*", masks="masks/{class}/{case}.*")
    assert spec.classes == ("background", "rater1", "rater2")


def test_cases_may_lack_raters(tmp_path):
    root, prepared = tmp_path / "set", str(tmp_path / "prepared")
    lacking = {("rater1", "c0"), ("rater2", "c1")}
    labels = write_set(root, "masks/{rater}/{case}.png", ("rater1", "rater2"), lacking=lacking)
    spec, told, cases = described(root)
    assert "raters: rater1 (2 cases), rater2 (2 cases); the first of them who marked a case" in told
    assert "1 of 3 cases are also scored against several" in told
    stored = prepare(spec, lambda: cases, prepared).as_data_source("cases")
    for index, case in enumerate(cases):
        assert len(labels[case.id]) == 1 + (case.id == "c2")
        np.testing.assert_array_equal(stored[index]["raters"], labels[case.id])
        np.testing.assert_array_equal(stored[index]["label"], labels[case.id][0])


def test_a_further_rater_prepares_the_set_again_and_no_rater_leaves_it(tmp_path):
    root, prepared = tmp_path / "set", str(tmp_path / "prepared")
    write_set(root, "masks/{rater}/{case}.png", ("rater1",))
    said = {"images": "images/{case}.*", "masks": "masks/{rater}/{case}.*"}
    spec, _, cases = described(root, **said)
    assert not spec.raters
    first = prepare(spec, lambda: cases, prepared)
    labels = write_set(root, "masks/{rater}/{case}.png", ("rater1", "rater2"))
    more, _, further = described(root)
    assert fingerprint(more, further) != first.origin().fingerprint
    stored = prepare(more, lambda: further, prepared).as_data_source("cases")
    np.testing.assert_array_equal(stored[2]["raters"], labels["c2"])
    # The masks of two raters are not those of one, united.
    united, _, same = described(root, images="images/{case}.*", masks="masks/*/{case}.*")
    assert [len(c.files) for c in same] == [len(c.files) for c in further] == [3] * 3
    assert fingerprint(united, same) != fingerprint(more, further)


def test_volumes_keep_their_raters_on_the_native_grid(tmp_path):
    root, size = tmp_path / "set", (6, 20, 24)
    labels = write_set(root, "masks/{rater}/{case}.nii.gz", ("reader1", "reader2"), "nii.gz", size)
    spec, _, cases = described(root, spacing=(3.0, 1.6, 1.4))
    example = cases[0].read()
    check_example(spec, example)
    np.testing.assert_array_equal(example.raters, labels["c0"])
    np.testing.assert_array_equal(example.native_label, labels["c0"][0])
    assert example.label.shape == (6, 10, 12)


def test_several_masks_of_a_rater_are_united(tmp_path):
    root = tmp_path / "set"
    labels = write_set(root, "masks/{rater}/{case}.png", ("rater1", "rater2"))
    more = np.zeros_like(labels["c1"][1])
    more[:5] = 255
    save(root / "masks" / "rater2" / "c1_2.png", more)
    _, told, cases = described(root)
    assert "1 of 3 cases have up to 2 mask files of a rater, which are united: c1" in told
    np.testing.assert_array_equal(cases[1].read().raters[1], labels["c1"][1] | (more > 0))


def test_classes_in_files_of_their_own_and_raters_are_refused(tmp_path):
    root = tmp_path / "set"
    write_set(root, "masks/{rater}/{case}.png", ("rater1", "rater2"))
    with pytest.raises(
        ValueError, match=r"classes of several raters cannot be read; save one label"
    ):
        described(root, images="images/{case}.*", masks="masks/{rater}/{class}/{case}.*")


def test_raters_may_save_their_masks_in_different_ways(tmp_path):
    """As DRIVE's observers: 0 and 255, and palettes of 3 and 253; or as 0 and 1."""
    root, declared = tmp_path / "set", ("background", "vessel")
    labels = write_set(root, "masks/{rater}/{case}.gif", ("rater1", "rater2"))
    for write, options in (
        (layouts.ENCODINGS["palette"], {"classes": declared}),
        (Image.fromarray, {}),
    ):
        for case, (_, second) in labels.items():
            write(second).save(root / "masks" / "rater2" / f"{case}.gif")
        spec, _, cases = described(root, **options)
        assert len(spec.classes) == 2
        for case in cases:
            np.testing.assert_array_equal(case.read().raters, labels[case.id])


def test_a_value_that_only_one_rater_uses_is_a_class(tmp_path):
    root = tmp_path / "set"
    labels = write_set(root, "masks/{rater}/{case}.png", ("rater1", "rater2"))
    for case, of_case in labels.items():
        of_case[1][0] = 2
        for name, label in zip(("rater1", "rater2"), of_case, strict=True):
            save(root / "masks" / name / f"{case}.png", label)
    spec, _, cases = described(root)
    assert spec.classes == ("background", "class_1", "class_2")
    np.testing.assert_array_equal(cases[0].read().raters, labels["c0"])


def call(capsys, *flags):
    with pytest.raises(SystemExit) as ended:
        evaluate.main(list(flags))
    return ended.value.code, *capsys.readouterr()


def test_evaluate_scores_against_all_raters(tmp_path, capsys):
    pairs = {f"c{n}": drawn(n) for n in range(3)}
    for case, (probs, raters) in pairs.items():
        save(tmp_path / "out" / "masks" / f"{case}.tif", probs.argmax(-1).astype(np.uint8))
        save(tmp_path / "out" / "probabilities" / "vessel" / f"{case}.tif", probs[..., 1])
        for name, label in zip(("first", "second"), raters, strict=True):
            if (name, case) != ("second", "c2"):
                save(tmp_path / "truth" / name / f"{case}_{name}.gif", 255 * label.astype(np.uint8))
    flags = (
        f"--predictions={tmp_path / 'out'}",
        f"--truth={tmp_path / 'truth'}/{{rater}}/{{case}}_{{rater}}.gif",
        f"--output={tmp_path / 'scores'}",
        "--classes=background,vessel",
    )
    code, printed, error = call(capsys, *flags)
    assert (code, error) == (0, "")
    rows = read_csv(tmp_path / "scores" / "cases.csv", Row)
    found = {(row.case, row.label, row.metric): row.value for row in rows}
    for case, (probs, raters) in pairs.items():
        if case == "c2":
            assert (case, "vessel", "rater_dice") not in found
            continue
        for (c, metric), value in expected(probs, raters, np.ones(SIZE, bool)).items():
            label = "all" if c == "all" else ("background", "vessel")[c]
            assert found[case, label, metric] == pytest.approx(value, rel=2e-4, abs=1e-5)
    assert "Several raters, 2 cases" in printed
    with pytest.raises(SystemExit, match=r"lacks \{case\}"):
        evaluate.main([flags[0], f"--truth={tmp_path / 'truth'}/{{rater}}/a.gif", *flags[2:]])
