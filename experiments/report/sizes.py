"""The same data set at several scales: which claims hold at which, and metrics against size."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from dicepp_jax.data import SETS
from dicepp_jax.names import file_name
from dicepp_jax.plots import against_size
from dicepp_jax.rows import Summary
from experiments.report import groups as groups_lib
from experiments.report.figures import ReportFigure
from experiments.report.findings import Finding
from experiments.report.groups import Group
from experiments.report.markup import Cell, Column, ReportTable
from experiments.report.published import PAIR, TITLES, published
from experiments.report.table_numbers import METRIC_TITLES, TRUTH

METRICS = ("nll", "brier", "ece", "dice")
"""The rows of the figure."""

Points = Mapping[int, Mapping[str, Summary]]


def claims_table(found: Sequence[Finding], gathered: Sequence[Group]) -> list[ReportTable]:
    """The claims in rows, scales in columns.

    Args:
      found: of `findings.findings`.
      gathered: of `groups.gather`, in the order of the columns.

    Returns:
      A table; none if no data set has several scales.
    """
    scales = list(dict.fromkeys(group.tag for group in gathered))
    by_set: dict[str, set[str]] = {}
    for group in gathered:
        by_set.setdefault(group.spec.name, set()).add(group.tag)
    if all(len(tags) < 2 for tags in by_set.values()):
        return []
    blocks = []
    for finding in found:
        cells: dict[tuple[str, str], dict[str, Cell]] = {}
        for judged in finding.judged:
            of_row = cells.setdefault((judged.what, judged.dataset), {})
            of_row[judged.scale] = Cell(f"{judged.verdict}: {judged.brief}")
        blocks.append(
            tuple(
                (*map(Cell, row), *(of_row.get(scale, Cell("")) for scale in scales))
                for row, of_row in cells.items()
            )
        )
    words = {
        group.tag: groups_lib.scale_words(group.scale_name)
        + group.tag.removeprefix(group.scale_name).replace("_", " ")
        for group in gathered
    }
    return [
        ReportTable(
            "claims",
            "Claims by scale",
            "Each block is a claim of the list above, in its order. After the verdict: both means; "
            "p by rank-sum and by signed-rank; r, the matched-pairs rank-biserial correlation, −1 "
            "if the first method is lower in every case; in how many seeds the difference has the "
            "same sign.",
            tuple(map(Column, ("methods", "data", *(words[tag] for tag in scales)))),
            tuple(block for block in blocks if block),
            phrases=True,
        )
    ]


class _Sized(NamedTuple):
    """A group with the paper's schedule, by the side of its images and the filters."""

    side: int
    filters: int
    group: Group


def size_figures(gathered: Sequence[Group]) -> Iterator[ReportFigure]:
    """DSC and DSC++ against the side of the images and against the filters of the network.

    Args:
      gathered: of `groups.gather`.

    Yields:
      A figure for each class of each two-dimensional set of the paper with several sizes.
    """
    by_set: dict[str, list[_Sized]] = {}
    for group in gathered:
        spec, scale = group.spec, group.scale
        sized = spec.name in SETS and not spec.patches and set(PAIR) <= group.entries.keys()
        if sized and scale == groups_lib.cell_scale("full", spec)._replace(
            size=scale.size, filters=scale.filters
        ):
            item = _Sized(scale.size[0], scale.filters, group)
            by_set.setdefault(spec.name, []).append(item)
    for name, of_set in by_set.items():
        for label in of_set[0].group.spec.classes[1:]:
            columns, paper_at = _columns(of_set, label)
            if not columns:
                continue
            title = f"{of_set[0].group.spec.title}, {label}"
            yield ReportFigure(
                file_name(f"sizes_{name}_{label}"),
                f"Metrics against the size of images and network ({title})",
                "Means over the test cases with bootstrap 95% intervals, on the native grid; the "
                "paper's schedule at every size. Stars: the paper's means, at its own size and "
                "number of filters. Grey: the annotation itself, shrunk to the size and enlarged "
                "again.",
                functools.partial(
                    against_size.by_size,
                    columns,
                    {metric: METRIC_TITLES[metric] for metric in METRICS},
                    _paper(name, label),
                    paper_at,
                    (TRUTH,),
                ),
            )


def _columns(
    of_set: Sequence[_Sized], label: str
) -> tuple[dict[str, dict[str, Points]], dict[str, int]]:
    """Points by method, by the axis along which most sizes are known while the other is fixed.

    Beside them, by the same axis, where the paper is.
    """
    columns: dict[str, dict[str, Points]] = {}
    full = groups_lib.cell_scale("full", of_set[0].group.spec)
    paper = {"side": full.size[0], "filters": full.filters}
    paper_at: dict[str, int] = {}
    for axis, other, words in (
        ("side", "filters", "side of the images, pixels; {} filters"),
        ("filters", "side", "filters; images of {0} x {0}"),
    ):
        alike: dict[int, list[_Sized]] = {}
        for item in of_set:
            alike.setdefault(getattr(item, other), []).append(item)
        fixed = max(alike, key=lambda value: (len(alike[value]), value))
        if len(alike[fixed]) > 1:
            points = {getattr(item, axis): item.group for item in alike[fixed]}
            paper_at[words.format(fixed)] = paper[axis]
            columns[words.format(fixed)] = {
                **{TITLES[loss]: _points(points, loss, label) for loss in PAIR},
                TRUTH: {n: _of_truth(group, label) for n, group in points.items()},
            }
    return columns, paper_at


def _points(points: Mapping[int, Group], loss: str, label: str) -> dict[int, dict[str, Summary]]:
    return {
        size: {m: s for (of, m), s in group.entries[loss].means.items() if of == label}
        for size, group in points.items()
    }


def _of_truth(group: Group, label: str) -> dict[str, Summary]:
    means = groups_lib.truth(group)
    return {metric: summary for (of, metric), summary in means.items() if of == label}


def _paper(dataset: str, label: str) -> dict[tuple[str, str], float]:
    return {
        (TITLES[cell.method], cell.metric): cell.mean
        for cell in published()
        if cell[:3] == (4, dataset, label) and cell.method in PAIR
    }
