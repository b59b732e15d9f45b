"""NIfTI files written by nibabel read in canonical order; the way back is exact."""

import gzip
import io
import itertools
import re
import tracemalloc

import layouts_3d
import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicepp_jax.data import nifti
from dicepp_jax.data.files import File, from_path, tree


def rotation(degrees):
    """About each axis in turn."""
    turned = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        first, second = (n for n in range(3) if n != axis)
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[second, first] = np.sin(angle)
        turn[first, second] = -turn[second, first]
        turned = turn @ turned
    return turned


@st.composite
def grids(draw, degrees=20):
    """Axes in any order and direction, anisotropic, a little oblique; a float32 affine."""
    angles = [draw(st.sampled_from([0.0, 0.0, degrees, -degrees / 3])) for _ in range(3)]
    order = list(draw(st.permutations(range(3))))
    signs = [draw(st.sampled_from([-1, 1])) for _ in range(3)]
    spacing = [draw(st.floats(0.3, 8)) for _ in range(3)]
    affine = np.eye(4)
    affine[:3, :3] = (rotation(angles) * np.multiply(signs, spacing))[:, order]
    affine[:3, 3] = [draw(st.floats(-500, 500)) for _ in range(3)]
    shape = tuple(draw(st.integers(1, 7)) for _ in range(3))
    return nifti.Grid(shape, affine.astype(np.float32).astype(np.float64))


def places(grid):
    """The mm right, anterior and superior of every voxel of a file, `(X, Y, Z, 3)`."""
    return nib.affines.apply_affine(grid.affine, np.moveaxis(np.indices(grid.shape), 0, -1))


def numbered(shape, dtype=np.int16):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def saved(path, array, affine=None, kind=nib.Nifti1Image, **header):
    """A file as nibabel writes it, with fields of its header changed."""
    image = kind(array, np.diag([2.0, 3.0, 4.0, 1.0]) if affine is None else affine)
    nib.save(image, path)
    if header:
        unzipped = path.name.endswith(".gz")
        content = gzip.decompress(path.read_bytes()) if unzipped else path.read_bytes()
        changed = kind.header_class.from_fileobj(io.BytesIO(content), check=False)
        for field, value in header.items():
            changed[field] = value
        content = changed.binaryblock + content[len(changed.binaryblock) :]
        path.write_bytes(gzip.compress(content) if unzipped else content)
    return from_path(path)


def in_canonical_order(path):
    """By nibabel: the closest order to (R, A, S), turned to (I, P, L)."""
    closest = nib.as_closest_canonical(nib.load(path))
    return closest.get_fdata().transpose(2, 1, 0)[::-1, ::-1, ::-1]


@settings(max_examples=200, deadline=None)
@given(grids())
def test_canonical_axes_run_from_superior_anterior_right(grid):
    where = nifti.to_canonical(places(grid), grid.affine)
    assert where.shape == (*grid.canonical_shape, 3)
    for axis, world in enumerate((2, 1, 0)):
        steps = np.diff(where, axis=axis)
        assert (steps[..., world] < 0).all()
        if steps.size:
            apart = np.linalg.norm(steps, axis=-1)
            np.testing.assert_allclose(apart, grid.spacing[axis], rtol=1e-4)


@settings(max_examples=200, deadline=None)
@given(grids())
def test_canonical_order_is_nibabels_and_the_way_back_is_exact(grid):
    array = numbered(grid.shape)
    canonical = nifti.to_canonical(array, grid.affine)
    closest = nib.as_closest_canonical(nib.Nifti1Image(array, grid.affine))
    turned = np.asarray(closest.dataobj).transpose(2, 1, 0)[::-1, ::-1, ::-1]
    np.testing.assert_array_equal(canonical, turned)
    np.testing.assert_allclose(grid.spacing, closest.header.get_zooms()[::-1], rtol=1e-6)
    assert canonical.base is not None  # A view.
    np.testing.assert_array_equal(nifti.to_native(canonical, grid), array)


@settings(max_examples=60, deadline=None)
@given(grids(), st.sampled_from([".nii", ".nii.gz"]), st.booleans(), st.integers(0, 99))
def test_what_is_written_is_read(tmp_path_factory, grid, suffix, is_label, seed):
    path = tmp_path_factory.mktemp("written") / f"case{suffix}"
    rng = np.random.default_rng([1, seed])
    if is_label:
        array = rng.integers(0, 256, grid.canonical_shape)
    else:
        array = rng.random(grid.canonical_shape, np.float32).astype(np.float64)
    nifti.write(path, array, grid)
    file = from_path(path)
    again = nifti.read_label(file) if is_label else nifti.read(file)
    assert again.array.dtype == (np.uint8 if is_label else np.float32)
    np.testing.assert_array_equal(again.array, array)
    np.testing.assert_array_equal(again.grid.affine, grid.affine)
    assert again.grid.shape == grid.shape == nifti.read_grid(file).shape
    np.testing.assert_array_equal(in_canonical_order(path), array)
    header = nib.load(path).header
    assert header.get_data_dtype() == again.array.dtype and header.get_xyzt_units()[0] == "mm"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("order", [*map("".join, itertools.permutations("RAS")), "IPL", "LIP"])
def test_a_volume_is_the_same_however_its_axes_are_stored(tmp_path, order):
    array, spacing = numbered((3, 4, 5)), (3.0, 0.5, 0.75)
    path = tmp_path / "image.nii.gz"
    affine = layouts_3d.write_nifti(path, array, spacing, order)
    assert "".join(nib.aff2axcodes(affine)) == order
    volume = nifti.read(from_path(path))
    np.testing.assert_array_equal(volume.array, array)
    assert volume.grid.spacing == spacing and volume.grid.canonical_shape == (3, 4, 5)
    np.testing.assert_array_equal(volume.grid.affine, affine)
    assert volume.array.flags.c_contiguous


TYPES = ["uint8", "int8", "int16", "uint16", "int32", "float32", "float64", ">i2", ">f4", ">f8"]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_integers_keep_their_type_and_the_rest_is_float32(tmp_path, dtype, kind):
    array = (numbered((4, 3, 5)) - (0 if dtype[0] == "u" else 30)).astype(dtype)
    header = kind.header_class(endianness=">" if dtype[0] == ">" else "<")
    path = tmp_path / "image.nii.gz"
    nib.save(kind(array, np.eye(4), header, dtype=array.dtype), path)
    volume = nifti.read(from_path(path))
    expected = np.float32 if np.dtype(dtype).kind == "f" else np.dtype(dtype).newbyteorder("=")
    assert volume.array.dtype == expected and volume.array.dtype.isnative
    np.testing.assert_array_equal(volume.array, array.transpose(2, 1, 0)[::-1, ::-1, ::-1])


def test_a_scaled_image_is_float32(tmp_path):
    array = numbered((4, 5, 6))
    file = saved(tmp_path / "image.nii.gz", array, scl_slope=0.25, scl_inter=-1024)
    volume = nifti.read(file)
    assert volume.array.dtype == np.float32
    expected = (array / 4 - 1024).transpose(2, 1, 0)[::-1, ::-1, ::-1]
    np.testing.assert_array_equal(volume.array, expected)


@pytest.mark.parametrize("dtype", ["int16", "uint16", "int64", "float32", "float64"])
def test_labels_are_uint8(tmp_path, dtype):
    array = (numbered((4, 5, 6)) % 7).astype(dtype)
    path = tmp_path / "label.nii.gz"
    nib.save(nib.Nifti1Image(array, np.eye(4), dtype=array.dtype), path)
    label = nifti.read_label(from_path(path)).array
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, in_canonical_order(path))


def test_labels_that_were_scaled_to_be_stored_are_whole(tmp_path):
    array = numbered((2, 3, 1)) % 3
    image = nib.Nifti1Image(array.astype(np.float32), np.eye(4))
    image.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "label.nii")
    assert (nib.load(tmp_path / "label.nii").get_fdata() % 1).any()
    label = nifti.read_label(from_path(tmp_path / "label.nii")).array
    np.testing.assert_array_equal(nifti.to_native(label, nifti.Grid((2, 3, 1), np.eye(4))), array)


@pytest.mark.parametrize("shape", [(3, 4, 5, 1), (3, 4, 5, 1, 1), (3, 4), (3, 4, 1), (6,)])
def test_axes_of_length_1_are_dropped_and_missing_ones_are_added(tmp_path, shape):
    file = saved(tmp_path / "image.nii", numbered(shape), np.eye(4))
    spatial = (*shape, 1, 1)[:3]
    assert nifti.read_grid(file).shape == spatial
    volume = nifti.read(file)
    np.testing.assert_array_equal(nifti.to_native(*volume), numbered(spatial))


def test_a_member_of_a_zip_is_read_as_a_file_is(tmp_path):
    array = numbered((3, 4, 5))
    for name in ("a.nii.gz", "b.nii"):
        layouts_3d.write_nifti(tmp_path / name, array, (1, 1, 1))
    layouts_3d.pack(tmp_path / "set.zip", tmp_path, tmp_path / "a.nii.gz", tmp_path / "b.nii")
    files = tree(tmp_path)
    assert list(files) == ["set.zip/a.nii.gz", "set.zip/b.nii"]
    for file in files.values():
        np.testing.assert_array_equal(nifti.read(file).array, array)


@pytest.mark.parametrize("packed", [False, True])
def test_compression_is_told_by_the_content(tmp_path, packed):
    array = numbered((3, 4, 5))
    layouts_3d.write_nifti(tmp_path / ("a.nii.gz" if packed else "a.nii"), array, (1, 1, 1))
    misnamed = tmp_path / ("b.nii" if packed else "b.nii.gz")
    (tmp_path / ("a.nii.gz" if packed else "a.nii")).rename(misnamed)
    np.testing.assert_array_equal(nifti.read(from_path(misnamed)).array, array)


@settings(max_examples=40, deadline=None)
@given(grids(), st.integers(1, 400))
def test_slabs_make_no_difference(tmp_path_factory, grid, slab):
    path = tmp_path_factory.mktemp("slabs") / "case.nii.gz"
    array = numbered(grid.canonical_shape, np.uint8)
    nifti.write(path, array, grid)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nifti, "SLAB", slab)
        np.testing.assert_array_equal(nifti.read(from_path(path)).array, array)


def test_only_what_is_returned_is_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(nifti, "SLAB", 1 << 20)
    path = tmp_path / "large.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((96, 128, 160)), np.eye(4)), path)  # 15 MiB in float64.
    for read, size in ((nifti.read, 4), (nifti.read_label, 1)):
        tracemalloc.start()
        array = read(from_path(path)).array
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert array.nbytes == size * 96 * 128 * 160
        assert peak < array.nbytes + (6 << 20)


def test_the_header_is_all_that_is_read_of_a_grid(tmp_path):
    file = saved(tmp_path / "image.nii", numbered((9, 9, 9)))
    path = tmp_path / "image.nii"
    path.write_bytes(path.read_bytes()[:352])
    assert nifti.read_grid(file).shape == (9, 9, 9)


def test_a_header_gives_units_and_forms_and_nothing_else(tmp_path):
    affine = np.eye(4)
    affine[:3, :3] = rotation((10, 20, 30)) * (0.7, 0.8, 3)
    image = nib.Nifti1Image(numbered((3, 4, 5)), None)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("micron")
    image.header["descrip"] = b"the name of a patient"
    image.header["cal_max"] = 300
    path = tmp_path / "image.nii.gz"
    nib.save(image, path)
    grid, header = nifti.read_grid(from_path(path)), nifti.read_header(from_path(path))
    mask = tmp_path / "mask.nii.gz"
    nifti.write(mask, np.ones(grid.canonical_shape, bool), grid, header)
    written = nib.load(mask)
    # The affine is a quaternion's, which no float32 matrix holds to the last bit.
    assert (affine.astype(np.float32) != written.affine).any()
    np.testing.assert_array_equal(written.affine, nib.load(path).affine)
    assert written.header["qform_code"] == 1 and written.header["sform_code"] == 0
    assert written.header.get_xyzt_units()[0] == "micron"
    assert written.header["descrip"] == b"" and written.header["cal_max"] == 0
    assert written.get_data_dtype() == np.uint8


def test_writing_replaces_and_repeats_to_the_byte(tmp_path):
    grid = nifti.Grid((2, 3, 4), np.eye(4))
    first, second = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    second.write_text("something else")
    for path in (first, second):
        nifti.write(path, np.ones((4, 3, 2), np.uint8), grid)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    "name, array, message",
    [
        (
            "mask.png",
            np.zeros((4, 3, 2), int),
            "is not the name of a NIfTI file; it must end in .nii.gz",
        ),
        ("mask.nii", np.full((4, 3, 2), 256), "labels range from 256 to 256, expected 0 to 255"),
        ("mask.nii", np.full((4, 3, 2), -1), "labels range from -1 to -1, expected 0 to 255"),
        ("mask.nii", np.zeros((2, 3, 4), int), "shape (2, 3, 4), but the grid (4, 3, 2)"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, name, array, message):
    grid = nifti.Grid((2, 3, 4), np.eye(4))
    with pytest.raises(ValueError, match=re.escape(message)):
        nifti.write(tmp_path / name, array, grid)
    assert not list(tmp_path.iterdir())


def truncated(keep):
    def make(path):
        saved(path, np.random.default_rng([2, 0]).integers(0, 99, (9, 9, 9)).astype(np.uint8))
        path.write_bytes(path.read_bytes()[:keep])
        return from_path(path)

    return make


def damaged(path):
    """One bit of the checksum, so that all the data can be had."""
    saved(path, numbered((5, 5, 5), np.uint8))
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    return from_path(path)


def other(content):
    def make(path):
        path.write_bytes(content)
        return from_path(path)

    return make


def coloured(path):
    rgb = np.zeros((3, 4, 5), [(channel, np.uint8) for channel in "RGB"])
    return saved(path, rgb)


def of(array, affine=None, **header):
    return lambda path: saved(path, array, affine, **header)


def with_third_axis(*step):
    rows = zip(("srow_x", "srow_y", "srow_z"), np.eye(3)[:, :2], step, strict=True)
    fields = {row: [*others, mm, 0] for row, others, mm in rows}
    return of(numbered((2, 3, 4), np.uint8), **fields)


def form(**header):
    return of(numbered((2, 3, 4), np.uint8), sform_code=0, qform_code=1, **header)


HALF = np.full((2, 3, 4), 0.5, np.float32)
EITHER = {
    "truncated": (truncated(300), "cannot be read as NIfTI (Compressed file ended"),
    "truncated header": (truncated(40), "it seems to be incomplete"),
    "empty": (other(b""), "(it does not start like a .nii file)"),
    "damaged": (damaged, "cannot be read as NIfTI (CRC check failed"),
    "text": (other(b"not a volume" * 99), "download it again, or convert it to .nii.gz"),
    "analyze": (
        of(numbered((2, 3, 4), np.uint8), magic=b"ni1"),
        "(it does not start like a .nii file)",
    ),
    "4-D": (of(np.zeros((3, 4, 5, 2), np.uint8)), "is 4-D with shape (3, 4, 5, 2), expected one"),
    "4-D, remedy": (
        of(np.zeros((3, 4, 5, 2), np.uint8)),
        "one file per channel, such as nnU-Net's",
    ),
    "vectors": (of(np.zeros((3, 4, 5, 1, 3), np.uint8)), "is 5-D with shape (3, 4, 5, 1, 3)"),
    "no voxel": (of(np.zeros((3, 0, 5), np.uint8)), "has shape (3, 0, 5), so it has no voxels"),
    "complex": (of(np.zeros((3, 4, 5), np.complex64)), "has complex64 values, expected one real"),
    "colour": (coloured, "has RGB values, expected one real number per voxel"),
    "singular": (with_third_axis(0, 0, 0), "an affine that is singular, [[1.0, 0.0, 0.0"),
    "parallel": (with_third_axis(1, 0, 1e-6), "singular"),
    "nan": (with_third_axis(0, 0, np.nan), "an affine that is not finite"),
    "affine, remedy": (
        with_third_axis(0, 0, 0),
        "save it again with a correct affine, nibabel.Nifti1Image(",
    ),
    "no rotation": (
        form(quatern_b=1, quatern_c=1),
        "has a qform that is not a rotation (w2 should",
    ),
    "type": (of(numbered((2, 3, 4), np.uint8), datatype=999), "(data code 999 not recognized)"),
    "absurd size": (
        of(numbered((2, 3, 4), np.uint8), dim=[3, *[32767] * 3, 1, 1, 1, 1]),
        "cannot be read as NIfTI (",
    ),
}
LABELS = {
    "fractions": (of(HALF), "contains 0.5, expected whole numbers; if it was resampled, resample"),
    "fractions, remedy": (of(HALF), "again with nearest-neighbour interpolation"),
    "nan": (of(HALF * np.nan), "a label map but contains nan, expected whole numbers"),
    "infinite": (of(HALF * np.inf), "a label map but contains inf, expected whole numbers"),
    "negative": (of(numbered((2, 3, 4)) - 1), "contains -1, expected classes from 0 to 255"),
    "beyond 255": (of(numbered((2, 3, 4)) + 233), "contains 256, expected classes from 0 to 255"),
    "an image": (of(HALF * 2000), "contains 1000.0, expected classes from 0 to 255"),
}


@pytest.mark.parametrize("name", EITHER)
@pytest.mark.parametrize("read", [nifti.read, nifti.read_label])
def test_what_cannot_be_read_is_refused(tmp_path, name, read):
    make, message = EITHER[name]
    path = tmp_path / "bad.nii.gz"
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} .*{re.escape(message)}"):
        read(make(path))


@pytest.mark.parametrize("name", LABELS)
def test_what_is_no_label_map_is_refused(tmp_path, name):
    make, message = LABELS[name]
    path = tmp_path / "bad.nii.gz"
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} .*{re.escape(message)}"):
        nifti.read_label(make(path))


@pytest.mark.parametrize(
    "kind, message",
    [
        (PermissionError(13, "Permission denied"), "/set/a.nii.gz cannot be read (Permission den"),
        (FileNotFoundError(2, "No such file"), "/set/a.nii.gz does not exist any more; restore it"),
        (OSError(5, "Input/output error"), "/set/a.nii.gz cannot be read as NIfTI ([Errno 5]"),
    ],
)
def test_what_cannot_be_opened_is_named(kind, message):
    def refuse():
        raise kind

    expected = ValueError if type(kind) is OSError else type(kind)
    with pytest.raises(expected, match=re.escape(message)):
        nifti.read(File("a.nii.gz", "/set/a.nii.gz", "", False, refuse))


def moved(shift=(0, 0, 0), shape=(40, 50, 60), order="LPS", spacing=(0.8, 0.8, 3.0), degrees=0):
    """A grid some voxels off."""
    affine = np.eye(4)
    signs = [1 if letter in "RAS" else -1 for letter in order]
    affine[:3, :3] = rotation((0, 0, degrees)) * np.multiply(signs, spacing)
    affine[:3, 3] = (5, 6, 7) + affine[:3, :3] @ shift
    return nifti.Grid(shape, affine)


def names(*paths):
    return [File(path, f"/set/{path}", "", False, io.BytesIO) for path in paths]


SAME = [{}, {"shift": (0.09, -0.09, 0.09)}, {"spacing": (0.801, 0.8, 3.0)}, {"degrees": 0.05}]
DIFFERENT = [
    ({"shift": (0, 0, 0.11)}, "corners are 0.11 voxels apart, origin (5, 6, 7) mm against (5, 6,"),
    ({"spacing": (0.803, 0.8, 3.0)}, "spacing 0.8 x 0.8 x 3 mm against 0.803 x 0.8 x 3 mm"),
    ({"order": "RAS"}, "orientation LPS against RAS"),
    ({"degrees": 0.5}, "voxels apart"),
    ({"shape": (40, 50, 61)}, "shape (40, 50, 60) against (40, 50, 61)"),
    ({"shift": (0, 0, 1)}, "/set/a.nii and /set/b.nii are on different grids"),
    ({"shift": (0, 0, 1)}, "nibabel.processing.resample_from_to (order=0 for labels)"),
    ({"shape": (40, 50, 61), "order": "RAS"}, "shape (40, 50, 60) against (40, 50, 61), orientat"),
]


@pytest.mark.parametrize("change", SAME, ids=str)
def test_grids_that_agree_to_a_tenth_of_a_voxel_are_one(change):
    a, b = names("a.nii", "b.nii")
    nifti.check_same_grid(a, moved(), b, moved(**change))
    nifti.check_same_grid(b, moved(**change), a, moved())


@pytest.mark.parametrize("change, message", DIFFERENT, ids=str)
def test_different_grids_are_refused(change, message):
    a, b = names("a.nii", "b.nii")
    with pytest.raises(ValueError, match=re.escape(message)):
        nifti.check_same_grid(a, moved(), b, moved(**change))
    with pytest.raises(ValueError, match="/set/b.nii and /set/a.nii are on different grids"):
        nifti.check_same_grid(b, moved(**change), a, moved())
