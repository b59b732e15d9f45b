"""Sets prepared from files in the official layout, from drawings, and from what is broken."""

import re
import shutil
import subprocess
import sys

import layouts
import numpy as np
import pytest
from PIL import Image

from dicepp_jax import data
from dicepp_jax.data import SETS, find_set, phantom, readers
from dicepp_jax.data.builder import Example, check_example
from dicepp_jax.data.specs import DRIVE, PHANTOM_3D

NUMBERS = {"train": range(21, 37), "validation": range(37, 41), "test": range(1, 21)}


def by_id(split):
    """The cases of a split by name; no name may come twice."""
    cases = [split[index] for index in range(len(split))]
    named = {case["id"].decode(): case for case in cases}
    assert len(named) == len(cases)
    return named


def assert_case(case, image, label, region=None):
    expected = {"id", "image", "label"} | ({"region"} if region is not None else set())
    assert set(case) == expected
    assert case["image"].dtype == image.dtype and case["label"].dtype == np.uint8
    np.testing.assert_array_equal(case["image"], image)
    np.testing.assert_array_equal(case["label"], label)
    if region is not None:
        assert case["region"].dtype == np.uint8
        np.testing.assert_array_equal(case["region"], region)


def assert_is_drive(splits, written):
    assert set(splits) == set(NUMBERS)
    for name, numbers in NUMBERS.items():
        cases = by_id(splits[name])
        suffix = "test" if name == "test" else "training"
        assert sorted(cases) == [f"{number:02d}_{suffix}" for number in numbers]
        for case_id, case in cases.items():
            assert_case(case, *written[case_id])


@pytest.mark.parametrize("encoding", ["grey", "palette"])
def test_drive_is_read_pixel_by_pixel_into_its_splits(tmp_path, encoding):
    written = layouts.drive(tmp_path / "files", encoding=encoding)
    splits = data.load("drive", str(tmp_path / "prepared"), str(tmp_path / "files"))
    assert tuple(len(splits[name]) for name in NUMBERS) == DRIVE.counts == (16, 4, 20)
    assert_is_drive(splits, written)


def test_what_is_prepared_is_not_read_again(tmp_path):
    written = layouts.drive(tmp_path / "files")
    data.load("drive", str(tmp_path / "prepared"), str(tmp_path / "files"))
    shutil.rmtree(tmp_path / "files")
    assert_is_drive(data.load("drive", str(tmp_path / "prepared")), written)


def run_python(code, *arguments, path=""):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={"PYTHONPATH": str(path), "HOME": str(arguments[0])},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_tensorflow_is_not_asked_for(tmp_path):
    layouts.drive(tmp_path / "files")
    # A module of that name can be had, so that its absence means that nothing wanted it.
    (tmp_path / "tensorflow.py").touch()
    code = """
import importlib.util, sys
from dicepp_jax import data
splits = data.load("drive", sys.argv[1], sys.argv[2])
print(splits["test"][0]["image"].shape)
assert importlib.util.find_spec("tensorflow") is not None
assert "tensorflow" not in sys.modules
"""
    done = run_python(code, tmp_path / "prepared", tmp_path / "files", path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "(29, 31, 3)"


@pytest.mark.parametrize("name", ["phantom", "phantom_3d"])
def test_phantoms_are_stored_as_drawn(data_dir, name):
    spec = SETS[name].spec
    splits = data.load(name, data_dir)
    assert tuple(len(splits[split]) for split in NUMBERS) == spec.counts
    start = 0
    for split in NUMBERS:
        cases = by_id(splits[split])
        indices = range(start, start + len(cases))
        assert sorted(cases) == [f"{name}_{index:03d}" for index in indices]
        for index, case_id in zip(indices, sorted(cases), strict=True):
            if name == "phantom":
                image, label = phantom.vessels(0, index)
            else:
                image, label = phantom.kidney(0, index)
                image = image[..., None]
            assert image.shape == (*spec.size, spec.channels) and image.dtype == spec.dtype
            assert_case(cases[case_id], image, label)
        start += len(cases)


def test_phantom_is_not_drawn_again(data_dir, monkeypatch):
    first = by_id(data.load("phantom", data_dir)["validation"])
    monkeypatch.delattr(phantom, "vessels")
    for case_id, case in by_id(data.load("phantom", data_dir)["validation"]).items():
        assert_case(case, first[case_id]["image"], first[case_id]["label"])


def truncate_image(folder):
    layouts.truncate(folder / "training/images/33_training.tif")


def crop_mask(folder):
    layouts.write_mask(folder / "test/1st_manual/07_manual1.gif", np.eye(30, 31, dtype=np.uint8))


def crop_region(folder):
    layouts.write_mask(folder / "test/mask/07_test_mask.gif", np.eye(29, 32, dtype=np.uint8))


def blacken(folder):
    image = np.full((29, 31, 3), 7, np.uint8)
    layouts.write_rgb(folder / "training/images/40_training.tif", image)


BROKEN = {
    "no training folder": (
        lambda folder: shutil.rmtree(folder / "training"),
        FileNotFoundError,
        ["training/images holds 0 images *_training.tif, expected 20", DRIVE.obtain],
    ),
    "too few images": (
        lambda folder: (folder / "test/images/05_test.tif").unlink(),
        FileNotFoundError,
        ["test/images holds 19 images *_test.tif, expected 20", DRIVE.obtain],
    ),
    "no manual": (
        lambda folder: (folder / "training/1st_manual/28_manual1.gif").unlink(),
        FileNotFoundError,
        ["training/1st_manual/28_manual1.gif is missing", DRIVE.obtain],
    ),
    "no field of view": (
        lambda folder: (folder / "test/mask/11_test_mask.gif").unlink(),
        FileNotFoundError,
        ["test/mask/11_test_mask.gif is missing", DRIVE.obtain],
    ),
    "truncated image": (
        truncate_image,
        ValueError,
        ["training/images/33_training.tif cannot be read as an image", "download it again"],
    ),
    "label of another size": (
        crop_mask,
        ValueError,
        ["DRIVE case 07_test", "label has shape (30, 31) and the image (29, 31)", "one size"],
    ),
    "field of view of another size": (
        crop_region,
        ValueError,
        ["DRIVE case 07_test", "region has shape (29, 32) and the image (29, 31)", "one size"],
    ),
    "constant image": (
        blacken,
        ValueError,
        ["DRIVE case 40_training", "the image is 7 everywhere"],
    ),
}


# Pillow warns of the truncated file before it gives up on it.
@pytest.mark.filterwarnings("ignore:(Truncated File Read|Corrupt EXIF):UserWarning")
@pytest.mark.parametrize("damage, error, messages", BROKEN.values(), ids=BROKEN)
def test_broken_drive_is_refused_by_name_and_prepared_once_mended(
    tmp_path, damage, error, messages
):
    prepared, files = str(tmp_path / "prepared"), tmp_path / "files"
    layouts.drive(files)
    damage(files)
    for _ in range(2):  # What the first attempt left must not satisfy the second.
        with pytest.raises(error) as caught:
            data.load("drive", prepared, str(files))
        for message in messages:
            assert message in str(caught.value)
    written = layouts.drive(files)
    assert_is_drive(data.load("drive", prepared, str(files)), written)


def test_killed_in_the_middle_and_prepared_the_second_time(tmp_path):
    written = layouts.drive(tmp_path / "files")
    code = """
import os, sys
from dicepp_jax import data
from dicepp_jax.data import readers
read, numbers = readers.read_rgb, iter(range(30))
readers.read_rgb = lambda path: read(path) if next(numbers) < 25 else os._exit(9)
data.load("drive", sys.argv[1], sys.argv[2])
"""
    done = run_python(code, tmp_path / "prepared", tmp_path / "files")
    assert done.returncode == 9, done.stderr
    splits = data.load("drive", str(tmp_path / "prepared"), str(tmp_path / "files"))
    assert_is_drive(splits, written)


@pytest.mark.parametrize("manual_dir", [None, ""])
def test_drive_without_a_folder_says_how_to_get_it(tmp_path, manual_dir):
    expected = re.escape(f"DRIVE needs --config.data.manual_dir. {DRIVE.obtain}")
    with pytest.raises(FileNotFoundError, match=expected):
        data.load("drive", str(tmp_path), manual_dir)


def test_drive_in_a_folder_that_is_not_there(tmp_path):
    folder = tmp_path / "nowhere"
    with pytest.raises(FileNotFoundError, match=re.escape(f"{folder}/training/images holds 0")):
        data.load("drive", str(tmp_path), str(folder))


@pytest.mark.parametrize(
    "name, guess",
    [("drve", "drive"), ("DRIVE", "drive"), ("phantom3d", "phantom_3d"), ("fantom", "phantom")],
)
def test_unknown_set_is_answered_with_the_nearest(name, guess):
    message = f"unknown data set '{name}', did you mean '{guess}'? Known: {', '.join(SETS)}"
    with pytest.raises(ValueError, match=re.escape(message)):
        data.load(name)


def test_unknown_set_like_no_other_is_answered_with_all():
    with pytest.raises(ValueError, match=r"unknown data set 'xyz'\. Known: drive, phantom, "):
        find_set("xyz")


IMAGE = np.arange(24, dtype=np.int16).reshape(2, 3, 4, 1)
LABEL = np.zeros((2, 3, 4), np.uint8)


@pytest.mark.parametrize(
    "example, message",
    [
        (Example(IMAGE[..., 0], LABEL), "(2, 3, 4), expected 3 spatial axes and 1 channels"),
        (Example(np.repeat(IMAGE, 2, -1), LABEL), "(2, 3, 4, 2), expected 3 spatial axes and 1"),
        (Example(IMAGE, LABEL[1:]), "label has shape (1, 3, 4) and the image (2, 3, 4)"),
        (Example(IMAGE, LABEL + 3), "label value 3 is none of the 3 classes background, kidney"),
        (Example(0 * IMAGE - 5, LABEL), "the image is -5 everywhere"),
    ],
)
def test_cases_that_do_not_fit_are_refused(example, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        check_example(PHANTOM_3D, "c7", example)
    assert str(caught.value).startswith("Kidney phantom case c7: ")


def test_a_case_that_fits_passes():
    check_example(PHANTOM_3D, "c7", Example(IMAGE, LABEL + 2))


MASK = (np.random.default_rng([3, 0]).random((17, 23)) < 0.3).astype(np.uint8)


@pytest.mark.parametrize(
    "encoding, suffix",
    [(encoding, suffix) for encoding in layouts.ENCODINGS for suffix in ("png", "tif")]
    + [("grey", "gif"), ("ones", "gif"), ("palette", "gif"), ("noisy", "gif"), ("boolean", "gif")],
)
def test_masks_of_any_encoding_are_read_alike(tmp_path, encoding, suffix):
    path = tmp_path / f"mask.{suffix}"
    layouts.write_mask(path, MASK, encoding)
    mask = readers.read_mask(path)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, MASK)


def test_the_palette_is_what_it_is_said_to_be(tmp_path):
    layouts.write_mask(tmp_path / "mask.gif", MASK, "palette")
    with Image.open(tmp_path / "mask.gif") as image:
        assert image.mode == "P"
        assert np.unique(image.convert("L")).tolist() == [3, 253]


@pytest.mark.parametrize("value, what", [(0, "background"), (1, "foreground")])
@pytest.mark.parametrize("encoding", ["grey", "ones", "boolean", "rgb"])
def test_empty_and_full_masks_are_read_with_a_warning(tmp_path, value, what, encoding):
    path = tmp_path / "mask.png"
    layouts.write_mask(path, np.full_like(MASK, value), encoding)
    with pytest.warns(UserWarning, match=re.escape(f"{path} is all {what}")):
        mask = readers.read_mask(path)
    np.testing.assert_array_equal(mask, np.full_like(MASK, value))


def test_missing_file_is_named(tmp_path):
    for read in readers.read_rgb, readers.read_mask:
        with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path / 'a.png'} is missing")):
            read(tmp_path / "a.png")


# Pillow warns of some truncated files before it gives up on them.
@pytest.mark.filterwarnings("ignore:(Truncated File Read|Corrupt EXIF):UserWarning")
@pytest.mark.parametrize("suffix", ["tif", "png", "jpg"])
@pytest.mark.parametrize("keep", [0, 0.001, 0.02, 0.3, 0.6, 0.9, 0.98])
def test_truncated_file_is_named(tmp_path, suffix, keep):
    path = tmp_path / f"image.{suffix}"
    layouts.write_rgb(path, np.random.default_rng([4, 0]).integers(0, 256, (29, 31, 3), np.uint8))
    assert readers.read_rgb(path).shape == (29, 31, 3)
    layouts.truncate(path, keep)
    with pytest.raises(ValueError, match=re.escape(f"{path} cannot be read as an image")):
        readers.read_rgb(path)


@pytest.mark.parametrize("place", [11, 35])  # in the lengths of the first and second chunk
def test_damaged_chunk_is_named(tmp_path, place):
    path = tmp_path / "image.png"
    layouts.write_rgb(path, np.random.default_rng([5, 0]).integers(0, 256, (29, 31, 3), np.uint8))
    content = bytearray(path.read_bytes())
    assert content[place] != 0
    content[place] = 0
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path} cannot be read as an image")):
        readers.read_rgb(path)


def test_size_beyond_reason_is_named(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    layouts.write_rgb(path, np.zeros((50, 50, 3), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=re.escape(f"{path} cannot be read as an image")):
        readers.read_rgb(path)
