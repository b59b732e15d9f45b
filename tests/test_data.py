"""Sets from files in the official layout, from drawings, from a folder, and from what is broken."""

import datetime
import json
import re
import shutil
import subprocess
import sys

import layouts
import layouts_3d
import numpy as np
import pytest

from dicepp_jax import data, preprocess
from dicepp_jax.data import SETS, builder, card, drive, phantom
from dicepp_jax.data.builder import Example, check_example
from dicepp_jax.data.specs import CVC_CLINICDB, DRIVE, PHANTOM_3D, RARE, Download

NUMBERS = {"train": range(21, 37), "validation": range(37, 41), "test": range(1, 21)}
WRITERS = {
    "drive": layouts.drive,
    "bus2017": layouts.bus2017,
    "dsb2018": layouts.dsb2018,
    "isic2018": layouts.isic2018,
    "cvc_clinicdb": layouts.cvc_clinicdb,
}


def test_every_set_has_a_layout():
    rare = {spec.name for spec in RARE.values()}
    drawn = {"kits19_synthetic", "phantom", "phantom_3d", *rare}
    assert {*WRITERS, "kits19"} | drawn == set(SETS)


def load(tmp_path, name, **options):
    return data.load(name, str(tmp_path / "prepared"), str(tmp_path / "files"), **options)


def by_id(split):
    """The cases of a split by name; no name may come twice."""
    cases = [split[index] for index in range(len(split))]
    named = {case["id"].decode(): case for case in cases}
    assert len(named) == len(cases)
    return named


def assert_case(case, image, label, region=None, raters=None):
    more = {"region": region, "raters": raters}
    expected = {"id", "image", "label"} | {key for key, x in more.items() if x is not None}
    assert set(case) == expected
    assert case["image"].dtype == image.dtype and case["label"].dtype == np.uint8
    np.testing.assert_array_equal(case["image"], image)
    np.testing.assert_array_equal(case["label"], label)
    for key in set(expected) & set(more):
        assert case[key].dtype == np.uint8
        np.testing.assert_array_equal(case[key], more[key])


def assert_is_drive(splits, written):
    assert set(splits) == set(NUMBERS)
    for name, numbers in NUMBERS.items():
        cases = by_id(splits[name])
        suffix = "test" if name == "test" else "training"
        assert sorted(cases) == [f"{number:02d}_{suffix}" for number in numbers]
        for case_id, case in cases.items():
            assert_case(case, *written[case_id])


@pytest.mark.parametrize("name", WRITERS)
def test_each_set_is_stored_pixel_by_pixel_and_split(tmp_path, name):
    written = WRITERS[name](tmp_path / "files")
    loaded = load(tmp_path, name)
    assert loaded.spec is SETS[name].spec
    assert [case.id for case in loaded.facts] == [
        case.id for case in data.find(name, manual_dir=str(tmp_path / "files")).list_cases()
    ]
    stored = [by_id(part) for part in loaded.splits.values()]
    assert all(stored) and sum(map(len, stored)) == len(written)
    for part, ids in zip(stored, (s.ids for s in loaded.splits.values()), strict=True):
        assert list(part) == list(ids)
        for case_id, case in part.items():
            assert_case(case, *written[case_id])
    if name == "drive":
        assert_is_drive(loaded.splits, written)


def test_kits19_is_stored_resampled_with_its_native_labels(tmp_path):
    written = layouts_3d.kits19(tmp_path / "files")
    loaded = load(tmp_path, "kits19")
    stored = {}
    for part in loaded.splits.values():
        stored |= by_id(part)
    assert set(stored) == set(written)
    for facts in loaded.facts:
        case, scan = stored[facts.id], written[facts.id]
        assert set(case) == {"id", "image", "label", "native_label"}
        np.testing.assert_array_equal(case["native_label"], scan.label)
        assert facts.shape == scan.label.shape
        assert facts.spacing == pytest.approx(scan.spacing, rel=1e-5)
        size = np.floor(np.multiply(scan.label.shape, scan.spacing) / (3.22, 1.62, 1.62) + 1e-4)
        assert case["image"].shape == (*size, 1) and case["image"].dtype == np.int16
        assert case["label"].shape == tuple(size) and case["label"].dtype == np.uint8


def test_kits19s_annotations_alone_are_enough_where_imaging_is_drawn(tmp_path):
    written = layouts_3d.kits19(tmp_path / "files")
    shutil.rmtree(tmp_path / "files" / "imaging")
    shutil.rmtree(tmp_path / "files" / "images")
    loaded = load(tmp_path, "kits19_synthetic")
    cases = {k: v for part in loaded.splits.values() for k, v in by_id(part).items()}
    assert set(cases) == set(written)
    for facts in loaded.facts:
        case, scan = cases[facts.id], written[facts.id]
        np.testing.assert_array_equal(case["native_label"], scan.label)
        assert facts.spacing == pytest.approx(scan.spacing, rel=1e-5)
        label = preprocess.resample_label(scan.label, facts.spacing, loaded.spec.spacing, 3)
        np.testing.assert_array_equal(case["label"], label)
        drawn = phantom.scan(0, int(facts.id[-5:]), label, loaded.spec.spacing)
        np.testing.assert_array_equal(case["image"], drawn[..., None])


def test_masks_that_are_palettes(tmp_path):
    written = layouts.drive(tmp_path / "files", encoding="palette")
    assert_is_drive(load(tmp_path, "drive").splits, written)


def test_some_images_may_lack_a_second_observer(tmp_path):
    written = layouts.drive(tmp_path / "files", second=(3, 8))
    loaded = load(tmp_path, "drive")
    assert_is_drive(loaded.splits, written)
    assert [c.id for c in loaded.facts if c.raters == 2] == ["03_test", "08_test"]
    ids = {part: subset.ids for part, subset in loaded.splits.items()}
    told = "\n".join(card.card(loaded.spec, loaded.facts, ids, str(loaded.path)))
    assert re.search(r"raters +up to 2, several in 2 of 40 cases\n", told)


def test_a_second_observer_changes_nothing_else(tmp_path):
    layouts.drive(tmp_path / "files", second=())
    first = load(tmp_path, "drive")
    layouts.drive(tmp_path / "files")
    second = load(tmp_path, "drive")
    assert first.origin.fingerprint != second.origin.fingerprint  # It was prepared again.
    assert first.digest == second.digest
    assert [case._replace(raters=1) for case in second.facts] == first.facts


@pytest.mark.parametrize("there", [True, False], ids=["files are there", "files are gone"])
def test_a_copy_without_raters_is_read(tmp_path, monkeypatch, there):
    """As versions before several raters prepared it."""
    files, prepared = tmp_path / "files", str(tmp_path / "prepared")
    written = layouts.drive(files, second=())
    with monkeypatch.context() as before:
        before.setattr(builder.SegmentationBuilder, "_lacks_raters", lambda self: True)
        read = drive._read
        before.setattr(drive, "_read", lambda *files: read(*files)._replace(raters=None))
        copy = load(tmp_path, "drive")
    loaded = data.load("drive", prepared, str(files) if there else None)
    assert loaded.origin == copy.origin
    without = {name: case._replace(raters=None) for name, case in written.items()}
    assert_is_drive(loaded.splits, without)
    # With the second observer's files it is prepared again.
    written = layouts.drive(files)
    assert_is_drive(data.load("drive", prepared, str(files)).splits, written)


def test_a_second_observer_of_another_size_is_refused(tmp_path):
    layouts.drive(tmp_path / "files")
    path = tmp_path / "files" / "test" / "2nd_manual" / "07_manual2.gif"
    layouts.write_mask(path, np.eye(30, 31, dtype=np.uint8))
    with pytest.raises(ValueError, match=r"07_manual2\.gif has size 30 x 31 and .* has 29 x 31"):
        load(tmp_path, "drive")


def test_what_is_prepared_needs_its_files_no_more(tmp_path):
    written = layouts.drive(tmp_path / "files")
    load(tmp_path, "drive")
    shutil.rmtree(tmp_path / "files")
    assert_is_drive(data.load("drive", str(tmp_path / "prepared")).splits, written)


def test_a_copy_used_without_a_folder_tells_where_it_came_from(tmp_path, capsys):
    layouts.drive(tmp_path / "files")
    origin = load(tmp_path, "drive").origin
    assert origin.folder == str(tmp_path / "files") and len(origin.fingerprint) == 32
    assert datetime.datetime.fromisoformat(origin.date).utcoffset() == datetime.timedelta(0)
    capsys.readouterr()
    assert data.load("drive", str(tmp_path / "prepared")).origin == origin
    assert capsys.readouterr().out == (
        f"DRIVE: data.manual_dir is not set, so the copy prepared on {origin.date} from "
        f"{origin.folder} is used\n"
    )
    assert load(tmp_path, "drive").origin == origin
    assert capsys.readouterr().out == ""


def test_a_folder_that_is_not_there_is_refused_though_a_copy_is_prepared(tmp_path):
    layouts.drive(tmp_path / "files")
    origin = load(tmp_path, "drive").origin
    message = (
        f"--config.data.manual_dir={tmp_path / 'fiels'} does not exist; correct it, or omit it to "
        f"use the copy of DRIVE prepared on {origin.date} from {tmp_path / 'files'}"
    )
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        data.load("drive", str(tmp_path / "prepared"), str(tmp_path / "fiels"))


def test_a_copy_that_does_not_say_where_it_came_from_is_of_unknown_origin(tmp_path, capsys):
    layouts.drive(tmp_path / "files")
    path = load(tmp_path, "drive").path / "metadata.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in known.items() if k not in ("folder", "date")}))
    capsys.readouterr()
    origin = data.load("drive", str(tmp_path / "prepared")).origin
    assert origin == (None, None, known["fingerprint"])
    told = capsys.readouterr().out
    assert "the copy prepared on an unknown date from an unknown folder is used" in told


def test_drawn_sets_and_folders_have_an_origin_too(tmp_path):
    assert data.load("phantom", str(tmp_path / "prepared")).origin.folder is None
    for number in range(3):
        rng = np.random.default_rng([3, number])
        image = rng.integers(0, 256, (16, 16, 3), np.uint8)
        layouts.write_rgb(tmp_path / "files" / f"{number}.png", image)
        layouts.write_mask(tmp_path / "files" / f"{number}_mask.png", image[..., 0] // 128)
    assert load(tmp_path, "folder").origin.folder == str(tmp_path / "files")


def test_a_list_of_splits_decides(tmp_path):
    written = layouts.drive(tmp_path / "files")
    path = tmp_path / "split.json"
    # Positions from 0: training in sorted order, then test in sorted order.
    lists = {"train": range(20, 40), "val": range(5), "test": range(5, 20)}
    path.write_text(json.dumps({k: [f"img{i:05d}" for i in v] for k, v in lists.items()}))
    loaded = load(tmp_path, "drive", split_file=str(path))
    expected = {
        "train": [f"{number:02d}_test" for number in range(1, 21)],
        "validation": [f"{number:02d}_training" for number in range(21, 26)],
        "test": [f"{number:02d}_training" for number in range(26, 41)],
    }
    assert {part: list(subset.ids) for part, subset in loaded.splits.items()} == expected
    for case_id, case in by_id(loaded.splits["test"]).items():
        assert_case(case, *written[case_id])


def test_a_wrong_split_is_told_before_anything_is_prepared(tmp_path):
    layouts.drive(tmp_path / "files")
    with pytest.raises(FileNotFoundError, match="the split file .*no.json does not exist"):
        load(tmp_path, "drive", split_file=str(tmp_path / "no.json"))
    with pytest.raises(ValueError, match="data.split is 'video', expected random or group"):
        load(tmp_path, "drive", split="video")
    assert not (tmp_path / "prepared").exists()


def test_the_frames_of_a_video_stay_together(tmp_path):
    layouts.cvc_clinicdb(tmp_path / "files", numbers=[*range(20, 33), *range(48, 55), 77, 79])
    loaded = load(tmp_path, "cvc_clinicdb", split="group")
    group = {case.id: case.group for case in loaded.facts}
    parts = [{group[case] for case in subset.ids} for subset in loaded.splits.values()]
    assert len(set(group.values())) == 5 == sum(map(len, parts))
    assert loaded.spec is CVC_CLINICDB


def test_a_subset_is_a_sequence():
    subset = data.Subset("abcdef", [4, 0, 2], ["e", "a", "c"])
    assert list(subset) == ["e", "a", "c"] and len(subset) == 3 and subset[-1] == "c"
    assert list(subset[1:]) == ["a", "c"] and subset[1:].ids == ("a", "c")


def test_a_set_of_one_s_own(tmp_path):
    masks = {}
    for number in range(6):
        rng = np.random.default_rng([7, number])
        image, masks[f"{number}"] = rng.integers(0, 256, (20, 30, 3), np.uint8), None
        mask = (rng.random((20, 30)) < 0.4).astype(np.uint8)
        masks[f"{number}"] = image, mask
        layouts.write_rgb(tmp_path / "files" / "images" / f"{number}.png", image)
        layouts.write_mask(tmp_path / "files" / "masks" / f"{number}.png", mask)
    loaded = load(tmp_path, "folder")
    assert {part: len(subset) for part, subset in loaded.splits.items()} == {
        "train": 4, "validation": 1, "test": 1,
    }  # fmt: skip
    for subset in loaded.splits.values():
        for case_id, case in by_id(subset).items():
            assert_case(case, *masks[case_id])
    with pytest.raises(ValueError, match="set --config.data.manual_dir=FOLDER"):
        data.find("folder")


def test_what_can_be_downloaded_is(tmp_path, monkeypatch):
    fetched = []

    def fetch(downloads, folder):
        fetched.append((downloads, folder))
        layouts.dsb2018(folder)

    monkeypatch.setattr("dicepp_jax.data.sets.fetch", fetch)
    loaded = data.load("dsb2018", str(tmp_path / "prepared"), download=True)
    folder = tmp_path / "prepared" / "manual" / "dsb2018"
    assert fetched == [(loaded.spec.downloads, folder)] and len(loaded.facts) > 0
    assert all(isinstance(file, Download) for file in loaded.spec.downloads)
    with pytest.raises(ValueError, match=r"DRIVE cannot be downloaded automatically\. 1\. R"):
        data.load("drive", str(tmp_path), download=True)


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
splits = data.load("drive", sys.argv[1], sys.argv[2]).splits
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
    splits = data.load(name, data_dir).splits
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
    first = by_id(data.load("phantom", data_dir).splits["validation"])
    monkeypatch.delattr(phantom, "vessels")
    for case_id, case in by_id(data.load("phantom", data_dir).splits["validation"]).items():
        assert_case(case, first[case_id]["image"], first[case_id]["label"])


def truncate_image(folder):
    layouts.truncate(folder / "training/images/33_training.tif")


def crop_mask(folder):
    (folder / "test/2nd_manual/07_manual2.gif").unlink()
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
        ["missing images (20 of 40): training/images/21_training.tif", DRIVE.obtain],
    ),
    "too few images": (
        lambda folder: (folder / "test/images/05_test.tif").unlink(),
        FileNotFoundError,
        ["test/1st_manual/05_manual1.gif; missing: images/05_*.tif", DRIVE.obtain],
    ),
    "no manual": (
        lambda folder: (folder / "training/1st_manual/28_manual1.gif").unlink(),
        FileNotFoundError,
        ["28_training.tif; missing: 1st_manual/28_manual1.gif", DRIVE.obtain],
    ),
    "no field of view": (
        lambda folder: (folder / "test/mask/11_test_mask.gif").unlink(),
        FileNotFoundError,
        ["11_test.tif; missing: mask/11_*_mask.gif", DRIVE.obtain],
    ),
    "truncated image": (
        truncate_image,
        ValueError,
        ["training/images/33_training.tif cannot be read as an image", "download it again"],
    ),
    "label of another size": (
        crop_mask,
        ValueError,
        ["DRIVE case 07_test", "label has shape (30, 31) and the image (29, 31)", "the same size"],
    ),
    "field of view of another size": (
        crop_region,
        ValueError,
        ["DRIVE case 07_test", "region has shape (29, 32) and the image (29, 31)", "the same size"],
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
    assert_is_drive(data.load("drive", prepared, str(files)).splits, written)


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
    assert_is_drive(load(tmp_path, "drive").splits, written)


@pytest.mark.parametrize("manual_dir", [None, ""])
def test_drive_without_a_folder_says_how_to_get_it(tmp_path, manual_dir):
    expected = re.escape(f"DRIVE needs --config.data.manual_dir. {DRIVE.obtain}")
    with pytest.raises(FileNotFoundError, match=expected):
        data.load("drive", str(tmp_path), manual_dir)


def test_drive_in_a_folder_that_is_not_there(tmp_path):
    folder = tmp_path / "nowhere"
    with pytest.raises(
        FileNotFoundError, match=re.escape(f"manual_dir; {folder} does not exist. 1.")
    ):
        data.load("drive", str(tmp_path), str(folder))


@pytest.mark.parametrize(
    "name, guess",
    [("drve", "drive"), ("DRIVE", "drive"), ("phantom3d", "phantom_3d"), ("fantom", "phantom")],
)
def test_unknown_set_is_answered_with_the_nearest(name, guess):
    known = ", ".join(sorted([*SETS, "folder"]))
    message = f"unknown data set '{name}', did you mean '{guess}'? Known: {known}"
    with pytest.raises(ValueError, match=re.escape(message)):
        data.load(name)


def test_unknown_set_like_no_other_is_answered_with_all():
    with pytest.raises(ValueError, match=r"unknown data set 'xyz'\. Known: bus2017, cvc_"):
        data.find("xyz")


IMAGE = np.arange(24, dtype=np.int16).reshape(2, 3, 4, 1)
LABEL = np.zeros((2, 3, 4), np.uint8)


@pytest.mark.parametrize(
    "example, message",
    [
        (Example(IMAGE[..., 0], LABEL), "(2, 3, 4), expected 3 spatial axes and 1 channels"),
        (Example(np.repeat(IMAGE, 2, -1), LABEL), "(2, 3, 4, 2), expected 3 spatial axes and 1"),
        (Example(IMAGE, LABEL[1:]), "label has shape (1, 3, 4) and the image (2, 3, 4)"),
        (
            Example(IMAGE, LABEL + 3),
            "label value 3 is not one of the 3 classes, 0 to 2: background, kidney",
        ),
        (Example(0 * IMAGE - 5, LABEL), "the image is -5 everywhere"),
        (
            Example(np.where(IMAGE < 4, np.inf, IMAGE), LABEL),
            "4 of the image's 24 values are NaN or inf",
        ),
        (Example(np.full(IMAGE.shape, np.nan), LABEL), "24 of the image's 24 values are NaN"),
        (
            Example(IMAGE, LABEL, None, LABEL[:1] + 7),
            "label value 7 is not one of the 3 classes, 0 to 2",
        ),
    ],
)
def test_cases_that_do_not_fit_are_refused(example, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_example(PHANTOM_3D, example)


def test_a_case_that_fits_passes():
    check_example(PHANTOM_3D, Example(IMAGE, LABEL + 2))
