"""Cross-validation: of the cases for training and validation, one fold validates, the rest train.

Test cases stay as they are. The rule is nnU-Net's: the names, sorted as strings, are shuffled by
`numpy.random.RandomState(12345)`, whose stream NumPy has frozen, and cut into 5 runs of equal
length, the first ones longer by one where the number does not divide; each run is a fold. With
groups, these are shuffled instead of cases, and each in turn goes as a whole to the fold with the
fewest cases so far, the first of equals. nnU-Net's `splits_final.json` decides instead where there
is one.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from dicepp_jax.data.builder import Facts
from dicepp_jax.data.files import File, Tree
from dicepp_jax.data.splits import Split
from dicepp_jax.spec import Spec
from dicepp_jax.wording import listed

FOLDS = 5
SEED = 12345
"""nnU-Net's."""

FILE = "splits_final.json"
FORM = 'nnU-Net\'s form is a list with, for each fold, {"train": [...], "val": [...]} of case names'


class Fold(NamedTuple):
    """The names of a fold's cases in a file."""

    train: list[str]
    val: list[str]


def find(files: Tree) -> File | None:
    """The `splits_final.json` in a folder, None if there is none.

    Raises:
      ValueError: if there are several.
    """
    found = [file for name, file in files.items() if name.rpartition("/")[2] == FILE]
    if len(found) > 1:
        raise ValueError(
            f"there are {len(found)} {FILE} files: {listed(list(map(str, found)))}; name one by "
            "--config.data.split_file"
        )
    return found[0] if found else None


def check(fold: int, count: int = FOLDS) -> None:
    """Check that there is a fold of that number.

    Raises:
      ValueError: if there is not.
    """
    if not 0 <= fold < count:
        raise ValueError(f"data.fold is {fold}; it must be 0 to {count - 1}")


def split_by_rule(cases: Sequence[Facts], split: Split, fold: int, *, grouped: bool) -> Split:
    """The split whose validation part is a fold, by the rule above.

    Args:
      cases: all cases, in the official order.
      split: the split whose training and validation parts are cut into folds.
      fold: 0 to 4.
      grouped: whether the cases of a group stay in one fold.

    Returns:
      The split.

    Raises:
      ValueError: if there are fewer cases or groups than folds.

    Example:
      >>> cases = [Facts(name, None, None, (), None, (), "", "", ()) for name in "abcdef"]
      >>> split = {"train": ["a", "b", "d", "e"], "validation": ["f"], "test": ["c"]}
      >>> split_by_rule(cases, split, 4, grouped=False)
      {'train': ['a', 'b', 'e', 'f'], 'validation': ['d'], 'test': ['c']}
    """
    group_of = {case.id: case.group if grouped else None for case in cases}
    groups: dict[tuple[bool, str], list[str]] = {}
    for name in sorted([*split["train"], *split["validation"]]):
        group = group_of[name]
        groups.setdefault((True, name) if group is None else (False, group), []).append(name)
    if len(groups) < FOLDS:
        raise ValueError(
            f"data.fold cuts the {len(groups)} {'groups' if grouped else 'cases'} for training and "
            f"validation into {FOLDS} folds, which need at least one each; add cases, or omit "
            "data.fold"
        )
    members = [groups[key] for key in sorted(groups)]
    order = np.arange(len(members))
    np.random.RandomState(SEED).shuffle(order)
    chosen: list[list[str]] = [[] for _ in range(FOLDS)]
    if grouped:
        for index in order:
            min(chosen, key=len).extend(members[index])
    else:
        chosen = [
            [name for index in part for name in members[index]]
            for part in np.array_split(order, FOLDS)
        ]
    return _arrange(cases, chosen[fold], split["test"])


def split_by_file(
    file: File, folds: Sequence[Fold], cases: Sequence[Facts], spec: Spec, fold: int
) -> Split:
    """The split of a fold of a file; cases that the publisher has for testing are the test part.

    Args:
      file: the file.
      folds: its content, as of `read`.
      cases: all cases, in the official order.
      spec: of the set.
      fold: the number of the fold that validates.

    Returns:
      The split; its test part is empty if the publisher has none.

    Raises:
      ValueError: if not every case but those for testing validates in exactly one fold and trains
        in the others; the message names the cases.
    """
    test = [case.id for case in cases if case.part == "test"]
    wanted = [case.id for case in cases if case.part != "test"]
    problems = list(_problems(folds, wanted, test, cases[0].id))
    if problems:
        raise ValueError(
            f"{file}: every case of {spec.title} that is not for testing must validate in exactly "
            f"one fold and train in the others; {'; '.join(problems)}"
        )
    return _arrange(cases, folds[fold].val, test)


def _problems(
    folds: Sequence[Fold], wanted: Sequence[str], test: Sequence[str], example: str
) -> Iterator[str]:
    there = {name: None for fold in folds for part in fold for name in part}
    known = {*wanted, *test}
    validates = Counter(name for fold in folds for name in set(fold.val))
    times = [Counter([*fold.train, *fold.val]) for fold in folds]
    found = {
        f"not in the set, whose cases have names like {example}": [
            name for name in there if name not in known
        ],
        "for testing": [name for name in there if name in set(test)],
        "validating in no fold": [name for name in wanted if not validates[name]],
        "validating in several folds": [name for name in wanted if validates[name] > 1],
        "more than once in a fold": [
            f"{name} (fold {number})"
            for number, of_fold in enumerate(times)
            for name, count in of_fold.items()
            if count > 1
        ],
        "missing from a fold": [
            f"{name} (fold {number})"
            for number, of_fold in enumerate(times)
            for name in wanted
            if not of_fold[name]
        ],
    }
    for what, names in found.items():
        if names:
            yield f"{what}: {listed(names)}"


def read(file: File) -> list[Fold]:
    """The folds of a file in nnU-Net's form.

    Raises:
      ValueError: if it is not valid.
    """
    try:
        content: Any = json.loads(file.read().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read as JSON ({error}); {FORM}") from error
    if not isinstance(content, list) or len(content) < 2:
        raise ValueError(f"{file} is not a list of two or more folds; {FORM}")
    for number, fold in enumerate(content):
        if not isinstance(fold, dict) or set(fold) != {"train", "val"}:
            raise ValueError(f"{file}: fold {number} has not the keys train and val alone; {FORM}")
        for part, names in fold.items():
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError(f"{file}: {part} of fold {number} is not a list of names; {FORM}")
            if not names:
                raise ValueError(f"{file}: {part} of fold {number} is empty; it needs a case")
    return [Fold(fold["train"], fold["val"]) for fold in content]


def _arrange(cases: Sequence[Facts], validation: Sequence[str], test: Sequence[str]) -> Split:
    """The split with these parts, each in the official order."""
    parts = {name: "validation" for name in validation} | {name: "test" for name in test}
    split: Split = {"train": [], "validation": [], "test": []}
    for case in cases:
        split[parts.get(case.id, "train")].append(case.id)
    return split
