"""Which geometry of a NIfTI header is used, against files written and read by nibabel."""

import re

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import voxel_sizes

from dicepp_jax.data import files, folder, formats, geometry, nifti
from dicepp_jax.data.specs import KITS19
from dicepp_jax.data.survey import Options
from dicepp_jax.predictions import label_maps

REAL = (1.5, 1.25, 10.0)


def form(sizes, turned=False, corner=(-7.0, 9.0, 4.0)):
    """An affine with voxels of these sizes; turned, the first two axes run the other way."""
    affine = np.diag([*np.multiply(sizes, (-1, -1, 1) if turned else (1, 1, 1)), 1.0])
    affine[:3, 3] = corner
    return affine


def write(path, sform=None, qform=None, pixdim=None, unit="mm", array=None, fields=()):
    """A file with these forms, whose codes are 1 if they are given, else 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4) if array is None else array
    image = nib.Nifti1Image(array, None)
    image.set_qform(qform, int(qform is not None))
    image.set_sform(sform, int(sform is not None))
    image.header.set_xyzt_units(unit)
    if pixdim is not None:
        image.header["pixdim"][1:4] = pixdim
    for name, value in fields:
        image.header[name] = value
    with path.open("wb") as stream:  # nib.save would make pixdim agree with the affine.
        image.header["vox_offset"] = 352
        image.header["magic"] = b"n+1"
        stream.write(image.header.binaryblock + bytes(4) + array.tobytes("F"))
    return files.from_path(path)


def kinds(grid):
    return " | ".join(remark.kind for remark in grid.remarks)


PLAIN = {
    "sform alone": {"sform": form(REAL), "pixdim": REAL},
    "qform alone": {"qform": form(REAL)},
    "both": {"sform": form(REAL), "qform": form(REAL)},
    "flipped axes": {"sform": form(REAL, turned=True), "qform": form(REAL, turned=True)},
    "mirrored": {"sform": form((-1.5, 1.25, 10.0)), "qform": form((-1.5, 1.25, 10.0))},
    "unknown unit": {"sform": form(REAL), "pixdim": REAL, "unit": "unknown"},
    "one mm": {"sform": form((1, 1, 1)), "pixdim": (1, 1, 1)},
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_header_is_read_as_nibabel_does_and_needs_no_remark(tmp_path, name):
    grid = nifti.read_grid(write(tmp_path / "a.nii", **PLAIN[name]))
    np.testing.assert_array_equal(grid.affine, nib.load(tmp_path / "a.nii").affine)
    assert grid.remarks == ()


def test_beside_an_sform_of_ones_the_qform_is_used(tmp_path):
    """As in the hearts of ACDC, which nibabel reads as voxels of 1 mm."""
    qform = form(REAL, turned=True)
    grid = nifti.read_grid(write(tmp_path / "a.nii", sform=form((1, 1, 1)), qform=qform))
    image = nib.load(tmp_path / "a.nii")
    assert voxel_sizes(image.affine).tolist() == [1, 1, 1]
    np.testing.assert_array_equal(grid.affine, image.get_qform())
    np.testing.assert_allclose(sorted(grid.spacing), sorted(image.header.get_zooms()), rtol=1e-6)
    (remark,) = grid.remarks
    assert remark.kind == "the sform has voxels of size 1, unlike pixdim: the qform is used"
    assert remark.found == "sform 1 x 1 x 1, pixdim 1.5 x 1.25 x 10"


def test_without_a_qform_the_sizes_of_pixdim_are_used_along_the_sforms_axes(tmp_path):
    sform = form((1, 1, 1), turned=True)
    grid = nifti.read_grid(write(tmp_path / "a.nii", sform=sform, pixdim=REAL))
    np.testing.assert_allclose(grid.affine, form(REAL, turned=True), rtol=1e-6)
    assert (
        kinds(grid) == "the sform has voxels of size 1, unlike pixdim: the sizes in pixdim are used"
    )


def test_another_disagreement_is_told_and_the_sform_is_used(tmp_path):
    grid = nifti.read_grid(write(tmp_path / "a.nii", sform=form((2, 2, 5)), qform=form(REAL)))
    np.testing.assert_array_equal(grid.affine, nib.load(tmp_path / "a.nii").affine)
    assert kinds(grid) == "sform and pixdim have voxels of other sizes: the sform is used"
    assert grid.remarks[0].found == "sform 2 x 2 x 5, pixdim 1.5 x 1.25 x 10"


@pytest.mark.parametrize(
    "sizes, pixdim", [(REAL, (1, 1, 1)), ((1, 1, 1), (0, 0, 0)), ((1, 1, 1), (np.nan, 1, 1))]
)
def test_a_pixdim_that_says_nothing_does_not_displace_the_sform(tmp_path, sizes, pixdim):
    sform = form(sizes)
    grid = nifti.read_grid(write(tmp_path / "a.nii", sform=sform, pixdim=pixdim))
    np.testing.assert_allclose(grid.affine, sform)
    assert "the sform is used" in kinds(grid)


def test_forms_whose_axes_run_in_other_directions_are_told(tmp_path):
    file = write(tmp_path / "a.nii", sform=form(REAL), qform=form(REAL, turned=True))
    grid = nifti.read_grid(file)
    np.testing.assert_array_equal(grid.affine, nib.load(tmp_path / "a.nii").affine)
    assert grid.remarks[0].found == "sform RAS, qform LPS"


@pytest.mark.parametrize("pixdim", [REAL, (-1.5, 1.25, -10.0)])
def test_without_codes_pixdim_gives_sizes_and_the_orientation_is_assumed(tmp_path, pixdim):
    grid = nifti.read_grid(write(tmp_path / "a.nii", pixdim=pixdim))
    expected = nib.Nifti1Header()
    expected.set_data_shape((2, 3, 4))
    expected.set_zooms(REAL)
    np.testing.assert_array_equal(grid.affine, expected.get_best_affine())
    assert kinds(grid).startswith("sform_code and qform_code are 0, so the orientation is unknown")


@pytest.mark.parametrize("unit, mm", [("meter", 1000.0), ("micron", 0.001)])
def test_other_units_are_converted(tmp_path, unit, mm):
    file = write(tmp_path / "a.nii", sform=form(REAL), pixdim=REAL, unit=unit)
    grid = nifti.read_grid(file)
    expected = np.diag([mm, mm, mm, 1]) @ nib.load(tmp_path / "a.nii").affine
    np.testing.assert_allclose(grid.affine, expected, rtol=1e-12)
    assert kinds(grid) == f"lengths are in {unit}s and are converted to mm"
    nifti.write(tmp_path / "mask.nii", np.ones((4, 3, 2), int), grid, nifti.read_header(file))
    written = nib.load(tmp_path / "mask.nii")
    np.testing.assert_array_equal(written.affine, nib.load(tmp_path / "a.nii").affine)
    assert written.header.get_xyzt_units()[0] == unit


def test_a_placeholder_in_other_units_is_converted_too(tmp_path):
    file = write(
        tmp_path / "a.nii", sform=form((1, 1, 1)), qform=form((700.0, 700.0, 900.0)), unit="micron"
    )
    grid = nifti.read_grid(file)
    np.testing.assert_allclose(sorted(grid.spacing), [0.7, 0.7, 0.9], rtol=1e-6)


def test_sheared_axes_are_told_and_keep_their_lengths(tmp_path):
    sheared = form(REAL)
    sheared[0, 2] = 2.0
    grid = nifti.read_grid(write(tmp_path / "a.nii", sform=sheared, pixdim=voxel_sizes(sheared)))
    np.testing.assert_array_equal(grid.affine, sheared)
    assert (
        kinds(grid) == "axes are not perpendicular: distances within a volume are as if they were"
    )
    angle = np.degrees(np.arctan2(2, 10))
    assert grid.remarks[0].found == f"{angle:.1f} degrees off"


@pytest.mark.parametrize("header", [{"qform": form(REAL)}, {}], ids=["qform", "no form"])
@pytest.mark.parametrize("bad, message", [(0, "singular"), (np.nan, "not finite")])
def test_sizes_that_are_needed_and_not_there_are_refused(tmp_path, header, bad, message):
    file = write(tmp_path / "a.nii", **header, pixdim=(bad, 1, 1))
    with pytest.raises(ValueError, match=f"a.nii has an affine that is {message}"):
        nifti.read_grid(file)


def test_an_affine_of_zeros_is_refused(tmp_path):
    file = write(tmp_path / "a.nii", sform=np.zeros((4, 4)), pixdim=(1, 1, 1))
    with pytest.raises(ValueError, match="affine that is singular"):
        nifti.read_grid(file)


def test_one_frame_of_a_series_is_a_volume(tmp_path):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4, 1)
    file = write(tmp_path / "a.nii", sform=form((1, 1, 1)), qform=form(REAL), array=array)
    volume = nifti.read(file)
    np.testing.assert_array_equal(nifti.to_native(volume.array, volume.grid), array[..., 0])
    np.testing.assert_allclose(sorted(volume.grid.spacing), sorted(REAL))


def test_predictions_keep_the_header_as_it_is(tmp_path):
    """So that every program lays them over the image, whichever form it uses."""
    file = write(tmp_path / "a.nii", sform=form((1, 1, 1)), qform=form(REAL, turned=True))
    grid, header = nifti.read_grid(file), nifti.read_header(file)
    nifti.write(tmp_path / "mask.nii.gz", np.ones(grid.canonical_shape, int), grid, header)
    one, other = (nib.load(tmp_path / name) for name in ("a.nii", "mask.nii.gz"))
    np.testing.assert_array_equal(other.get_sform(), one.get_sform())
    np.testing.assert_array_equal(other.get_qform(), one.get_qform())
    assert other.header.get_zooms() == one.header.get_zooms()


def test_a_mask_with_a_sound_header_fits_an_image_with_a_placeholder(tmp_path):
    image = write(tmp_path / "a.nii", sform=form((1, 1, 1)), qform=form(REAL))
    mask = write(tmp_path / "b.nii", sform=form(REAL), pixdim=REAL)
    nifti.check_same_grid(image, nifti.read_grid(image), mask, nifti.read_grid(mask))


def test_a_mask_saved_with_the_placeholder_fits_its_image(tmp_path):
    """nib.Nifti1Image(mask, nib.load(image).affine), whose pixdim is 1 as well."""
    image = write(tmp_path / "a.nii", sform=form((1, 1, 1)), qform=form(REAL))
    nib.save(
        nib.Nifti1Image(np.ones((2, 3, 4), np.uint8), nib.load(tmp_path / "a.nii").affine),
        tmp_path / "b.nii",
    )
    mask = files.from_path(tmp_path / "b.nii")
    nifti.check_same_grid(image, nifti.read_grid(image), mask, nifti.read_grid(mask))
    nifti.check_same_grid(mask, nifti.read_grid(mask), image, nifti.read_grid(image))
    encoding = formats.LabelEncoding(("background", "heart"), (0, 1), "")
    case = formats.CaseFiles("a", (image,), (mask,))
    assert formats.read_case(KITS19, encoding, case).spacing == (10.0, 1.25, 1.5)


def test_distances_to_such_a_mask_are_in_mm(tmp_path):
    """One voxel of 10 mm apart, whichever of prediction and truth has the real sizes."""
    known, unknown = tmp_path / "known" / "a.nii", tmp_path / "unknown" / "a.nii"
    for number, path in enumerate((known, unknown)):
        array = np.zeros((2, 3, 4), np.uint8)
        array[:, :, number + 1] = 1
        sizes = {"qform": form(REAL)} if path is known else {"pixdim": (1, 1, 1)}
        write(path, sform=form((1, 1, 1)), array=array, **sizes)
    for one, other in ((known, unknown), (unknown, known)):
        maps = (label_maps.find(str(path.parent)) for path in (one, other))
        pairs, _ = label_maps.pair(*maps, ("background", "heart"))
        rows = label_maps.score(pairs, ("background", "heart"), 1.0).rows
        assert [row.value for row in rows if row.metric == "hausdorff95"] == [10]


def test_such_a_mask_is_refused_if_its_axes_would_be_turned(tmp_path):
    image = write(tmp_path / "a.nii", sform=form((1, 1, 1)), qform=form(REAL, turned=True))
    mask = write(tmp_path / "b.nii", sform=form((1, 1, 1)), pixdim=(1, 1, 1))
    with pytest.raises(ValueError, match="are on different grids"):
        nifti.check_same_grid(image, nifti.read_grid(image), mask, nifti.read_grid(mask))


def test_a_mask_stored_in_another_order_of_axes_fits(tmp_path):
    """As after a converter that turns rows around; both are read in the same canonical order."""
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = nib.Nifti1Image(array, form(REAL))
    nib.save(image, tmp_path / "a.nii")
    turned = nib.orientations.axcodes2ornt("PSL")
    ornt = nib.orientations.ornt_transform(nib.io_orientation(image.affine), turned)
    nib.save(image.as_reoriented(ornt), tmp_path / "b.nii")
    a, b = (files.from_path(tmp_path / name) for name in ("a.nii", "b.nii"))
    nifti.check_same_grid(a, nifti.read_grid(a), b, nifti.read_grid(b))
    np.testing.assert_array_equal(nifti.read(a).array, nifti.read(b).array)


def test_a_folder_tells_each_kind_once_with_its_count(tmp_path):
    rng = np.random.default_rng(0)
    for case in range(4):
        array = rng.integers(0, 200, (4, 4, 3)).astype(np.int16)
        sform = form((1, 1, 1) if case < 3 else REAL)
        for part, values in (("images", array), ("masks", array % 2)):
            path = tmp_path / "set" / part / f"case{case}.nii"
            write(path, sform=sform, qform=form(REAL), array=values)
    root = tmp_path / "set"
    described = [
        folder.describe(root, files.tree(root), Options(), tmp_path / "cache.json")
        for _ in range(2)  # The second time from the cache.
    ]
    for made, notes in described:
        assert made.spec.spacing == (10.0, 1.25, 1.5)
        (line,) = [note for note in notes if note.startswith("geometry: ")]
        assert re.fullmatch(
            r"geometry: the sform has voxels of size 1, unlike pixdim: the qform is used "
            r"\(6 files, such as images/case0.nii: sform 1 x 1 x 1, pixdim 1.5 x 1.25 x 10\)",
            line,
        )
        cases = made.cases_in(root)
        assert cases[0].read().spacing == (10.0, 1.25, 1.5)


def test_the_most_frequent_kind_comes_first():
    odd, rare = geometry.Remark("odd", "1"), geometry.Remark("rare", "2")
    lines = geometry.summary([("a", rare), ("b", odd), ("c", odd)])
    assert lines == ["odd (2 files, such as b: 1)", "rare (a: 2)"]
