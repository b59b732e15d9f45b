"""nnU-Net's raw layout: both versions, images and volumes, one channel and several."""

import json
import shutil

import layouts
import layouts_3d
import numpy as np
import pytest
from PIL import Image

from dicepp_jax.data import files, folder
from dicepp_jax.data.folder import Options
from dicepp_jax.data.preparation import prepare

DEEP = (6, 18, 20)
FLAT = (18, 20)
SPACING = (3.0, 0.8, 0.8)
SECOND = {"background": 0, "kidney": 1, "tumour": 2}
FIRST = {"0": "background", "1": "kidney", "2": "tumour"}


def image(number, channel=0, size=DEEP):
    return np.random.default_rng([7, number, channel]).integers(-200, 200, size, np.int16)


def label(number, size=DEEP):
    return np.random.default_rng([8, number]).integers(0, 3, size, np.uint8)


def volumes(root, channels=1, numbers=range(3), folders=("imagesTr", "labelsTr"), suffix=True):
    """Write cases as NIfTI."""
    images, labels = folders
    for number in numbers:
        for channel in range(channels):
            end = f"_{channel:04d}" if suffix else ""
            path = root / images / f"case_{number:03d}{end}.nii.gz"
            layouts_3d.write_nifti(path, image(number, channel), SPACING, "RAS")
        layouts_3d.write_nifti(
            root / labels / f"case_{number:03d}.nii.gz", label(number), SPACING, "RAS"
        )


def describe_json(root, **fields):
    """Write dataset.json of the second version; fields that are None are left out."""
    about = {"channel_names": {"0": "MRI"}, "labels": SECOND, "numTraining": 3, **fields}
    root.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in about.items() if value is not None}
    (root / "dataset.json").write_text(json.dumps(kept))


def describe(root, **options):
    """The spec, what is told, and the cases by name."""
    found = files.tree(root)
    (spec, list_cases), told = folder.describe(
        root, found, Options(**options), root.parent / "survey.json"
    )
    return spec, "\n".join(told), {case.id: case for case in list_cases(found)}


def assert_read(case, picture, drawn):
    example = case.read()
    np.testing.assert_array_equal(example.image, picture)
    np.testing.assert_array_equal(example.label, drawn)


@pytest.mark.parametrize(
    "fields",
    [
        {"file_ending": ".nii.gz"},
        {"channel_names": None, "modality": {"0": "MRI"}, "labels": FIRST, "tensorImageSize": "4D"},
    ],
    ids=["second version", "first version"],
)
@pytest.mark.parametrize("suffix", [True, False], ids=["channel", "no channel"])
def test_volumes_of_one_channel(tmp_path, fields, suffix):
    root = tmp_path / "Dataset007_Kidney"
    describe_json(root, **fields)
    volumes(root, suffix=suffix)
    volumes(root, numbers=[9], folders=("imagesTs", "elsewhere"), suffix=suffix)
    spec, told, cases = describe(root)
    assert spec.classes == ("background", "kidney", "tumour")
    assert (spec.title, spec.channels, spec.dtype) == ("Dataset007_Kidney", 1, "int16")
    assert spec.spacing == pytest.approx(SPACING) and spec.size == (16, 16, 16) and spec.patches
    assert "channels: 1 (MRI), stored as int16" in told and "intensity_range" not in told
    # imagesTs has no labels here, so it is passed over.
    assert list(cases) == ["case_000", "case_001", "case_002"]
    for number, case in enumerate(cases.values()):
        assert_read(case, image(number)[..., None], label(number))
        assert case.part is None and case.read().spacing == pytest.approx(SPACING)


def test_an_archive_of_it(tmp_path):
    describe_json(tmp_path / "set")
    volumes(tmp_path / "set")
    layouts.zipped(tmp_path / "set", tmp_path / "set.zip", top="Dataset007/")
    _, _, cases = describe(tmp_path / "set.zip")
    assert_read(cases["case_001"], image(1)[..., None], label(1))


def test_several_channels_have_a_z_score_each(tmp_path):
    describe_json(tmp_path / "set", channel_names={"1": "T2", "0": "T1"})
    volumes(tmp_path / "set", channels=2)
    spec, told, cases = describe(tmp_path / "set")
    assert (spec.channels, spec.per_channel) == (2, True)
    assert "2 (T1, T2), stored as int16, normalised separately" in told
    for number, case in enumerate(cases.values()):
        assert_read(case, np.stack([image(number, c) for c in (0, 1)], -1), label(number))
        assert len(case.files) == 3


@pytest.mark.parametrize(
    ("names", "per_channel"), [("RGB", False), (("Red", "green", "blue"), False), ("ABC", True)]
)
def test_three_channels_may_be_colours(tmp_path, names, per_channel):
    channels = {str(number): name for number, name in enumerate(names)}
    describe_json(tmp_path / "set", channel_names=channels)
    volumes(tmp_path / "set", channels=3, numbers=[0])
    spec, _, cases = describe(tmp_path / "set")
    assert (spec.channels, spec.per_channel) == (3, per_channel)
    assert_read(cases["case_000"], np.stack([image(0, c) for c in range(3)], -1), label(0))


@pytest.mark.parametrize("together", [True, False], ids=["one file", "a file a channel"])
@pytest.mark.parametrize("ending", [".png", ".tif", ".bmp"])
def test_pictures(tmp_path, together, ending):
    root = tmp_path / "Dataset120_Road"
    channels = {"0": "R", "1": "G", "2": "B"}
    describe_json(
        root, channel_names=channels, labels={"background": 0, "road": 2}, file_ending=ending
    )
    (root / "imagesTr").mkdir()
    (root / "labelsTr").mkdir()
    colours = np.random.default_rng(9).integers(0, 256, (2, *FLAT, 3), np.uint8)
    for number in range(2):
        for channel in range(1 if together else 3):
            pixels = colours[number] if together else colours[number][..., channel]
            path = root / "imagesTr" / f"img-{number}_{channel:04d}{ending}"
            Image.fromarray(pixels).save(path)
        drawn = 2 * (label(number, FLAT) > 0).astype(np.uint8)
        Image.fromarray(drawn).save(root / "labelsTr" / f"img-{number}{ending}")
    spec, _, cases = describe(root)
    assert (spec.channels, spec.per_channel, spec.dtype) == (3, False, "uint8")
    assert (spec.ndim, spec.spacing, spec.classes) == (2, None, ("background", "road"))
    assert not spec.patches
    for number in range(2):
        assert_read(cases[f"img-{number}"], colours[number], label(number, FLAT) > 0)


def test_labelled_test_cases_are_the_test_set(tmp_path):
    describe_json(tmp_path / "set")
    volumes(tmp_path / "set", numbers=[4, 11, 2])
    volumes(tmp_path / "set", numbers=[10, 3], folders=("imagesTs", "labelsTs"))
    _, told, cases = describe(tmp_path / "set")
    assert {case.id: case.part for case in cases.values()} == {
        "case_002": None,
        "case_004": None,
        "case_011": None,
        "case_003": "test",
        "case_010": "test",
    }
    assert "cases: 5, 2 of them for testing" in told
    assert_read(cases["case_010"], image(10)[..., None], label(10))


def test_ct_is_told_to_be_clipped(tmp_path):
    describe_json(tmp_path / "set", channel_names={"0": "CT"})
    volumes(tmp_path / "set")
    spec, told, _ = describe(tmp_path / "set")
    assert spec.intensity_range is None and "--config.folder.intensity_range=" in told
    spec, told, _ = describe(tmp_path / "set", intensity_range=(-79, 304), spacing=(3, 2, 2))
    assert (spec.intensity_range, spec.spacing) == ((-79, 304), (3, 2, 2))
    assert "clipped to -79 to 304" in told and "resampled to 3 x 2 x 2 mm" in told


def test_it_can_be_prepared(tmp_path):
    describe_json(tmp_path / "set", channel_names={"0": "T1", "1": "T2"})
    volumes(tmp_path / "set", channels=2)
    spec, _, cases = describe(tmp_path / "set")
    stored = prepare(spec, lambda: list(cases.values()), str(tmp_path / "prepared"))
    last = stored.as_data_source("cases")[2]
    np.testing.assert_array_equal(last["image"][..., 1], image(2, 1))
    np.testing.assert_array_equal(last["native_label"], label(2))


def test_templates_go_before_dataset_json(tmp_path):
    describe_json(tmp_path / "set")
    volumes(tmp_path / "set")
    options = {"images": "imagesTr/{case}_0000.*", "masks": "labelsTr/{case}.*"}
    spec, _, cases = describe(tmp_path / "set", **options)
    assert spec.classes == ("background", "class_1", "class_2") and len(cases) == 3


def test_another_dataset_json_is_passed_over(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/dataset.json").write_text('{"authors": []}')
    volumes(tmp_path / "set", folders=("images", "masks"), suffix=False)
    assert len(describe(tmp_path / "set")[2]) == 3


def remove(*names):
    return lambda root: [(root / name).unlink() for name in names]


def fields(**changed):
    return lambda root: describe_json(root, **changed)


def write_json(text):
    return lambda root: (root / "dataset.json").write_text(text)


REFUSED = {
    "broken JSON": (
        write_json('{"labels": '),
        r"dataset\.json is not valid JSON \(.*\); correct it",
    ),
    "a list": (write_json("[]"), r"dataset\.json contains a list, expected an object"),
    "no labels": (fields(labels=None), r'dataset\.json has no labels, expected "labels": \{"backg'),
    "no channels": (fields(channel_names=None), r"dataset\.json has no channel_names \(modality"),
    "channels from 1": (fields(channel_names={"1": "CT"}), "has invalid channel_names"),
    "regions": (
        fields(labels={"background": 0, "kidney": [1, 2], "tumour": 2}),
        "has regions, .* several values: kidney; .*list each value of the label maps once",
    ),
    "ignore label": (
        fields(labels={**SECOND, "ignore": 3}),
        "has an ignore label, 3, .*remove the",
    ),
    "labels without numbers": (fields(labels={"background": "x"}), "has labels that are not numb"),
    "no background": (fields(labels={"kidney": 1, "tumour": 2}), "need 0 for the background"),
    "a number twice": (fields(labels={"background": 0, "a": 1, "b": 1}), "no value twice"),
    "ending that cannot be read": (fields(file_ending=".mha"), r"has file_ending '\.mha'.*convert"),
    "other ending": (
        fields(file_ending=".png"),
        r"none of the 7 files matches imagesTr/CASE_0000\.png",
    ),
    "missing channel": (
        fields(channel_names={"0": "T1", "1": "T2"}),
        r"missing files \(3\): imagesTr/case_000_0001\.nii\.gz \(T2\), imagesTr/case_001_0001",
    ),
    "missing label": (
        remove("labelsTr/case_001.nii.gz"),
        r"missing files \(1\): labelsTr/case_001\.nii\.gz; add them",
    ),
    "missing image": (
        remove("imagesTr/case_002_0000.nii.gz"),
        r"missing files \(1\): imagesTr/case_002_0000\.nii\.gz; add them",
    ),
    "no labels at all": (
        lambda root: shutil.rmtree(root / "labelsTr"),
        r"files matches labelsTr/CASE\.nii\.gz",
    ),
    "in training and test": (
        lambda root: volumes(root, numbers=[2], folders=("imagesTs", "labelsTs")),
        r"cases in both imagesTr and imagesTs \(1\): case_002; remove each from one of them",
    ),
    "several sets": (
        lambda root: describe_json(root / "Dataset008"),
        r"there are 2 dataset\.json files: .*folder that contains only one",
    ),
}
"""What is wrong with a set of three volumes, and the message."""


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_set_is_refused(tmp_path, name):
    change, message = REFUSED[name]
    describe_json(tmp_path / "set")
    volumes(tmp_path / "set")
    change(tmp_path / "set")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        describe(tmp_path / "set")


def test_classes_cannot_be_declared_twice(tmp_path):
    describe_json(tmp_path / "set")
    volumes(tmp_path / "set")
    with pytest.raises(
        ValueError, match=r"folder\.classes and .* must be empty, because .*dataset\.json"
    ):
        describe(tmp_path / "set", classes=("a", "b", "c"))


def test_another_number_of_channels_is_refused(tmp_path):
    root = tmp_path / "set"
    describe_json(root, channel_names={"0": "grey"}, file_ending=".png")
    for place, pixels in (
        ("imagesTr/a_0000", np.zeros((*FLAT, 3), np.uint8)),
        ("labelsTr/a", label(0, FLAT)),
    ):
        (root / place).parent.mkdir()
        Image.fromarray(pixels).save(root / f"{place}.png")
    with pytest.raises(
        ValueError, match=r"a_0000\.png has 3 channels, expected 1, grey; all images"
    ):
        describe(root)


def test_a_value_that_is_no_label_is_refused_with_its_file(tmp_path):
    describe_json(tmp_path / "set", labels={"background": 0, "kidney": 1})
    volumes(tmp_path / "set")
    _, _, cases = describe(tmp_path / "set")
    message = (
        r"labelsTr/case_001\.nii\.gz contains 2, expected 0 background, 1 kidney; .*dataset\.json"
    )
    with pytest.raises(ValueError, match=message):
        cases["case_001"].read()


def test_channels_on_different_grids_are_refused(tmp_path):
    describe_json(tmp_path / "set", channel_names={"0": "T1", "1": "T2"})
    volumes(tmp_path / "set", channels=2)
    path = tmp_path / "set/imagesTr/case_000_0001.nii.gz"
    layouts_3d.write_nifti(path, image(0, 1), (3.0, 0.8, 1.0), "RAS")
    _, _, cases = describe(tmp_path / "set")
    with pytest.raises(ValueError, match=r"_0000\.nii\.gz and .*_0001\.nii\.gz are on different"):
        cases["case_000"].read()
