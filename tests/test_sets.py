"""The published sets in their official layouts, in miniature, and what is missing or broken."""

import collections
import functools
import re
import shutil

import layouts
import numpy as np
import pytest

from dicepp_jax.data import (
    bus2017,
    cvc_clinicdb,
    drive,
    dsb2018,
    isic2018,
    phantom,
    phantom_cases,
    specs,
)
from dicepp_jax.data.builder import check_example
from dicepp_jax.data.files import File, natural, tree

SETS = {
    "drive": (specs.DRIVE, drive.list_cases, layouts.drive),
    "bus2017": (specs.BUS2017, bus2017.list_cases, layouts.bus2017),
    "dsb2018": (specs.DSB2018, dsb2018.list_cases, layouts.dsb2018),
    "isic2018": (specs.ISIC2018, isic2018.list_cases, layouts.isic2018),
    "cvc_clinicdb": (specs.CVC_CLINICDB, cvc_clinicdb.list_cases, layouts.cvc_clinicdb),
}
NAMES = pytest.mark.parametrize("name", SETS)


def listed(name, folder):
    """The cases by name; none may come twice."""
    cases = SETS[name][1](tree(folder))
    named = {case.id: case for case in cases}
    assert len(named) == len(cases)
    return named


def assert_read(name, cases, written):
    assert set(cases) == set(written)
    for case in cases.values():
        example = case.read()
        check_example(SETS[name][0], example)
        for array, expected in zip((*example[:3], example.raters), written[case.id], strict=True):
            if expected is None:
                assert array is None
            else:
                assert array.dtype == expected.dtype
                np.testing.assert_array_equal(array, expected)


def names_only(names):
    """A tree of files that cannot be opened, as they need not be to list the cases."""
    return {name: File(name, f"/set/{name}", "", False, lambda: None) for name in names}


# The layouts


@NAMES
@pytest.mark.parametrize("form", ["unpacked", "deeper", "zip", "zips in a zip"])
def test_each_set_is_read_pixel_by_pixel(tmp_path, name, form):
    folder = tmp_path / ("files/a/b" if form == "deeper" else "files")
    written = SETS[name][2](folder)
    if "zip" in form:
        parts = sorted(folder.iterdir()) if form == "zips in a zip" else [folder]
        for part in parts:
            top = f"{part.name}/" if part != folder else ""
            layouts.zipped(part, tmp_path / f"parts/{part.name}.zip", top)
        layouts.zipped(tmp_path / "parts", tmp_path / "packed/official.zip")
        shutil.rmtree(folder)
    root = {"zip": "parts", "zips in a zip": "packed"}.get(form, "files")
    assert_read(name, listed(name, tmp_path / root), written)


@NAMES
def test_the_archive_is_taken_rather_than_a_half_unpacked_folder(tmp_path, name):
    folder = tmp_path / "files"
    written = SETS[name][2](folder)
    unpacked = [path for path in folder.rglob("*") if path.is_file()]
    layouts.zipped(folder, folder / "official.zip")
    for path in unpacked[::2]:
        path.unlink()
    for path in unpacked[1::2]:
        path.write_bytes(b"")
    cases = listed(name, tmp_path / "files")
    assert all(file.archived for case in cases.values() for file in case.files)
    assert_read(name, cases, written)


@NAMES
def test_a_case_s_files_are_all_that_it_is_read_from(tmp_path, name):
    SETS[name][2](tmp_path)
    used = [file.name for case in listed(name, tmp_path).values() for file in case.files]
    assert len(set(used)) == len(used)
    passed_over = {
        "drive": "nothing",
        "bus2017": "nothing",
        "dsb2018": "stage1_test/",
        "isic2018": r"superpixels|LICENSE",
        "cvc_clinicdb": "nothing",
    }
    left = set(tree(tmp_path)) - set(used)
    assert left == {file for file in tree(tmp_path) if re.search(passed_over[name], file)}


def test_drive_has_the_authors_order_and_parts(tmp_path):
    layouts.drive(tmp_path)
    cases = list(listed("drive", tmp_path).values())
    training = [f"{number}_training" for number in range(21, 41)]
    assert [case.id for case in cases] == training + [f"{n:02d}_test" for n in range(1, 21)]
    assert [case.part for case in cases] == ["train"] * 16 + ["validation"] * 4 + ["test"] * 20


def test_bus2017_is_in_the_order_of_its_numbers_with_gaps(tmp_path):
    layouts.bus2017(tmp_path, numbers=(310, 2, 96, 11, 100))
    assert list(listed("bus2017", tmp_path)) == [f"{n:06d}" for n in (2, 11, 96, 100, 310)]


def test_dsb2018_is_in_alphabetical_order(tmp_path):
    written = layouts.dsb2018(tmp_path)
    assert list(listed("dsb2018", tmp_path)) == sorted(written)
    assert sorted(written) != sorted(written, key=natural)  # so that the test can fail


def test_dsb2018_of_an_archive_without_a_top_folder(tmp_path):
    written = layouts.dsb2018(tmp_path / "files", top="")
    shutil.rmtree(tmp_path / "files/stage1_test")
    layouts.zipped(tmp_path / "files", tmp_path / "packed/stage1_train.zip")
    for folder in ("files", "packed", "packed/stage1_train.zip"):
        assert_read("dsb2018", listed("dsb2018", tmp_path / folder), written)


def test_dsb2018_does_not_mix_the_nuclei_of_two_versions(tmp_path):
    written = layouts.dsb2018(tmp_path / "files", sizes=[(16, 20)])
    layouts.zipped(tmp_path / "files", tmp_path / "files/stage1_train.zip")
    [name] = written
    extra = tmp_path / f"files/stage1_train/{name}/masks/corrected.png"
    layouts.write_mask(extra, np.ones((16, 20), np.uint8))
    assert_read("dsb2018", listed("dsb2018", tmp_path / "files"), written)


def test_isic2018_passes_over_the_other_images_of_the_challenge(tmp_path):
    written = layouts.isic2018(tmp_path)
    other = tmp_path / "ISIC2018_Task1-2_Validation_Input/ISIC_0012255.jpg"
    layouts.write_rgb(other, np.zeros((8, 8, 3), np.uint8))
    assert list(listed("isic2018", tmp_path)) == sorted(written)


def test_cvc_clinicdb_is_in_the_order_of_its_numbers():
    numbers = np.random.default_rng([7, 0]).permutation(np.arange(1, 613))
    files = names_only(
        f"{part}/{number}.tif" for number in numbers for part in ("Original", "Ground Truth")
    )
    cases = cvc_clinicdb.list_cases(files)
    assert [case.id for case in cases] == [str(number) for number in range(1, 613)]


def test_cvc_clinicdb_groups_the_frames_of_a_video():
    numbers = range(1, 613)
    files = names_only(f"{part}/{n}.tif" for n in numbers for part in ("Original", "Ground Truth"))
    groups = [case.group for case in cvc_clinicdb.list_cases(files)]
    assert groups == sorted(groups, key=natural)  # each is one run of frames
    sizes = list(collections.Counter(groups).values())
    assert len(sizes) == 29
    assert np.cumsum(sizes).tolist() == [
        *(25, 50, 67, 78, 103, 126, 151, 177, 199, 205, 227, 252, 277, 297, 317, 342, 363, 383),
        *(408, 428, 447, 466, 478, 503, 528, 546, 571, 591, 612),
    ]


def test_cvc_clinicdb_may_be_a_copy_of_pngs(tmp_path):
    written = layouts.cvc_clinicdb(tmp_path / "CVC-ClinicDB/PNG", suffix="png")
    assert_read("cvc_clinicdb", listed("cvc_clinicdb", tmp_path), written)
    layouts.cvc_clinicdb(tmp_path / "CVC-ClinicDB/TIF")
    cases = listed("cvc_clinicdb", tmp_path)
    assert list(cases) == sorted(written, key=int)
    assert {file.name[-4:] for case in cases.values() for file in case.files} == {".tif"}


# What is missing


def remove(*patterns):
    """Removes the files that match."""

    def damage(folder):
        for pattern in patterns:
            found = list(folder.glob(pattern))
            assert found
            for path in found:
                path.unlink()

    return damage


def empty_masks(folder):
    for path in dsb_case(folder).glob("masks/*"):
        path.unlink()


def archive_without_masks(folder):
    """The archive lacks the masks of a case, which are unpacked beside."""
    path = dsb_case(folder)
    (path / "masks").rename(folder / "kept")
    layouts.zipped(folder / "stage1_train", folder / "stage1_train.zip")
    (folder / "kept").rename(path / "masks")


def dsb_case(folder):
    return min((folder / "stage1_train").iterdir())


DSB_ID = min(map(layouts.dsb2018_id, range(9)))

MISSING = {
    "an image without mask": (
        "bus2017",
        remove("GT/000004.png"),
        "BUS2017: image without mask: 1 of 9, such as {folder}/original/000004.png; missing: "
        "GT/000004.png. The set seems to be incomplete: unpack or download it again. 1. Ask for",
    ),
    "a mask without image": (
        "bus2017",
        remove("original/000004.png"),
        "BUS2017: mask without image: 1 of 9, such as {folder}/GT/000004.png; missing: "
        "original/000004.png.",
    ),
    "many masks": (
        "bus2017",
        remove("GT/0000*.png"),
        "image without mask: 7 of 9, such as {folder}/original/000001.png; missing: "
        "GT/000001.png, GT/000002.png, GT/000004.png, GT/000010.png, GT/000011.png and 2 more.",
    ),
    "all masks": (
        "isic2018",
        remove("*GroundTruth/*.png"),
        "ISIC2018: image without mask: 10 of 10, such as "
        "{folder}/ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg; missing: "
        "ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png, ",
    ),
    "all images": (
        "isic2018",
        remove("*Input/*.jpg"),
        "ISIC2018: mask without image: 10 of 10, such as "
        "{folder}/ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png; missing: "
        "ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg, ",
    ),
    "the mask of a frame": (
        "cvc_clinicdb",
        remove("Ground Truth/26.tif"),
        "CVC-ClinicDB: image without mask: 1 of 10, such as {folder}/Original/26.tif; missing: "
        "Ground Truth/26.tif.",
    ),
    "the masks of nuclei": (
        "dsb2018",
        empty_masks,
        f"2018DSB: image without mask: 1 of 9, such as {{folder}}/stage1_train/{DSB_ID}/images/"
        f"{DSB_ID}.png; missing: {DSB_ID}/masks/*.png. The set seems to be incomplete",
    ),
    "the image of nuclei": (
        "dsb2018",
        lambda folder: shutil.rmtree(dsb_case(folder) / "images"),
        f"2018DSB: mask without image: 1 of 9, such as {{folder}}/stage1_train/{DSB_ID}/masks/",
    ),
    "the masks of nuclei in an archive": (
        "dsb2018",
        archive_without_masks,
        f"image without mask: 1 of 9, such as {{folder}}/stage1_train.zip/{DSB_ID}/images/{DSB_ID}",
    ),
    "DRIVE's test manuals": (
        "drive",
        remove("test/1st_manual/*.gif"),
        "DRIVE: image without manual segmentation: 20 of 40, such as "
        "{folder}/test/images/01_test.tif; missing: 1st_manual/01_manual1.gif, ",
    ),
    "a field of view": (
        "drive",
        remove("training/mask/28*.gif"),
        "DRIVE: image without field of view: 1 of 40, such as "
        "{folder}/training/images/28_training.tif; missing: mask/28_*_mask.gif. ",
    ),
    "an image of DRIVE": (
        "drive",
        remove("test/images/05_test.tif"),
        "DRIVE: manual segmentation without image: 1 of 40, such as "
        "{folder}/test/1st_manual/05_manual1.gif; missing: images/05_*.tif. ",
    ),
    "a case of DRIVE": (
        "drive",
        remove("test/*/05_*"),
        "DRIVE: missing images (1 of 40): test/images/05_test.tif. 1. Register",
    ),
    "DRIVE's training folder": (
        "drive",
        lambda folder: shutil.rmtree(folder / "training"),
        "DRIVE: missing images (20 of 40): training/images/21_training.tif, "
        "training/images/22_training.tif, training/images/23_training.tif, "
        "training/images/24_training.tif, training/images/25_training.tif and 15 more. ",
    ),
}


@pytest.mark.parametrize("name, damage, message", MISSING.values(), ids=MISSING)
def test_what_is_missing_is_named_and_how_to_obtain_it_told(tmp_path, name, damage, message):
    spec, list_cases, write = SETS[name]
    write(tmp_path)
    damage(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=re.escape(message.format(folder=tmp_path))
    ) as error:
        list_cases(tree(tmp_path))
    assert str(error.value).endswith(spec.obtain)


@pytest.mark.parametrize(
    "name, looked_for",
    [
        ("drive", "images/*_*.tif and 1st_manual/*_manual1.gif and mask/*_*_mask.gif"),
        ("bus2017", "original/*.png and GT/*.png"),
        ("dsb2018", "*/images/*.png and */masks/*.png"),
        (
            "isic2018",
            "ISIC2018_Task1-2_Training_Input/*.jpg and "
            "ISIC2018_Task1_Training_GroundTruth/*_segmentation.png",
        ),
        ("cvc_clinicdb", "Original/*.tif and Ground Truth/*.tif"),
    ],
)
def test_where_nothing_is_found_it_is_told_what_was_looked_for(name, looked_for):
    spec, list_cases, _ = SETS[name]
    for files in ({}, names_only(["images/a.png", "masks/a.png", "notes.txt"])):
        message = (
            f"{spec.title}: none of the {len(files)} files matches {looked_for}. {spec.obtain}"
        )
        with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
            list_cases(files)


@NAMES
@pytest.mark.parametrize("archive", ["CVC-ClinicDB.rar", "deep/a.TAR.GZ", "b.7z"])
def test_another_archive_must_be_unpacked(tmp_path, name, archive):
    spec, list_cases, write = SETS[name]
    path = tmp_path / archive
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    message = (
        f"{spec.title}: {path} cannot be read; unpack it first, with `unar` or 7-Zip. {spec.obtain}"
    )
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        list_cases(tree(tmp_path))
    written = write(tmp_path)
    assert set(listed(name, tmp_path)) == set(written)  # It may stay where it is.


@NAMES
def test_two_copies_are_refused(tmp_path, name):
    for copy in ("a", "b"):
        written = SETS[name][2](tmp_path / copy)
    first, second = f"{tmp_path}/a/", f"{tmp_path}/b/"
    message = rf"{first}(.+) and {second}\1 both match case \w+; remove one of them"
    with pytest.raises(ValueError, match=message):
        listed(name, tmp_path)
    shutil.rmtree(tmp_path / "b")
    assert set(listed(name, tmp_path)) == set(written)


# What is broken

IMAGES = {
    "drive": "training/images/33_training.tif",
    "bus2017": "original/000025.png",
    "dsb2018": f"stage1_train/{DSB_ID}/images/{DSB_ID}.png",
    "isic2018": "ISIC2018_Task1-2_Training_Input/ISIC_0000011.jpg",
    "cvc_clinicdb": "Original/25.tif",
}
MASKS = {
    "drive": "training/1st_manual/33_manual1.gif",
    "bus2017": "GT/000025.png",
    "isic2018": "ISIC2018_Task1_Training_GroundTruth/ISIC_0000011_segmentation.png",
    "cvc_clinicdb": "Ground Truth/25.tif",
}


def the_case(name, folder):
    """The case of `IMAGES`."""
    [case] = [c for c in listed(name, folder).values() if c.files[0].name == IMAGES[name]]
    return case


# Pillow warns of some truncated files before it gives up on them.
@pytest.mark.filterwarnings("ignore:(Truncated File Read|Corrupt EXIF):UserWarning")
@NAMES
def test_truncated_images_and_masks_are_named(tmp_path, name):
    SETS[name][2](tmp_path)
    case = the_case(name, tmp_path)
    for path in (tmp_path / file.name for file in case.files):
        whole = path.read_bytes()
        layouts.truncate(path)
        with pytest.raises(ValueError, match=re.escape(f"{path} cannot be read as an image")):
            case.read()
        path.write_bytes(whole)
    case.read()


@NAMES
def test_forbidden_images_are_named(tmp_path, monkeypatch, name):
    SETS[name][2](tmp_path)
    case = the_case(name, tmp_path)

    def refuse(self, mode):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(type(tmp_path), "open", refuse)
    message = f"{tmp_path / IMAGES[name]} cannot be read (Permission denied); get read"
    with pytest.raises(PermissionError, match=re.escape(message)):
        case.read()


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_of_another_size_is_refused(tmp_path, name):
    SETS[name][2](tmp_path)
    path = tmp_path / MASKS[name]
    path.unlink()
    layouts.write_mask(path, np.eye(9, 7, dtype=np.uint8))
    example = the_case(name, tmp_path).read()
    size = example.image.shape[:2]
    message = f"label has shape (9, 7) and the image {size}; they must have the same size"
    with pytest.raises(ValueError, match=re.escape(message)):
        check_example(SETS[name][0], example)


def test_a_nucleus_of_another_size_is_named(tmp_path):
    layouts.dsb2018(tmp_path)
    case = the_case("dsb2018", tmp_path)
    path = tmp_path / case.files[2].name
    size = case.read().label.shape
    # numpy would add the two together without a word.
    layouts.write_mask(path, np.ones((size[0], 1), np.uint8))
    message = f"{path} has shape ({size[0]}, 1) and its image {size}; they must have the same size"
    with pytest.raises(ValueError, match=re.escape(message)):
        case.read()


# The phantoms and the facts


@pytest.mark.parametrize(
    "spec, list_cases",
    [
        (specs.PHANTOM, phantom_cases.vessels),
        (specs.PHANTOM_3D, phantom_cases.kidney),
        *(
            (spec, functools.partial(phantom_cases.lesions, share))
            for share, spec in specs.RARE.items()
        ),
    ],
)
def test_phantoms_are_drawn_in_order(spec, list_cases):
    cases = list_cases({})
    assert [case.id for case in cases] == [f"{spec.name}_{i:03d}" for i in range(len(cases))]
    train, validation, test = spec.counts
    parts = ["train"] * train + ["validation"] * validation + ["test"] * test
    assert [case.part for case in cases] == parts
    assert {case.files for case in cases} == {()}
    for index in (0, len(cases) - 1):
        example = cases[index].read()
        check_example(spec, example)
        if spec is specs.PHANTOM:
            image, label = phantom.vessels(0, index)
        elif spec in specs.RARE.values():
            [share] = [share for share, rare in specs.RARE.items() if rare is spec]
            assert spec.name == f"phantom_1in{1 / share:.0f}"
            image, label = phantom.lesion(0, index, share)
            image = image[..., None]
        else:
            image, label = phantom.kidney(0, index)
            image = image[..., None]
        np.testing.assert_array_equal(example.image, image)
        np.testing.assert_array_equal(example.label, label)


@pytest.mark.parametrize(
    "name, title, images",
    [
        ("drive", "DRIVE", 40),
        ("bus2017", "BUS2017", 163),
        ("dsb2018", "2018DSB", 670),
        ("isic2018", "ISIC2018", 2594),
        ("cvc_clinicdb", "CVC-ClinicDB", 612),
    ],
)
def test_the_facts_of_the_sets(name, title, images):
    spec = SETS[name][0]
    assert (spec.name, spec.title, sum(spec.counts)) == (name, title, images)
    assert spec.channels == 3 and spec.dtype == "uint8" and spec.ndim == 2
    steps = re.findall(r"(?:^|\s)(\d)\. ", spec.obtain)
    assert steps == ["1", "2", "3"]
    assert "--config.data.manual_dir=FOLDER" in spec.obtain.split("3. ")[1]
    end = "--config.data.download=True" if spec.downloads else "--config.data.manual_dir=FOLDER"
    assert spec.obtain.endswith(end)
    for download in spec.downloads:
        assert download.url.startswith("https://") and download.url.endswith(f"/{download.path}")
