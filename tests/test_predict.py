"""`python -m experiments.predict`: what it reads, writes, passes over and refuses."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import layouts_3d
import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from test_docs import run_blocks
from test_saved import save_linear

from configs import base
from dicepp_jax import schedule, train
from dicepp_jax.checkpoint import Checkpoints
from dicepp_jax.data import files, nifti
from dicepp_jax.data.specs import KITS19, PHANTOM
from dicepp_jax.predictions import images as image_inputs
from dicepp_jax.predictions import lesions, outputs
from dicepp_jax.predictions.decisions import THRESHOLDS
from dicepp_jax.rows import read_csv, write_csv
from dicepp_jax.saved import load_model, segment
from experiments import evaluate, predict
from experiments.setup import components
from experiments.workdirs import directory, trained

ROOT = Path(__file__).parents[1]
KITS = dataclasses.replace(KITS19, spacing=(3.0, 1.5, 1.5))


def save_epoch(workdir, made, epoch, seed, val_loss):
    """An epoch of an untrained network, as a run keeps it."""
    state = components.init_state(made, seed)
    plan = schedule.init(made.settings)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(train.Epoch(epoch, 0.1, 1.0, val_loss, 1.0, 0.0, state, plan))
    return state.params


def write_run(workdir, data_dir, epochs=((0, 0, 0.5),)):
    """The directory of a run of the vessel phantom; returns its parts."""
    config = base.get_config()
    config.data.data_dir, config.data.size = data_dir, (16, 16)
    config.model.filters, config.model.depth = 2, 1
    made = components.build(config)
    directory.open_workdir(workdir, config, made.loaded)
    for epoch, seed, val_loss in epochs:
        save_epoch(workdir, made, epoch, seed, val_loss)
    return made


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, data_dir):
    folder = tmp_path_factory.mktemp("runs") / "phantom"
    write_run(folder, data_dir)
    return folder


@pytest.fixture
def images(tmp_path):
    """A folder of pictures of several kinds; returns it and the arrays by name."""
    folder, arrays = tmp_path / "images", {}
    for number, ending in enumerate(("png", "tif", "png")):
        shape = (20 + number, 31, 3) if number < 2 else (24, 18)
        array = np.random.default_rng([1, number]).integers(0, 256, shape, np.uint8)
        name = f"{'sub/' if number == 1 else ''}case{number}"
        path = folder / f"{name}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
        arrays[name] = array
    return folder, arrays


def call(capsys, *arguments):
    """Run the command; returns its exit code and what it printed, on both streams."""
    with pytest.raises(SystemExit) as ended:
        predict.main(list(map(str, arguments)))
    printed = capsys.readouterr()
    code = ended.value.code
    if isinstance(code, str):
        return 1, printed.out, printed.err + code
    return code, printed.out, printed.err


def options(workdir, source, output, *more):
    return "--workdir", workdir, "--input", source, "--output", output, *more


def written(output):
    """Files below a folder and when they were written."""
    kept = (path for path in output.rglob("*") if path.is_file() and path.name[0] != "p")
    return {path.relative_to(output).as_posix(): path.stat().st_mtime_ns for path in kept}


def test_a_folder_of_images_of_which_one_is_broken(workdir, images, tmp_path):
    folder, arrays = images
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    command = [sys.executable, "-m", "experiments.predict", f"--workdir={workdir}"]
    flags = [f"--input={folder}", f"--output={tmp_path / 'out'}"]
    done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "model: Vessel phantom, background, vessel, 1 epoch, validation loss 0.5" in done.stdout
    assert f"3 of 4 cases are in {tmp_path / 'out'}" in done.stdout
    assert "error: 1 case failed:\n  broken: " in done.stderr
    assert "broken.png cannot be read as an image" in done.stderr
    assert "Traceback" not in done.stderr
    model = load_model(workdir)
    for name, array in arrays.items():
        probs = model.predict(array)
        with Image.open(tmp_path / "out" / "masks" / f"{name}.png") as mask:
            assert mask.mode == "P"
            np.testing.assert_array_equal(np.asarray(mask), probs.argmax(-1))
            assert mask.getpalette()[:3] == [0, 0, 0]
        with Image.open(tmp_path / "out" / "probabilities" / "vessel" / f"{name}.png") as image:
            assert image.mode == "L"
            np.testing.assert_allclose(np.asarray(image) / 255, probs[..., 1], atol=0.5001 / 255)
        with Image.open(tmp_path / "out" / "overlays" / f"{name}.png") as image:
            assert min(image.size) > 200
    settings = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert (settings["classes"], settings["threshold"]) == (["background", "vessel"], None)
    assert not list(tmp_path.rglob("*.part*"))


def test_what_is_done_is_passed_over(workdir, images, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = options(workdir, images[0], out)
    assert call(capsys, *arguments)[0] == 0
    first = written(out)
    assert len(first) == 13  # Mask, map, overlay and lesions of each case; all lesions.
    code, printed, _ = call(capsys, *arguments)
    assert code == 0 and "3 of 3 cases are already done" in printed
    assert written(out) == first
    # A picture that is missing, and one that is older than its image, are made again.
    (out / "overlays" / "case0.png").unlink()
    os.utime(out / "masks" / "sub" / "case1.png", (1, 1))
    code, printed, _ = call(capsys, *arguments)
    assert "1 of 3 cases are already done" in printed
    changed = {name for name, moment in written(out).items() if moment != first[name]}
    changed -= {"lesions.csv"}
    assert {re.search(r"(sub/)?case\d", name)[0] for name in changed} == {"case0", "sub/case1"}
    shutil.copytree(workdir / "model", tmp_path / "model")
    os.utime(tmp_path / "model" / "model.json", (2**32, 2**32))
    _, printed, _ = call(capsys, *options(tmp_path / "model", images[0], out))
    assert "already" not in printed


def test_other_settings_need_another_folder(workdir, images, tmp_path, capsys):
    call(capsys, *options(workdir, images[0], tmp_path / "out"))
    more = ("--threshold=0.3", "--probabilities=none")
    code, _, error = call(capsys, *options(workdir, images[0], tmp_path / "out", *more))
    assert code == 1
    assert (
        "made with other settings (threshold None there, 0.3 here; target None there, vessel"
        in error
    )
    assert "probabilities uint8 there, none here); choose another --output" in error


def test_a_threshold_and_maps_in_full(workdir, images, tmp_path, capsys):
    folder, arrays = images
    model = trained.open_model(workdir)
    threshold = round(float(np.median(model.predict(arrays["case0"])[..., 1])), 3)
    more = (f"--threshold={threshold}", "--probabilities=float32")
    code, printed, _ = call(capsys, *options(workdir, folder, tmp_path / "out", *more))
    assert code == 0 and f"classes: vessel where p >= {threshold}" in printed
    for name, array in arrays.items():
        probs = model.predict(array)
        found = np.asarray(Image.open(tmp_path / "out" / "masks" / f"{name}.png"))
        np.testing.assert_array_equal(found, probs[..., 1] >= np.float32(threshold))
        assert 0 < found.mean() < 1
        path = tmp_path / "out" / "probabilities" / "vessel" / f"{name}.png"
        read = outputs.read_probability(path)
        np.testing.assert_allclose(read.pixels.array, probs[..., 1], atol=1 / 65535)
        assert not read.coarse
    call(capsys, *options(workdir, folder, tmp_path / "bare", "--probabilities=none"))
    assert not (tmp_path / "bare" / "probabilities").exists()


@pytest.mark.parametrize("name", ["recall", "precision"])
def test_the_threshold_of_validation(workdir, images, tmp_path, capsys, name):
    model, made = trained.open_model(workdir), components.build(trained.read_config(workdir))
    cases = made.splits["validation"]
    p = np.concatenate([model.predict(case["image"])[..., 1].ravel() for case in cases])
    y = np.concatenate([case["label"].ravel() for case in cases]) == 1
    called = [p >= np.float32(threshold) for threshold in THRESHOLDS]
    rate = [np.mean(m[y]) if name == "recall" else np.mean(y[m]) if m.any() else 0 for m in called]
    wanted = float((rate[0] + max(rate) + 2 * rate[-1]) / 4 if name == "recall" else max(rate))
    reaching = THRESHOLDS[np.array(rate) >= wanted]
    expected = reaching.max() if name == "recall" else reaching.min()
    assert THRESHOLDS[0] < expected < THRESHOLDS[-1]
    out = tmp_path / "out"
    code, printed, error = call(capsys, *options(workdir, images[0], out, f"--{name}={wanted}"))
    assert code == 0, error
    assert f"vessel where p >= {expected:g}, recall 0." in printed
    assert json.loads((out / "prediction.json").read_text())["threshold"] == expected
    rows = [
        row
        for row in read_csv(workdir / trained.CURVE, trained.ValidationCount)
        if row.label == "vessel"
    ]
    np.testing.assert_array_equal([row.threshold for row in rows], THRESHOLDS)
    np.testing.assert_array_equal([row.tp for row in rows], [np.sum(m & y) for m in called])
    assert {row.tp + row.fp + row.fn + row.tn for row in rows} == {y.size}
    found = np.nan_to_num([getattr(row, name) for row in rows])
    np.testing.assert_allclose(found, rate, rtol=1e-6)


def test_counts_are_kept_and_belong_to_an_epoch(workdir, tmp_path):
    model = trained.open_model(workdir)
    counts = trained.validation_counts(workdir, model)
    # They are enough where the data are not.
    folder = tmp_path / "sent"
    shutil.copytree(workdir / "model", folder / "model")
    shutil.copy(workdir / trained.CURVE, folder / trained.CURVE)
    np.testing.assert_array_equal(trained.validation_counts(folder, model), counts)
    kept = [
        row._replace(epoch=3) for row in read_csv(folder / trained.CURVE, trained.ValidationCount)
    ]
    write_csv(folder / trained.CURVE, kept)
    message = r"validation_thresholds\.csv has no counts for this model, and the validation .*run"
    with pytest.raises(FileNotFoundError, match=message):
        trained.validation_counts(folder, model)
    shutil.copy(workdir / "run.json", folder / "run.json")
    about = json.loads((folder / "run.json").read_text())
    about["config"]["data"]["name"] = "drive"
    (folder / "run.json").write_text(json.dumps(about))
    with pytest.raises(FileNotFoundError, match=r"are not available: DRIVE needs .*manual_dir"):
        trained.validation_counts(folder, model)


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    """A model of three classes of volumes, without a run."""
    folder = tmp_path_factory.mktemp("kits")
    save_linear(folder, KITS, (4, 8, 8))
    return folder


def check_volume(output, name, path, model):
    """What was written of a NIfTI file, against the model on its canonical array."""
    volume = nifti.read(files.from_path(path))
    probs = model.predict(volume.array, volume.grid.spacing)
    source = nib.load(path)
    for file, expected, within in (
        (output / "masks" / name, probs.argmax(-1), 0),
        (output / "probabilities" / "kidney" / name, probs[..., 1], 0.5001 / 255),
        (output / "probabilities" / "tumour" / name, probs[..., 2], 0.5001 / 255),
    ):
        found = nib.load(file)
        np.testing.assert_array_equal(found.affine, source.affine)
        assert found.shape == source.shape
        for field in ("qform_code", "sform_code", "xyzt_units", "pixdim"):
            np.testing.assert_array_equal(found.header[field], source.header[field])
        assert found.get_data_dtype() == np.uint8
        read = nifti.read(files.from_path(file))
        np.testing.assert_allclose(read.array, expected, atol=within)
    return probs


def test_volumes_of_any_orientation(kits, tmp_path, capsys):
    scan = layouts_3d.scan(0, shape=(7, 9, 11))
    for order in ("IPL", "RAS", "PIR"):
        path = tmp_path / "in" / f"{order}_0000.nii.gz"
        layouts_3d.write_nifti(path, scan.image, scan.spacing, order)
    assert call(capsys, *options(kits, tmp_path / "in", tmp_path / "out"))[0] == 0
    model = load_model(kits)
    same = [
        check_volume(
            tmp_path / "out", f"{order}.nii.gz", tmp_path / "in" / f"{order}_0000.nii.gz", model
        )
        for order in ("IPL", "RAS", "PIR")
    ]
    np.testing.assert_allclose(same[1:], [same[0]] * 2, atol=1e-6)
    assert len(np.unique(same[0].argmax(-1))) > 1


def test_an_oblique_volume_with_its_header_in_full(kits, tmp_path, capsys):
    rng = np.random.default_rng(5)
    affine = np.diag([0.9, 0.8, 2.5, 1])
    affine[:3, :3] = affine[:3, :3] @ nib.eulerangles.euler2mat(0.2, 0.1, -0.3)
    image = nib.Nifti1Image(rng.normal(100, 90, (9, 8, 6)).astype(np.float32), affine)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    (tmp_path / "in").mkdir()
    nib.save(image, tmp_path / "in" / "a.nii")
    more = ("--probabilities=float32", "--threshold=0.2", "--target=tumour")
    assert call(capsys, *options(kits, tmp_path / "in" / "a.nii", tmp_path / "out", *more))[0] == 0
    found = nib.load(tmp_path / "out" / "masks" / "a.nii.gz")
    np.testing.assert_array_equal(found.affine, nib.load(tmp_path / "in" / "a.nii").affine)
    assert found.header["qform_code"] == 1
    volume = nifti.read(files.from_path(tmp_path / "in" / "a.nii"))
    probs = load_model(kits).predict(volume.array, volume.grid.spacing)
    path = tmp_path / "out" / "probabilities" / "tumour" / "a.nii.gz"
    np.testing.assert_array_equal(nifti.read(files.from_path(path)).array, probs[..., 2])
    mask = nifti.read_label(files.from_path(tmp_path / "out" / "masks" / "a.nii.gz")).array
    np.testing.assert_array_equal(mask, segment(probs, 0.2, target=2))


def test_certain_probabilities_in_bytes_are_at_most_one(tmp_path):
    scan = layouts_3d.scan(0, shape=(3, 4, 5))
    layouts_3d.write_nifti(tmp_path / "a.nii", scan.image, scan.spacing)
    case = image_inputs.InputCase("a", (files.from_path(tmp_path / "a.nii"),))
    image = image_inputs.read(case, KITS)
    expected = np.linspace(0, 1, 60, dtype=np.float32).reshape(3, 4, 5)
    probs = np.stack([1 - expected, expected, 0 * expected], -1)
    wanted = outputs.Wanted(outputs.UINT8)
    to = outputs.paths(tmp_path / "out", case, KITS, wanted)
    model = types.SimpleNamespace(classes=KITS.classes, spec=KITS)
    outputs.write(to, case, image, probs, probs.argmax(-1).astype(np.uint8), model, wanted)
    volume = nib.load(to.probabilities[0])
    for dtype in (np.float32, np.float64):
        read = volume.get_fdata(dtype=dtype, caching="unchanged")
        assert read.dtype == dtype and read.min() == 0
        # No slope in float32 gives 1 in float64: the one above 1/255 gives 1 + 2**-24.
        assert 1 - 2**-23 < read.max() <= 1
    ours = outputs.read_probability(to.probabilities[0]).pixels.array
    np.testing.assert_array_equal(ours, np.float32(np.rint(255 * expected)) / np.float32(255))
    assert ours.max() == 1
    volume.header.set_slope_inter(1 / 255, 0)  # As before.
    stored = np.asarray(volume.dataobj.get_unscaled())
    earlier = nib.Nifti1Image(stored, volume.affine, volume.header)
    nib.save(earlier, tmp_path / "earlier.nii")
    assert nib.load(tmp_path / "earlier.nii").get_fdata().max() > 1
    np.testing.assert_array_equal(
        outputs.read_probability(tmp_path / "earlier.nii").pixels.array, ours
    )


def test_images_are_predicted_upright(workdir, tmp_path, capsys):
    upright = np.random.default_rng(9).integers(0, 256, (20, 31, 3), np.uint8)
    exif = Image.Exif()
    exif[274] = 6  # The file's first row is the right side of the picture.
    (tmp_path / "in").mkdir()
    Image.fromarray(np.rot90(upright)).save(tmp_path / "in/a.png", exif=exif)
    Image.fromarray(upright).save(tmp_path / "in/b.png")
    code, printed, _ = call(capsys, *options(workdir, tmp_path / "in", tmp_path / "out"))
    assert code == 0
    assert "1 image with an EXIF orientation: a; the predictions are upright, as view" in printed
    for kind in ("masks", "probabilities/vessel"):
        a, b = (Image.open(tmp_path / "out" / kind / f"{name}.png") for name in "ab")
        assert 274 not in a.getexif()
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
        assert np.asarray(a).shape == (20, 31)


def test_entropy_on_request(workdir, images, tmp_path, capsys):
    out = tmp_path / "out"
    assert call(capsys, *options(workdir, images[0], out, "--entropy"))[0] == 0
    model = load_model(workdir)
    for name, array in images[1].items():
        p = model.predict(array).astype(np.float64)
        expected = -(p * np.log(p)).sum(-1) / np.log(2)
        with Image.open(out / "entropy" / f"{name}.png") as image:
            np.testing.assert_allclose(np.asarray(image) / 255, expected, atol=0.51 / 255)
    assert json.loads((out / "prediction.json").read_text())["entropy"] is True
    code, _, error = call(capsys, *options(workdir, images[0], out))
    assert code == 1 and "other settings (entropy True there, False here)" in error
    # A map that is missing is written again, and nothing else.
    first = written(out)
    (out / "entropy" / "case0.png").unlink()
    _, printed, _ = call(capsys, *options(workdir, images[0], out, "--entropy"))
    assert "2 of 3 cases are already done" in printed and written(out).keys() == first.keys()


def test_a_folder_of_an_older_version_is_completed(workdir, images, tmp_path, capsys):
    out = tmp_path / "out"
    assert call(capsys, *options(workdir, images[0], out))[0] == 0
    settings = json.loads((out / "prediction.json").read_text())
    del settings["entropy"]
    (out / "prediction.json").write_text(json.dumps(settings))
    shutil.rmtree(out / "lesions")
    code, printed, _ = call(capsys, *options(workdir, images[0], out))
    assert code == 0 and "already" not in printed
    assert len(list((out / "lesions").rglob("*.csv"))) == 3


def test_entropy_and_lesions_of_a_volume(kits, tmp_path, capsys):
    """By scipy and nibabel on what is written."""
    scan = layouts_3d.scan(0, shape=(7, 9, 11))
    layouts_3d.write_nifti(tmp_path / "in" / "a.nii.gz", scan.image, scan.spacing, "RAS")
    more = ("--entropy", "--probabilities=float32")
    assert call(capsys, *options(kits, tmp_path / "in", tmp_path / "out", *more))[0] == 0
    maps = {
        name: nib.load(tmp_path / "out" / name / "a.nii.gz")
        for name in ("masks", "entropy", "probabilities/kidney", "probabilities/tumour")
    }
    kidney, tumour = (maps[f"probabilities/{name}"].get_fdata() for name in ("kidney", "tumour"))
    probs = np.stack([1 - kidney - tumour, kidney, tumour])
    expected = -(probs * np.log(probs)).sum(0) / np.log(3)
    np.testing.assert_allclose(maps["entropy"].get_fdata(), expected, atol=1e-5)
    np.testing.assert_array_equal(maps["entropy"].affine, maps["masks"].affine)
    rows = read_csv(tmp_path / "out" / "lesions.csv", lesions.Lesion)
    mask = maps["masks"].get_fdata()
    for target, (name, p) in enumerate((("kidney", kidney), ("tumour", tumour)), 1):
        labels, count = ndimage.label(mask == target, np.ones((3, 3, 3)))
        of_class = [row for row in rows if row.label == name]
        assert [row.number for row in of_class] == list(range(1, count + 1)) and count
        sizes = sorted(np.bincount(labels.ravel())[1:], reverse=True)
        assert [row.voxels for row in of_class] == sizes
        volumes = np.array(sizes) * np.prod(maps["masks"].header.get_zooms())
        np.testing.assert_allclose([row.volume for row in of_class], volumes, rtol=1e-5)
        means = ndimage.mean(p, labels, range(1, count + 1))
        np.testing.assert_allclose(
            sorted(row.probability for row in of_class), sorted(means), rtol=1e-5
        )
        centres = np.array(ndimage.center_of_mass(labels > 0, labels, range(1, count + 1)))
        world = nib.affines.apply_affine(maps["masks"].affine, centres)
        found = [(row.right, row.anterior, row.superior) for row in of_class]
        np.testing.assert_allclose(sorted(found), sorted(map(tuple, world)), rtol=1e-6)


def test_geometry_that_is_unusual_is_told_once(kits, tmp_path, capsys):
    for name in "ab":
        path = tmp_path / "in" / f"{name}.nii"
        layouts_3d.write_nifti(path, layouts_3d.scan(0, shape=(7, 9, 11)).image, (3.0, 1.0, 1.0))
        image = nib.load(path)
        image.header.set_xyzt_units("micron")
        nib.save(nib.Nifti1Image(image.get_fdata(), 1e3 * image.affine, image.header), path)
    code, printed, _ = call(capsys, *options(kits, tmp_path / "in", tmp_path / "out"))
    assert code == 0 and printed.count("geometry: ") == 1
    assert "geometry: lengths are in microns and are converted to mm (2 files, such as a" in printed


def test_volumes_that_are_arrays(kits, tmp_path, capsys):
    volume = np.random.default_rng(6).integers(-100, 300, (6, 9, 10)).astype(np.int16)
    np.save(tmp_path / "a.npy", volume)
    assert call(capsys, *options(kits, tmp_path / "a.npy", tmp_path / "out"))[0] == 0
    probs = load_model(kits).predict(volume, (1, 1, 1))
    np.testing.assert_array_equal(np.load(tmp_path / "out/masks/a.npy"), probs.argmax(-1))
    read = outputs.read_probability(tmp_path / "out/probabilities/kidney/a.npy")
    np.testing.assert_allclose(read.pixels.array, probs[..., 1], atol=0.5001 / 255)
    more = "--probabilities=float32"
    assert call(capsys, *options(kits, tmp_path / "a.npy", tmp_path / "full", more))[0] == 0
    full = np.load(tmp_path / "full/probabilities/kidney/a.npy")
    np.testing.assert_array_equal(full, probs[..., 1])


def test_channels_in_files_of_their_own(tmp_path, capsys):
    spec = dataclasses.replace(KITS, channels=2, per_channel=True, intensity_range=None)
    save_linear(tmp_path / "run", spec, (4, 8, 8))
    rng = np.random.default_rng(8)
    channels = rng.normal(size=(2, 6, 9, 8)).astype(np.float32)
    for number, channel in enumerate(channels):
        for case in "ab":
            path = tmp_path / "in" / f"{case}_{number:04d}.nii.gz"
            layouts_3d.write_nifti(path, channel, (3.0, 1.5, 1.5))
    layouts_3d.write_nifti(
        tmp_path / "in" / "b_0001.nii.gz", channels[1], (3.0, 1.5, 1.5), corner=(0.0, 0.0, 0.0)
    )
    layouts_3d.write_nifti(tmp_path / "in" / "c_0001.nii.gz", channels[0], (3.0, 1.5, 1.5))
    code, printed, error = call(capsys, *options(tmp_path / "run", tmp_path / "in", tmp_path / "o"))
    assert code == 1 and "1 of 3 cases are in" in printed
    assert "c: c_0000 is missing; the model of KiTS19 takes 2 channels" in error
    assert re.search("b: .*b_0000.nii.gz and .*b_0001.nii.gz are on different grids", error)
    found = nifti.read_label(files.from_path(tmp_path / "o" / "masks" / "a.nii.gz")).array
    both = np.moveaxis(channels, 0, -1)
    expected = load_model(tmp_path / "run").predict(both, (3.0, 1.5, 1.5)).argmax(-1)
    np.testing.assert_array_equal(found, expected)


def test_a_volume_of_one_slice_for_a_model_of_images(tmp_path, capsys):
    spec = dataclasses.replace(PHANTOM, channels=1)
    save_linear(tmp_path / "run", spec, (8, 8))
    image = np.random.default_rng(9).integers(0, 255, (1, 12, 10)).astype(np.int16)
    layouts_3d.write_nifti(tmp_path / "in" / "a.nii.gz", image, (5.0, 1.0, 1.0), "RAS")
    layouts_3d.write_nifti(tmp_path / "in" / "b.nii.gz", np.repeat(image, 3, 0), (5.0, 1.0, 1.0))
    code, _, error = call(capsys, *options(tmp_path / "run", tmp_path / "in", tmp_path / "out"))
    assert code == 1
    assert (
        "b: the image has shape (3, 12, 10, 1), but the model of Vessel phantom expects (h" in error
    )
    found = nifti.read_label(files.from_path(tmp_path / "out" / "masks" / "a.nii.gz")).array
    expected = load_model(tmp_path / "run").predict(image[0]).argmax(-1)
    np.testing.assert_array_equal(found, expected[None])


def names(found):
    return [case.name for case in found]


def test_what_is_named_on_the_command_line(tmp_path):
    for name in ("x/a.png", "x/b.JPG", "x/img10.png", "x/img2.png", "y/a.nii.gz", "y/a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("in/c.png", b"")
    (tmp_path / "x" / "out").mkdir()
    (tmp_path / "x" / "out" / "a.png").write_bytes(b"")
    x, y, out = tmp_path / "x", tmp_path / "y", tmp_path / "x" / "out"

    def find(*named, spec=PHANTOM):
        return names(image_inputs.find(list(map(str, named)), spec, out))

    assert find(x) == ["a", "b", "img2", "img10"]
    assert find(x, y) == ["x/a", "x/b", "x/img2", "x/img10", "y/a"]
    assert find(tmp_path) == ["x/a", "x/b", "x/img2", "x/img10", "y/a", "z.zip/in/c"]
    assert find(tmp_path / "z.zip") == ["in/c"]
    assert find(x / "a.png", x / "b.JPG") == ["a", "b"]
    assert find(tmp_path / "*" / "a.*g", x / "a.png") == ["x/a"]
    assert find(tmp_path / "?" / "a.nii.gz") == ["y/a"]
    assert find(tmp_path / "**" / "*.gz", x / "b.JPG") == ["b", "y/a"]
    assert find(x / "a.png", y) == ["x/a", "y/a"]
    (x / "c_0000.png").write_bytes(b"")
    assert find(x / "c_0000.png") == ["c"]
    assert find(x / "c_0000.png", x / "a.png") == ["a", "c_0000"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--threshold=0"], "--threshold is 0.0; it must be above 0 and at most 1"),
        (["--recall=1.5"], "--recall is 1.5; it must be above 0 and at most 1"),
        (["--recall=0.9", "--precision=0.9"], "not allowed with argument"),
        (["--target=vessel"], "--target=vessel is the class of a threshold; add --threshold"),
        (["--threshold=0.5", "--target=vesel"], "--target=vesel; a threshold is for one class: v"),
        (
            ["--precision=1"],
            "to 0.999 reaches a precision of 1 for vessel on validation; the highest",
        ),
        (["--input=NO"], "NO does not exist; give files, a folder, or a pattern"),
        (["--probabilities=float16"], "invalid choice: 'float16'"),
        (["--workdir=NO"], "NO does not exist; give the --workdir of a run"),
        (["--thresh=0.5"], "unrecognized arguments: --thresh=0.5"),
    ],
)
def test_a_wrong_command_ends_in_one_clear_line(workdir, images, tmp_path, capsys, more, message):
    code, _, error = call(capsys, *options(workdir, images[0], tmp_path / "out", *more))
    assert code in (1, 2) and message in error
    assert not (tmp_path / "out").exists()


def test_several_classes_need_the_one_that_a_threshold_is_for(kits, tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.zeros((5, 5, 5)))
    arguments = options(kits, tmp_path / "a.npy", tmp_path / "out", "--threshold=0.5")
    code, _, error = call(capsys, *arguments)
    assert code == 1
    assert "no --target; a threshold is for one class: kidney, tumour" in error


@pytest.mark.parametrize(
    "masks", [["masks/a", "masks/b"], ["images/a_mask"], ["images/a_seg_1", "images/a_seg_2"]]
)
def test_masks_beside_their_images_are_not_predicted(tmp_path, masks):
    for name in ("images/a", "images/b", *masks):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((4, 5), np.uint8)).save(path)
    message = f"{len(masks)} of {2 + len(masks)} images look like masks of the others: {masks[0]}"
    with pytest.raises(ValueError, match=message):
        image_inputs.find([str(tmp_path)], PHANTOM, tmp_path / "out")
    alone = image_inputs.find([str(tmp_path / "images" / "?.png")], PHANTOM, tmp_path / "out")
    assert [case.name for case in alone] == ["a", "b"]


def test_two_files_of_one_name_are_refused(kits, tmp_path, capsys):
    for ending in ("npy", "nii"):
        (tmp_path / f"a.{ending}").write_bytes(b"")
    code, _, error = call(capsys, *options(kits, tmp_path, tmp_path / "out"))
    assert code == 1
    assert re.search(r"a.nii and .*a.npy would both be predicted as a; give only one", error)
    code, _, error = call(capsys, *options(kits, tmp_path / "a.nii", tmp_path))
    assert code == 1 and "are in --output=" in error
    (tmp_path / "none").mkdir()
    code, _, error = call(capsys, *options(kits, tmp_path / "none", tmp_path / "out"))
    assert code == 1 and "there is no image in" in error


def test_predictions_of_two_networks_do_not_mix(workdir, images, tmp_path, data_dir, capsys):
    arguments = images[0], tmp_path / "out"
    assert call(capsys, *options(workdir, *arguments))[0] == 0
    first = written(tmp_path / "out")
    write_run(tmp_path / "other", data_dir, epochs=[(0, 1, 0.5)])
    code, _, error = call(capsys, *options(tmp_path / "other", *arguments))
    assert code == 1
    assert "holds predictions made with other settings (network " in error
    assert written(tmp_path / "out") == first
    about = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert about["run"] == str(workdir) and about["epochs"] == 1
    assert about["loss"]["name"] == "dscpp"


def test_what_is_no_number_is_refused_before_it_is_resampled(kits, tmp_path, capsys):
    volume = np.zeros((9, 9, 9), np.float32)
    volume[1, 1, 1] = np.nan
    np.save(tmp_path / "a.npy", volume)
    code, _, error = call(capsys, *options(kits, tmp_path / "a.npy", tmp_path / "out"))
    assert code == 1 and "1 of the 729 values of the image are NaN or infinite" in error


def test_the_best_epoch_so_far_is_taken(tmp_path, data_dir):
    made = write_run(tmp_path, data_dir, epochs=[(0, 0, 0.5), (1, 1, 0.7)])
    model = trained.open_model(tmp_path)
    assert (model.about["epoch"], model.about["val_loss"]) == (0, 0.5)
    assert model.about["config"]["model"]["filters"] == 2
    before = model.path.stat().st_mtime_ns
    # What looks like a checkpoint that is being written by a run under way is left alone.
    unfinished = tmp_path / "checkpoints" / "1.orbax-checkpoint-tmp"
    unfinished.mkdir()
    assert trained.open_model(tmp_path).path.stat().st_mtime_ns == before
    assert unfinished.exists()
    params = save_epoch(tmp_path, made, 2, 2, 0.4)
    model = trained.open_model(tmp_path)
    assert model.about["epoch"] == 2
    case = made.splits["test"][0]
    expected = components.predictor(made, trained.read_config(tmp_path), params)(
        case["image"], (96, 96)
    )
    np.testing.assert_allclose(model.predict(case["image"]), expected, atol=1e-5)


def test_a_run_that_is_older_than_some_settings(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "old", ignore=shutil.ignore_patterns("model", "spec.json"))
    path = tmp_path / "old" / "run.json"
    about = json.loads(path.read_text())
    del about["config"]["inference"], about["config"]["model"]["remat"]
    path.write_text(json.dumps(about))
    image = np.random.default_rng(0).normal(size=(20, 20, 3))
    old, new = (trained.open_model(folder).predict(image) for folder in (tmp_path / "old", workdir))
    np.testing.assert_allclose(old, new, atol=1e-6)


def test_runs_of_several_losses_and_of_none(tmp_path, workdir):
    for name in ("dsc", "dscpp"):
        shutil.copytree(workdir, tmp_path / name)
    message = "holds several runs; give one of them: .*/dsc, .*/dscpp"
    with pytest.raises(ValueError, match=message):
        trained.open_model(tmp_path)
    shutil.rmtree(tmp_path / "dsc" / "checkpoints" / "0")
    with pytest.raises(ValueError, match="has no checkpoint yet; wait for its first epoch"):
        trained.open_model(tmp_path / "dsc")


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_linear("runs/drive_128/dscpp", PHANTOM, (128, 128))
    save_linear("runs/kits19_dscpp", KITS, (4, 8, 8))
    rng = np.random.default_rng(3)
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save("photo.png")
    layouts_3d.write_nifti(tmp_path / "ct.nii.gz", layouts_3d.scan(1).image, (3.0, 0.8, 0.8), "RAS")
    page = run_blocks("docs/predict.md")
    assert page["vessels"].shape == (30, 40) and page["alone"].shape == (4, 128, 128, 2)
    assert page["probs"].shape == (11, 24, 24, 3)
    assert nib.load("kidneys.nii.gz").shape == (24, 24, 11)


def test_what_is_predicted_can_be_scored(kits, tmp_path, capsys):
    scan = layouts_3d.scan(2)
    layouts_3d.write_nifti(tmp_path / "in" / "a.nii.gz", scan.image, scan.spacing)
    layouts_3d.write_nifti(tmp_path / "truth" / "a.nii.gz", scan.label, scan.spacing)
    call(capsys, *options(kits, tmp_path / "in", tmp_path / "out"))
    flags = [f"--predictions={tmp_path / 'out'}", f"--truth={tmp_path / 'truth'}"]
    with pytest.raises(SystemExit) as ended:
        evaluate.main(flags)
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    lines = [line.split()[:3] for line in printed.splitlines()]
    for metric in ("brier", "ece", "dice", "hausdorff95", "surface_dice_1mm"):
        assert ["tumour", "image", metric] in lines
    assert "nll, nll_full and aurc are left out for 1 cases" in printed
