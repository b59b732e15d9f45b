"""Prediction of DICOM series: NIfTI and DICOM SEG in the place of the series."""

import dataclasses
import sys

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
from layouts_dicom import OBLIQUE, stored, write_series
from test_dicom import patient_positions
from test_predict import KITS, call, options
from test_saved import save_linear

from dicepp_jax.data import files, formats
from dicepp_jax.data.specs import PHANTOM
from dicepp_jax.predictions import dicom_seg, images, lesions
from dicepp_jax.rows import read_csv
from dicepp_jax.saved import load_model


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    """A model of three classes of volumes, without a run."""
    folder = tmp_path_factory.mktemp("kits")
    save_linear(folder, KITS, (4, 8, 8))
    return folder


def names(*inputs):
    return [c.name for c in images.find(list(map(str, inputs)), KITS, inputs[0] / "none")]


def segments(path, sources):
    """The mask of each segment by highdicom, `(slices, rows, columns, segments)`."""
    seg = highdicom.seg.segread(path)
    uids = [pydicom.dcmread(source).SOPInstanceUID for source in sources]
    numbers = list(range(1, seg.number_of_segments + 1))
    return seg, seg.get_pixels_by_source_instance(
        uids, segment_numbers=numbers, assert_missing_frames_are_empty=True
    )


def test_a_series_is_predicted_where_it_lies(kits, tmp_path, capsys):
    values = stored((5, 12, 10))
    folder = tmp_path / "arterial phase"
    paths = write_series(folder, values, cosines=OBLIQUE, ending="")
    out = tmp_path / "out"
    code, printed, error = call(capsys, *options(kits, folder, out, "--entropy"))
    assert code == 0, error
    mask = nib.load(out / "masks" / "arterial phase.nii.gz")
    array, there = mask.get_fdata(), np.linalg.inv(mask.affine)
    seg, found = segments(out / "segmentations" / "arterial phase.dcm", paths)
    for number, path in enumerate(paths):
        index = nib.affines.apply_affine(there, patient_positions(path))
        np.testing.assert_allclose(index, np.rint(index), atol=1e-3)
        expected = array[tuple(np.rint(index).astype(int).T)].T
        for target in (1, 2):
            np.testing.assert_array_equal(found[number, ..., target - 1], expected == target)
    assert (found.sum(axis=(0, 1, 2)) > 0).all()
    source = pydicom.dcmread(paths[0])
    assert [seg.get_segment_description(n).segment_label for n in (1, 2)] == ["kidney", "tumour"]
    for name in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert getattr(seg, name) == getattr(source, name)
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    assert seg.SeriesInstanceUID != source.SeriesInstanceUID
    # The network sees Hounsfield units in canonical order.
    case = images.find([str(folder)], KITS, out)[0]
    image = images.read(case, KITS)
    probs = load_model(kits).predict(image.array, image.spacing)
    np.testing.assert_array_equal(image.as_in_file(probs.argmax(-1)), array)
    assert sorted(image.array.ravel()) == sorted(values.ravel().astype(int) - 1024)
    assert (out / "entropy" / "arterial phase.nii.gz").exists()
    largest = read_csv(out / "lesions.csv", lesions.Lesion)[0]
    assert largest.case == "arterial phase" and largest.volume == pytest.approx(
        largest.voxels * 3 * 0.8 * 0.7, rel=1e-5
    )
    code, printed, _ = call(capsys, *options(kits, folder, out, "--entropy"))
    assert "1 of 1 cases are already done" in printed
    (out / "segmentations" / "arterial phase.dcm").unlink()
    call(capsys, *options(kits, folder, out, "--entropy"))
    assert (out / "segmentations" / "arterial phase.dcm").exists()
    paths[-1].unlink()
    call(capsys, *options(kits, folder, out, "--entropy"))
    assert nib.load(out / "masks" / "arterial phase.nii.gz").shape == (10, 12, 4)


def test_series_are_found_as_folders_files_and_patterns(tmp_path):
    for name in ("b/late", "b/early", "a"):
        write_series(tmp_path / name, stored((3, 4, 4)), ending="" if name == "a" else ".dcm")
    np.save(tmp_path / "c.npy", stored())
    assert names(tmp_path) == ["a", "b/early", "b/late", "c"]
    assert names(tmp_path / "a") == ["a"]
    assert names(tmp_path / "a", tmp_path / "b") == ["a", "early", "late"]
    assert names(tmp_path / "b" / "*" / "*.dcm") == ["early", "late"]
    several = sorted((tmp_path / "a").iterdir())[:2]
    (case,) = images.find(list(map(str, several)), KITS, tmp_path / "out")
    assert case.name == "a" and len(case.files[0].parts) == 2


def test_a_folder_of_two_series_fails_alone(kits, tmp_path, capsys):
    write_series(tmp_path / "in" / "good", stored((5, 12, 10)))
    write_series(tmp_path / "in" / "mixed", stored((5, 12, 10)))
    write_series(tmp_path / "in" / "mixed", stored((5, 12, 10)), ending="", SeriesInstanceUID="1.2")
    code, printed, error = call(capsys, *options(kits, tmp_path / "in", tmp_path / "out"))
    assert code == 1 and "1 of 2 cases are in" in printed
    assert "mixed: " in error and "holds 2 series, expected one" in error


def test_a_mask_without_foreground_is_a_segmentation_too(tmp_path):
    paths = write_series(tmp_path / "ct", stored((3, 4, 5)))
    (series,) = formats.gather(files.tree(tmp_path / "ct")).values()
    dicom_seg.write(
        tmp_path / "seg.dcm", series, np.zeros((5, 4, 3), np.uint8), KITS.classes, "network"
    )
    _, found = segments(tmp_path / "seg.dcm", paths)
    assert found.shape == (3, 4, 5, 2) and not found.any()


def test_a_series_without_a_study_is_named(tmp_path):
    write_series(tmp_path / "ct", stored((3, 4, 5)), StudyInstanceUID=None)
    (series,) = formats.gather(files.tree(tmp_path / "ct")).values()
    with pytest.raises(ValueError, match="ct cannot be referred to by a DICOM SEG .*StudyInstance"):
        dicom_seg.write(
            tmp_path / "seg.dcm", series, np.ones((5, 4, 3), np.uint8), KITS.classes, "network"
        )


@pytest.mark.parametrize("package", ["pydicom", "highdicom"])
def test_without_the_extra_one_line_says_what_to_install(
    kits, tmp_path, capsys, monkeypatch, package
):
    write_series(tmp_path / "in" / "a", stored((3, 4, 5)))
    write_series(tmp_path / "in" / "b", stored((3, 4, 5)))
    for module in [m for m in sys.modules if m.split(".")[0] == "highdicom"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    code, _, error = call(capsys, *options(kits, tmp_path / "in", tmp_path / "out"))
    assert code == 1 and error.count("pip install 'dicepp_jax[dicom]'") == 1


def test_one_slice_for_a_model_of_images(tmp_path, capsys):
    spec = dataclasses.replace(PHANTOM, channels=1)
    save_linear(tmp_path / "run", spec, (8, 8))
    paths = write_series(tmp_path / "slice", stored((1, 12, 10)), Modality="MR")
    assert call(capsys, *options(tmp_path / "run", tmp_path / "slice", tmp_path / "out"))[0] == 0
    values = pydicom.dcmread(paths[0]).pixel_array.astype(int) - 1024
    expected = load_model(tmp_path / "run").predict(values).argmax(-1)
    mask = nib.load(tmp_path / "out" / "masks" / "slice.nii.gz")
    np.testing.assert_array_equal(mask.get_fdata()[..., 0].T, expected)
    _, found = segments(tmp_path / "out" / "segmentations" / "slice.dcm", paths)
    np.testing.assert_array_equal(found[0, ..., 0], expected)
    assert 0 < expected.mean() < 1
