"""`python -m experiments.evaluate`: masks and probabilities against truth; what it refuses."""

import json
import re
import subprocess
import sys
from pathlib import Path

import layouts
import layouts_3d
import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from dicepp_jax.metrics import CALIBRATION
from dicepp_jax.rows import Row, Summary, read_csv
from dicepp_jax.split_calibration import SplitCalibration
from experiments import evaluate

ROOT = Path(__file__).parents[1]
CLASSES = ("background", "kidney", "tumour")
SPACING = (3.0, 1.5, 1.0)


def call(capsys, *flags):
    """Run the command; returns its exit code and what it printed, on both streams."""
    with pytest.raises(SystemExit) as ended:
        evaluate.main(list(flags))
    printed = capsys.readouterr()
    code = ended.value.code
    return (1, printed.out, printed.err + code) if isinstance(code, str) else (code, *printed)


def flags(predictions, truth, *more):
    return f"--predictions={predictions}", f"--truth={truth}", *more


def labels(number, shape=(6, 9, 8)):
    """Blobs of three classes."""
    noise = np.random.default_rng([4, number]).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, 1.5)
    return np.digitize(smooth, np.quantile(smooth, [0.6, 0.85])).astype(np.uint8)


def softmax(number, shape=(6, 9, 8)):
    """Probabilities of three classes that favour the truth."""
    logits = np.random.default_rng([5, number]).normal(size=(*shape, 3))
    exponentials = np.exp(logits + 1.5 * np.eye(3)[labels(number, shape)])
    return exponentials / exponentials.sum(-1, keepdims=True)


def predicted(folder, numbers, dtype=np.float32):
    """Write what prediction writes, and the truth beside it; returns probabilities by number."""
    probs = {}
    for number in numbers:
        probs[number] = softmax(number)
        name = f"case{number}.nii.gz"
        mask = probs[number].argmax(-1).astype(np.uint8)
        layouts_3d.write_nifti(folder / "out" / "masks" / name, mask, SPACING)
        layouts_3d.write_nifti(folder / "truth" / name, labels(number), SPACING)
        for label in (1, 2):
            p = probs[number][..., label]
            path = folder / "out" / "probabilities" / CLASSES[label] / name
            layouts_3d.write_nifti(path, (p * 255).round() if dtype == np.uint8 else p, SPACING)
            if dtype == np.uint8:
                rescale(path)
    settings = json.dumps({"classes": CLASSES})
    (folder / "out" / "prediction.json").write_text(settings)
    return probs


def rescale(path):
    """Make a volume of whole numbers up to 255 one of bytes with a slope of 1/255."""
    source = nib.load(path)
    image = nib.Nifti1Image(np.asarray(source.dataobj).astype(np.uint8), source.affine)
    image.header.set_slope_inter(1 / 255, 0)
    nib.save(image, path)


def expected_rows(p, y, label):
    """Metrics of a class by their formulae."""
    mask, truth = p.argmax(-1) == label, y == label
    tp, fp, fn = (np.sum(x) for x in (mask & truth, mask & ~truth, ~mask & truth))
    tn = mask.size - tp - fp - fn
    shell = ndimage.generate_binary_structure(3, 1)
    surfaces = [np.argwhere(x & ~ndimage.binary_erosion(x, shell)) * SPACING for x in (mask, truth)]
    far = np.linalg.norm(surfaces[0][:, None] - surfaces[1][None], axis=-1)
    there, back = far.min(1), far.min(0)
    return {
        "nll": -np.mean(truth * np.log(p[..., label])),
        "brier": np.mean((truth - p[..., label]) ** 2),
        "dice": 2 * tp / (2 * tp + fp + fn),
        "jaccard": tp / (tp + fp + fn),
        "precision": tp / (tp + fp),
        "recall": tp / (tp + fn),
        "specificity": tn / (tn + fp),
        "volume_difference": (fp - fn) / (tp + fn),
        "hausdorff95": max(np.percentile(there, 95), np.percentile(back, 95)),
        "surface_dice_1.2mm": np.mean(np.concatenate([there, back]) <= 1.2),
    }


def test_volumes_with_probabilities(tmp_path, capsys):
    probs = predicted(tmp_path, (0, 1))
    more = ("--tolerance=1.2", f"--output={tmp_path / 'scores'}")
    code, printed, error = call(capsys, *flags(tmp_path / "out", tmp_path / "truth", *more))
    assert (code, error) == (0, "")
    rows = read_csv(tmp_path / "scores" / "cases.csv", Row)
    image = [row for row in rows if row.region == "image"]
    found = {(row.case, row.label, row.metric): row.value for row in image}
    assert len(found) == len(image) and {"aurc", "entropy_auroc"} <= {r.metric for r in image}
    assert {(r.region, r.metric) for r in rows if r not in image} == {
        ("band", metric) for metric in CALIBRATION
    }
    for number, p in probs.items():
        for label in (1, 2):
            for metric, value in expected_rows(p, labels(number), label).items():
                place = (f"case{number}", CLASSES[label], metric)
                np.testing.assert_allclose(found[place], value, rtol=1e-4, err_msg=str(place))
    assert {"ece", "nll_full"} <= {row.metric for row in rows}
    summaries = read_csv(tmp_path / "scores" / "summary.csv", Summary)
    for label, metric in (("tumour", "hausdorff95"), ("kidney", "dice")):
        mean = np.mean([found[f"case{number}", label, metric] for number in (0, 1)])
        (summary,) = (s for s in summaries if (s.label, s.metric) == (label, metric))
        assert summary.mean == pytest.approx(mean)
        assert re.search(rf"{label} +image +{metric} +{mean:.4f} ± ", printed)
    assert "background" not in printed
    # The errors of all voxels together, and of connected parts of the most probable class.
    for row in read_csv(tmp_path / "scores" / "calibration.csv", SplitCalibration):
        target = CLASSES.index(row.label)
        count = sum(ndimage.label(p.argmax(-1) == target)[1] for p in probs.values())
        assert (row.lesions, row.low <= row.high) == (count, True)
        assert re.search(rf"{row.label} +probabilities +{row.ece:.4f} +{row.low:.4f} to", printed)


def test_names_are_one_in_any_spelling_of_their_accents(tmp_path, capsys):
    """Predicted on macOS, which decomposes accents, and annotated elsewhere."""
    predicted(tmp_path, (0,))
    for path in list(tmp_path.rglob("case0.nii.gz")):
        spelling = "\u00e9" if path.parent.name == "truth" else "e\u0301"
        path.rename(path.with_name(f"{spelling}.nii.gz"))
    for truth in (tmp_path / "truth", tmp_path / "truth/{case}.nii.gz"):
        output = f"--output={tmp_path / 'scores'}"
        code, _, error = call(capsys, *flags(tmp_path / "out", truth, output))
        assert (code, error) == (0, "")
        rows = read_csv(tmp_path / "scores" / "cases.csv", Row)
        assert {row.case for row in rows} == {"\u00e9"} and "nll" in {row.metric for row in rows}


def test_probabilities_of_bytes_are_too_coarse_for_nll(tmp_path, capsys):
    probs = predicted(tmp_path, (0,), np.uint8)
    more = f"--output={tmp_path / 'scores'}"
    code, printed, _ = call(capsys, *flags(tmp_path / "out", tmp_path / "truth", more))
    assert code == 0
    assert "nll, nll_full and aurc are left out for 1 cases" in printed
    rows = read_csv(tmp_path / "scores" / "cases.csv", Row)
    found = {(row.label, row.metric): row.value for row in rows}
    assert not {"nll", "nll_full", "aurc"} & {metric for _, metric in found}
    for label in (1, 2):
        expected = expected_rows(probs[0], labels(0), label)
        np.testing.assert_allclose(found[CLASSES[label], "brier"], expected["brier"], atol=2e-3)


def test_pictures_by_pattern_and_what_cannot_be_scored(tmp_path, capsys):
    masks = {}
    for number in range(5):
        masks[number] = np.random.default_rng([6, number]).random((2, 12, 10)) < 0.5
        if number != 3:
            path = tmp_path / "made" / f"{number:02d}_test.png"
            layouts.write_mask(path, masks[number][0].astype(np.uint8))
        if number != 4:
            path = tmp_path / "drawn" / f"{number:02d}_manual.gif"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.uint8(255 * masks[number][1])).save(path)
    (tmp_path / "made" / "02_test.png").write_bytes(b"no image")
    command = [
        *(sys.executable, "-m", "experiments.evaluate", "--classes=background,vessel"),
        f"--predictions={tmp_path / 'made'}/{{case}}_test.png",
        f"--truth={tmp_path / 'drawn'}/{{case}}_*.gif",
        f"--output={tmp_path / 'scores'}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "  1 predictions without truth: 04\n" in done.stderr
    assert "  1 truth without prediction: 03\n" in done.stderr
    assert re.search(r"  02: .*02_test\.png cannot be read as an image", done.stderr)
    assert done.stdout.startswith("2 cases, mean ± bootstrap standard error\n")
    rows = read_csv(tmp_path / "scores" / "cases.csv", Row)
    assert {row.case for row in rows} == {"00", "01"}
    assert "brier" not in {row.metric for row in rows}
    for number in (0, 1):
        p, y = masks[number]
        (found,) = (r.value for r in rows if r[:4] == (f"{number:02d}", "vessel", "image", "dice"))
        assert found == pytest.approx(2 * np.sum(p & y) / (p.sum() + y.sum()), rel=1e-6)


def test_a_class_in_only_one_of_both_is_infinitely_far(tmp_path, capsys):
    for number in (0, 1):
        mask = labels(number)
        truth = mask if number else np.minimum(mask, 1)
        layouts_3d.write_nifti(tmp_path / "p" / f"{number}.nii", mask, SPACING)
        layouts_3d.write_nifti(tmp_path / "t" / f"{number}.nii", truth, SPACING)
    more = ("--classes", ",".join(CLASSES), f"--output={tmp_path}")
    code, printed, _ = call(capsys, *flags(tmp_path / "p", tmp_path / "t", *more))
    assert code == 0
    assert (
        "1 distances are infinite, as a class is present in only one of prediction and truth"
        in printed
    )
    rows = read_csv(tmp_path / "cases.csv", Row)
    far = [r.value for r in rows if (r.label, r.metric) == ("tumour", "hausdorff95")]
    assert far == [np.inf, 0]
    assert re.search(r"tumour +image +hausdorff95 +0.0000 \(1 undefined\)", printed)


def spoil_truth(array, spacing=SPACING):
    return lambda folder: layouts_3d.write_nifti(folder / "truth/case0.nii.gz", array, spacing)


def spoil_map(array):
    path = "out/probabilities/kidney/case0.nii.gz"
    return lambda folder: layouts_3d.write_nifti(folder / path, array, SPACING)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            spoil_truth(labels(0)[:5]),
            "masks/case0.nii.gz and .*truth/case0.nii.gz are on different",
        ),
        (spoil_truth(labels(0), (3.0, 1.5, 1.1)), "are on different grids: .*spacing"),
        (spoil_truth(3 * labels(0)), "holds 6, expected the classes 0 to 2; renumber them"),
        (spoil_map(np.full((6, 9, 8), 1.5, np.float32)), "goes from 1.5 to 1.5, expected prob"),
        (spoil_map(np.full((6, 9, 8), np.nan, np.float32)), "goes from nan to nan, expected prob"),
        (spoil_map(np.zeros((6, 9, 7), np.float32)), "kidney/case0.nii.gz and .* different grids"),
        (
            lambda folder: (folder / "out/probabilities/tumour/case0.nii.gz").unlink(),
            ".*tumour/case0.nii.gz does not exist, though the maps of other classes do",
        ),
    ],
)
def test_a_case_that_cannot_be_scored_is_told(tmp_path, capsys, spoil, message):
    predicted(tmp_path, (0,))
    spoil(tmp_path)
    code, printed, error = call(capsys, *flags(tmp_path / "out", tmp_path / "truth"))
    assert (code, printed) == (1, "")
    assert re.search(f"could be scored:\n  case0: .*{message}", error)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--truth=NO"], "NO does not exist; give the folder that contains the set's files"),
        (["--truth=empty"], "there is no label map in empty"),
        (["--truth=other"], "no prediction and truth have the same name: case0; x. Give a pattern"),
        (
            ["--predictions=bare"],
            "prediction.json, which experiments.predict writes, does not exist",
        ),
        (["--classes=vessel"], "--classes is 'vessel', expected background,NAME,..."),
        (["--tolerance=-1"], "tolerance must be a distance in mm, 0 or more, got -1.0"),
    ],
)
def test_a_wrong_command_ends_in_one_clear_line(tmp_path, capsys, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    predicted(Path(), (0,))
    Path("empty").mkdir()
    for name in ("other/x.nii", "bare/case0.nii"):
        layouts_3d.write_nifti(Path(name), labels(0), SPACING)
    code, printed, error = call(capsys, *flags("out", "truth", *more))
    assert (code, printed) == (1, "") and message in error


@pytest.mark.parametrize(
    ("values", "array"), [((0, 1), True), ((0, 255), True), ((0, 130), True), ((0, 2), False)]
)
def test_the_second_of_two_classes_may_be_drawn_white(tmp_path, capsys, values, array):
    mask = np.random.default_rng(1).random((9, 8)) < 0.4
    layouts.write_mask(tmp_path / "p" / "a.png", mask.astype(np.uint8))
    Path(tmp_path / "t").mkdir()
    Image.fromarray(np.choose(mask, np.uint8(values))).save(tmp_path / "t" / "a.png")
    more = ("--classes=background,vessel", f"--output={tmp_path}")
    code, _, error = call(capsys, *flags(tmp_path / "p", tmp_path / "t", *more))
    assert code == (0 if array else 1)
    if array:
        rows = read_csv(tmp_path / "cases.csv", Row)
        assert {row.value for row in rows if row.metric == "dice"} == {1.0}
    else:
        assert "t/a.png holds 2, expected the classes 0 to 1" in error
