"""A user's own images and masks: what is found out, what is proposed, what is refused."""

import itertools
import json
import math
import re

import layouts
import layouts_3d
import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dicepp_jax.data import files, folder, formats, survey
from dicepp_jax.data.builder import check_example, fingerprint
from dicepp_jax.data.folder import Options
from dicepp_jax.data.preparation import prepare

SIZE = (20, 24)
DEEP = (6, 20, 24)


def image(number=0, size=SIZE, channels=()):
    """A picture of noise, or with `channels=(3,)` in colour."""
    return np.random.default_rng([3, number]).integers(0, 256, (*size, *channels), np.uint8)


def label(number=0, size=SIZE, classes=2):
    """A label map in which every class is there."""
    drawn = np.random.default_rng([4, number]).integers(0, classes, size, np.uint8)
    drawn.flat[:classes] = range(classes)
    return drawn


def save(path, array, order="RAS", spacing=(3.0, 0.8, 0.7)):
    """Write an array in the format that the name ends in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.lower().endswith((".nii", ".nii.gz")):
        layouts_3d.write_nifti(path, array, spacing, order)
    elif path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)


def pairs(root, count=3, ending="png", size=SIZE, classes=2):
    """Write images/ and masks/."""
    for number in range(count):
        save(root / "images" / f"{number}.{ending}", image(number, size))
        save(root / "masks" / f"{number}.{ending}", label(number, size, classes))


def describe(root, **options):
    """The spec, what is told, and the cases by name."""
    found = files.tree(root)
    (spec, list_cases), told = folder.describe(
        root, found, Options(**options), root.parent / "kept" / "survey.json"
    )
    return spec, "\n".join(told), {case.id: case for case in list_cases(found)}


def assert_read(case, picture, drawn):
    example = case.read()
    if picture.ndim == drawn.ndim:
        picture = picture[..., None]
    np.testing.assert_array_equal(example.image, picture)
    np.testing.assert_array_equal(example.label, drawn)
    assert example.label.dtype == np.uint8


LAYOUTS = list(itertools.chain.from_iterable(folder.LAYOUTS))


@pytest.mark.parametrize(("images", "masks"), LAYOUTS)
def test_known_layouts_are_recognised(tmp_path, images, masks):
    root = tmp_path / "set"
    names, drawn = ["img 2", "img 10", "x_1"], {}
    for number, case in enumerate(names):
        save(root / images.format(case=case).replace(".*", ".png"), image(number))
        drawn[case] = label(number, classes=3 if "{class}" in masks else 2)
        for value, name in enumerate(("left_kidney", "tumour"), 1):
            path = root / masks.format(**{"case": case, "class": name}).replace(".*", ".PNG")
            save(path, 255 * (drawn[case] == value).astype(np.uint8))
            if "{class}" not in masks:
                break
    spec, told, cases = describe(root)
    assert f"--config.folder.images='{images}' --config.folder.masks='{masks}'" in told
    kinds = ("left_kidney", "tumour") if "{class}" in masks else ("foreground",)
    assert spec.classes == ("background", *kinds)
    assert list(cases) == names
    for number, case in enumerate(names):
        assert_read(cases[case], image(number), drawn[case])


@pytest.mark.parametrize(
    ("images", "masks", "options"),
    [
        ("Images/{}.PNG", "MASKS/{}.Png", {}),
        ("deep/er/images/{}.png", "deep/er/masks/{}.png", {}),
        ("scans/{}-t1.png", "truth/{}.gif", {"images": "{case}-t1.*", "masks": "truth/{case}.gif"}),
        (
            "{0}/{0}_img.png",
            "{0}/{0}_seg.png",
            {"images": "{case}/{case}_img.*", "masks": "{case}/{case}_seg.*"},
        ),
        ("x/{}_a.png", "y/{}_b.png", {"images": "x/{case}_*.png", "masks": "y/{case}_*.png"}),
    ],
)
def test_templates_say_where_files_lie(tmp_path, images, masks, options):
    root = tmp_path / "set"
    for number in range(3):
        save(root / images.format(number), image(number))
        save(root / masks.format(number), label(number))
    (root / "notes.txt").touch()
    _, _, cases = describe(root, **options)
    assert list(cases) == ["0", "1", "2"]
    for number in range(3):
        assert_read(cases[str(number)], image(number), label(number))
        assert {file.name for file in cases[str(number)].files} == {
            images.format(number),
            masks.format(number),
        }


def test_an_archive_is_read_as_a_folder_is(tmp_path):
    pairs(tmp_path / "set")
    layouts.zipped(tmp_path / "set", tmp_path / "Our Set.zip", top="set/")
    spec, _, cases = describe(tmp_path / "Our Set.zip")
    assert spec.title == "Our Set.zip"
    assert re.fullmatch("folder_our_set_zip_[0-9a-f]{8}", spec.name)
    assert_read(cases["2"], image(2), label(2))


@pytest.mark.parametrize("ending", ["png", "tif", "tiff", "bmp", "npy", "gif", "nii", "nii.gz"])
def test_formats_are_read_exactly(tmp_path, ending):
    size = DEEP if "nii" in ending else SIZE
    pairs(tmp_path / "set", ending=ending, size=size, classes=3)
    spec, told, cases = describe(tmp_path / "set")
    assert spec.classes == ("background", "class_1", "class_2")
    assert (spec.channels, spec.ndim) == (1, len(size)) and not spec.per_channel
    assert spec.dtype == ("int16" if "nii" in ending else "uint8")
    assert f"native sizes: {' x '.join(map(str, size))}" in told
    for number in range(3):
        assert_read(cases[str(number)], image(number, size), label(number, size, 3))


def smooth():
    """A mask without thin parts, which JPEG keeps."""
    return np.kron([[0, 1, 0], [0, 1, 1]], np.ones((16, 16))).astype(np.uint8)


def test_jpeg_images_and_masks(tmp_path):
    for number in range(2):
        save(tmp_path / "set/images" / f"{number}.jpg", image(number, (32, 48), (3,)))
        Image.fromarray(255 * smooth()).save(tmp_path / "mask.jpg", quality=70)
        blurred = np.asarray(Image.open(tmp_path / "mask.jpg"))
        noise = np.random.default_rng([5, number]).integers(0, 20, blurred.shape)
        grey = np.clip(np.where(blurred > 127, blurred - noise, blurred + noise), 0, 255)
        save(tmp_path / "set/masks" / f"{number}.jpeg", grey.astype(np.uint8))
    spec, told, cases = describe(tmp_path / "set")
    assert spec.classes == ("background", "foreground") and spec.channels == 3
    assert "foreground above 127" in told
    np.testing.assert_array_equal(cases["0"].read().label, smooth())


def test_noise_in_other_files_is_of_one_class_where_two_are_declared(tmp_path):
    mask = smooth()
    noise = np.random.default_rng([6, 0]).integers(0, 20, mask.shape)
    for number in range(3):
        save(tmp_path / "set/images" / f"{number}.png", image(number, mask.shape))
        save(tmp_path / "set/masks" / f"{number}.png", (255 * mask ^ noise).astype(np.uint8))
    spec, told, cases = describe(tmp_path / "set", classes=("background", "polyp"))
    assert spec.classes == ("background", "polyp") and "foreground above 127" in told
    np.testing.assert_array_equal(cases["0"].read().label, mask)


CODES = np.array([0, 128, 255], np.uint8)


@pytest.mark.parametrize(
    ("encode", "classes", "options", "expected"),
    [
        (lambda y: y, 2, {}, ("background", "foreground")),
        (lambda y: 255 * y, 2, {}, ("background", "foreground")),
        (lambda y: y.astype(bool), 2, {}, ("background", "foreground")),
        (lambda y: y, 4, {}, ("background", "class_1", "class_2", "class_3")),
        (lambda y: y, 3, {"classes": ("none", "kidney", "cyst")}, ("none", "kidney", "cyst")),
        # A class that no case has must be declared.
        (lambda y: y, 2, {"classes": ("none", "kidney", "cyst")}, ("none", "kidney", "cyst")),
        (lambda y: 255 * y, 2, {"classes": ("none", "vessel")}, ("none", "vessel")),
        (
            lambda y: CODES[y],
            3,
            {"mask_values": (0, 128, 255)},
            ("background", "class_1", "class_2"),
        ),
        (
            lambda y: CODES[::-1][y],
            3,
            {"mask_values": (255, 128, 0), "classes": ("none", "a", "b")},
            ("none", "a", "b"),
        ),
        (lambda y: y + np.uint8(3), 2, {"mask_values": (3, 4)}, ("background", "foreground")),
        (lambda y: y.astype(np.uint16) * 300, 3, {"mask_values": (0, 300, 600)}, None),
        (lambda y: np.stack([y] * 3, -1), 3, {}, None),
    ],
)
def test_labels_are_inferred_or_declared(tmp_path, encode, classes, options, expected):
    for number in range(3):
        save(tmp_path / "set/images" / f"{number}.png", image(number))
        save(tmp_path / "set/masks" / f"{number}.png", encode(label(number, classes=classes)))
    spec, _, cases = describe(tmp_path / "set", **options)
    assert spec.classes == (expected or ("background", "class_1", "class_2"))
    for number in range(3):
        assert_read(cases[str(number)], image(number), label(number, classes=classes))


def test_classes_of_files_can_be_chosen_and_ordered(tmp_path):
    root, names = tmp_path / "set", ("liver", "tumour", "preview")
    for number in range(2):
        save(root / "images" / f"{number}.png", image(number))
        for value, name in enumerate(names):
            mask = (label(number, classes=3) == value).astype(np.uint8)
            save(root / "masks" / name / f"{number}.png", mask)
    assert describe(root)[0].classes == ("background", "liver", "preview", "tumour")
    spec, _, cases = describe(root, classes=("rest", "tumour", "liver"))
    assert spec.classes == ("rest", "tumour", "liver")
    np.testing.assert_array_equal(cases["1"].read().label, np.array([2, 1, 0])[label(1, classes=3)])


def test_meaning_of_values_is_part_of_what_a_set_was_made_of(tmp_path):
    pairs(tmp_path / "set")
    stamps = []
    for values in ((0, 1), (1, 0)):
        spec, _, cases = describe(tmp_path / "set", mask_values=values)
        stamps.append(fingerprint(spec, list(cases.values())))
    assert stamps[0] != stamps[1]


def test_channels_and_types_are_those_of_all_images(tmp_path):
    wide = image(1).astype(np.uint16) * 256
    for number, pixels in enumerate((image(0), image(0, channels=(3,)), wide)):
        save(tmp_path / "set/images" / f"{number}.png", pixels)
        save(tmp_path / "set/masks" / f"{number}.png", label(number))
    spec, _, cases = describe(tmp_path / "set")
    assert (spec.channels, spec.dtype, spec.per_channel) == (3, "uint16", False)
    assert_read(cases["0"], np.stack([image(0)] * 3, -1), label(0))
    assert_read(cases["1"], image(0, channels=(3,)), label(1))
    assert_read(cases["2"], np.stack([wide] * 3, -1), label(2))
    assert {case.read().image.dtype for case in cases.values()} == {np.dtype(np.uint16)}


def test_arrays_with_two_channels_have_two_z_scores(tmp_path):
    pixels = np.random.default_rng(6).normal(size=(*SIZE, 2))
    save(tmp_path / "set/images/a.npy", pixels)
    save(tmp_path / "set/masks/a.npy", label().astype(np.int64))
    spec, told, cases = describe(tmp_path / "set")
    assert (spec.channels, spec.dtype, spec.per_channel) == (2, "float32", True)
    assert "normalised separately" in told
    assert_read(cases["a"], pixels.astype(np.float32), label())


@pytest.mark.parametrize("order", ["IPL", "RAS", "LPS", "ASL"])
def test_volumes_come_in_one_order_and_at_the_median_spacing(tmp_path, order):
    spacings = [(5.0, 0.8, 0.7), (4.0, 0.8, 0.9), (2.0, 0.8, 0.5)]
    ramp = np.arange(DEEP[0])[:, None, None] * np.array([[[100]]]) + np.zeros(DEEP)
    for number, spacing in enumerate(spacings):
        save(tmp_path / f"set/images/{number}.nii.gz", ramp.astype(np.int16), order, spacing)
        save(tmp_path / f"set/masks/{number}.nii.gz", label(number, DEEP, 3), order, spacing)
    spec, told, cases = describe(tmp_path / "set")
    assert (spec.spacing, spec.dtype) == ((4.0, 0.8, 0.7), "int16")
    assert "2 x 0.8 x 0.5 to 5 x 0.8 x 0.9, median 4 x 0.8 x 0.7 mm" in told
    for number, spacing in enumerate(spacings):
        example = cases[str(number)].read()
        check_example(spec, example)
        assert example.spacing == pytest.approx(spacing)
        np.testing.assert_array_equal(example.native_label, label(number, DEEP, 3))
        shape = tuple(
            math.floor(n * s / t + 1e-4)
            for n, s, t in zip(DEEP, spacing, (4, 0.8, 0.7), strict=True)
        )
        assert example.label.shape == shape and example.image.shape == (*shape, 1)
        depths = (np.arange(shape[0]) + 0.5) * DEEP[0] / shape[0] - 0.5
        expected = np.rint(np.interp(depths, np.arange(DEEP[0]), ramp[:, 0, 0]))
        middle = example.image[:, shape[1] // 2, shape[2] // 2, 0]
        np.testing.assert_allclose(middle, expected, atol=1)
        assert example.image.dtype == np.int16
    np.testing.assert_array_equal(describe_at(tmp_path, spacings[0]).label, label(0, DEEP, 3))


def describe_at(tmp_path, spacing):
    """The first case, with a spacing declared."""
    spec, _, cases = describe(tmp_path / "set", spacing=spacing, intensity_range=(-5.0, 5.0))
    assert (spec.spacing, spec.intensity_range) == (spacing, (-5.0, 5.0))
    return cases["0"].read()


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (np.int8, "int16"),
        (np.int16, "int16"),
        (np.uint16, "int16"),
        (np.int32, "float32"),
        (np.float32, "float32"),
    ],
)
def test_volumes_are_int16_where_they_fit(tmp_path, stored, expected):
    pixels = image(0, DEEP).astype(np.int64) - (128 if np.dtype(stored).kind == "i" else 0)
    pixels = pixels * (1000 if stored is np.int32 else 1)
    save(tmp_path / "set/images/a.nii", pixels.astype(stored))
    save(tmp_path / "set/masks/a.nii", label(0, DEEP))
    spec, _, cases = describe(tmp_path / "set")
    assert spec.dtype == expected
    assert_read(cases["a"], pixels.astype(expected), label(0, DEEP))


def test_scaled_integers_are_no_integers(tmp_path):
    pairs(tmp_path / "set", 1, "nii", DEEP)
    path = tmp_path / "set/images/0.nii"
    file = nib.load(path)
    file.header.set_slope_inter(0.5, 1)
    scaled = nib.Nifti1Image(0.5 * file.get_fdata() + 1, file.affine, file.header)
    scaled.set_data_dtype(np.uint8)
    nib.save(scaled, path)
    spec, _, cases = describe(tmp_path / "set")
    assert spec.dtype == "float32"
    expected = 0.5 * image(0, DEEP).astype(np.float32)[..., None] + 1
    np.testing.assert_allclose(cases["0"].read().image, expected, atol=0.6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_volumes_of_one_slice_are_images(tmp_path, axis):
    deep = list(SIZE)
    deep.insert(axis, 1)
    pairs(tmp_path / "set", ending="nii.gz", size=deep)
    spec, _, cases = describe(tmp_path / "set")
    assert spec.ndim == 2 and spec.spacing is None
    for number in range(3):
        pixels, drawn = image(number, deep), label(number, deep)
        assert_read(cases[str(number)], pixels.squeeze(axis), drawn.squeeze(axis))
    expected = tuple(s for n, s in zip(deep, (3.0, 0.8, 0.7), strict=True) if n > 1)
    assert cases["0"].read().spacing == pytest.approx(expected)


def test_arrays_of_three_axes_are_volumes_without_a_spacing(tmp_path):
    pairs(tmp_path / "set", ending="npy", size=DEEP, classes=3)
    spec, told, cases = describe(tmp_path / "set")
    assert (spec.spacing, spec.dtype) == ((1.0, 1.0, 1.0), "int16")
    assert "unknown, assumed to be 1 x 1 x 1 mm" in told
    assert spec.patches and "network input: patches of 16 x 16 x 32, the median size in" in told
    assert_read(cases["1"], image(1, DEEP), label(1, DEEP, 3))
    assert cases["1"].read().spacing is None


@pytest.mark.parametrize(
    ("ending", "size"), [("png", SIZE), ("nii.gz", DEEP)], ids=["images", "volumes"]
)
def test_the_set_can_be_prepared(tmp_path, ending, size):
    pairs(tmp_path / "set", ending=ending, size=size)
    spec, _, cases = describe(tmp_path / "set")
    builder = prepare(spec, lambda: list(cases.values()), str(tmp_path / "prepared"))
    stored = builder.as_data_source("cases")
    for number in range(3):
        np.testing.assert_array_equal(stored[number]["image"][..., 0], image(number, size))
        np.testing.assert_array_equal(stored[number]["label"], label(number, size))


def test_files_that_stay_as_they_are_are_not_read_again(tmp_path, monkeypatch):
    pairs(tmp_path / "set", classes=3)
    first = describe(tmp_path / "set")

    def refuse(file):
        raise AssertionError(f"{file} was read")

    with monkeypatch.context() as patched:
        patched.setattr(formats, "read_image", refuse)
        patched.setattr(formats, "read_mask", refuse)
        again = describe(tmp_path / "set")
        declared = describe(tmp_path / "set", classes=("a", "b", "c"))
    assert first[:2] == again[:2]
    assert declared[0].classes == ("a", "b", "c")
    save(tmp_path / "set/masks/1.png", label(1, classes=4))
    assert len(describe(tmp_path / "set")[0].classes) == 4
    (tmp_path / "kept/survey.json").write_text("half")
    assert len(describe(tmp_path / "set")[0].classes) == 4
    assert json.loads((tmp_path / "kept/survey.json").read_text())
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["survey.json"]


sizes = st.one_of(*(st.lists(st.integers(1, 9000), min_size=n, max_size=n) for n in (2, 3)))


@given(sizes)
def test_proposed_sizes_fit_the_network_and_the_memory(median):
    size = survey.propose_size(tuple(median))
    largest = survey.LARGEST[len(median)]
    assert math.prod(size) <= largest
    assert all(n % 16 == 0 and n >= 16 for n in size)
    wanted = [max(16, 16 * round(n / 16)) for n in median]
    if math.prod(wanted) <= largest:
        assert list(size) == wanted
    else:
        # There is a share of the median from which all axes are rounded, and it is not too small.
        axes = list(zip(size, median, strict=True))
        assert max((n - 8) / m for n, m in axes if n > 16) <= min((n + 8) / m for n, m in axes)
        assert math.prod(1.02 * n + 16 for n in size) >= largest


def test_the_network_is_given_the_median_size(tmp_path):
    for number, size in enumerate([(40, 40), (60, 99), (90, 300)]):
        save(tmp_path / f"set/images/{number}.png", image(number, size))
        save(tmp_path / f"set/masks/{number}.png", label(number, size))
    spec, told, _ = describe(tmp_path / "set")
    assert spec.size == (64, 96) and not spec.patches
    assert "network input: 64 x 96, the median size in multiples of 16" in told
    assert "native sizes: 40 x 40 to 90 x 300, median 60 x 99" in told
    assert "(--config.data.size='(64,96)')" in told


def remove(name):
    return lambda root: (root / name).unlink()


def put(name, array):
    return lambda root: save(root / name, array)


def move(old, new):
    return lambda root: (root / old).rename(root / new)


def masks_of(*values):
    """Masks of these values alone."""
    drawn = np.resize(np.array(values, np.uint8), SIZE)

    def change(root):
        for number in range(3):
            save(root / f"masks/{number}.png", drawn)

    return change


def one_a_class(*values):
    """Masks of three files whose classes are, and are not, apart."""

    def change(root):
        for number, (name, value) in itertools.product(range(3), enumerate(values, 1)):
            (root / f"masks/{number}.png").unlink(missing_ok=True)
            save(root / f"masks/{number}_c{name}.png", value)

    return change


def odd_affine(root):
    volumes(root)
    save(root / "masks/1.nii", label(1, DEEP), spacing=(3.0, 0.8, 0.9))


def volumes(root):
    for path in root.glob("*/*.png"):
        path.unlink()
    pairs(root, ending="nii", size=DEEP)


def four_axes(root):
    volumes(root)
    layouts_3d.write_nifti(root / "images/1.nii", np.zeros((*DEEP, 2), np.uint8), (1, 1, 1))


def rename_folders(root):
    (root / "images").rename(root / "scans")
    (root / "masks").rename(root / "truth12")


TOP = np.zeros(SIZE, np.uint8)
TOP[:10] = 255

REFUSED = {
    "image without mask": (
        remove("masks/1.png"),
        {},
        r"images without mask \(1 of 3\): 1 \(masks/\{case\}\.\*\); add the missing files",
    ),
    "mask without image": (remove("images/2.png"), {}, r"masks without image \(1 of 3\): 2 "),
    "many missing": (
        lambda root: pairs(root, 9) or [(root / f"masks/{n}.png").unlink() for n in range(1, 9)],
        {},
        r"images without mask \(8 of 9\): 1, 2, 3, 4, 5 and 3 more",
    ),
    "two of a case": (put("images/1.jpg", image(1)), {}, "both match case 1; remove one of them"),
    "no layout": (
        rename_folders,
        {},
        r"no images with masks were recognised; the files are 3 \.png in scans, "
        r"3 \.png in truth\*.*"
        r"--config\.folder\.images='images/\{case\}\.\*' --config\.folder\.masks=",
    ),
    "empty folder": (
        lambda root: [path.unlink() for path in root.glob("*/*")],
        {},
        "there are no files",
    ),
    "template without case": (
        None,
        {"images": "images/*.png", "masks": "masks/{case}.png"},
        r"folder\.images is 'images/\*\.png', expected \{case\}",
    ),
    "one template": (None, {"images": "images/{case}.png"}, r"folder\.masks is ''"),
    "template with another field": (
        None,
        {"images": "{case}.png", "masks": "{class}/{patient}{case}.png"},
        r"folder\.masks is .*\{class\} if each class has a separate file",
    ),
    "template that fits nothing": (
        None,
        {"images": "images/{case}.tif", "masks": "masks/{case}.png"},
        r"no file matches the template images/\{case\}\.tif; the files are 3 \.png in images",
    ),
    "undeclared values": (
        masks_of(0, 128, 255),
        {},
        r"contain the values 0, 128, 255, expected 0, 1, 2.*255 often marks pixels to ignore.*"
        r"--config\.folder\.mask_values='\(0,128,255\)'",
    ),
    "no background": (masks_of(1, 2), {}, "contain the values 1, 2, expected 0, 1, 2"),
    "noise that may number objects": (
        masks_of(*range(40), *[0] * 200, *[255] * 160),
        {},
        "contain the values 0, 1, 2, 3, 4 and 36 more.*lossy compression.*number objects",
    ),
    "a picture for a mask": (
        masks_of(*range(100)),
        {},
        "contain the values 0, 1, 2, 3, 4 and 95 more.*indicate an image",
    ),
    "unexpected value": (
        lambda root: pairs(root, classes=4),
        {"classes": ("background", "kidney", "tumour")},
        r"masks/0\.png contains 3, expected 0 background, 1 kidney, 2 tumour; correct the file",
    ),
    "value that is not declared": (
        masks_of(0, 7, 9),
        {"mask_values": (0, 9)},
        "contains 7, expected 0 ",
    ),
    "values without classes": (
        None,
        {"mask_values": (0, 1), "classes": ("a", "b", "c")},
        r"folder\.mask_values has 0, 1 and folder\.classes a, b, c; expected one distinct value",
    ),
    "a value twice": (
        None,
        {"mask_values": (0, 1, 1)},
        "expected one distinct value for each class",
    ),
    "no foreground": (masks_of(0), {}, "all masks are 0 everywhere, expected some foreground"),
    "colour-coded mask": (
        put("masks/1.png", np.resize(np.array([255, 0, 0], np.uint8), (*SIZE, 3))),
        {},
        r"masks/0\.png has the grey values 0, 1, and other masks have colours, in none of which",
    ),
    "float label map": (
        lambda root: (remove("masks/1.png")(root), put("masks/1.npy", label() * 0.5)(root)),
        {},
        r"masks/1\.npy contains 0\.5, expected a label map of whole numbers",
    ),
    "float label volume": (
        lambda root: volumes(root) or save(root / "masks/1.nii", label(1, DEEP) * 0.5),
        {},
        r"masks/1\.nii is a label map but contains 0\.5",
    ),
    "float label array": (
        lambda root: (
            remove("masks/1.png")(root),
            put("masks/1.npy", np.full(DEEP, 0.5))(root),
        ),
        {},
        r"masks/1\.npy contains 0\.5, expected a label map of whole numbers",
    ),
    "four axes": (four_axes, {}, r"case 1: .*images/1\.nii is 4-D.*one file per channel"),
    "mixed axes": (
        lambda root: (
            [(root / f"{part}/1.png").unlink() for part in ("images", "masks")]
            and [save(root / f"{part}/1.nii", label(1, DEEP)) for part in ("images", "masks")]
        ),
        {},
        r"images/[02]\.png is 2-D and .*images/1\.nii is 3-D, expected either images or volumes",
    ),
    "truncated image": (
        lambda root: layouts.truncate(root / "images/2.png"),
        {},
        r"case 2: .*images/2\.png cannot be read",
    ),
    "two channels and three": (
        lambda root: (
            remove("images/1.png")(root),
            put("images/1.npy", image(0, SIZE, (2,)))(root),
        ),
        {},
        r"images/1\.npy has 2 channels.*all images of a set must have the same channels",
    ),
    "spacing of images": (None, {"spacing": (1.0, 1.0, 1.0)}, "these are 2-D images"),
    "two spacings": (volumes, {"spacing": (1.0, 1.0)}, "expected three numbers in mm"),
    "range upside down": (None, {"intensity_range": (5.0, -5.0)}, "the lowest and the highest"),
    "class without mask": (
        lambda root: (one_a_class(TOP, 255 - TOP)(root), remove("masks/1_c2.png")(root)),
        {},
        r"missing masks of a class \(1\): 1 \(c2\); .*add a mask that is 0 everywhere",
    ),
    "unknown class": (
        one_a_class(TOP, 255 - TOP),
        {"classes": ("background", "c1", "cyst")},
        r"folder\.classes is background, c1, cyst, but there are masks for c1, c2",
    ),
    "values of files": (one_a_class(TOP, 255 - TOP), {"mask_values": (0, 1)}, "so omit it"),
}
"""What is wrong with three images and masks, the options, and the message."""

UNREADABLE = {
    "mask of another size": (
        put("masks/1.png", label(0, (20, 25))),
        {},
        r"images/1\.png has size 20 x 24 and .*masks/1\.png has 20 x 25",
    ),
    "another affine": (odd_affine, {}, r"images/1\.nii and .*masks/1\.nii are on different grids"),
    "array for a volume": (
        lambda root: (
            volumes(root) or (remove("masks/1.nii")(root), put("masks/1.npy", label(1, DEEP))(root))
        ),
        {},
        r"only one of .*images/1\.nii and .*masks/1\.npy is NIfTI.*save both as NIfTI",
    ),
    "overlap": (
        one_a_class(TOP, np.full(SIZE, 255, np.uint8)),
        {},
        r"masks/1_c2\.png and .*masks/1_c1\.png overlap in 50\.00% of the image",
    ),
    "no binary mask": (
        one_a_class(TOP, TOP // 255 * 7),
        {},
        r"masks/1_c2\.png contains 0, 7, expected a binary mask",
    ),
    "not a number": (
        lambda root: (
            remove("images/1.png")(root),
            put("images/1.npy", np.full(SIZE, np.nan, np.float32))(root),
        ),
        {},
        "480 of the image's 480 values are NaN or infinite",
    ),
}
"""What is found only when case 1 is read for good."""


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_set_is_refused(tmp_path, name):
    change, options, message = REFUSED[name]
    pairs(tmp_path / "set")
    if change:
        change(tmp_path / "set")
    with pytest.raises((ValueError, FileNotFoundError), match=f"(?s){message}"):
        describe(tmp_path / "set", **options)


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_makes_no_case_is_refused(tmp_path, name):
    change, options, message = UNREADABLE[name]
    pairs(tmp_path / "set")
    change(tmp_path / "set")
    spec, _, cases = describe(tmp_path / "set", **options)
    with pytest.raises(ValueError, match=message):
        check_example(spec, cases["1"].read())


def test_a_value_that_came_after_the_survey_is_refused(tmp_path):
    pairs(tmp_path / "set")
    _, _, cases = describe(tmp_path / "set")
    save(tmp_path / "set/masks/1.png", label(1, classes=3))
    with pytest.raises(ValueError, match=r"masks/1\.png contains 2, expected 0 background, 1 "):
        cases["1"].read()
