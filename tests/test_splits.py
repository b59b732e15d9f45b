"""Splits: every case in exactly one part, whatever the set, the list or the groups."""

import collections
import dataclasses
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicepp_jax.data.builder import Facts
from dicepp_jax.data.specs import DRIVE, PHANTOM
from dicepp_jax.data.splits import SPLITS, group_split, random_split, read_split, sizes

TABLE_1 = {
    "drive": (16, 4, 20),
    "bus2017": (104, 26, 33),
    "dsb2018": (428, 108, 134),
    "isic2018": (1661, 415, 518),
    "cvc_clinicdb": (392, 98, 122),
    "kits19": (130, 33, 41),
}


def facts(ids, parts=None, groups=None):
    ids = list(ids)
    rows = zip(ids, parts or [None] * len(ids), groups or [None] * len(ids), strict=True)
    return [Facts(case, part, group, (), None, (), "", "", ()) for case, part, group in rows]


def assert_partition(split, cases):
    """Every case in one part, no part empty, the official order kept."""
    assert tuple(split) == SPLITS and all(split.values())
    position = {case.id: index for index, case in enumerate(cases)}
    assert sorted(sum(split.values(), []), key=position.get) == list(position)
    for part in split.values():
        assert [position[case] for case in part] == sorted(position[case] for case in part)


def lengths(split):
    return tuple(map(len, split.values()))


@pytest.mark.parametrize("counts", TABLE_1.values(), ids=TABLE_1)
def test_sizes_are_table_1s_for_complete_sets(counts):
    assert tuple(sizes(sum(counts), counts).values()) == counts


@settings(deadline=None)
@given(st.integers(3, 100_000))
def test_sizes_are_64_16_20_percent_otherwise(total):
    found = sizes(total, (1, 1, 0))
    assert tuple(found) == SPLITS and sum(found.values()) == total and min(found.values()) > 0
    for size, share in zip(found.values(), (0.64, 0.16, 0.2), strict=True):
        assert abs(size - share * total) < 1 or total < 7


@pytest.mark.parametrize(
    "total, expected", [(3, (1, 1, 1)), (4, (2, 1, 1)), (10, (6, 2, 2)), (25, (16, 4, 5))]
)
def test_sizes_by_hand(total, expected):
    assert tuple(sizes(total, ()).values()) == expected


@pytest.mark.parametrize("total", range(3))
def test_too_few_cases_are_refused(total):
    with pytest.raises(ValueError, match=rf"too few cases \({total}\) .* need at least one each"):
        sizes(total, ())
    with pytest.raises(ValueError, match=r"too few cases \(1\) for train, validation, which need"):
        random_split(facts("abc", ["test", "test", None]), ())


def test_the_permutation_is_frozen():
    # The stream of RandomState(0), which NumPy keeps for ever.
    cases = facts("abcdefghij")
    order = [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]
    split = random_split(cases, ())
    for part, positions in zip(SPLITS, (order[:6], order[6:8], order[8:]), strict=True):
        assert split[part] == [cases[index].id for index in sorted(positions)]


@pytest.mark.parametrize("counts", TABLE_1.values(), ids=TABLE_1)
def test_random_split_has_table_1s_counts(counts):
    cases = facts(map(str, range(sum(counts))))
    split = random_split(cases, counts)
    assert_partition(split, cases)
    assert lengths(split) == counts


@settings(deadline=None, max_examples=50)
@given(st.sets(st.text(min_size=1), min_size=3, max_size=40))
def test_random_split_depends_on_positions_alone(names):
    cases = facts(names)
    numbers = facts(range(len(names)))
    split, numbered = random_split(cases, ()), random_split(numbers, ())
    assert_partition(split, cases)
    assert {part: [cases[i].id for i in numbered[part]] for part in SPLITS} == split


@settings(deadline=None)
@given(st.lists(st.sampled_from([*SPLITS, None]), min_size=6, max_size=40))
def test_makers_parts_are_kept(parts):
    fixed = collections.Counter(parts)
    rest, drawn = fixed[None], [part for part in SPLITS[1:] if not fixed[part]]
    cases = facts(range(len(parts)), parts)
    if rest < 1 + len(drawn):
        return
    split = random_split(cases, ())
    assert_partition(split, cases)
    for case in cases:
        assert case.part is None or case.id in split[case.part]
    for part in SPLITS[1:]:
        assert part in drawn or len(split[part]) == fixed[part]


def test_a_makers_test_part_leaves_80_20():
    names = [f"{n}_training" for n in range(21, 41)] + [f"{n:02d}_test" for n in range(1, 21)]
    cases = facts(names, [None] * 20 + ["test"] * 20)
    split = random_split(cases, (16, 4, 20))
    assert_partition(split, cases)
    assert lengths(split) == (16, 4, 20) and split["test"] == names[20:]
    assert lengths(random_split(cases[5:], ())) == (12, 3, 20)


def test_validation_is_drawn_from_a_makers_training_part():
    cases = facts(range(14), ["test"] * 4 + ["train"] * 10)
    split = random_split(cases, ())
    assert_partition(split, cases)
    assert lengths(split) == (8, 2, 4) and split["test"] == [0, 1, 2, 3]


def test_complete_makers_parts_are_the_split():
    parts = ["validation", "train", "test", "train"]
    split = random_split(facts("abcd", parts), ())
    assert split == {"train": ["b", "d"], "validation": ["a"], "test": ["c"]}


def test_makers_parts_that_leave_one_empty_are_refused():
    with pytest.raises(ValueError, match="none of the 3 cases for test; write your own split file"):
        random_split(facts("abc", ["train", "validation", "train"]), ())


@settings(deadline=None)
@given(st.lists(st.integers(0, 12) | st.none(), min_size=3, max_size=120))
def test_groups_stay_together(numbers):
    groups = [None if number is None else f"video {number}" for number in numbers]
    keys = [group or index for index, group in enumerate(groups)]
    if len(set(keys)) < 3 or not any(groups):
        return
    cases = facts(range(len(groups)), groups=groups)
    split = group_split(cases, ())
    assert_partition(split, cases)
    part_of = {case: part for part in SPLITS for case in split[part]}
    assert len({(key, part_of[case.id]) for key, case in zip(keys, cases, strict=True)}) == len(
        set(keys)
    )
    largest = max(collections.Counter(keys).values())
    for part, size in sizes(len(cases), ()).items():
        assert -2 * largest < len(split[part]) - size < largest


def test_group_split_is_near_table_1_and_follows_the_permutation():
    rng = np.random.default_rng([5, 0])
    groups = np.sort(np.r_[np.arange(29), rng.integers(0, 29, 612 - 29)])
    cases = facts(range(612), groups=[f"video {group}" for group in groups])
    split = group_split(cases, TABLE_1["cvc_clinicdb"])
    assert_partition(split, cases)
    np.testing.assert_allclose(lengths(split), TABLE_1["cvc_clinicdb"], atol=15)
    first = np.random.RandomState(0).permutation(29)[0]
    assert set(np.flatnonzero(groups == first)) <= set(split["train"])
    assert group_split(cases, TABLE_1["cvc_clinicdb"]) == split


@pytest.mark.parametrize(
    "groups, parts, message",
    [
        (
            [None] * 4,
            None,
            "no case of this set belongs to a group; use --config.data.split=random",
        ),
        (["a", "a", "b", "b"], None, "too few groups \\(2\\) .* use --config.data.split=random"),
        (["a", "a", "b", "c"], ["test"] + [None] * 3, "publisher of this set fixes the split"),
    ],
)
def test_bad_groups_are_refused(groups, parts, message):
    with pytest.raises(ValueError, match=message):
        group_split(facts("wxyz", parts, groups), ())


def spec_of(counts, index=None):
    return dataclasses.replace(PHANTOM, title="Set", counts=counts, index=index)


def write(folder, content):
    path = folder / "split.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def listed(train, validation, test):
    return {"train": train, "val": validation, "test": test}


@pytest.mark.parametrize(
    "ids, index, entries",
    [
        ("abcd", "position from 0", ["img00002", "imgname003", "img0", "img00001"]),
        ("abcd", "position from 1", ["img00003", "imgname004", "img1", "img00002"]),
        (["1", "2", "9", "10"], "name", ["imgname009", "imgname010", "imgname001", "img2"]),
        (["01_a", "s2_b", "c09", "x3y10"], "name", ["img9", "img10", "img1", "img2"]),
        ("abcd", None, list("cdab")),
        ("abcd", "position from 0", ["c", "img00003", "a", "b"]),
        # Ids of letters and a number are names first: img1 is the case so called, not the second.
        (["img3", "img2", "img1", "img0"], "position from 0", ["img1", "img0", "img3", "img2"]),
        (["img9", "img8", "img0", "img7"], "position from 0", ["img0", "img3", "img9", "img8"]),
    ],
)
def test_entries(tmp_path, ids, index, entries):
    cases = facts(ids)
    path = write(tmp_path, listed(entries[1::-1], entries[2:3], entries[3:]))
    split = read_split(path, cases, spec_of((2, 1, 1), index))
    names = list(ids)
    assert split == {"train": names[2:], "validation": names[:1], "test": names[1:2]}


def test_the_key_of_validation_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"test": ["c"], "validation": ["b"], "train": ["a"]}), "utf-8-sig")
    expected = {"train": ["a"], "validation": ["b"], "test": ["c"]}
    assert read_split(path, facts("abc"), spec_of(())) == expected


def test_accents_are_compared_in_one_spelling(tmp_path):
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"train": ["e\u0301"], "val": ["\u00fc "], "test": ["a"]}))
    expected = {"train": ["\u00e9"], "validation": ["\u00fc"], "test": ["a"]}
    assert read_split(path, facts(["a", "\u00e9", "\u00fc"]), spec_of(())) == expected


def test_positions_in_drive(tmp_path):
    names = [f"{n}_training" for n in range(21, 41)] + [f"{n:02d}_test" for n in range(1, 21)]
    numbers = [f"img{n:05d}" for n in range(40)]
    path = write(tmp_path, listed(numbers[:16], numbers[16:20], numbers[20:]))
    spec = dataclasses.replace(DRIVE, index="position from 0")
    split = read_split(path, facts(names, [None] * 20 + ["test"] * 20), spec)
    assert split == {"train": names[:16], "validation": names[16:20], "test": names[20:]}


@settings(deadline=None, max_examples=50)
@given(st.permutations(range(12)), st.sampled_from(["position from 0", "position from 1", None]))
def test_any_list_is_a_partition(tmp_path_factory, order, index):
    cases = facts(f"case_{n:02d}" for n in range(12))
    first = {"position from 0": 0, "position from 1": 1}.get(index)
    entries = [cases[n].id if first is None else f"img{n + first:05d}" for n in order]
    folder = tmp_path_factory.getbasetemp()
    path = write(folder, listed(entries[:5], entries[5:8], entries[8:]))
    split = read_split(path, cases, spec_of((5, 3, 4), index))
    assert_partition(split, cases)
    assert set(split["validation"]) == {cases[n].id for n in order[5:8]}


IDS = [f"case_{n:02d}" for n in range(10)]
BAD_LISTS = {
    "in two parts": (
        listed(IDS[:8], IDS[7:9], IDS[9:]),
        r"listed more than once: case_07 \(train, validation\)$",
    ),
    "twice in a part": (
        listed(IDS[:8], IDS[8:9], IDS[9:] * 2),
        r"listed more than once: case_09 \(test, test\)$",
    ),
    "twice by name and number": (
        listed(IDS[:8], IDS[8:9], [IDS[9], "img00000"]),
        r"listed more than once: case_00 \(train, test\)$",
    ),
    "unknown": (
        listed([*IDS[:8], "case_77", ""], IDS[8:9], IDS[9:]),
        "not in the set, whose cases have names like case_00: case_77, $",
    ),
    "unknown number": (
        listed(IDS[:8], IDS[8:9], [IDS[9], "img00010"]),
        "not in the set, .*: img00010$",
    ),
    "missing": (listed(IDS[:6], IDS[7:8], IDS[9:]), "in no part: case_06, case_08$"),
    "many": (
        listed([f"x_{n}" for n in range(6)], IDS[:1], IDS[9:]),
        "in the set, .*: x_0, x_1, x_2, x_3, x_4 and 1 more; "
        "in no part: case_01, case_02, case_03, case_04, case_05 and 3 more$",
    ),
    "no test": ({"train": IDS[:5], "val": IDS[5:]}, "has the keys train, val; a split file is"),
    "another key": (
        listed(IDS[:8], IDS[8:9], IDS[9:]) | {"fold": []},
        "keys train, val, test, fold",
    ),
    "two names of a part": (
        listed(IDS[:8], IDS[8:9], IDS[9:]) | {"validation": IDS[8:9]},
        "has the keys train, val, test, validation",
    ),
    "a key of its own": ({"train": IDS[:8], "dev": IDS[8:9], "test": IDS[9:]}, "train, dev, test;"),
    "an empty object": ({}, "has no keys; a split file is JSON"),
    "a list": (IDS, "contains a list; a split file is JSON"),
    "not JSON": ("train: [a]", r"cannot be read as JSON \(Expecting value.*\); a split file is"),
    "not text": ("\0", "cannot be read as JSON"),
    "no list": (listed("case_00", IDS[8:9], IDS[9:]), "train is a str, not a list"),
    "numbers": (
        listed(IDS[:8], [8, None], IDS[9:]),
        "validation has entries that are not strings: 8, null;",
    ),
    "an empty part": (listed(IDS[:9], [], IDS[9:]), "validation is empty; every part needs"),
}


@pytest.mark.parametrize("content, message", BAD_LISTS.values(), ids=BAD_LISTS)
def test_bad_lists_are_refused(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=message) as error:
        read_split(path, facts(IDS), spec_of((8, 1, 1), "position from 0"))
    assert str(path) in str(error.value)


def test_a_missing_list_is_refused(tmp_path):
    path = tmp_path / "none.json"
    with pytest.raises(
        FileNotFoundError, match=re.escape(f"the split file {path} does not exist; a spl")
    ):
        read_split(path, facts("abc"), spec_of(()))
    with pytest.raises(ValueError, match=r"cannot be read as JSON \(.*Is a directory"):
        read_split(tmp_path, facts("abc"), spec_of(()))


@pytest.mark.parametrize("index", ["position from 0", "position from 1", "name"])
def test_numbers_of_an_incomplete_set_are_refused(tmp_path, index):
    numbers = [f"img{n:05d}" for n in range(1, 8)]
    path = write(tmp_path, listed(numbers[:5], numbers[5:6], numbers[6:]))
    message = (
        r"the 10 cases of the complete Set by number \(img00001, .*, img00005 and 2 more\), but "
        "only 9 are here, .* complete the set, list its cases by name, or omit the split file"
    )
    with pytest.raises(ValueError, match=message):
        read_split(path, facts(IDS[1:]), spec_of((8, 1, 1), index))


def test_names_of_an_incomplete_set_are_taken(tmp_path):
    path = write(tmp_path, listed(IDS[1:7], IDS[7:9], IDS[9:]))
    split = read_split(path, facts(IDS[1:]), spec_of((8, 1, 1), "position from 0"))
    assert lengths(split) == (6, 2, 1)
