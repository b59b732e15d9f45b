"""What a template makes of the names of files."""

import pytest

from dicepp_jax.data import templates
from dicepp_jax.data.files import File


def tree(*names):
    return {name: File(name, name, "", False, None) for name in names}


@pytest.mark.parametrize(
    ("template", "name", "case"),
    [
        ("{case}.*", "normal (9).png", "normal (9)"),
        ("{case}).png", "normal (9).png", "normal (9)"),
        ("{case})_mask.png", "normal (9)_mask.png", "normal (9)"),
        ("{case}]_mask.png", "scan[3]_mask.png", "scan[3]"),
        # A bracket that the template itself opens is none of the name.
        ("normal ({case}).png", "normal (9).png", "9"),
        ("({case})/a.png", "(x)/a.png", "x"),
        ("(a)/{case}).png", "(a)/b (1).png", "b (1)"),
        ("{case}.png", "x/ b .PNG", "b"),
    ],
)
def test_no_case_is_named_by_half_a_bracket(template, name, case):
    assert templates.image_cases(tree(name), template) == {case}


@pytest.mark.parametrize(
    ("template", "name", "expected"),
    [
        ("{case}_mask{number}.*", "x (1)_mask.png", ("x (1)", "")),
        ("{case}_mask{number}.*", "x (1)_mask_1.png", ("x (1)", "")),
        ("{case}_mask{number}.*", "x (1)_mask-02.png", ("x (1)", "")),
        ("{case}_mask{number}.*", "x (1)_mask3.png", ("x (1)", "")),
        ("{case}_mask{number}.*", "x (1)_mask (4).nii.gz", ("x (1)", "")),
        # A number after a name is set apart from it, and is part of it if there is such a case.
        ("masks/{case}{number}.*", "masks/a_1.png", ("a", "")),
        ("masks/{case}{number}.*", "masks/b_1.png", ("b_1", "")),
        ("masks/{case}{number}.*", "masks/b_1_2.png", ("b_1", "")),
        ("masks/{case}{number}.*", "masks/a1.png", ("a1", "")),
        ("masks/{class}/{case}{number}.*", "masks/cyst/a_7.png", ("a", "cyst")),
        ("{case}_{class}{number}.*", "a_left_cyst_2.png", ("a", "left_cyst")),
        ("{case}_{class}{number}.*", "b_1_cyst.png", ("b_1", "cyst")),
        # So is anything, up to the end of a word: `a2` is none of the masks of `a`.
        ("masks/{case}*.png", "masks/a_1_2.png", ("a", "")),
        ("masks/{case}*.png", "masks/b_1-old.png", ("b_1", "")),
        ("masks/{case}*.png", "masks/a2.png", ("a2", "")),
        ("masks/{case}*.png", "masks/x (1) copy.png", ("x (1)", "")),
        ("{case}_{class}.*", "a_cyst_2.png", ("a", "cyst_2")),
    ],
)
def test_numbers_count_the_masks_of_a_case(template, name, expected):
    (mask,) = templates.parse_masks(tree(name), template, {"a", "b_1", "x (1)"})
    assert (mask.case, mask.label, mask.name) == (*expected, name)


@pytest.mark.parametrize("name", ["x_mask_old.png", "x_mask_.png", "x_mask_1_old.png", "x_mask1"])
def test_a_number_is_no_other_text(name):
    assert not list(templates.parse_masks(tree(name), "{case}_mask{number}.*", {"x"}))


def test_a_file_that_matches_both_templates_is_of_the_more_specific():
    names = tree("a.png", "a_mask.png", "a_mask_1.png", "b.txt")
    images, masks = templates.split(names, "{case}.*", "{case}_mask{number}.*")
    assert (list(images), list(masks)) == (["a.png"], ["a_mask.png", "a_mask_1.png"])


@pytest.mark.parametrize(
    ("template", "several"),
    [
        ("{case}_mask.*", False),
        ("{case}_mask*.*", True),
        ("{case}/masks/*.png", True),
        ("{case}{number}.png", True),
    ],
)
def test_templates_of_several_masks(template, several):
    assert templates.unites(template) == several
