"""The numbers of a report: which runs each table shows, beside the paper's, and their tests."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dicepp_jax import statistics
from dicepp_jax.metrics import UNCERTAINTY
from dicepp_jax.rows import ALL_CLASSES, Comparison, Row, Summary, column_of, compare
from experiments.report.groups import CUSTOM, LABEL_MAP, Entry, Group, truth
from experiments.report.published import (
    AT_INPUT,
    FRONTIER,
    PAIR,
    REPORTED,
    TABLES,
    Published,
    published,
)
from experiments.workdirs.derived import ENSEMBLE, FOLDS, METHODS, TEMPERATURE
from experiments.workdirs.finished import Finished

OTHER = 0
"""The number of runs that belong to no table of the paper."""

CALIBRATED = (4, 5)
"""Tables that also show scores derived from runs of DSC and DSC++, of `OF_PAIR`."""

OF_PAIR = (TEMPERATURE, ENSEMBLE, FOLDS)

METRIC_TITLES = {
    "nll": "NLL",
    "brier": "Brier",
    "ece": "ECE",
    "dice": "Dice",
    "jaccard": "Jaccard",
    "nll_band": "NLL, band",
    "ece_band": "ECE, band",
    "nll_input": "NLL, input size",
    "brier_input": "Brier, input size",
    "aurc": "AURC",
    "entropy_auroc": "Entropy AUROC",
    "nll_labelmap": "NLL of label map",
    "brier_labelmap": "Brier of label map",
}
HIGHER_IS_BETTER = ("dice", "jaccard", "entropy_auroc")


TRUTH = "truth at this size"
"""The method of the truth itself, resized to the network's input and back."""


class Part(NamedTuple):
    """The share of a group in a table.

    Attributes:
      number: of the table, or `OTHER`.
      group: the group.
      methods: rows of the paper's table, which the group may lack; for `OTHER`, all of the group.
      beyond: rows that the paper lacks.
      compared: pairs of them.
      left_out: why other pairs are not compared.
    """

    number: int
    group: Group
    methods: tuple[str, ...]
    beyond: tuple[str, ...]
    compared: tuple[Comparison, ...] = ()
    left_out: tuple[str, ...] = ()


class Number(NamedTuple):
    """A cell of a table beside the paper's, a row of `tables.csv`; NaN where there is none.

    Attributes:
      table: its number, `OTHER` for none of the paper.
      dataset: the data set.
      scale: as of `Group.tag`.
      method: as of `groups.method`.
      seed: of the run.
      summary: of the test cases.
      paper_mean: the paper's mean.
      paper_error: its standard error.
      difference_in_errors: (mean - paper_mean) / paper_error, where both are comparable.
    """

    table: int
    dataset: str
    scale: str
    method: str
    seed: int
    summary: Summary
    paper_mean: float
    paper_error: float
    difference_in_errors: float


def divide(groups: Sequence[Group]) -> list[Part]:
    """Assign groups to tables; every run is in at least one.

    Args:
      groups: of `groups.gather`.

    Returns:
      Parts in the order of tables, those of `OTHER` last.
    """
    parts = []
    left = [dict(group.entries) for group in groups]
    for number, table in TABLES.items():
        for group, unused in zip(groups, left, strict=True):
            # A drawn set has no cell in the paper; at a custom scale it is a trial.
            drawn = group.spec.name in table.drawn and group.scale_name != CUSTOM
            if not drawn and group.spec.name not in table.datasets:
                continue
            beyond = _beyond(group, number)
            shown = [*table.methods, *beyond]
            # A run that a table of the paper shows is no reason for the one beyond it.
            there = unused if number == FRONTIER else group.entries
            if not any(name in there for name in shown):
                continue
            for name in shown:
                unused.pop(name, None)
            pairs = [*table.pairs, *_beyond_pairs(group, beyond)]
            if number == FRONTIER:
                alone = [name for name in beyond if group.entries[name].run.kind != FOLDS]
                pairs = list(dict.fromkeys([*pairs, *((name, "dscpp") for name in alone)]))
            part = Part(number, group, table.methods, beyond)
            parts.append(_compared(part, pairs))
    every_pair = [*TABLES[4].pairs, *TABLES[6].pairs]
    for group, unused in zip(groups, left, strict=True):
        names = tuple(unused)
        if names:
            within = [pair for pair in every_pair if {*pair} <= {*names}]
            pairs = [*within, *_beyond_pairs(group, names)] if "dscpp" in names else within
            parts.append(_compared(Part(OTHER, group, names, ()), pairs))
    return parts


def _beyond(group: Group, number: int) -> tuple[str, ...]:
    """The baselines of a group that a table shows below its losses."""
    if number not in (*CALIBRATED, FRONTIER):
        return ()
    made = [
        name
        for name, e in group.entries.items()
        if _is_baseline(e.run)
        and (number == FRONTIER or (e.run.loss in PAIR and e.run.kind in OF_PAIR))
    ]

    def key(name: str) -> tuple[str, int, int]:
        run = group.entries[name].run
        kinds = [*METHODS, ENSEMBLE, FOLDS]
        return run.loss, kinds.index(run.kind) if run.kind else -1, run.members

    return tuple(sorted(made, key=key))


def _is_baseline(run: Finished) -> bool:
    """Whether a run is of DSC or DSC++, and calibrated by other means than the loss."""
    loss, *more = run.loss.split()
    means = [part for part in more if part.startswith(("dropout=", "then="))]
    return loss in PAIR and means == more and bool(means or run.kind)


def _beyond_pairs(group: Group, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        run = group.entries[name].run
        if run.kind == FOLDS:
            if run.loss == "dsc":
                yield name, f"dscpp, {FOLDS} of {run.members}"
        elif _is_baseline(run) and (run.loss.split()[0] == "dsc" or run.kind in METHODS):
            yield name, "dscpp"


def _compared(part: Part, pairs: Sequence[tuple[str, str]]) -> Part:
    """A part with its pairs compared, their p-values adjusted for the number of all of them."""
    entries = part.group.entries
    rows = {name: _by_place(e.rows) for name, e in entries.items()}
    found: list[Comparison] = []
    left_out = []
    for a, b in pairs:
        if a in rows and b in rows:
            try:
                # Runs of older versions lack some.
                both = [place for place in rows[a] if place in rows[b]]
                of_a, of_b = ([row for place in both for row in rows[n][place]] for n in (a, b))
                pair = compare(of_a, of_b, (a, b))
                found += sorted(pair, key=lambda c: labels(part).index(c.label))
            except ValueError as error:
                left_out.append(f"Not compared: {error}")
    adjusted = statistics.holm(np.array([row.signed_rank for row in found]))
    compared = [row._replace(holm=float(p)) for row, p in zip(found, adjusted, strict=True)]
    return part._replace(compared=tuple(compared), left_out=tuple(left_out))


def _by_place(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows of the columns that are tested, by class and column."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if column_of(row) in (*REPORTED, *AT_INPUT):
            found.setdefault((row.label, column_of(row)), []).append(row)
    return found


def labels(part: Part) -> tuple[str, ...]:
    """The foreground classes, which tables show."""
    return part.group.spec.classes[1:]


def numbers(part: Part) -> list[Number]:
    """Every number that a part shows, beside the paper's; missing runs have none."""
    found = []
    for label in labels(part):
        for name, entry in entries(part).items():
            for metric in metrics(part):
                summary = entry.means.get((label, metric))
                if summary:
                    found.append(_beside(part, name, entry.run.seed, summary))
    for name, entry in entries(part).items():
        for metric in UNCERTAINTY:
            summary = entry.means.get((ALL_CLASSES, metric))
            if summary:
                found.append(_beside(part, name, entry.run.seed, summary))
    place = (part.number, part.group.spec.name, part.group.tag)
    for summary in truth(part.group).values():
        seed = next(iter(entries(part).values())).run.seed
        found.append(Number(*place, TRUTH, seed, summary, *(math.nan,) * 3))
    return found


def _beside(part: Part, method: str, seed: int, summary: Summary) -> Number:
    metric = column_of(summary)
    cell = published_cell(part, summary.label, method, metric)
    paper = (cell.mean, cell.error) if cell else (math.nan, math.nan)
    difference = math.nan
    if cell and comparable(part, metric) and cell.error:
        difference = (summary.mean - cell.mean) / cell.error
    place = (part.number, part.group.spec.name, part.group.tag)
    return Number(*place, method, seed, summary, *paper, difference)


def metrics(part: Part) -> tuple[str, ...]:
    """The columns of a table."""
    spec = part.group.spec
    with_label_map = part.number != OTHER and spec.label_map and not spec.stands_for
    # Runs of older versions lack those at the input's size; networks of patches have none.
    known = {metric for entry in entries(part).values() for _, metric in entry.means}
    at_input = (metric for metric in AT_INPUT if metric in known)
    return (*REPORTED, *at_input, *(LABEL_MAP if with_label_map else ()))


def published_cell(part: Part, label: str, method: str, metric: str) -> Published | None:
    """The paper's number for a cell, or for the one that the cell stands for."""
    spec = part.group.spec
    stands_for = spec.stands_for if metric in HIGHER_IS_BETTER else None
    dataset = stands_for or spec.name
    of_paper = metric.removesuffix("_labelmap").removesuffix("_input")
    for cell in published():
        if cell[:5] == (part.number, dataset, label, method, of_paper):
            return cell
    return None


def comparable(part: Part, metric: str) -> bool:
    """Whether the paper's number is of the same definition and the same images."""
    spec = part.group.spec
    return not spec.stands_for and not (spec.label_map and metric in ("nll", "brier"))


def entries(part: Part) -> Mapping[str, Entry]:
    names = (*part.methods, *part.beyond)
    return {name: part.group.entries[name] for name in names if name in part.group.entries}
