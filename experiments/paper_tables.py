"""The paper's tables made from groups of runs: which rows there are, their numbers, their tests."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from configs import paper as cells
from dicepp_jax import statistics
from dicepp_jax.data import SETS
from dicepp_jax.rows import Comparison, Summary, compare
from experiments import groups as groups_lib
from experiments.derived import TEMPERATURE
from experiments.finished import Finished
from experiments.groups import CUSTOM, LABEL_MAP, METRICS, Group, method_title
from experiments.paper import TABLES, Published, published
from experiments.tables import Cell, Column, Line, Table

OTHER = 0
"""The number of what belongs to no table of the paper."""

CALIBRATED = (4, 5)
"""Tables that show what was made of runs of DSC and DSC++ afterwards, too."""

TITLES = {
    "nll": "NLL",
    "brier": "Brier",
    "ece": "ECE",
    "dice": "Dice",
    "jaccard": "Jaccard",
    "nll_labelmap": "NLL of label map",
    "brier_labelmap": "Brier of label map",
}
HIGHER_IS_BETTER = ("dice", "jaccard")
OURS, PAPER, DIFFERENCE = "ours", "paper", "difference"
MISSING, UNDEFINED, NOTHING = "missing", "undefined", "–"


class Part(NamedTuple):
    """What a group shows in a table.

    Attributes:
      number: of the table, or `OTHER`.
      group: the group.
      methods: rows of the paper, or of `OTHER` all; those that the group lacks are missing.
      beyond: rows that the paper has not.
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
    """A cell of a table beside that of the paper, a row of `tables.csv`; NaN is nothing.

    Attributes:
      table: its number, `OTHER` for none of the paper.
      dataset: the data set.
      scale: as of `Group.tag`.
      label: the class.
      method: as of `groups.method`.
      seed: of the run.
      metric: its name.
      mean: over the test cases.
      error: its bootstrap standard error.
      low: lower end of its bootstrap 95% interval.
      high: upper end of it.
      cases: number of cases where it is defined.
      undefined: number of cases where it is not.
      paper_mean: the paper's.
      paper_error: its standard error.
      difference_in_errors: (mean - paper_mean) / paper_error, of what is comparable.
    """

    table: int
    dataset: str
    scale: str
    label: str
    method: str
    seed: int
    metric: str
    mean: float
    error: float
    low: float
    high: float
    cases: int
    undefined: int
    paper_mean: float
    paper_error: float
    difference_in_errors: float


def divide(groups: Sequence[Group]) -> list[Part]:
    """Which group shows what in which table; every run is in one at least.

    Args:
      groups: as of `groups.gather`.

    Returns:
      Parts in the order of tables, at last those of `OTHER`.
    """
    parts = []
    left = [dict(group.entries) for group in groups]
    for number, table in TABLES.items():
        for group, unused in zip(groups, left, strict=True):
            # A drawn set has no cell of the paper; at a scale of its own it is a trial.
            drawn = group.spec.name in table.drawn and group.scale_name != CUSTOM
            if not drawn and group.spec.name not in table.datasets:
                continue
            beyond = _beyond(group) if number in CALIBRATED else ()
            shown = [*table.methods, *beyond]
            if not any(name in group.entries for name in shown):
                continue
            for name in shown:
                unused.pop(name, None)
            pairs = [*table.pairs, *_beyond_pairs(group, beyond)]
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


def _beyond(group: Group) -> tuple[str, ...]:
    made = [
        name for name, e in group.entries.items() if e.run.kind and e.run.loss in ("dsc", "dscpp")
    ]

    def key(name: str) -> tuple[str, bool, int]:
        run = group.entries[name].run
        return run.loss, run.kind != TEMPERATURE, run.members

    return tuple(sorted(made, key=key))


def _beyond_pairs(group: Group, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        run = group.entries[name].run
        if run.kind and (run.loss == "dsc" or (run.loss, run.kind) == ("dscpp", TEMPERATURE)):
            yield name, "dscpp"


def _compared(part: Part, pairs: Sequence[tuple[str, str]]) -> Part:
    """A part with its pairs compared, their p-values adjusted for the number of all of them."""
    entries = part.group.entries
    rows = {name: [r for r in e.rows if r.metric in METRICS] for name, e in entries.items()}
    found: list[Comparison] = []
    left_out = []
    for a, b in pairs:
        if a in rows and b in rows:
            try:
                pair = compare(rows[a], rows[b], (a, b))
                found += sorted(pair, key=lambda c: labels(part).index(c.label))
            except ValueError as error:
                left_out.append(f"Not compared: {error}")
    adjusted = statistics.holm(np.array([row.signed_rank for row in found]))
    compared = [row._replace(holm=float(p)) for row, p in zip(found, adjusted, strict=True)]
    return part._replace(compared=tuple(compared), left_out=tuple(left_out))


def labels(part: Part) -> tuple[str, ...]:
    """The classes that are shown."""
    return part.group.spec.classes[1:]


def numbers(part: Part) -> list[Number]:
    """Every number that a part shows, the paper's beside ours; of missing runs there is none."""
    spec = part.group.spec
    found = []
    for label in labels(part):
        for name, entry in _entries(part).items():
            for metric in _metrics(part):
                summary = entry.means.get((label, metric))
                if summary:
                    place = (part.number, spec.name, part.group.tag, label, name)
                    found.append(
                        Number(*place, entry.run.seed, *_beside(part, label, name, summary))
                    )
    return found


def _beside(part: Part, label: str, method: str, summary: Summary) -> tuple:
    cell = _published(part, label, method, summary.metric)
    difference = math.nan
    if cell and _comparable(part, summary.metric) and cell.error:
        difference = (summary.mean - cell.mean) / cell.error
    paper = (cell.mean, cell.error) if cell else (math.nan, math.nan)
    return (*summary[2:], *paper, difference)


def _metrics(part: Part) -> tuple[str, ...]:
    """The columns of a table."""
    is_of_paper = (part.number, part.group.spec.name) == (5, "kits19")
    return (*METRICS, *LABEL_MAP) if is_of_paper else METRICS


def _published(part: Part, label: str, method: str, metric: str) -> Published | None:
    """What the paper prints for a cell, or for what stands in its stead."""
    dataset = part.group.spec.name
    if dataset == "kits19_synthetic" and metric in HIGHER_IS_BETTER:
        dataset = "kits19"
    of_paper = metric.removesuffix("_labelmap")
    for cell in published():
        if cell[:5] == (part.number, dataset, label, method, of_paper):
            return cell
    return None


def _comparable(part: Part, metric: str) -> bool:
    """Whether the paper's number is of the same definition and the same images."""
    dataset = part.group.spec.name
    return dataset != "kits19_synthetic" and (dataset != "kits19" or metric not in METRICS[:2])


def tables(part: Part, of_part: Sequence[Number]) -> list[Table]:
    """What a part looks like: a table for each class, the tests and the seeds.

    Args:
      part: the part.
      of_part: its `numbers`.

    Returns:
      The tables.
    """
    shown = [_label_table(part, label, of_part) for label in labels(part)]
    shown[-1] = shown[-1]._replace(missing=tuple(_missing(part)))
    if part.compared or part.left_out:
        shown.append(_test_table(part))
    return [*shown, *_seed_tables(part)]


def _name(part: Part, *more: str) -> str:
    first = f"table{part.number}" if part.number else "other"
    words = (first, part.group.spec.name, part.group.tag, *more)
    return "_".join(re.sub(r"\W+", "_", word) for word in words)


def _title(part: Part, label: str = "") -> str:
    first = [f"Table {part.number}"] if part.number else []
    return ", ".join([*first, part.group.title, *([label] if label else [])])


def _caption(part: Part) -> str:
    drawn = {
        "kits19_synthetic": "SYNTHETIC INTENSITIES: the masks are those of KiTS19, the images are "
        "drawn. ",
        "phantom": "DRAWN IMAGES, of no patient. ",
        "phantom_3d": "DRAWN IMAGES, of no patient. ",
    }.get(part.group.spec.name, "")
    numbers_of_cases = {len({row.case for row in e.rows}) for e in _entries(part).values()}
    cases = " or ".join(str(number) for number in sorted(numbers_of_cases))
    return (
        f"{drawn}Mean over {cases} test cases ± bootstrap standard error; the best of each column "
        f"in bold. {groups_lib.scale_text(part.group)}"
    )


def _entries(part: Part) -> Mapping[str, groups_lib.Entry]:
    names = (*part.methods, *part.beyond)
    return {name: part.group.entries[name] for name in names if name in part.group.entries}


def _row_title(part: Part, name: str) -> str:
    entry = part.group.entries.get(name)
    return method_title(entry.run) if entry else groups_lib.loss_title(name)


def _label_table(part: Part, label: str, of_part: Sequence[Number]) -> Table:
    found = {(n.method, n.metric): n for n in of_part if n.label == label}
    rows = (*part.methods, *part.beyond)
    entries = [part.group.entries.get(name) for name in rows]
    columns = [(Column("method"), [Cell(_row_title(part, name)) for name in rows])]
    for metric in _metrics(part):
        for kind in _kinds(part, label, metric):
            texts = [
                _text(
                    kind,
                    found.get((name, metric)),
                    _published(part, label, name, metric),
                    name in part.group.entries,
                )
                for name in rows
            ]
            columns.append((Column(kind, TITLES[metric]), _best(texts, metric)))
    seeds = [_seed(e.run) if e else "" for e in entries]
    epochs = [str(e.run.epochs) if e else "" for e in entries]
    columns += [
        (Column("seed"), list(map(Cell, seeds))),
        (Column("epochs"), list(map(Cell, epochs))),
    ]
    lines = tuple(zip(*(cells_ for _, cells_ in columns), strict=True))
    border = len(part.methods)
    blocks = tuple(block for block in (lines[:border], lines[border:]) if block)
    several = labels(part)[1:]
    return Table(
        _name(part, *([label] if several else [])),
        _title(part, label),
        _caption(part),
        tuple(column for column, _ in columns),
        blocks,
        tuple(_notes(part, label)),
    )


def _seed(run: Finished) -> str:
    return f"{run.members} seeds" if run.members > 1 else str(run.seed)


def _best(texts: Sequence[tuple[str, float | None]], metric: str) -> list[Cell]:
    """Cells of a column, the best in bold where there are several."""
    values = [value for _, value in texts if value is not None]
    best = (max if metric in HIGHER_IS_BETTER else min)(values, default=None)
    differ = len({*values}) > 1
    return [Cell(text, differ and value == best) for text, value in texts]


def _kinds(part: Part, label: str, metric: str) -> tuple[str, ...]:
    if not any(_published(part, label, name, metric) for name in part.methods):
        return (OURS,)
    return (OURS, PAPER, DIFFERENCE) if _comparable(part, metric) else (OURS, f"{PAPER} *")


def _text(
    kind: str, number: Number | None, cell: Published | None, there: bool
) -> tuple[str, float | None]:
    """A cell's text, and its value to the digits printed where one may be the best."""
    if kind.startswith(PAPER):
        return (f"{cell.mean:.3f} ± {cell.error:.3f}", cell.mean) if cell else ("", None)
    if kind == DIFFERENCE:
        if number is None or math.isnan(number.difference_in_errors):
            return "", None
        return f"{signed(number.difference_in_errors, 1)} SE", None
    if number is None:
        return (NOTHING if there else MISSING), None
    if not number.cases:
        return UNDEFINED, None
    text = mean_text(number.mean, number.error)
    if number.undefined:
        text += f" ({number.undefined} undefined)"
    return text, round(number.mean, 4)


def mean_text(mean: float, error: float) -> str:
    """A mean and its standard error, which one case has not."""
    return f"{mean:.4f}" if math.isnan(error) else f"{mean:.4f} ± {error:.4f}"


def signed(value: float, digits: int) -> str:
    """A number with its sign."""
    return NOTHING if math.isnan(value) else f"{value:+.{digits}f}".replace("-", "−")


def _notes(part: Part, label: str) -> Iterator[str]:
    kinds = {kind for metric in _metrics(part) for kind in _kinds(part, label, metric)}
    if DIFFERENCE in kinds:
        yield "difference: ours − paper, in standard errors (SE) of the paper."
    if part.group.spec.name == "kits19_synthetic" and f"{PAPER} *" in kinds:
        yield (
            "* The paper's are of the images of patients, for orientation; ours are not to be "
            "compared with them."
        )
    elif f"{PAPER} *" in kinds:
        yield (
            "* The paper's NLL and Brier of KiTS19 are of another definition, which ours of the "
            "label map have, too; those are compared with them."
        )
    yield groups_lib.made_by(_entries(part).values())
    about = next(iter(_entries(part).values())).run.about
    yield f"Digest of cases and split: {about['data'][:8]}."


def _missing(part: Part) -> Iterator[Line]:
    group = part.group
    gone = [name for name in part.methods if name not in group.entries]
    if not gone:
        return
    if group.scale_name == CUSTOM:
        yield Line(f"Missing: {', '.join(map(groups_lib.loss_title, gone))}.")
        return
    cell = f"{group.scale_name}/{group.spec.name}"
    if part.number == 3:
        text = f"Missing: {', '.join(map(groups_lib.loss_title, gone))}. The whole grid:"
        yield Line(text, command("sweep", f"{cell}/{cells.GAMMA}"))
    else:
        for name in gone:
            title = groups_lib.loss_title(name)
            yield Line(f"{title} is missing:", command("run", f"{cell}/{name}"))
    yield Line("The whole table:", reproduce(part.number, group.spec.name, group.scale_name))


def command(module: str, cell: str) -> str:
    """The command for a cell of `configs.paper`."""
    dataset = cell.split("/")[1]
    folder = "" if _is_made(dataset) else " --config.data.manual_dir=FOLDER"
    return f"python -m experiments.{module} --config=configs/paper.py:{cell}{folder}"


def reproduce(number: int, dataset: str, scale: str) -> str:
    """The command for a data set of a table."""
    folder = "" if _is_made(dataset) else "=FOLDER"
    return (
        f"python -m experiments.reproduce --table={number} --data={dataset}{folder} --scale={scale}"
    )


def _is_made(dataset: str) -> bool:
    """Whether a set needs no files."""
    return not SETS[dataset].spec.obtain


def _test_table(part: Part) -> Table:
    several = bool(labels(part)[1:])
    heads = ["methods", *(["class"] if several else []), "metric", "difference", "95% interval"]
    heads += ["p rank-sum", "p signed-rank", "p by Holm", "rank-biserial", "cases"]
    rows = []
    for c in part.compared:
        a, b = (_row_title(part, name) for name in (c.method_a, c.method_b))
        texts = [f"{a} − {b}", *([c.label] if several else []), TITLES[c.metric]]
        texts += [signed(c.difference, 4), f"{signed(c.low, 4)} to {signed(c.high, 4)}"]
        texts += [p_text(p) for p in (c.rank_sum, c.signed_rank, c.holm)]
        texts += [signed(c.rank_biserial, 2), str(c.cases)]
        rows.append(tuple(map(Cell, texts)))
    by_pair: dict[str, list[tuple[Cell, ...]]] = {}
    for row in rows:
        by_pair.setdefault(row[0].text, []).append(row)
    return Table(
        _name(part, "tests"),
        f"{_title(part)}: pairs of methods",
        "Mean difference over the cases with its bootstrap 95% interval; rank-sum is the test of "
        "the paper, signed-rank that of pairs; Holm's adjustment of the latter is for all "
        f"{len(rows)} lines of this table.",
        tuple(map(Column, heads)),
        tuple(map(tuple, by_pair.values())),
        part.left_out,
    )


def p_text(p: float) -> str:
    """A p-value to three digits, enough to tell 0.0495 from 0.05."""
    return NOTHING if math.isnan(p) else f"{p:.3g}"


def _seed_tables(part: Part) -> Iterator[Table]:
    seeds = {name: part.group.seeds[name] for name in part.methods if name in part.group.seeds}
    for label in labels(part) if seeds else ():
        blocks = []
        for entries in seeds.values():
            block = []
            for e in entries:
                means = [e.means.get((label, metric)) for metric in METRICS]
                texts = [mean_text(m.mean, m.error) if m else NOTHING for m in means]
                line = [method_title(e.run), str(e.run.seed), *texts, str(e.run.epochs)]
                block.append(tuple(map(Cell, line)))
            blocks.append(tuple(block))
        several = labels(part)[1:]
        yield Table(
            _name(part, "seeds", *([label] if several else [])),
            f"{_title(part, label)}: seeds",
            "Each seed's mean ± bootstrap standard error; the table above shows the lowest seed.",
            (*map(Column, ("method", "seed", *(TITLES[m] for m in METRICS), "epochs")),),
            tuple(blocks),
        )


def absent(number: int, parts: Sequence[Part]) -> Iterator[Line]:
    """Data sets of a table of which there is no run, with the command for each."""
    scales = [part.group.scale_name for part in parts if part.group.scale_name != CUSTOM]
    scale = scales[0] if scales else "full"
    there = {part.group.spec.name for part in parts if part.number == number}
    for dataset in TABLES[number].datasets:
        if dataset not in there:
            title = SETS[dataset].spec.title
            yield Line(f"{title}: no runs.", reproduce(number, dataset, scale))
