"""Splits: which cases are for training, validation and testing.

A split is chosen when a set is read, not when it is stored. Cases come in the set's official order;
every case belongs to exactly one part, and each part keeps the official order. Permutations are
drawn by `numpy.random.RandomState(0)`, the legacy generator, whose stream NumPy has frozen: a split
is the same on every machine and in every version, and depends only on the number of cases or groups
and their order.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from dicepp_jax.data.builder import Facts
from dicepp_jax.data.files import spelt
from dicepp_jax.spec import Spec
from dicepp_jax.wording import listed

SPLITS = ("train", "validation", "test")
SHARES = {"train": 64, "validation": 16, "test": 20}
"""The shares of the paper's Table 1."""

FORM = (
    'a split file is JSON, {"train": [...], "validation": [...], "test": [...]}, with lists of '
    "case names"
)
NUMBERED = re.compile(r"[A-Za-z]+([0-9]+)")
LAST_NUMBER = re.compile(r"([0-9]+)[^0-9]*$")

Split = dict[str, list[str]]
"""Case ids by part; the keys are `SPLITS`."""


class Subset(Sequence[dict[str, Any]]):
    """Some of the stored cases: dicts of id, image, label and any other arrays of the set.

    Args:
      source: all stored cases.
      indices: positions of the selected ones.
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
    """The number of cases in each part.

    The paper's counts if they add up to the total, else its shares, 64 : 16 : 20, rounded by
    largest remainder, and at least one case each.

    Args:
      total: number of cases.
      counts: of train, validation and test in Table 1; empty if the set is not in it.
      parts: the parts to fill.

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
            f"too few cases ({total}) for {', '.join(parts)}, which need at least one each; add "
            "cases"
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

    Cases keep the part that the publisher of the set assigned to them. The others are permuted; the
    first of them are for training, the next for validation, the last for testing, but nothing is
    added to validation or test cases that the publisher chose. If every case has a part, but none
    is for validation, the training cases are divided.

    Args:
      cases: all cases, in the official order.
      counts: of train, validation and test in Table 1; empty if the set is not in it.

    Returns:
      The split.

    Raises:
      ValueError: if there are too few cases, or the published parts leave one part empty.

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
            f"the published split has none of the {len(cases)} cases for {' and '.join(empty)}; "
            f"write your own split file for --config.data.split_file: {FORM}"
        )
    return split


def group_split(cases: Sequence[Facts], counts: Sequence[int]) -> Split:
    """A split that keeps near-duplicates, such as the frames of a video, in one part.

    Groups are permuted, and each in turn goes as a whole to the part that is furthest below its
    size (see `sizes`), so that no part exceeds its size by as much as the largest group. Once only
    as many groups are left as there are empty parts, each of those gets one. A case without a group
    forms one by itself.

    Args:
      cases: all cases, in the official order.
      counts: of train, validation and test in Table 1; empty if the set is not in it.

    Returns:
      The split.

    Raises:
      ValueError: if there are no groups or fewer than parts, or the publisher fixes the parts.

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
        raise ValueError("no case of this set belongs to a group; use --config.data.split=random")
    if any(case.part for case in cases):
        raise ValueError(
            "the publisher of this set fixes the split, which groups may cross; use "
            "--config.data.split=random"
        )
    if len(groups) < len(SPLITS):
        raise ValueError(
            f"too few groups ({len(groups)}) for {', '.join(SPLITS)}, which need at least one "
            "each; use --config.data.split=random"
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
"""Ways to draw a split, by name."""


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
    """Check that a way to draw a split exists.

    Raises:
      ValueError: if it does not, with those that do.
    """
    if name not in RULES:
        raise ValueError(f"data.split is {name!r}, expected {' or '.join(RULES)}")


def read_split(path: Path, cases: Sequence[Facts], spec: Spec) -> Split:
    """Read the split in a JSON file: {"train": [...], "validation" or "val": [...], "test": [...]}.

    An entry is the id of a case, in any spelling of its accents. Any other entry of letters and a
    number, such as img00012, stands for the case with that number as counted by `Spec.index` in the
    complete set.

    Args:
      path: of the file.
      cases: all cases, in the official order.
      spec: of the set.

    Returns:
      The split.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it does not assign every case to exactly one part, or uses numbers although
        the set is incomplete; the message names the cases.

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
            f"{path} refers to the {sum(spec.counts)} cases of the complete {spec.title} by number "
            f"({listed(numbered)}), but only {len(cases)} are here, so a number may mean "
            "another case; complete the set, list its cases by name, or omit the split file"
        )
    twice = [f"{case} ({', '.join(parts)})" for case, parts in parts_of.items() if len(parts) > 1]
    problems = {
        f"not in the set, whose cases have names like {ids[0]}": unknown,
        "listed more than once": twice,
        "in no part": [case for case in ids if case not in parts_of],
    }
    if any(problems.values()):
        found = "; ".join(f"{what}: {listed(names)}" for what, names in problems.items() if names)
        raise ValueError(
            f"{path} must assign every case of {spec.title} to exactly one part; {found}"
        )
    return _arrange(cases, {case: parts[0] for case, parts in parts_of.items()})


def read_json(path: Path) -> Any:
    """The content of a split file, whatever its form.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"the split file {path} does not exist; {FORM}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); {FORM}") from error


def read_lists(path: Path) -> dict[str, list[str]]:
    """Read the lists of a split file by part; none of them is empty.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is not a valid split file.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} contains a {type(content).__name__}; {FORM}")
    lists = {"validation" if key == "val" else key: value for key, value in content.items()}
    if len(content) != len(SPLITS) or set(lists) != set(SPLITS):
        raise ValueError(f"{path} has {_keys(content)}; {FORM}")
    for key, value in lists.items():
        if not isinstance(value, list):
            raise ValueError(f"{path}: {key} is a {type(value).__name__}, not a list; {FORM}")
        if not value:
            raise ValueError(f"{path}: {key} is empty; every part needs at least one case")
        odd = [json.dumps(entry) for entry in value if not isinstance(entry, str)]
        if odd:
            raise ValueError(
                f"{path}: {key} has entries that are not strings: {listed(odd)}; {FORM}"
            )
    return {part: [spelt(entry) for entry in entries] for part, entries in lists.items()}


def _keys(content: Mapping[str, Any]) -> str:
    return f"the keys {', '.join(content)}" if content else "no keys"


def _numbers(ids: Sequence[str], index: str | None) -> dict[int, str]:
    """Cases by the number that stands for them in a split file."""
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
