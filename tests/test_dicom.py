"""DICOM series read as volumes, against positions and values that pydicom gives file by file."""

import re
import subprocess
import sys
import zipfile

import nibabel as nib
import numpy as np
import pydicom
import pytest
from layouts_dicom import AXIAL, OBLIQUE, stored, write_series

from dicepp_jax.data import dicom, files, folder, formats, nifti
from dicepp_jax.data.survey import Options


def series(path):
    """The one series in a folder."""
    (found,) = dicom.gather(files.tree(path).values(), formats.ENDINGS)
    return found


def patient_positions(path):
    """The mm right, anterior and superior of each pixel of a file, `(rows, columns, 3)`."""
    header = pydicom.dcmread(path)
    right, down = np.reshape(header.ImageOrientationPatient, (2, 3)).astype(float)
    between_rows, between_columns = map(float, header.PixelSpacing)
    row, column = np.indices((header.Rows, header.Columns))[..., None]
    place = np.array(header.ImagePositionPatient, float)
    place = place + column * between_columns * right + row * between_rows * down
    return place * (-1, -1, 1)


def check_positions(nifti_path, paths, values):
    """Whether each pixel of DICOM files has its value at its place in a NIfTI file."""
    image = nib.load(nifti_path)
    array, there = image.get_fdata(), np.linalg.inv(image.affine)
    for path, expected in zip(paths, values, strict=True):
        index = nib.affines.apply_affine(there, patient_positions(path))
        np.testing.assert_allclose(index, np.rint(index), atol=1e-3)
        np.testing.assert_array_equal(array[tuple(np.rint(index).astype(int).T)].T, expected)


CORONAL, SAGITTAL = (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1)
ORIENTATIONS = {
    "axial": AXIAL,
    "coronal": CORONAL,
    "sagittal": SAGITTAL,
    "oblique": OBLIQUE,
    "prone": (-1, 0, 0, 0, -1, 0),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_voxels_are_where_the_files_say(tmp_path, name):
    values = stored()
    paths = write_series(tmp_path / "ct", values, cosines=ORIENTATIONS[name])
    volume = dicom.read(series(tmp_path / "ct"))
    assert volume.array.dtype == np.int32 and volume.grid.remarks == ()
    assert sorted(volume.grid.spacing) == pytest.approx([0.7, 0.8, 3.0])
    nifti.write(tmp_path / "a.nii", volume.array.astype(np.float32), volume.grid)
    check_positions(tmp_path / "a.nii", paths, values.astype(float) - 1024)


def test_canonical_order_is_that_of_nifti(tmp_path):
    """Supine, slices from the feet up: rows run to posterior and columns to the left."""
    values = stored()
    write_series(tmp_path / "ct", values)
    volume = dicom.read(series(tmp_path / "ct"))
    np.testing.assert_array_equal(volume.array, values[::-1].astype(int) - 1024)
    assert volume.grid.spacing == pytest.approx((3.0, 0.8, 0.7))
    assert nib.aff2axcodes(volume.grid.affine) == ("L", "P", "S")


def test_files_need_no_ending_and_names_no_order(tmp_path):
    values = stored()
    write_series(tmp_path / "a", values, ending="", backwards=False)
    write_series(tmp_path / "b", values, ending=".IMA")
    (tmp_path / "a" / "readme.txt").write_text("no image")
    (tmp_path / "a" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    names = [file.name for file in dicom.gather(files.tree(tmp_path).values(), formats.ENDINGS)]
    assert names == ["a.dcm", "a/DICOMDIR", "a/readme.txt", "b.dcm"]
    one, other = (
        dicom.read(file)
        for file in dicom.gather(files.tree(tmp_path).values(), formats.ENDINGS)
        if file.parts
    )
    np.testing.assert_array_equal(one.array, other.array)


def test_a_zip_archive_is_read_as_a_folder_is(tmp_path):
    paths = write_series(tmp_path / "ct", stored())
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in paths:
            archive.write(path, f"scans/{path.name}")
    zipped = series(tmp_path / "all.zip")
    assert zipped.name == "all.zip/scans.dcm"
    np.testing.assert_array_equal(dicom.read(zipped).array, dicom.read(series(paths[0].parent))[0])


def test_slices_have_slopes_of_their_own(tmp_path):
    values, slopes = stored(), [0.5, 0.25, 2.0, 3.5]
    fields = {"RescaleSlope": lambda n: slopes[n], "RescaleIntercept": lambda n: -10 * n}
    paths = write_series(tmp_path / "pet", values, **fields)
    volume = dicom.read(series(tmp_path / "pet"))
    assert volume.array.dtype == np.float32
    expected = [values[n] * slopes[n] - 10 * n for n in range(4)]
    np.testing.assert_array_equal(volume.array, np.array(expected)[::-1])
    assert pydicom.dcmread(paths[3]).RescaleSlope == 3.5


def test_signed_values_without_a_rescale(tmp_path):
    values = stored().astype(np.int16) - 2000
    write_series(
        tmp_path / "mr",
        values,
        Modality="MR",
        PixelRepresentation=1,
        BitsStored=16,
        HighBit=15,
        RescaleSlope=None,
        RescaleIntercept=None,
    )
    volume = dicom.read(series(tmp_path / "mr"))
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, values[::-1])


def test_monochrome1_is_inverted_but_hounsfield_units_are_not(tmp_path):
    values = stored()
    options = {"PhotometricInterpretation": "MONOCHROME1", "RescaleIntercept": "0"}
    write_series(tmp_path / "mr", values, Modality="MR", **options)
    write_series(tmp_path / "ct", values, **options)
    mr, ct = (dicom.read(series(tmp_path / name)) for name in ("mr", "ct"))
    np.testing.assert_array_equal(mr.array, 4095 - values[::-1].astype(int))
    np.testing.assert_array_equal(ct.array, values[::-1])
    assert [remark.kind for remark in mr.grid.remarks] == ["grey values are inverted"]
    assert ct.grid.remarks == ()


def test_a_tilted_gantry_shears_the_grid(tmp_path):
    paths = write_series(
        tmp_path / "ct",
        stored(),
        ImagePositionPatient=lambda n: [0, 0.6 * n, 3 * n],
    )
    volume = dicom.read(series(tmp_path / "ct"))
    assert volume.grid.remarks[0].kind.startswith("axes are not perpendicular")
    nifti.write(tmp_path / "a.nii", volume.array.astype(np.float32), volume.grid)
    check_positions(tmp_path / "a.nii", paths, stored().astype(float) - 1024)


def test_one_slice_has_the_depth_in_its_header(tmp_path):
    write_series(tmp_path / "a", stored((1, 5, 6)))
    write_series(tmp_path / "b", stored((1, 5, 6)), SliceThickness=None)
    a, b = (dicom.read(series(tmp_path / name)) for name in "ab")
    assert a.grid.spacing[0] == 3 and b.grid.spacing[0] == 1
    assert "unknown depth, taken as 1 mm" in b.grid.remarks[0].kind


def without(number):
    def make(path):
        write_series(path, stored((6, 5, 6)))[number].unlink()

    return make


def of(**fields):
    return lambda path: write_series(path, stored(), **fields)


def at(*positions):
    return of(ImagePositionPatient=lambda n: [0, 0, positions[n]])


def two_series(path):
    write_series(path, stored(), SeriesDescription="arterial")
    write_series(
        path, stored((3, 5, 6)), ending="", SeriesDescription="late", SeriesInstanceUID="1.2"
    )


def with_report(path):
    write_series(path, stored(), Rows=lambda n: None if n == 2 else 5)


def garbage(path):
    write_series(path, stored())
    (path / "bad.dcm").write_bytes(b"nothing" * 99)


def cut(path):
    last = write_series(path, stored())[3]
    last.write_bytes(last.read_bytes()[:-20])


def compressed(path):
    """JPEG lossless, for which pydicom itself has no decoder."""
    for one in write_series(path, stored()):
        dataset = pydicom.dcmread(one)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLosslessSV1
        dataset.PixelData = pydicom.encaps.encapsulate([bytes(10)])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(one)


def enhanced(path):
    write_series(path, stored((1, 5, 6)), NumberOfFrames=7)


REFUSED = {
    "missing slice": (without(2), "every 3 mm along their normal, but 6 mm from 43 to 49 mm; add"),
    "uneven": (at(0, 3, 6, 10), "every 3 mm along their normal, but 4 mm from 6 to 10 mm"),
    "same position": (at(0, 3, 3, 6), r"0002.dcm and .*0003.dcm at 3 mm; move each echo, phase"),
    "off the line": (
        of(ImagePositionPatient=lambda n: [9 * (n == 1), 0, 3 * n]),
        "0003.dcm is 9 mm beside the line from the first slice",
    ),
    "two series": (
        two_series,
        r"ct holds 2 series, expected one: 1.2 \(late, 3 slices\), .*arterial",
    ),
    "orientation": (
        of(ImageOrientationPatient=lambda n: list(CORONAL if n == 1 else AXIAL)),
        r"differ in orientation: .*such as scouts, to another folder",
    ),
    "size": (of(Rows=lambda n: 3 if n == 1 else 5), r"differ in size: \[5.0, 6.0\] and \[3.0"),
    "pixel spacing": (of(PixelSpacing=lambda n: [1, 1 + n]), "differ in pixel spacing"),
    "no position": (of(ImagePositionPatient=None), "has no ImagePositionPatient, expected a slice"),
    "colour": (of(SamplesPerPixel=3), "has 3 values per pixel"),
    "no image": (with_report, "is no image .CT Image Storage.; remove it from the folder"),
    "multi-frame": (
        enhanced,
        r"is a multi-frame object \(CT Image Storage, 7 frames\), .*dcm2niix",
    ),
    "garbage": (garbage, "bad.dcm cannot be read as DICOM"),
    "cut": (cut, "0001.dcm has pixels that cannot be read"),
    "compressed": (
        compressed,
        "compressed as JPEG Lossless.*pip install pylibjpeg.*gdcmconv --raw",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:.*pixel data:UserWarning")
def test_what_is_no_volume_is_refused(tmp_path, name):
    make, message = REFUSED[name]
    make(tmp_path / "ct")
    with pytest.raises(ValueError, match=message) as raised:
        dicom.read(series(tmp_path / "ct"))
    assert str(tmp_path / "ct") in str(raised.value) and "\n" not in str(raised.value)


def test_dicom_is_imported_when_a_file_is_read_and_named_if_it_is_missing(tmp_path, monkeypatch):
    # nibabel imports pydicom if it is there, so it must not be.
    code = "import sys; sys.modules['pydicom'] = sys.modules['highdicom'] = None; "
    code += "import dicepp_jax.data, dicepp_jax.predictions.outputs"
    subprocess.run([sys.executable, "-c", code], check=True)
    write_series(tmp_path / "ct", stored())
    found = series(tmp_path / "ct")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ValueError, match=re.escape("pip install 'dicepp_jax[dicom]'")):
        dicom.read(found)


def test_a_folder_of_series_with_nifti_masks_is_a_data_set(tmp_path):
    """images/CASE/*.dcm and masks/CASE.nii.gz, the masks with rows the other way around."""
    labels = {}
    for case in ("p1", "p2", "p3"):
        values = stored((4, 6, 7), seed=int(case[1]))
        paths = write_series(tmp_path / "set" / "images" / case, values)
        labels[case] = (values > 2000).astype(np.uint8)
        image = np.flip(labels[case].transpose(2, 1, 0), 1)
        affine = dicom.arrange(series(paths[0].parent)).grid.affine
        affine = affine @ nib.orientations.inv_ornt_aff([[0, 1], [1, -1], [2, 1]], image.shape)
        (tmp_path / "set" / "masks").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(image, affine), tmp_path / "set" / "masks" / f"{case}.nii.gz")
    root = tmp_path / "set"
    made, notes = folder.describe(root, files.tree(root), Options(), tmp_path / "cache.json")
    assert made.spec.spacing == (3.0, 0.8, 0.7) and made.spec.dtype == "int16"
    cases = made.cases_in(root)
    assert [case.id for case in cases] == ["p1", "p2", "p3"]
    example = cases[1].read()
    np.testing.assert_array_equal(example.label, labels["p2"][::-1])
    expected = stored((4, 6, 7), seed=2)[::-1].astype(int) - 1024
    np.testing.assert_array_equal(example.image[..., 0], expected)


def test_a_mask_in_dicom_is_refused(tmp_path):
    write_series(tmp_path / "mask", stored())
    with pytest.raises(ValueError, match="mask is DICOM, which masks cannot be; convert it to NIf"):
        formats.read_mask(series(tmp_path / "mask"))
