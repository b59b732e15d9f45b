"""A summary of a prepared set in a few lines, and everything unusual about it."""

import collections
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dicepp_jax.data.builder import Facts
from dicepp_jax.spec import Spec
from dicepp_jax.wording import by, listed, span

EXAMPLES = 5
"""How many cases a line names as examples."""


class Finding(NamedTuple):
    """Something unusual, of one kind.

    Attributes:
      what: what is unusual, and in how many places.
      where: the cases.
      leak: whether training cases can be recognised in validation or test cases.
    """

    what: str
    where: tuple[str, ...]
    leak: bool = False

    def line(self, shown: int = EXAMPLES) -> str:
        """What was found, with the first few of the cases."""
        kind = "LEAK" if self.leak else "odd"
        return f"{kind}: {self.what}: {listed(self.where, shown, '; ')}"


def card(
    spec: Spec, cases: Sequence[Facts], splits: Mapping[str, Sequence[str]], path: str
) -> list[str]:
    """The card of a set: cases, sizes, class balance, terms of use.

    Args:
      spec: describes the set.
      cases: what is known about every stored case.
      splits: names of cases by split.
      path: where it is stored.

    Returns:
      Lines of text.
    """
    lines = {
        "stored in": path,
        "cases": _counts(spec, splits),
        **_grouped(cases, splits),
        **_left_out(spec),
        "native size": _sizes([case.shape for case in cases]),
    }
    spacings = [case.spacing for case in cases if case.spacing]
    if spacings:
        lines["voxels"] = f"{span(spacings)} mm"
    if spec.spacing:
        lines["stored at"] = f"{by(spec.spacing)} mm"
    lines["network input"] = by(spec.size)
    if spec.intensity_range:
        lines["clipped to"] = "{:g} to {:g}".format(*spec.intensity_range)
    lines["classes"] = _balance(spec, cases)
    several = [case.raters for case in cases if case.raters > 1]
    if several:
        lines["raters"] = f"up to {max(several)}, several in {len(several)} of {len(cases)} cases"
    if spec.homepage:
        lines["homepage"] = spec.homepage
    lines["licence"] = spec.licence
    if spec.citation:
        lines["cite"] = spec.citation
    width = max(map(len, lines))
    return [spec.title, *(f"  {name:<{width}}  {value}" for name, value in lines.items())]


def findings(cases: Sequence[Facts], splits: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Everything unusual, one finding a kind, the worst first.

    Leaks between the parts of the split come first, then images that occur more than once, then
    the notes on cases, rare kinds before frequent ones.

    Args:
      cases: what is known about every stored case.
      splits: names of cases by split.

    Returns:
      What was found.
    """
    part_of = {case: part for part, ids in splits.items() for case in ids}
    return [*_crossing(cases, part_of), *_duplicates(cases, part_of), *_notes(cases)]


def _crossing(cases: Sequence[Facts], part_of: Mapping[str, str]) -> Iterator[Finding]:
    """Groups that lie in several parts."""
    parts = _parts_of_groups(cases, part_of)
    crossing = [f"{group} ({', '.join(some)})" for group, some in parts.items() if len(some) > 1]
    if crossing:
        yield Finding(
            f"{len(crossing)} of {len(parts)} groups of near-duplicates lie in different parts of "
            "the split, which --config.data.split=group prevents",
            tuple(crossing),
            leak=True,
        )


def _parts_of_groups(
    cases: Sequence[Facts], part_of: Mapping[str, str]
) -> dict[str, dict[str, None]]:
    """The parts that each group lies in, in the order of the cases."""
    parts: dict[str, dict[str, None]] = {}
    for case in cases:
        if case.group is not None:
            parts.setdefault(case.group, {})[part_of[case.id]] = None
    return parts


def _duplicates(cases: Sequence[Facts], part_of: Mapping[str, str]) -> Iterator[Finding]:
    """Images that occur more than once."""
    same = collections.defaultdict(list)
    for case in cases:
        same[case.digest].append(case)
    leaks, contradictory, others = [], [], []
    for some in same.values():
        if len(some) > 1:
            shown = ", ".join(f"{case.id} ({part_of[case.id]})" for case in some)
            if len({part_of[case.id] for case in some}) > 1:
                leaks.append(shown)
            elif len({case.label_digest for case in some}) > 1:
                contradictory.append(shown)
            else:
                others.append(shown)
    for what, where in (
        ("the same image in different parts of the split", leaks),
        ("the same image with different masks", contradictory),
        ("the same image and mask", others),
    ):
        if where:
            yield Finding(f"{what} ({_count(where, 'time')})", tuple(where), where is leaks)


def _notes(cases: Sequence[Facts]) -> list[Finding]:
    """The notes on cases, those that differ in numbers alone as one kind."""
    kinds = collections.defaultdict(list)
    for case in cases:
        for note in case.notes:
            kinds[re.sub(r"\d+(\.\d+)?", "#", note)].append((case.id, note))
    found = []
    for some in sorted(kinds.values(), key=len):
        count = _count(some, "case")
        if len({note for _, note in some}) == 1:
            found.append(Finding(f"{some[0][1]} ({count})", tuple(name for name, _ in some)))
        else:
            found.append(Finding(count, tuple(f"{name}, {note}" for name, note in some)))
    return found


def _count(things: Sequence[object], unit: str) -> str:
    return f"{len(things)} {unit}{'s' * (len(things) != 1)}"


def _grouped(cases: Sequence[Facts], splits: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """How groups are divided, if the set has any and none is in several parts."""
    part_of = {case: part for part, ids in splits.items() for case in ids}
    parts = _parts_of_groups(cases, part_of)
    if not parts or any(len(some) > 1 for some in parts.values()):
        return {}
    groups = list(parts)
    return {
        "split": f"by group: each of the {len(groups)} groups, {groups[0]} to {groups[-1]}, is in "
        "one part"
    }


def _left_out(spec: Spec) -> dict[str, str]:
    if not spec.excluded:
        return {}
    return {"left out": f"{', '.join(spec.excluded)}, as in the paper"}


def _counts(spec: Spec, splits: Mapping[str, Sequence[str]]) -> str:
    counts = tuple(len(ids) for ids in splits.values())
    shown = ", ".join(f"{len(ids)} {part}" for part, ids in splits.items())
    text = f"{sum(counts)}: {shown}"
    if not spec.counts:
        return text
    if counts == spec.counts:
        return f"{text}, as expected"
    expected = ", ".join(map(str, spec.counts))
    if sum(counts) == sum(spec.counts):
        return f"{text}; complete, but divided otherwise than in the paper: {expected}"
    return f"{text}; the complete set has {sum(spec.counts)}: {expected}"


def _sizes(shapes: Sequence[tuple[int, ...]]) -> str:
    """All sizes if there are few, else their range."""
    counted = collections.Counter(shapes).most_common()
    if len(counted) <= 4:
        return ", ".join(
            by(shape) + (f" ({count})" if len(counted) > 1 else "") for shape, count in counted
        )
    return f"{span(shapes)}, {len(counted)} different"


def _balance(spec: Spec, cases: Sequence[Facts]) -> str:
    voxels = np.array([case.voxels for case in cases])
    shares = voxels.sum(0) / voxels.sum()
    present = (voxels > 0).sum(0)
    background, *foreground = zip(spec.classes, shares, present, strict=True)
    shown = [f"{background[0]} {background[1]:.1%}"]
    shown += [f"{name} {share:.2%} (in {count} cases)" for name, share, count in foreground]
    return ", ".join(shown)
