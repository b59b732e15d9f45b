"""Folds of cross-validation: each case validates once, by nnU-Net's rule or nnU-Net's file."""

import collections
import json
import re

import layouts
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import KFold
from test_splits import assert_partition, facts

from dicepp_jax import data
from dicepp_jax.data.folds import split_by_rule
from dicepp_jax.data.splits import random_split


def all_folds(cases, split, grouped=False):
    return [split_by_rule(cases, split, fold, grouped=grouped) for fold in range(5)]


def assert_each_validates_once(splits, cases, test):
    for split in splits:
        assert split["test"] == test
        if test:
            assert_partition(split, cases)
    validating = [case for split in splits for case in split["validation"]]
    assert sorted(validating) == sorted(set(case.id for case in cases) - set(test))


@pytest.mark.parametrize("count", [5, 6, 9, 20, 131])
def test_folds_are_those_of_nnunet(count):
    names = [f"case_{n}" for n in range(count)]  # As strings: case_10 comes before case_2.
    cases = facts([*names, "x"])
    split = {"train": names[::2], "validation": names[1::2], "test": ["x"]}
    ordered = np.sort(names)
    folds = KFold(n_splits=5, shuffle=True, random_state=12345).split(ordered)
    for found, (train, validation) in zip(all_folds(cases, split), folds, strict=True):
        assert set(found["train"]) == set(ordered[train])
        assert set(found["validation"]) == set(ordered[validation])


@given(st.sets(st.text(min_size=1), min_size=7, max_size=40))
def test_each_case_validates_once(names):
    cases = facts(names)
    split = random_split(cases, ())
    splits = all_folds(cases, split)
    assert_each_validates_once(splits, cases, split["test"])
    sizes = [len(found["validation"]) for found in splits]
    assert max(sizes) - min(sizes) <= 1
    assert splits == all_folds(cases, split)


@given(st.lists(st.integers(0, 12) | st.none(), min_size=5, max_size=80))
def test_groups_stay_in_one_fold(numbers):
    groups = [None if number is None else f"video {number}" for number in numbers]
    keys = [group or index for index, group in enumerate(groups)]
    if len(set(keys)) < 5:
        return
    cases = facts((f"{n}" for n in range(len(groups))), groups=groups)
    split = {"train": [case.id for case in cases], "validation": [], "test": []}
    splits = all_folds(cases, split, grouped=True)
    assert_each_validates_once(splits, cases, [])
    fold_of = {case: n for n, found in enumerate(splits) for case in found["validation"]}
    pairs = {(key, fold_of[case.id]) for key, case in zip(keys, cases, strict=True)}
    assert len(pairs) == len(set(keys))
    largest = max(collections.Counter(keys).values())
    sizes = [len(found["validation"]) for found in splits]
    assert min(sizes) > 0 and max(sizes) - min(sizes) <= largest


@pytest.mark.parametrize(("grouped", "what"), [(False, "4 cases"), (True, "3 groups")])
def test_too_few_to_cut_are_refused(grouped, what):
    cases = facts("abcde", groups=["u", "u", "v", "w", "w"])
    split = {"train": ["a", "b", "c"], "validation": ["d"], "test": ["e"]}
    with pytest.raises(ValueError, match=f"cuts the {what} for training and validation into 5"):
        split_by_rule(cases, split, 0, grouped=grouped)


def test_a_set_by_folds(data_dir):
    whole = data.load("phantom", data_dir)
    folds = [data.load("phantom", data_dir, fold=fold) for fold in range(5)]
    splits = [{part: list(s.ids) for part, s in fold.splits.items()} for fold in folds]
    assert_each_validates_once(splits, whole.facts, list(whole.splits["test"].ids))
    assert [len(split["validation"]) for split in splits] == [8] * 5
    assert folds[0].splits["validation"][0]["id"].decode() == splits[0]["validation"][0]
    assert len({fold.digest for fold in folds}) == 5
    assert {fold.test_digest for fold in folds} == {whole.test_digest}
    assert data.load("phantom", data_dir, fold=3).digest == folds[3].digest


def test_a_fold_that_does_not_exist_is_refused_before_anything_is_prepared(tmp_path):
    for fold in (-1, 5):
        with pytest.raises(ValueError, match=f"data.fold is {fold}; it must be 0 to 4"):
            data.load("phantom", str(tmp_path / "prepared"), fold=fold)
    assert not (tmp_path / "prepared").exists()


NAMES = [f"heart_{n}" for n in range(7)]


def write_raw(root, names=NAMES, test=()):
    """nnU-Net's raw layout of small PNGs."""
    for folder, of_folder in (("Tr", names), ("Ts", test)):
        for number, name in enumerate(of_folder):
            rng = np.random.default_rng([4, number, len(folder)])
            image = rng.integers(0, 256, (16, 16), np.uint8)
            layouts.write_rgb(root / f"images{folder}" / f"{name}_0000.png", image)
            layouts.write_rgb(root / f"labels{folder}" / f"{name}.png", image // 128)
    described = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "heart": 1}}
    (root / "dataset.json").write_text(json.dumps({**described, "file_ending": ".png"}))


def listing(validation, names=NAMES):
    return [
        {"train": [name for name in names if name not in val], "val": list(val)}
        for val in validation
    ]


LISTED = listing([NAMES[6:], NAMES[3:5], [NAMES[0], NAMES[5]], NAMES[1:3]])


def load(tmp_path, fold, **options):
    return data.load(
        "folder", str(tmp_path / "prepared"), str(tmp_path / "raw"), fold=fold, **options
    )


@pytest.mark.parametrize("test", [(), ("t_0", "t_1")])
@pytest.mark.parametrize("given", [False, True])
def test_nnunets_file_decides(tmp_path, test, given):
    write_raw(tmp_path / "raw", test=test)
    path = tmp_path / ("folds.json" if given else "raw/splits_final.json")
    path.write_text(json.dumps(LISTED))
    options = {"split_file": str(path)} if given else {}
    for number, fold in enumerate(LISTED):
        splits = load(tmp_path, number, **options).splits
        found = {part: list(subset.ids) for part, subset in splits.items()}
        assert found == {"train": fold["train"], "validation": sorted(fold["val"]), "test": [*test]}
    with pytest.raises(ValueError, match="data.fold is 4; it must be 0 to 3"):
        load(tmp_path, 4, **options)


def test_a_file_of_parts_keeps_its_test_cases_in_every_fold(tmp_path):
    write_raw(tmp_path / "raw")
    (tmp_path / "raw/splits_final.json").write_text(json.dumps(LISTED))
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"train": NAMES[:4], "val": NAMES[4:6], "test": NAMES[6:]}))
    splits = [load(tmp_path, fold, split_file=str(path)).splits for fold in range(5)]
    assert all(list(split["test"].ids) == NAMES[6:] for split in splits)
    assert sorted(c for split in splits for c in split["validation"].ids) == NAMES[:6]


def test_a_list_of_folds_needs_a_fold_and_the_folder_s_own_is_told(tmp_path):
    write_raw(tmp_path / "raw")
    path = tmp_path / "raw/splits_final.json"
    path.write_text(json.dumps(LISTED))
    with pytest.raises(ValueError, match="lists folds; choose one by --config.data.fold=0"):
        load(tmp_path, None, split_file=str(path))
    # Without a fold the folder's file is not used.
    assert len(load(tmp_path, None).splits["test"]) == 1
    notes = data.find("folder", str(tmp_path / "prepared"), str(tmp_path / "raw")).notes
    assert f"folds: {path}, used with --config.data.fold=NUMBER" in notes
    again = tmp_path / "raw/old/splits_final.json"
    again.parent.mkdir()
    again.write_text("[]")
    with pytest.raises(ValueError, match=r"there are 2 splits_final\.json files: .*old/splits_fin"):
        load(tmp_path, 0)


def changed(fold, part, names):
    content = json.loads(json.dumps(LISTED))
    content[fold][part] = names
    return content


BAD = {
    "an unknown name": (
        changed(0, "train", [*LISTED[0]["train"], "liver_1"]),
        "not in the set, whose cases have names like heart_0: liver_1$",
    ),
    "a case for testing": (changed(0, "train", [*LISTED[0]["train"], "t_0"]), "testing: t_0$"),
    "a case in no validation": (
        changed(1, "val", NAMES[3:4]),
        r"validating in no fold: heart_4; missing from a fold: heart_4 \(fold 1\)$",
    ),
    "a case in two validations": (
        changed(1, "val", NAMES[3:6]),
        r"in several folds: heart_5; more than once in a fold: heart_5 \(fold 1\)$",
    ),
    "a case not trained on": (
        changed(2, "train", LISTED[2]["train"][1:]),
        r"missing from a fold: heart_1 \(fold 2\)$",
    ),
    "no list": ({"train": NAMES, "val": []}, "is not a list of two or more folds; nnU-Net's form"),
    "one fold": (LISTED[:1], "is not a list of two or more folds"),
    "no validation": ([{"train": NAMES}] * 2, "fold 0 has not the keys train and val alone"),
    "numbers": (changed(3, "val", [1, 2]), "val of fold 3 is not a list of names"),
    "an empty fold": (changed(3, "val", []), "val of fold 3 is empty; it needs a case"),
    "not JSON": ("[{", "cannot be read as JSON"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_bad_files_are_refused_by_name(tmp_path, content, message):
    write_raw(tmp_path / "raw", test=["t_0", "t_1"])
    path = tmp_path / "raw/splits_final.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}.*{message}"):
        load(tmp_path, 0)
