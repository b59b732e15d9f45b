"""KiTS19 in miniature, read against float64 NumPy; what is missing or broken is refused."""

import math
import re
from fractions import Fraction

import layouts
import layouts_3d
import nibabel as nib
import numpy as np
import oracles
import pytest

from dicepp_jax.data import kits19
from dicepp_jax.data.builder import check_example
from dicepp_jax.data.files import File, tree
from dicepp_jax.data.specs import KITS19


def refuse_to_open():
    raise AssertionError("listing cases opens no file")


def names_only(*names):
    """Files of which nothing but the name may be looked at."""
    return {name: File(name, f"/files/{name}", "", False, refuse_to_open) for name in names}


def imaging(*numbers):
    return [f"case_{number:05d}/imaging.nii.gz" for number in numbers]


def masks(*numbers):
    return [f"data/case_{number:05d}/segmentation.nii.gz" for number in numbers]


def one_case(folder, **arrays):
    """A case with some of its arrays replaced, and the function that reads it."""
    case = layouts_3d.scan(0)._replace(**arrays)
    layouts_3d.write_nifti(folder / "case_00000/imaging.nii.gz", case.image, case.spacing)
    layouts_3d.write_nifti(folder / "case_00000/segmentation.nii.gz", case.label, case.spacing)
    return kits19.list_cases(tree(folder))[0].read


def test_every_case_is_resampled_and_keeps_its_native_label(tmp_path):
    written = layouts_3d.kits19(tmp_path)
    cases = kits19.list_cases(tree(tmp_path))
    assert [case.id for case in cases] == list(written)
    for case in cases:
        image, label, spacing = written[case.id]
        target = (Fraction(322, 100), Fraction(162, 100), Fraction(162, 100))
        exact = [Fraction(str(step)) for step in spacing]
        axes = zip(image.shape, exact, target, strict=True)
        size = tuple(math.floor(n * step / new) for n, step, new in axes)
        example = case.read()
        check_example(KITS19, example)
        assert example.image.shape == (*size, 1) and example.image.dtype == np.int16
        expected = oracles.resize(image, size)
        assert np.abs(example.image[..., 0] - expected).max() < 0.5 + 1e-3
        assert example.label.dtype == example.native_label.dtype == np.uint8
        np.testing.assert_array_equal(example.label, oracles.resize_label(label, size, 3))
        np.testing.assert_array_equal(example.native_label, label)
        np.testing.assert_allclose(example.spacing, spacing, rtol=1e-6)
        assert example.region is None


def test_nothing_changes_at_the_spacing_that_is_resampled_to(tmp_path):
    case = layouts_3d.scan(0, spacing=KITS19.spacing)
    example = one_case(tmp_path, spacing=case.spacing)()
    np.testing.assert_array_equal(example.image[..., 0], case.image)
    np.testing.assert_array_equal(example.label, case.label)


def test_fractions_are_rounded_and_what_int16_cannot_hold_is_clipped(tmp_path):
    image = np.zeros((3, 4, 4))
    image[0, 0] = [-0.6, 1.4, -1e6, 1e6]
    read = one_case(tmp_path, image=image, label=np.uint8(image > 0), spacing=KITS19.spacing)
    assert read().image[0, 0, :, 0].tolist() == [-1, 1, -32768, 32767]


def test_a_case_knows_its_two_files(tmp_path):
    layouts_3d.kits19(tmp_path)
    case = kits19.list_cases(tree(tmp_path))[5]
    assert [str(file) for file in case.files] == [
        f"{tmp_path}/images/case_00005.nii.gz",
        f"{tmp_path}/kits19-master.zip/kits19/data/case_00005/segmentation.nii.gz",
    ]
    assert case.part is None and case.group is None


def test_the_whole_set_has_204_cases_in_table_1():
    files = names_only(*imaging(*range(300)), *masks(*range(210)))
    cases = kits19.list_cases(files)
    left_out = {15, 23, 37, 68, 125, 133}
    assert [case.id for case in cases] == [
        f"case_{number:05d}" for number in range(210) if number not in left_out
    ]
    assert len(cases) == sum(KITS19.counts) == 204


def test_what_is_downloaded_is_what_is_read():
    downloaded = names_only(*(download.path for download in KITS19.downloads))
    cases = kits19.list_cases(names_only(*masks(*range(210))) | downloaded)
    assert [case.files[0].name for case in cases] == list(downloaded)
    first, last = KITS19.downloads[0], KITS19.downloads[-1]
    folder = "https://huggingface.co/datasets/neheller/KiTS-Challenge-Imaging/resolve/main/images"
    assert first == (f"{folder}/case_00000.nii.gz", "case_00000/imaging.nii.gz", None)
    assert last == (f"{folder}/case_00209.nii.gz", "case_00209/imaging.nii.gz", None)


@pytest.mark.parametrize(
    "image",
    [
        "case_00007/imaging.nii.gz",
        "kits19/data/case_00007/imaging.nii.gz",
        "images/case_00007/imaging.nii.gz",
        "images/case_00007.nii.gz",
        "KiTS/images/case_00007.nii.gz",
        "kits19.zip/data/case_00007/imaging.nii.gz",
        "case_00007/imaging.nii",
    ],
)
def test_imaging_is_found_by_its_name(image):
    others = ["labels/case_00007.nii.gz", "case_00007/prediction.nii.gz", "case_00007.nii.gz"]
    (case,) = kits19.list_cases(names_only(image, *others, *masks(7)))
    assert [file.name for file in case.files] == [image, *masks(7)]


def test_a_mask_beyond_210_is_taken_where_there_is_one():
    (case,) = kits19.list_cases(names_only(*imaging(211, 250), *masks(250)))
    assert case.id == "case_00250"


MISSING = {
    "nothing": (["a.png", "notes.txt"], "case_*/imaging.nii.gz and case_*/segmentation.nii.gz"),
    "nothing, how to get it": ([], "1. Clone https://github.com/neheller/kits19"),
    "packed": (["kits19.rar"], "/files/kits19.rar cannot be read; unpack it first"),
    "no imaging": (masks(*range(20)), "mask without imaging: 19 of 19"),
    "first five": (
        masks(0, 1, 2, 3, 4, 5, 6),
        "case_00003/imaging.nii.gz, case_00004/imaging.nii.gz and 2 more",
    ),
    "no imaging, remedy": (masks(3), "--config.data.download=True"),
    "no mask": (imaging(0, 209), "missing: case_00000/segmentation.nii.gz, case_00209/"),
    "one mask missing": (imaging(0, 1) + masks(1), "such as /files/case_00000/imaging.nii.gz"),
    "one imaging missing": (imaging(1) + masks(0, 1), "missing: case_00000/imaging.nii.gz."),
    "imaging without a mask of 210": (imaging(210), "none of the 1 files matches"),
    "mask without imaging of 210": (masks(210), "missing: case_00210/imaging.nii.gz."),
}


@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_is_told(name):
    names, message = MISSING[name]
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        kits19.list_cases(names_only(*names))


def test_excluded_cases_may_lack_either_file():
    names = imaging(0, 15, 23) + masks(0, 37)
    assert [case.id for case in kits19.list_cases(names_only(*names))] == ["case_00000"]


def test_two_files_of_a_case_are_refused():
    names = [*imaging(4), "images/case_00004.nii.gz", *masks(4)]
    with pytest.raises(ValueError, match="case_00004.nii.gz.* both match case 00004; remove one"):
        kits19.list_cases(names_only(*names))


def test_unknown_labels_are_refused(tmp_path):
    label = layouts_3d.scan(0).label
    label[0, 0, :2] = (7, 3)
    expected = (
        "case_00000/segmentation.nii.gz of case_00000 contains 3, 7, "
        "expected 0 background, 1 kidney, 2 tumour"
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        one_case(tmp_path, label=label)()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_imaging_that_is_not_finite_is_refused(tmp_path, value):
    image = np.ones((4, 5, 5))
    image[0] = value
    expected = "25.0% of .*case_00000/imaging.nii.gz is NaN or infinite, expected Hounsfield units"
    with pytest.raises(ValueError, match=expected):
        one_case(tmp_path, image=image, label=np.ones((4, 5, 5), np.uint8))()


def test_a_mask_on_another_grid_is_refused(tmp_path):
    read = one_case(tmp_path)
    mask = tmp_path / "case_00000/segmentation.nii.gz"
    label, spacing = layouts_3d.scan(0).label, (3.0, 0.78, 0.8)
    layouts_3d.write_nifti(mask, label, spacing)
    expected = (
        r"imaging.nii.gz and .*segmentation.nii.gz are on different grids: .*spacing 3 x 0.78"
    )
    with pytest.raises(ValueError, match=expected):
        read()
    layouts_3d.write_nifti(mask, label[1:], (3.0, 0.78, 0.78))
    with pytest.raises(ValueError, match=r"shape \(11, 24, 24\) against \(10, 24, 24\)"):
        read()


@pytest.mark.parametrize("broken", ["imaging", "segmentation"])
def test_a_truncated_file_is_refused(tmp_path, broken):
    read = one_case(tmp_path)
    layouts.truncate(tmp_path / f"case_00000/{broken}.nii.gz")
    with pytest.raises(ValueError, match=f"case_00000/{broken}.nii.gz cannot be read as NIfTI"):
        read()


def test_imaging_of_several_phases_is_refused(tmp_path):
    read = one_case(tmp_path)
    nib.save(
        nib.Nifti1Image(np.zeros((4, 5, 6, 2), np.int16), np.eye(4)),
        tmp_path / "case_00000/imaging.nii.gz",
    )
    with pytest.raises(ValueError, match=r"imaging.nii.gz is 4-D with shape \(4, 5, 6, 2\)"):
        read()
