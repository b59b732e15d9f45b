"""The layout of the tables of a report: numbers, tests, seeds, and what is missing."""

import math
import re
from collections.abc import Iterator, Sequence

from configs import paper as cells
from dicepp_jax.data import SETS
from dicepp_jax.metrics import UNCERTAINTY
from dicepp_jax.rows import ALL_CLASSES, RATER_DICE, column_of
from dicepp_jax.text_table import OTHER_RATERS, calibration_cells, rater_columns
from experiments.report import groups as groups_lib
from experiments.report.groups import CUSTOM, Entry, method_title
from experiments.report.markup import Cell, Column, Line, ReportTable
from experiments.report.published import FRONTIER, REPORTED, TABLES, Published
from experiments.report.table_numbers import (
    HIGHER_IS_BETTER,
    METRIC_TITLES,
    TRUTH,
    Number,
    Part,
    comparable,
    entries,
    labels,
    metrics,
    published_cell,
)
from experiments.workdirs.finished import Finished

OURS, PAPER, DIFFERENCE = "ours", "paper", "difference"
MISSING, UNDEFINED, NOTHING = "missing", "undefined", "–"


def tables(part: Part, of_part: Sequence[Number]) -> list[ReportTable]:
    """Lay out a part: tables for each class, the tests and the seeds.

    Args:
      part: the part.
      of_part: its `numbers`.

    Returns:
      The tables.
    """
    shown = [_label_table(part, label, of_part) for label in labels(part)]
    shown[-1] = shown[-1]._replace(missing=tuple(_missing(part)))
    shown += _split_tables(part)
    if part.compared or part.left_out:
        shown.append(_test_table(part))
    return [*shown, *_rater_tables(part), *_seed_tables(part)]


def _name(part: Part, *more: str) -> str:
    first = TABLES[part.number].name if part.number else "other"
    words = (first, part.group.spec.name, part.group.tag, *more)
    return "_".join(re.sub(r"\W+", "_", word) for word in words)


def _title(part: Part, label: str = "") -> str:
    first = [TABLES[part.number].heading] if part.number else []
    return ", ".join([*first, part.group.title, *([label] if label else [])])


def _caption(part: Part) -> str:
    drawn = f"{part.group.spec.drawn} ".lstrip()
    numbers_of_cases = {len({row.case for row in e.rows}) for e in entries(part).values()}
    cases = " or ".join(str(number) for number in sorted(numbers_of_cases))
    return (
        f"{drawn}Mean over {cases} test cases ± bootstrap standard error; the best of each column "
        f"in bold. {groups_lib.scale_text(part.group)}"
    )


def _row_title(part: Part, name: str) -> str:
    entry = part.group.entries.get(name)
    return method_title(entry.run) if entry else groups_lib.loss_title(name)


def _label_table(part: Part, label: str, of_part: Sequence[Number]) -> ReportTable:
    found = {(n.method, column_of(n.summary)): n for n in of_part if n.summary.label == label}
    rows = (*part.methods, *part.beyond)
    found_entries = [part.group.entries.get(name) for name in rows]
    columns = [(Column("method"), [Cell(_row_title(part, name)) for name in rows])]
    of_truth = [TRUTH]
    for metric in metrics(part):
        for kind in _kinds(part, label, metric):
            mean = groups_lib.truth(part.group).get((label, metric)) if kind == OURS else None
            of_truth.append(mean_text(mean.mean, mean.error) if mean else "")
            texts = [
                _text(
                    kind,
                    found.get((name, metric)),
                    published_cell(part, label, name, metric),
                    name in part.group.entries,
                )
                for name in rows
            ]
            columns.append((Column(kind, METRIC_TITLES[metric]), _best(texts, metric)))
    seeds = [_seed(e.run) if e else "" for e in found_entries]
    epochs = [str(e.run.epochs) if e else "" for e in found_entries]
    columns += [
        (Column("seed"), list(map(Cell, seeds))),
        (Column("epochs"), list(map(Cell, epochs))),
    ]
    if part.number == FRONTIER:
        minutes, evaluations = zip(*map(_cost, found_entries), strict=True)
        columns += [
            (Column("minutes", "cost"), list(map(Cell, minutes))),
            (Column("evaluations", "cost"), list(map(Cell, evaluations))),
        ]
    lines = tuple(zip(*(cells_ for _, cells_ in columns), strict=True))
    border = len(part.methods)
    blocks = [block for block in (lines[:border], lines[border:]) if block]
    if any(of_truth[1:]):
        of_truth += [""] * (len(columns) - len(of_truth))
        blocks.append((tuple(map(Cell, of_truth)),))
    several = labels(part)[1:]
    return ReportTable(
        _name(part, *([label] if several else [])),
        _title(part, label),
        _caption(part),
        tuple(column for column, _ in columns),
        tuple(blocks),
        tuple(_notes(part, label)),
    )


def _seed(run: Finished) -> str:
    if run.members > 1:
        return f"{run.members} {'seeds' if run.fold is None else 'folds'}"
    return str(run.seed) if run.fold is None else f"{run.seed}, fold {run.fold}"


def _cost(entry: Entry | None) -> tuple[str, str]:
    """The minutes of training and fitting, and the evaluations of a network in a prediction."""
    if entry is None:
        return "", ""
    run = entry.run
    minutes = NOTHING if math.isnan(run.seconds) else f"{run.seconds / 60:.2f}"
    return minutes, str(run.evaluations)


def _best(texts: Sequence[tuple[str, float | None]], metric: str) -> list[Cell]:
    """The cells of a column, the best in bold if values differ."""
    values = [value for _, value in texts if value is not None]
    best = (max if metric in HIGHER_IS_BETTER else min)(values, default=None)
    differ = len({*values}) > 1
    return [Cell(text, differ and value == best) for text, value in texts]


def _kinds(part: Part, label: str, metric: str) -> tuple[str, ...]:
    if not any(published_cell(part, label, name, metric) for name in part.methods):
        return (OURS,)
    return (OURS, PAPER, DIFFERENCE) if comparable(part, metric) else (OURS, f"{PAPER} *")


def _text(
    kind: str, number: Number | None, cell: Published | None, there: bool
) -> tuple[str, float | None]:
    """A cell's text, and its value as printed if it may be the best of its column."""
    if kind.startswith(PAPER):
        return (f"{cell.mean:.3f} ± {cell.error:.3f}", cell.mean) if cell else ("", None)
    if kind == DIFFERENCE:
        if number is None or math.isnan(number.difference_in_errors):
            return "", None
        return f"{signed(number.difference_in_errors, 1)} SE", None
    if number is None:
        return (NOTHING if there else MISSING), None
    summary = number.summary
    if not summary.cases:
        return UNDEFINED, None
    text = mean_text(summary.mean, summary.error)
    if summary.undefined:
        text += f" ({summary.undefined} undefined)"
    return text, round(summary.mean, 4)


def mean_text(mean: float, error: float) -> str:
    """A mean and its standard error, which a single case does not have."""
    return f"{mean:.4f}" if math.isnan(error) else f"{mean:.4f} ± {error:.4f}"


def signed(value: float, digits: int) -> str:
    """A number with its sign."""
    return NOTHING if math.isnan(value) else f"{value:+.{digits}f}".replace("-", "−")


def _notes(part: Part, label: str) -> Iterator[str]:
    kinds = {kind for metric in metrics(part) for kind in _kinds(part, label, metric)}
    if DIFFERENCE in kinds:
        yield "difference: ours − paper, in standard errors (SE) of the paper."
    if part.group.spec.stands_for and f"{PAPER} *" in kinds:
        yield (
            "* The paper's are of images of patients and shown for orientation; ours cannot be "
            "compared with them."
        )
    elif f"{PAPER} *" in kinds:
        yield (
            "* The paper's NLL and Brier of KiTS19 have another definition; ours of the label map "
            "follow it and are compared with them."
        )
    if groups_lib.truth(part.group):
        yield (
            f"{TRUTH}: what the annotation itself scores after being shrunk to the network's input "
            "size and enlarged again; a guide to what size costs, and no bound."
        )
    if part.number == FRONTIER:
        yield (
            "minutes: of training (of an ensemble that of all its networks), and of predicting "
            "and fitting the validation split after it; evaluations: of a network in a prediction."
        )
    yield groups_lib.made_by(entries(part).values())
    about = next(iter(entries(part).values())).run.about
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
        f"python -m experiments.reproduce {TABLES[number].option} --data={dataset}{folder} "
        f"--scale={scale}"
    )


def _is_made(dataset: str) -> bool:
    """Whether a data set needs no files."""
    return not SETS[dataset].spec.obtain


def _test_table(part: Part) -> ReportTable:
    several = bool(labels(part)[1:])
    heads = ["methods", *(["class"] if several else []), "metric", "difference", "95% interval"]
    heads += ["p rank-sum", "p signed-rank", "p by Holm", "rank-biserial", "cases"]
    rows = []
    for c in part.compared:
        a, b = (_row_title(part, name) for name in (c.method_a, c.method_b))
        texts = [f"{a} − {b}", *([c.label] if several else []), METRIC_TITLES[column_of(c)]]
        texts += [signed(c.difference, 4), f"{signed(c.low, 4)} to {signed(c.high, 4)}"]
        texts += [p_text(p) for p in (c.rank_sum, c.signed_rank, c.holm)]
        texts += [signed(c.rank_biserial, 2), str(c.cases)]
        rows.append(tuple(map(Cell, texts)))
    by_pair: dict[str, list[tuple[Cell, ...]]] = {}
    for row in rows:
        by_pair.setdefault(row[0].text, []).append(row)
    return ReportTable(
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
    """A p-value to three digits, which distinguish 0.0495 from 0.05."""
    return NOTHING if math.isnan(p) else f"{p:.3g}"


def _rater_tables(part: Part) -> Iterator[ReportTable]:
    """Scores against several raters, for sets that have any."""
    found = {name: e.raters for name, e in entries(part).items() if e.raters}
    columns = rater_columns(metric for of in found.values() for _, metric in of)
    for label in labels(part) if found else ():
        rows = []
        for name, means in found.items():
            of_row = [means.get((label, m)) or means.get((ALL_CLASSES, m)) for m in columns]
            texts = [mean_text(s.mean, s.error) if s and s.cases else NOTHING for s in of_row]
            rows.append(tuple(map(Cell, (_row_title(part, name), *texts))))
        agreement = next(iter(found.values()))[label, RATER_DICE]
        dice = mean_text(agreement.mean, agreement.error) if agreement.cases else UNDEFINED
        blank = [""] * (len(columns) - 1)
        several = labels(part)[1:]
        yield ReportTable(
            _name(part, "raters", *([label] if several else [])),
            f"{_title(part, label)}: several raters",
            f"Mean over {agreement.cases + agreement.undefined} test cases ± bootstrap standard "
            "error. Dice is against the first rater, the truth of the tables above; NLL (of all "
            "classes), Brier and ECE are against the mean of all; p, k of R is the mean "
            "probability of the class where k of R raters marked it, near k / R if calibrated.",
            (Column("method"), *(Column(_rater_title(metric)) for metric in columns)),
            (tuple(rows), (tuple(map(Cell, (OTHER_RATERS, dice, *blank))),)),
        )


def _rater_title(metric: str) -> str:
    """The head of a column: "NLL", "p, 1 of 2"."""
    count = re.fullmatch(r"p_marked_by_(\d+)_of_(\d+)", metric)
    return f"p, {count[1]} of {count[2]}" if count else METRIC_TITLES[metric.removeprefix("rater_")]


def _split_tables(part: Part) -> Iterator[ReportTable]:
    """Uncertainty, and calibration of the whole split; none of runs of older versions."""
    heads = [METRIC_TITLES[metric] for metric in UNCERTAINTY]
    heads += ["ECE, all voxels", "95% interval", "lesions", "correct"]
    heads += ["ECE, lesions", "Brier, lesions"]
    several = labels(part)[1:]
    for label in labels(part):
        lines = []
        for name, entry in entries(part).items():
            means = [entry.means.get((ALL_CLASSES, metric)) for metric in UNCERTAINTY]
            of_label = [row for row in entry.calibration if row.label == label]
            if of_label:
                texts = [_row_title(part, name)]
                texts += [mean_text(m.mean, m.error) if m else NOTHING for m in means]
                texts += calibration_cells(of_label[0])
                lines.append(tuple(map(Cell, texts)))
        if lines:
            yield ReportTable(
                _name(part, "split", *([label] if several else [])),
                f"{_title(part, label)}: errors and the whole split",
                "AURC is the area under the risk-coverage curve, lower is better; entropy AUROC is "
                "how well the entropy tells wrong voxels from right ones, higher is better; both "
                "are of all classes, means over the cases ± bootstrap standard error. ECE of all "
                "voxels of the split together, with its bootstrap 95% interval over the cases. "
                "Lesions are connected parts of the prediction: their mean probability is compared "
                "with whether they overlap the truth.",
                tuple(map(Column, ("method", *heads))),
                (tuple(lines),),
            )


def _seed_tables(part: Part) -> Iterator[ReportTable]:
    seeds = {name: part.group.seeds[name] for name in part.methods if name in part.group.seeds}
    for label in labels(part) if seeds else ():
        blocks = []
        for of_method in seeds.values():
            block = []
            for e in of_method:
                means = [e.means.get((label, metric)) for metric in REPORTED]
                texts = [mean_text(m.mean, m.error) if m else NOTHING for m in means]
                line = [method_title(e.run), _seed(e.run), *texts, str(e.run.epochs)]
                block.append(tuple(map(Cell, line)))
            blocks.append(tuple(block))
        several = labels(part)[1:]
        yield ReportTable(
            _name(part, "seeds", *([label] if several else [])),
            f"{_title(part, label)}: seeds",
            "Each seed's mean ± bootstrap standard error; the table above shows the lowest seed.",
            (*map(Column, ("method", "seed", *(METRIC_TITLES[m] for m in REPORTED), "epochs")),),
            tuple(blocks),
        )


def absent(number: int, parts: Sequence[Part]) -> Iterator[Line]:
    """The data sets of a table without runs, with the command for each."""
    scales = [part.group.scale_name for part in parts if part.group.scale_name != CUSTOM]
    there = {part.group.spec.name for part in parts if part.number == number}
    for dataset in TABLES[number].datasets:
        if dataset not in there:
            title = SETS[dataset].spec.title
            scale = next((name for name in scales if cells.is_scale(name, dataset)), "full")
            yield Line(f"{title}: no runs.", reproduce(number, dataset, scale))
