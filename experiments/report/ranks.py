"""Ranks of methods over data sets, and which of them differ from DSC++."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import rankdata

from dicepp_jax.rows import column_of
from experiments.report import groups as groups_lib
from experiments.report.findings import SIGNIFICANT
from experiments.report.markup import Cell, Column, ReportTable
from experiments.report.published import FRONTIER, REPORTED
from experiments.report.table_numbers import HIGHER_IS_BETTER, METRIC_TITLES, Part, entries, labels

REFERENCE = "dscpp"
BETTER, WORSE, ALIKE = "▲", "▼", "·"

RANKED = tuple(metric for metric in REPORTED if metric != "jaccard")
"""The columns; Jaccard orders the cases as Dice does."""

OVERALL = ("nll", "brier", "ece", "dice")
"""Those that the rank over all is the mean of, so that none counts twice."""


def verdict(part: Part, method: str, label: str, metric: str) -> str:
    """Whether a method is better or worse than DSC++ on the same cases.

    Args:
      part: of `FRONTIER`.
      method: a key of its group.
      label: the class.
      metric: a column.

    Returns:
      `BETTER` or `WORSE` if the signed-rank test says so after Holm's adjustment for all pairs of
      the part, else `ALIKE`; "" if they are not compared.
    """
    for c in part.compared:
        if (c.method_a, c.method_b, c.label, column_of(c)) == (method, REFERENCE, label, metric):
            if not c.holm < SIGNIFICANT:
                return ALIKE
            return BETTER if (c.rank_biserial > 0) == (metric in HIGHER_IS_BETTER) else WORSE
    return ""


def rank_tables(parts: Sequence[Part]) -> list[ReportTable]:
    """For each scale the mean rank of every method over data sets and classes, the best first.

    Args:
      parts: of `table_numbers.divide`.

    Returns:
      A table for each scale at which there are parts of `FRONTIER`. A method that one of the data
      sets lacks is left out, and so is a metric that one of the methods lacks.
    """
    by_scale: dict[str, list[Part]] = {}
    for part in parts:
        if part.number == FRONTIER:
            by_scale.setdefault(part.group.scale_name, []).append(part)
    return [_table(scale, of_scale) for scale, of_scale in by_scale.items()]


def _table(scale: str, parts: Sequence[Part]) -> ReportTable:
    methods = [name for name in entries(parts[0]) if all(name in entries(p) for p in parts)]
    places = [(part, label) for part in parts for label in labels(part)]
    found = {
        metric: [r for place in places if (r := _ranks(*place, methods, metric)) is not None]
        for metric in RANKED
    }
    by_metric = {metric: np.mean(ranks, axis=0) for metric, ranks in found.items() if ranks}
    overall = np.mean([by_metric[metric] for metric in OVERALL if metric in by_metric], axis=0)
    titles = [groups_lib.method_title(entries(parts[0])[name].run) for name in methods]
    rows = [
        (
            Cell(titles[n]),
            Cell(f"{overall[n]:.1f}", overall[n] == overall.min()),
            *(
                Cell(
                    f"{of_metric[n]:.1f} {''.join(_verdicts(places, methods[n], metric))}".strip(),
                    of_metric[n] == of_metric.min(),
                )
                for metric, of_metric in by_metric.items()
            ),
        )
        for n in np.argsort(overall, kind="stable")
    ]
    shown = ", ".join(
        f"{part.group.title}{f' ({label})' if labels(part)[1:] else ''}" for part, label in places
    )
    return ReportTable(
        f"frontier_ranks_{scale}",
        f"Ranks, {groups_lib.scale_words(scale)}",
        f"Rank of {len(methods)} methods, 1 the best, mean over {shown}; the first column is the "
        f"mean of {', '.join(METRIC_TITLES[metric] for metric in OVERALL)}. After it, for each of "
        f"these in that order: {BETTER} better than DSC++ and {WORSE} worse, by the signed-rank "
        f"test over the cases with Holm's adjustment for all pairs of the data set, p < "
        f"{SIGNIFICANT:g}; {ALIKE} neither. A network that hardly predicts the class can have the "
        "lowest calibration error: read each rank beside that of Dice.",
        tuple(map(Column, ("method", "all", *(METRIC_TITLES[metric] for metric in by_metric)))),
        (tuple(rows),),
        tuple(_summary(places, methods, titles)),
    )


def _summary(
    places: Sequence[tuple[Part, str]], methods: Sequence[str], titles: Sequence[str]
) -> Iterator[str]:
    """For each metric, in words, which methods are better than DSC++ wherever they differ."""
    for metric in RANKED:
        better = [
            title
            for title, name in zip(titles, methods, strict=True)
            if BETTER in (found := {*_verdicts(places, name, metric)}) and WORSE not in found
        ]
        yield f"Better than DSC++ in {METRIC_TITLES[metric]}: {'; '.join(better) or 'none'}."


def _verdicts(places: Sequence[tuple[Part, str]], method: str, metric: str) -> Iterator[str]:
    for part, label in places:
        yield verdict(part, method, label, metric)


def _ranks(part: Part, label: str, methods: Sequence[str], metric: str) -> np.ndarray | None:
    """The rank of each method, `(methods,)`; None if one has no value."""
    means = [entries(part)[name].means.get((label, metric)) for name in methods]
    values = np.array([np.nan if mean is None else mean.mean for mean in means])
    if np.isnan(values).any():
        return None
    return rankdata(-values if metric in HIGHER_IS_BETTER else values)
