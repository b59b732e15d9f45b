"""Which cases train, validate and test.

A split is decided when a set is read, not when it is stored. Cases come in the set's official
order, every case lands in exactly one part, and within a part the official order is kept.
Permutations are of `numpy.random.RandomState(0)`, the legacy generator, whose stream NumPy has
frozen for ever: a split is the same on every machine and in every year, and depends on nothing but
the number of cases or groups and their order.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from dicepp_jax.data.builder import Facts
from dicepp_jax.spec import Spec
from dicepp_jax.wording import listed

SPLITS = ("train", "validation", "test")
SHARES = {"train": 64, "validation": 16, "test": 20}
"""The shares of the paper's Table 1."""

FORM = 'a split file is JSON, {"train": [...], "validation": [...], "test": [...]}, of case names'
NUMBERED = re.compile(r"[A-Za-z]+([0-9]+)")
LAST_NUMBER = re.compile(r"([0-9]+)[^0-9]*$")

Split = dict[str, list[str]]
"""Case ids by part, the keys `SPLITS`."""


class Subset(Sequence[dict[str, Any]]):
    """Some of the stored cases, by index: dicts of id, image, label and what else a set has.

    Args:
      source: all stored cases.
      indices: which.
      ids: their names.
    """

    def __init__(self, source: Sequence[Any], indices: Sequence[int], ids: Sequence[str]):
        self._source, self._indices = source, tuple(indices)
        self.ids = tuple(ids)

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> "Subset": ...
    def __getitem__(self, index: int | slice) -> "dict[str, Any] | Subset":
        if isinstance(index, slice):
            return Subset(self._source, self._indices[index], self.ids[index])
        return self._source[self._indices[index]]


def sizes(total: int, counts: Sequence[int], parts: Sequence[str] = SPLITS) -> dict[str, int]:
    """How many cases each part gets.

    The paper's counts if they add up to the total, else its shares, 64 : 16 : 20, rounded by
    largest remainder, and at least one case each.

    Args:
      total: number of cases.
      counts: of train, validation and test in Table 1; empty if the set is not in it.
      parts: those to share among.

    Returns:
      Number of cases by part.

    Raises:
      ValueError: if there are fewer cases than parts.

    Example:
      >>> sizes(670, (428, 108, 134))
      {'train': 428, 'validation': 108, 'test': 134}
      >>> sizes(200, (428, 108, 134))
      {'train': 128, 'validation': 32, 'test': 40}
      >>> sizes(20, (), ("train", "validation"))
      {'train': 16, 'validation': 4}
    """
    if total < len(parts):
        raise ValueError(
            f"{total} cases cannot be shared among {', '.join(parts)}: each part needs at least "
            "one; add cases"
        )
    if tuple(parts) == SPLITS and sum(counts) == total:
        return dict(zip(SPLITS, counts, strict=True))
    whole = sum(SHARES[part] for part in parts)
    found = {part: total * SHARES[part] // whole for part in parts}
    by_remainder = sorted(parts, key=lambda part: -(total * SHARES[part] % whole))
    for part in by_remainder[: total - sum(found.values())]:
        found[part] += 1
    for part in parts:
        if not found[part]:
            found[max(parts, key=found.__getitem__)] -= 1
            found[part] = 1
    return found


def random_split(cases: Sequence[Facts], counts: Sequence[int]) -> Split:
    """The default split.

    Cases that the set's makers gave a part keep it. The others are permuted, and the first of them
    train, the next validate, the last test; nothing is added to validation or test cases that the
    makers chose. If every case has a part, but none is for validation, those for training share.

    Args:
      cases: all cases, in the official order.
      counts: of train, validation and test in Table 1; empty if the set is not in it.

    Returns:
      The split.

    Raises:
      ValueError: if there are too few cases, or the makers' parts leave a part empty.

    Example:
      >>> cases = [Facts(str(n), None, None, (), None, (), "", "", ()) for n in range(6)]
      >>> random_split(cases, ())
      {'train': ['1', '2', '3', '5'], 'validation': ['0'], 'test': ['4']}
    """
    pools: dict[str | None, list[str]] = {part: [] for part in (*SPLITS, None)}
    for case in cases:
        pools[case.part].append(case.id)
    rest = pools[None]
    if not rest and not pools["validation"]:
        rest, pools["train"] = pools["train"], []
    chosen = {case: part for part in SPLITS for case in pools[part]}
    if rest:
        open_parts = [part for part in SPLITS if part == "train" or not pools[part]]
        wanted = sizes(len(rest), counts, open_parts)
        parts = (part for part in open_parts for _ in range(wanted[part]))
        order = np.random.RandomState(0).permutation(len(rest))
        chosen |= {rest[index]: part for index, part in zip(order, parts, strict=True)}
    split = _arrange(cases, chosen)
    empty = [part for part in SPLITS if not split[part]]
    if empty:
        raise ValueError(
            f"the parts that the set comes with leave none of its {len(cases)} cases for "
            f"{' and '.join(empty)}; make a split of your own: {FORM}"
        )
    return split


def group_split(cases: Sequence[Facts], counts: Sequence[int]) -> Split:
    """A split that keeps near-duplicates, such as the frames of a video, in one part.

    Groups are permuted, and each in turn goes whole to the part that is furthest below its
    `sizes`, so that no part exceeds its size by as much as the largest group. When only as many
    groups are left as parts are empty, those get them. A case of no group is one by itself.

    Args:
      cases: all cases, in the official order.
      counts: of train, validation and test in Table 1; empty if the set is not in it.

    Returns:
      The split.

    Raises:
      ValueError: if there are no groups or fewer than parts, or the makers gave cases a part.

    Example:
      >>> cases = [Facts(f"{g}{n}", None, g, (), None, (), "", "", ()) for g in "abc" for n in "12"]
      >>> group_split(cases, ())
      {'train': ['c1', 'c2'], 'validation': ['b1', 'b2'], 'test': ['a1', 'a2']}
    """
    groups: dict[tuple[bool, str], list[str]] = {}
    for case in cases:
        key = (True, case.id) if case.group is None else (False, case.group)
        groups.setdefault(key, []).append(case.id)
    if all(case.group is None for case in cases):
        raise ValueError("no case of this set belongs to a group; take the random split")
    if any(case.part for case in cases):
        raise ValueError("this set comes with parts, which groups may cross; take the random split")
    if len(groups) < len(SPLITS):
        raise ValueError(
            f"{len(groups)} groups cannot be shared among {', '.join(SPLITS)}: each part needs at "
            "least one; take the random split"
        )
    members = list(groups.values())
    lacking = sizes(len(cases), counts)
    empty = list(SPLITS)
    chosen: dict[str, str] = {}
    for done, index in enumerate(np.random.RandomState(0).permutation(len(members))):
        candidates = empty if len(members) - done == len(empty) else SPLITS
        part = max(candidates, key=lacking.__getitem__)
        lacking[part] -= len(members[index])
        empty = [other for other in empty if other != part]
        chosen |= dict.fromkeys(members[index], part)
    return _arrange(cases, chosen)


RULES = {"random": random_split, "group": group_split}
"""How a split is drawn, by name."""


def subsets(
    stored: Sequence[Any], cases: Sequence[Facts], split: Mapping[str, Sequence[str]]
) -> dict[str, Subset]:
    """The stored cases of each part of a split.

    Args:
      stored: all stored cases.
      cases: what is known about them, in the same order.
      split: names of cases by part.

    Returns:
      A `Subset` for each part.
    """
    position = {case.id: index for index, case in enumerate(cases)}
    return {
        part: Subset(stored, [position[case] for case in ids], ids) for part, ids in split.items()
    }


def check_rule(name: str) -> None:
    """Refuse a rule that there is not.

    Raises:
      ValueError: with those there are.
    """
    if name not in RULES:
        raise ValueError(f"data.split is {name!r}; it may be {' or '.join(RULES)}")


def read_split(path: Path, cases: Sequence[Facts], spec: Spec) -> Split:
    """The split of a JSON file: {"train": [...], "validation" or "val": [...], "test": [...]}.

    An entry that is a case's id is that case. Any other of letters and a number, such as img00012,
    is the case of that number as `Spec.index` counts them, in the set as it is when complete.

    Args:
      path: of the file.
      cases: all cases, in the official order.
      spec: of the set.

    Returns:
      The split.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it does not put every case in exactly one part, or has numbers and the set is
        not complete; cases are named.

    Example:
      >>> import dataclasses, tempfile
      >>> from dicepp_jax.data.specs import PHANTOM
      >>> spec = dataclasses.replace(PHANTOM, counts=(1, 1, 1), index="position from 0")
      >>> cases = [Facts(name, None, None, (), None, (), "", "", ()) for name in ("a", "b", "c")]
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder) / "split.json"
      ...     _ = path.write_text('{"train": ["img2"], "val": ["a"], "test": ["img1"]}')
      ...     read_split(path, cases, spec)
      {'train': ['c'], 'validation': ['a'], 'test': ['b']}
    """
    lists = read_lists(path)
    ids = [case.id for case in cases]
    known, numbers = set(ids), _numbers(ids, spec.index)
    parts_of: dict[str, list[str]] = {}
    unknown, numbered = [], []
    for part in SPLITS:
        for entry in lists[part]:
            case: str | None = entry
            if entry not in known:
                number = NUMBERED.fullmatch(entry) if spec.index else None
                case = numbers.get(int(number[1])) if number else None
                numbered += [entry] if number else []
            if case is None:
                unknown.append(entry)
            else:
                parts_of.setdefault(case, []).append(part)
    if numbered and len(cases) != sum(spec.counts):
        raise ValueError(
            f"{path} numbers the {sum(spec.counts)} cases of the complete {spec.title} "
            f"({listed(numbered)}), but here are {len(cases)}, where a number may mean another "
            "case; complete the set, list its cases by name, or take the random split"
        )
    twice = [f"{case} ({', '.join(parts)})" for case, parts in parts_of.items() if len(parts) > 1]
    wrong = {
        f"not of the set, whose cases are named as {ids[0]} is": unknown,
        "listed more than once": twice,
        "in no part": [case for case in ids if case not in parts_of],
    }
    if any(wrong.values()):
        told = "; ".join(f"{what}: {listed(names)}" for what, names in wrong.items() if names)
        raise ValueError(f"{path} must put every case of {spec.title} in exactly one part; {told}")
    return _arrange(cases, {case: parts[0] for case, parts in parts_of.items()})


def read_lists(path: Path) -> dict[str, list[str]]:
    """The lists of a split file by part, none of them empty.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is none.
    """
    try:
        content: Any = json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no split file {path}; {FORM}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); {FORM}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; {FORM}")
    lists = {"validation" if key == "val" else key: value for key, value in content.items()}
    if len(content) != len(SPLITS) or set(lists) != set(SPLITS):
        raise ValueError(f"{path} has the keys {', '.join(content) or 'none'}; {FORM}")
    for key, value in lists.items():
        if not isinstance(value, list):
            raise ValueError(f"{path}: {key} is a {type(value).__name__}, not a list; {FORM}")
        if not value:
            raise ValueError(f"{path}: {key} is empty; every part needs at least one case")
        odd = [json.dumps(entry) for entry in value if not isinstance(entry, str)]
        if odd:
            raise ValueError(
                f"{path}: {key} has entries that are no strings: {listed(odd)}; {FORM}"
            )
    return lists


def _numbers(ids: Sequence[str], index: str | None) -> dict[int, str]:
    """Cases by the number that a list of splits has for them."""
    if index is None:
        return {}
    if index == "name":
        found = ((LAST_NUMBER.search(case), case) for case in ids)
        return {int(number[1]): case for number, case in found if number}
    first = {"position from 0": 0, "position from 1": 1}[index]
    return dict(enumerate(ids, first))


def _arrange(cases: Sequence[Facts], chosen: Mapping[str, str]) -> Split:
    """Cases by part, in the official order."""
    return {part: [case.id for case in cases if chosen[case.id] == part] for part in SPLITS}
