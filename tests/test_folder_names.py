"""Names in a user's own folder: several masks a case, files that nothing uses, spellings."""

import re
import unicodedata
import zipfile

import layouts
import numpy as np
import pytest
from test_folder import SIZE, assert_read, describe, image, label, save

from dicepp_jax.data.preparation import prepare

TOP = np.zeros(SIZE, np.uint8)
TOP[:10] = 255
MIDDLE = np.roll(TOP, 6, axis=0)
OVERLAP = 4 * SIZE[1]


def pictures(root, *names):
    """Write an image for each name."""
    for number, name in enumerate(names):
        save(root / name, image(number))


# Several masks of a case


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("archived", [False, True])
def test_the_ultrasound_layout_needs_no_template(tmp_path, flat, archived):
    root = tmp_path / "set"
    written = layouts.ultrasound(root, flat=flat)
    if archived:
        layouts.zipped(root, tmp_path / "set.zip", top="us/")
        root = tmp_path / "set.zip"
    spec, told, cases = describe(root)
    assert spec.classes == ("background", "foreground")
    assert list(cases) == list(written)
    for name, (picture, drawn, *_) in written.items():
        assert_read(cases[name], picture, drawn)
    assert "several masks: 4 of 9 cases have up to 3 mask files, which are united: " in told
    assert "--config.folder.masks='{case}_mask{number}.*'" in told and "NOT USED" not in told
    # The third benign image has three discs, each five columns from the one before.
    first = written["benign (1)"].label  # has one disc and no note
    assert first.any() and cases["benign (1)"].read().notes == ()
    (note,) = cases["benign (3)"].read().notes
    masks = [
        np.asarray(layouts.Image.open(path)) > 0
        for path in sorted((tmp_path / "set").rglob("benign (3)_mask*.png"))
    ]
    twice = np.count_nonzero(np.sum(masks, axis=0) > 1)
    share = twice / np.count_nonzero(written["benign (3)"].label)
    assert note == (f"its 3 mask files overlap in {twice} voxels, {share:.1%} of the foreground")


@pytest.mark.parametrize(
    ("images", "masks", "options"),
    [
        ("{}.png", ("{}_mask.png", "{}_mask_1.png"), {}),
        ("{}.png", ("{}_seg_1.png", "{}_seg.png"), {}),
        ("images/{}.png", ("masks/{}.png", "masks/{}_1.png"), {}),
        ("images/{}.png", ("labels/{}_mask1.png", "labels/{}_mask.png"), {}),
        ("{}.png", ("{}_mask.png", "{}_mask_old.png"), ("{case}.png", "{case}_mask*.png")),
        ("{}/image.png", ("{}/masks/a.png", "{}/masks/b.png"),
         ("{case}/image.png", "{case}/masks/*.png")),
        ("{}.png", ("{}_a_1.png", "{}_a_2.png"), ("{case}.png", "{case}_a{number}.png")),
    ],
)  # fmt: skip
def test_several_masks_are_united(tmp_path, images, masks, options):
    pictures(tmp_path / "set", *(images.format(name) for name in "ab"))
    for name, drawn in (("a", (TOP, MIDDLE)), ("b", (MIDDLE, TOP))):
        for template, mask in zip(masks, drawn, strict=True):
            save(tmp_path / "set" / template.format(name), mask)
    options = dict(zip(("images", "masks"), options, strict=True)) if options else {}
    _, told, cases = describe(tmp_path / "set", **options)
    assert "several masks: 2 of 2 cases have up to 2 mask files" in told
    for number, name in enumerate("ab"):
        assert_read(cases[name], image(number), (TOP | MIDDLE) // 255)
        assert cases[name].read().notes == (
            f"its 2 mask files overlap in {OVERLAP} voxels, 25.0% of the foreground",
        )


@pytest.mark.parametrize(
    ("pattern", "options"),
    [
        ("masks/{kind}/{case}{number}.png", {}),
        (
            "masks/{case}_{kind}{number}.png",
            {"images": "images/{case}.*", "masks": "masks/{case}_{class}{number}.*"},
        ),
        (
            "masks/{kind}/{case}{number}.png",
            {"images": "images/{case}.png", "masks": "masks/{class}/{case}*.png"},
        ),
    ],
)
def test_the_masks_of_each_class_are_united(tmp_path, pattern, options):
    pictures(tmp_path / "set", "images/a.png", "images/b.png")
    rows = {("cyst", ""): (0, 3), ("cyst", "_1"): (2, 6), ("tumour", ""): (10, 15)}
    expected = np.zeros(SIZE, np.uint8)
    for (kind, number), (start, stop) in rows.items():
        mask = np.zeros(SIZE, np.uint8)
        mask[start:stop] = 255
        expected[start:stop] = 1 if kind == "cyst" else 2
        for case in ("a", "b"):
            if case == "a" or not number:
                name = pattern.format(kind=kind, number=number, case=case)
                save(tmp_path / "set" / name, mask)
    spec, told, cases = describe(tmp_path / "set", **options)
    assert spec.classes == ("background", "cyst", "tumour")
    assert "1 of 2 cases have up to 2 mask files of a class" in told
    assert_read(cases["a"], image(0), expected)
    expected[3:6] = 0
    assert_read(cases["b"], image(1), expected)


def test_label_maps_are_united_where_they_agree(tmp_path):
    first, second = np.zeros((2, *SIZE), np.uint8)
    first[:5], second[4:8], second[10:] = 1, 1, 2
    pictures(tmp_path / "set", "a.png", "b.png")
    save(tmp_path / "set/a_mask.png", first)
    save(tmp_path / "set/a_mask_1.png", second)
    save(tmp_path / "set/b_mask.png", second)
    spec, _, cases = describe(tmp_path / "set")
    assert spec.classes == ("background", "class_1", "class_2")
    assert_read(cases["a"], image(0), np.maximum(first, second))
    assert f"overlap in {SIZE[1]} voxels" in cases["a"].read().notes[0]
    second[4] = 2
    save(tmp_path / "set/a_mask_1.png", second)
    _, _, cases = describe(tmp_path / "set")
    with pytest.raises(
        ValueError, match=r"a_mask_1\.png and .*a_mask\.png overlap in 5\.00% .* different classes"
    ):
        cases["a"].read()


def test_a_value_of_no_class_names_all_masks_of_the_case(tmp_path):
    pictures(tmp_path / "set", "a.png")
    save(tmp_path / "set/a_mask.png", TOP)
    save(tmp_path / "set/a_mask_1.png", TOP // 255 * 7)
    with pytest.raises(ValueError, match=r"a_mask\.png or .*a_mask_1\.png contains 7, expected 0 "):
        describe(tmp_path / "set", mask_values=(0, 255))


def test_overlaps_reach_the_prepared_set(tmp_path):
    layouts.ultrasound(tmp_path / "set")
    spec, _, cases = describe(tmp_path / "set")
    facts = prepare(spec, lambda: list(cases.values()), str(tmp_path / "sets")).stored_facts()
    overlapping = {case.id for case in facts if "overlap" in "".join(case.notes)}
    assert overlapping == {f"{kind} ({n})" for kind in ("benign", "malignant") for n in (2, 3)}
    assert {case.id for case in facts if "no foreground" in "".join(case.notes)} == {
        *("normal (1)", "normal (2)", "normal (3)")
    }


def test_numbers_that_may_be_those_of_classes_are_refused(tmp_path):
    pictures(tmp_path / "set", "images/a.png", "images/b.png")
    for name in ("a_1", "a_2", "b_1", "b_2"):
        save(tmp_path / f"set/masks/{name}.png", TOP if name.endswith("1") else 255 - TOP)
    with pytest.raises(ValueError, match=r"every case has the masks _1, _2, so the numbers may"):
        describe(tmp_path / "set")
    for template, classes in (("{case}_{class}", 3), ("{case}{number}", 2)):
        options = {"images": "images/{case}.*", "masks": f"masks/{template}.*"}
        assert len(describe(tmp_path / "set", **options)[0].classes) == classes
    (tmp_path / "set/masks/b_2.png").unlink()  # Now they can only be of objects.
    assert describe(tmp_path / "set")[0].classes == ("background", "foreground")


# Files that nothing uses


def test_further_masks_are_not_left_out_by_a_template(tmp_path):
    layouts.ultrasound(tmp_path / "set")
    options = {"images": "{case}).png", "masks": "{case})_mask.png"}
    message = (
        "files named like further masks of cases that have one (6): benign/benign (2)_mask_1.png"
    )
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        describe(tmp_path / "set", **options)
    remedy = re.search(r"--config\.folder\.masks='(.*?)'", str(caught.value))[1]
    assert remedy == "{case})_mask{number}.png"
    _, _, cases = describe(tmp_path / "set", images="{case}).png", masks=remedy)
    assert len(cases) == 9 and "normal (3)" in cases


def test_every_unused_image_file_is_told(tmp_path):
    root = tmp_path / "set"
    for number in range(3):
        save(root / f"images/{number}.png", image(number))
        save(root / f"masks/{number}.png", label(number))
        save(root / f"previews/{number}.JPG", image(number))
    save(root / "masks/old/0_mask.png", label(0))
    for name in ("masks/2_corrected.webp", "more.tar.gz", "scan.dcm"):
        (root / name).write_bytes(b"")
    (root / "readme.txt").touch()
    _, told, cases = describe(root)
    assert list(cases) == ["0", "1", "2"]
    first, second, *others = told.splitlines()
    assert first.startswith(
        "NOT USED: files that are named like masks but belong to no case (2): "
        "masks/2_corrected.webp, masks/old/0_mask.png, that is 1 .webp in masks, 1 .png in "
        "masks/old; set"
    )
    assert second.startswith(
        "NOT USED: image files or archives that belong to no case (5): more.tar.gz, "
        "previews/0.JPG, previews/1.JPG, previews/2.JPG, scan.dcm, that is "
    )
    assert "NOT USED" not in "".join(others)


def test_files_that_are_used_hidden_or_copied_are_not_told(tmp_path):
    root = tmp_path / "set"
    for number in range(3):
        save(root / f"images/{number}.png", image(number))
        save(root / f"masks/{number}.png", label(number))
    layouts.zipped(root, tmp_path / "all.zip", top="set/")
    (tmp_path / "all.zip").rename(root / "all.zip")  # beside what was unpacked from it
    for name in ("._0.png", ".DS_Store", "Thumbs.db", "__MACOSX/images/._0.png", "@eaDir/0.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    _, told, cases = describe(root)
    assert "NOT USED" not in told
    assert {file.archived for case in cases.values() for file in case.files} == {True}


def test_unused_files_of_nnunet_are_told(tmp_path):
    layouts.write_mask(tmp_path / "set/labelsTr/a.png", label(0))
    layouts.write_mask(tmp_path / "set/imagesTr/a_0000.png", label(1), "grey")
    layouts.write_mask(tmp_path / "set/imagesTs/b_0000.png", label(2), "grey")
    (tmp_path / "set/dataset.json").write_text(
        '{"channel_names": {"0": "US"}, "labels": {"background": 0, "x": 255}, '
        '"file_ending": ".png"}'
    )
    _, told, cases = describe(tmp_path / "set")
    assert list(cases) == ["a"]
    assert "NOT USED: image files or archives that belong to no case (1): imagesTs/b_0000" in told


# Spellings

NAME = "Noël"
NFC, NFD = (unicodedata.normalize(form, NAME) for form in ("NFC", "NFD"))


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("options", [{}, {"images": f"{NFD}/{{case}}.*", "masks": "{case}_mask.*"}])
def test_composed_and_decomposed_accents_are_one_name(tmp_path, archived, options):
    root = tmp_path / "set"
    save(root / f"{NFC}/{NFC} 1.png", image(0))
    save(root / f"{NFC}/{NFD} 1_mask.png", label(0))
    if archived:
        layouts.zipped(root, tmp_path / "set.zip", top="")
        root = tmp_path / "set.zip"
    _, _, cases = describe(root, **options)
    assert list(cases) == [f"{NFC} 1"]
    assert_read(cases[f"{NFC} 1"], image(0), label(0))


def test_spaces_around_names_are_none_of_them(tmp_path):
    save(tmp_path / "set/a .png", image(0))
    save(tmp_path / "set/a_mask.png", label(0))
    _, _, cases = describe(tmp_path / "set")
    assert_read(cases["a"], image(0), label(0))
    save(tmp_path / "set/a.png", image(0))
    with pytest.raises(ValueError, match=r"both match case a; remove one of them"):
        describe(tmp_path / "set")


def test_names_that_differ_in_case_alone(tmp_path):
    for name in ("a", "A"):
        save(tmp_path / f"set/{name}.png", image(0))
        save(tmp_path / f"set/{name}_MASK.PNG", label(ord(name)))
    _, told, cases = describe(tmp_path / "set")
    assert "names that differ in upper and lower case alone: A and a; on macOS" in told
    for name in ("a", "A"):
        assert_read(cases[name], image(0), label(ord(name)))
    (tmp_path / "set/a.png").unlink()
    (tmp_path / "set/A_MASK.PNG").unlink()
    save(tmp_path / "set/b.png", image(0))
    save(tmp_path / "set/b_mask.png", label(0))
    with pytest.raises(FileNotFoundError, match="these differ in upper and lower case: A and a"):
        describe(tmp_path / "set")


def test_an_empty_file_of_a_case_is_named(tmp_path):
    save(tmp_path / "set/a.png", image(0))
    save(tmp_path / "set/a_mask.png", label(0))
    (tmp_path / "set/b.png").touch()
    save(tmp_path / "set/b_mask.png", label(1))
    with pytest.raises(ValueError, match=r"case b: .*b\.png cannot be read as an image"):
        describe(tmp_path / "set")


def test_names_in_archives_of_macos_are_utf8_without_saying_so(tmp_path):
    """As its Archive Utility writes them: in UTF-8, without the flag that says so."""
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name, array in ((f"{NFD}.png", image(0)), (f"{NFC}_mask.png", label(0))):
            save(tmp_path / "one.png", array)
            archive.writestr(name, (tmp_path / "one.png").read_bytes())
    content = bytearray((tmp_path / "set.zip").read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        for start in (hit.start() for hit in re.finditer(re.escape(signature), content)):
            content[start + flags + 1] &= ~0x08
    (tmp_path / "set.zip").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "set.zip") as archive:
        assert NFC not in "".join(archive.namelist())  # Python takes them for another encoding.
    _, _, cases = describe(tmp_path / "set.zip")
    assert_read(cases[NFC], image(0), label(0))
