"""The card of a prepared set, and what is odd about it."""

import dataclasses

import numpy as np
import pytest

from dicepp_jax.data.builder import Facts
from dicepp_jax.data.card import card, findings
from dicepp_jax.data.specs import CVC_CLINICDB, DRIVE, KITS19, KITS19_SYNTHETIC, PHANTOM_3D
from dicepp_jax.plots import canvas
from dicepp_jax.plots import cases as case_plots


def known(
    name,
    shape=(584, 565),
    voxels=(900, 100),
    digest=None,
    notes=(),
    spacing=None,
    group=None,
    label="",
):
    return Facts(name, None, group, shape, spacing, voxels, digest or name, label, notes)


def line(lines, name):
    (found,) = (text for text in lines[1:] if text.split("  ")[1] == name)
    return found.split("  ", 2)[2].strip()


def test_counts_are_held_against_the_table():
    names = [f"c{number:02d}" for number in range(40)]
    cases = [known(name) for name in names]
    whole = {"train": names[:16], "validation": names[16:20], "test": names[20:]}
    text = line(card(DRIVE, cases, whole, "there"), "cases")
    assert text == "40: 16 train, 4 validation, 20 test, as expected"
    part = {"train": names[:6], "validation": names[6:8], "test": names[8:10]}
    text = line(card(DRIVE, cases[:10], part, "there"), "cases")
    assert text == "10: 6 train, 2 validation, 2 test; the complete set has 40: 16, 4, 20"
    own = dataclasses.replace(DRIVE, counts=())
    assert line(card(own, cases, part, "there"), "cases") == "10: 6 train, 2 validation, 2 test"


@pytest.mark.parametrize(
    "shapes, text",
    [
        ([(584, 565)] * 3, "584 x 565"),
        ([(4, 5), (4, 5), (6, 7)], "4 x 5 (2), 6 x 7 (1)"),
        ([(n, 10 * n) for n in range(1, 6)], "1 x 10 to 5 x 50, median 3 x 30, 5 different"),
    ],
)
def test_native_sizes(shapes, text):
    cases = [known(str(n), shape) for n, shape in enumerate(shapes)]
    assert line(card(DRIVE, cases, {}, "there"), "native size") == text


def test_classes_are_weighed_by_voxels_and_counted_by_cases():
    cases = [known("a", voxels=(90, 10, 0)), known("b", voxels=(850, 0, 50))]
    lines = card(PHANTOM_3D, cases, {}, "there")
    assert line(lines, "classes") == (
        "background 94.0%, kidney 1.00% (in 1 cases), tumour 5.00% (in 1 cases)"
    )
    assert line(lines, "clipped to") == "-79 to 304"


def test_voxel_sizes_of_volumes():
    spacings = {"a": (1.0, 0.5, 0.5), "b": (3.0, 0.5, 0.7)}
    cases = [known(name, voxels=(9, 1, 1), spacing=mm) for name, mm in spacings.items()]
    spec = dataclasses.replace(PHANTOM_3D, spacing=(3.22, 1.62, 1.62))
    lines = card(spec, cases, {}, "there")
    assert line(lines, "voxels") == "1 x 0.5 x 0.5 to 3 x 0.5 x 0.7, median 2 x 0.5 x 0.6 mm"
    assert line(lines, "stored at") == "3.22 x 1.62 x 1.62 mm"


def test_terms_are_on_the_card():
    text = "\n".join(card(DRIVE, [known("a")], {}, "there"))
    for fact in (DRIVE.licence, DRIVE.citation, DRIVE.homepage, "there"):
        assert fact in text


def test_leaks_come_first_and_kinds_are_lines_the_rare_before_the_frequent():
    """133 cases without foreground do not hide the one image that is in two parts."""
    empty = "the mask has no foreground"
    cases = [known(f"n{number}", notes=(empty,)) for number in range(133)]
    cases += [
        known("a", digest="1"),
        known("b", digest="2", notes=("its 2 mask files overlap in 7 voxels, 1.5% of it",)),
        known("c", digest="1"),
        known("d", digest="2", notes=("its 3 mask files overlap in 12 voxels, 20.0% of it",)),
        known("e", digest="3", label="x"),
        known("f", digest="3", label="y"),
        known("g", notes=("the mask is all foreground",)),
    ]
    train = [case.id for case in cases if case.id not in "cd"]
    found = findings(cases, {"train": train, "validation": ["d"], "test": ["c"]})
    assert [finding.line(2) for finding in found] == [
        "LEAK: the same image in different parts of the split (2 times): a (train), c (test); "
        "b (train), d (validation)",
        "odd: the same image with different masks (1 time): e (train), f (train)",
        "odd: the mask is all foreground (1 case): g",
        "odd: 2 cases: b, its 2 mask files overlap in 7 voxels, 1.5% of it; "
        "d, its 3 mask files overlap in 12 voxels, 20.0% of it",
        "odd: the mask has no foreground (133 cases): n0; n1 and 131 more",
    ]
    assert [finding.leak for finding in found] == [True, False, False, False, False]
    assert found[-1].where == tuple(f"n{number}" for number in range(133))
    assert findings([known("e")], {"train": ["e"]}) == []


def test_one_image_under_two_names_in_one_part_is_odd():
    cases = [known(name, digest=name[0]) for name in ("a1", "a2", "b")]
    (found,) = findings(cases, {"train": ["a1", "a2", "b"]})
    assert found == ("the same image and mask (1 time)", ("a1 (train), a2 (train)",), False)


def test_a_split_by_group_is_called_so_and_one_across_groups_is_a_leak():
    counts = dict(zip(("train", "validation", "test"), (390, 99, 123), strict=True))
    names = {part: [f"{part}{n}" for n in range(count)] for part, count in counts.items()}
    cases = [
        known(name, group=f"video {1 + list(names).index(part)}")
        for part, ids in names.items()
        for name in ids
    ]
    lines = card(CVC_CLINICDB, cases, names, "there")
    assert line(lines, "cases") == (
        "612: 390 train, 99 validation, 123 test; complete, but divided otherwise than in the "
        "paper: 392, 98, 122"
    )
    assert line(lines, "split") == (
        "by group: each of the 3 groups, video 1 to video 3, is in one part"
    )
    assert findings(cases, names) == []
    swapped = {**names, "train": names["train"][1:], "test": [*names["test"], "train0"]}
    (leak,) = findings(cases, swapped)
    assert leak.leak and leak.line() == (
        "LEAK: 1 of 3 groups of near-duplicates lie in different parts of the split, which "
        "--config.data.split=group prevents: video 1 (test, train)"
    )
    assert not [text for text in card(CVC_CLINICDB, cases, swapped, "") if "by group" in text]


@pytest.mark.parametrize("spec", [KITS19, KITS19_SYNTHETIC])
def test_the_cases_that_the_paper_leaves_out_are_on_the_card(spec):
    lines = card(spec, [known("case_00000", voxels=(9, 1, 1))], {"train": ["case_00000"]}, "there")
    assert line(lines, "left out") == (
        "case_00015, case_00023, case_00037, case_00068, case_00125, case_00133, as in the paper"
    )
    assert not [text for text in card(DRIVE, [known("a")], {}, "there") if "left out" in text]


@pytest.mark.parametrize("shape, channels", [((40, 50), 3), ((300, 700), 1), ((6, 20, 30), 2)])
def test_contact_sheet_outlines_every_class_that_is_there(tmp_path, shape, channels):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(*shape, channels)).astype(np.float32)
    label = np.zeros(shape, np.uint8)
    label[..., 5:15, 5:15], label[..., 15:18, 8:20] = 1, 2
    samples = [
        case_plots.Sample("a long name " * 5, image, label),
        case_plots.Sample("b", image, 0 * label),
    ]
    figure = case_plots.contact_sheet(samples, ("background", "kidney", "tumour"))
    first, second = figure.axes
    assert first.get_title().startswith("…") and len(first.get_title()) == case_plots.TITLE
    assert [len(axes.collections) for axes in (first, second)] == [2, 0]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["kidney", "tumour"]
    canvas.save(figure, tmp_path / "sheet.png")
