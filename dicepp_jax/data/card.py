"""A summary of a prepared set in a few lines, and everything unusual about it."""

import collections
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from dicepp_jax.data.builder import Facts
from dicepp_jax.spec import Spec
from dicepp_jax.wording import by, span


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
    if spec.homepage:
        lines["homepage"] = spec.homepage
    lines["licence"] = spec.licence
    if spec.citation:
        lines["cite"] = spec.citation
    width = max(map(len, lines))
    return [spec.title, *(f"  {name:<{width}}  {value}" for name, value in lines.items())]


def anomalies(cases: Sequence[Facts], splits: Mapping[str, Sequence[str]]) -> list[str]:
    """Everything unusual: notes on cases, and images that occur more than once.

    Args:
      cases: what is known about every stored case.
      splits: names of cases by split.

    Returns:
      One line for each.
    """
    noted = [f"case {case.id}: {note}" for case in cases for note in case.notes]
    return noted + list(_duplicates(cases, splits))


def _duplicates(cases: Sequence[Facts], splits: Mapping[str, Sequence[str]]) -> Iterator[str]:
    part_of = {case: part for part, ids in splits.items() for case in ids}
    same = collections.defaultdict(list)
    for case in cases:
        same[case.digest].append(case.id)
    for ids in same.values():
        if len(ids) > 1:
            parts = [part_of[case] for case in ids]
            leak = " in different parts of the split" if len(set(parts)) > 1 else ""
            shown = ", ".join(f"{case} ({part})" for case, part in zip(ids, parts, strict=True))
            yield f"the same image{leak}: {shown}"


def _counts(spec: Spec, splits: Mapping[str, Sequence[str]]) -> str:
    counts = tuple(len(ids) for ids in splits.values())
    shown = ", ".join(f"{len(ids)} {part}" for part, ids in splits.items())
    text = f"{sum(counts)}: {shown}"
    if not spec.counts:
        return text
    if counts == spec.counts:
        return f"{text}, as expected"
    expected = ", ".join(map(str, spec.counts))
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
