"""The report of finished runs: all tables, figures and findings, in several formats."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from dicepp_jax import metrics
from dicepp_jax.atomic import write_text
from dicepp_jax.plots import canvas
from dicepp_jax.rows import Comparison, write_csv
from dicepp_jax.scoring import BAND_WIDTH
from experiments.report import figures, groups, page, table_numbers
from experiments.report.contents import HTML, MADE, MARKDOWN
from experiments.report.findings import findings
from experiments.report.groups import Group
from experiments.report.markup import ReportTable, to_latex
from experiments.report.published import FRONTIER, TABLES
from experiments.report.ranks import rank_tables
from experiments.report.sizes import claims_table, size_figures
from experiments.report.table_numbers import OTHER, Part
from experiments.report.tables import absent, tables
from experiments.workdirs import finished
from experiments.workdirs.derived import ENSEMBLE, FOLDS, METHODS, TEMPERATURE

TITLE = "Calibrating the Dice loss: the paper's tables and these runs"
PAPER = (
    "The paper is Yeung et al., Calibrating the Dice loss to handle neural network overconfidence "
    "for biomedical image segmentation, J. Digit. Imaging 36 (2023), "
    "doi:10.1007/s10278-022-00735-3."
)

COLUMNS = (
    "NLL and Brier score are those of the paper's tables, of one class, the mean over all voxels. "
    "NLL counts only the voxels of the class: a network that gives it a high probability "
    "everywhere has a low NLL, so read it beside Brier, ECE and Dice. A temperature is fitted to "
    "the NLL of all classes, not to this one. ECE is the expected calibration error of the class "
    "in 20 bins. Dice and Jaccard are of the most likely class. The band consists of the voxels up "
    f"to {BAND_WIDTH} away from a true border, on both sides; elsewhere most voxels are background "
    "of which every network is sure. At input size, probabilities are scored before they are "
    "resized to that of the image, as the paper very probably did; there too, NLL and Brier score "
    "are tested and their claims judged."
)


class TableComparison(NamedTuple):
    """A pair of methods in a table, a row of `comparisons.csv`.

    Attributes:
      table: its number, 0 for none of the paper.
      dataset: the data set.
      scale: as of `groups.Group.tag`.
      comparison: of the pair; holm is adjusted for all rows of a table, data set and scale.
    """

    table: int
    dataset: str
    scale: str
    comparison: Comparison


class CurvePoint(NamedTuple):
    """Means over the test cases at a threshold, a row of `curves.csv`.

    Attributes:
      dataset: the data set.
      scale: as of `groups.Group.tag`.
      label: the class.
      method: as of `groups.method`.
      seed: of the run.
      threshold: foreground where p >= threshold.
      recall: at it.
      precision: at it, NaN if no case has a voxel above it.
      dice: at it.
    """

    dataset: str
    scale: str
    label: str
    method: str
    seed: int
    threshold: float
    recall: float
    precision: float
    dice: float


def write(workdirs: Sequence[Path], output: Path, drawn: str = "all") -> str:
    """Write the report of runs.

    Args:
      workdirs: of runs, of grids, or above several of them.
      output: the folder of the report; files of an earlier report that this one lacks are removed.
      drawn: which figures, one of `contents.DRAWN`.

    Returns:
      The verdicts, and where the report is.

    Raises:
      FileNotFoundError: if there are no runs, or scores are incomplete.
      ValueError: if two runs belong in the same cell.
    """
    runs = finished.find(workdirs)
    gathered = groups.gather(runs)
    parts = table_numbers.divide(gathered)
    numbers = [table_numbers.numbers(part) for part in parts]
    laid_out = [tables(*pair) for pair in zip(parts, numbers, strict=True)]
    found = findings(parts)
    earlier = {path for pattern in MADE for path in output.glob(pattern)}
    (output / "tables").mkdir(parents=True, exist_ok=True)
    pictures = []
    for figure in itertools.chain(figures.figures(gathered), size_figures(gathered)):
        if drawn == "none" or (drawn == "numbers" and figure.shows_cases):
            continue
        path = output / "figures" / f"{figure.name}.png"
        canvas.save(figure.draw(), path)
        pictures.append(page.Picture(figure.name, figure.title, figure.caption, path))
    ranked = rank_tables(parts)
    sections = _sections(parts, laid_out, ranked)
    if by_scale := claims_table(found, gathered):
        title = "Which claims hold at which scale"
        sections = (page.Section("scales", title, tuple(by_scale)), *sections)
    contents = page.Page(TITLE, _intro(gathered), tuple(found), sections, tuple(pictures))
    texts = {
        output / HTML: page.to_page(contents),
        output / MARKDOWN: page.to_markdown_page(contents, output),
    }
    for table in itertools.chain.from_iterable(section.tables for section in sections):
        texts[output / "tables" / f"{table.name}.tex"] = to_latex(table)
    for path, text in texts.items():
        write_text(path, text)
    lists: dict[Path, Sequence[NamedTuple]] = {
        output / "tables.csv": list(itertools.chain.from_iterable(numbers)),
        output / "comparisons.csv": list(_compared(parts)),
        output / "curves.csv": list(_points(gathered)),
    }
    lists = {path: rows for path, rows in lists.items() if rows}
    for path, rows in lists.items():
        write_csv(path, rows)
    for path in earlier - {*texts, *lists, *(picture.path for picture in pictures)}:
        path.unlink()
    return "\n".join(
        [
            f"{'; '.join(group.title for group in gathered)}:",
            *(f"{f.claim}: {f.verdict}" for f in found),
            *(line for table in ranked for line in (f"{table.title}:", *table.notes)),
            f"report: {output / HTML}",
        ]
    )


def _intro(gathered: Sequence[Group]) -> tuple[str, ...]:
    entries = [entry for group in gathered for entry in _all(group)]
    kinds = Counter(entry.run.kind for entry in entries)
    counted = [f"{kinds['']} network{'s' * (kinds[''] != 1)}"]
    counted += [f"{kinds[TEMPERATURE]} after temperature scaling"] * bool(kinds[TEMPERATURE])
    counted += [
        f"{kinds[kind]} by {title}"
        for kind, title in METHODS.items()
        if kind != TEMPERATURE and kinds[kind]
    ]
    ensembles = f"{kinds[ENSEMBLE]} ensemble{'s' * (kinds[ENSEMBLE] != 1)}"
    counted += [ensembles] * bool(kinds[ENSEMBLE])
    counted += [f"{kinds[FOLDS]} with all folds scored"] * bool(kinds[FOLDS])
    return PAPER, COLUMNS, f"{', '.join(counted)}. {groups.made_by(entries)}"


def _all(group: Group) -> Iterator[groups.Entry]:
    """The runs of a group with all seeds."""
    for name, entry in group.entries.items():
        yield from group.seeds.get(name, (entry,))


def _sections(
    parts: Sequence[Part], laid_out: Sequence[list[ReportTable]], ranked: Sequence[ReportTable]
) -> tuple[page.Section, ...]:
    sections = []
    # Users who have only their own data are not shown the paper's empty tables.
    there = {part.number for part in parts}
    named = [n for n in TABLES if n != FRONTIER or n in there] if there - {OTHER} else []
    for number in (*named, OTHER):
        shown = [
            table
            for part, of_part in zip(parts, laid_out, strict=True)
            if part.number == number
            for table in of_part
        ]
        if number != OTHER:
            table = TABLES[number]
            if number == FRONTIER:
                shown = [*ranked, *shown]
            missing = tuple(absent(number, parts))
            title = f"{table.heading}: {table.title}"
            sections.append(page.Section(table.name, title, tuple(shown), missing))
        elif shown:
            sections.append(page.Section("other", "Other runs", tuple(shown)))
    return tuple(sections)


def _compared(parts: Sequence[Part]) -> Iterator[TableComparison]:
    for part in parts:
        place = part.number, part.group.spec.name, part.group.tag
        yield from (TableComparison(*place, comparison) for comparison in part.compared)


def _points(gathered: Sequence[Group]) -> Iterator[CurvePoint]:
    for group in gathered:
        for entry in _all(group):
            name = groups.method(entry.run)
            for label in group.spec.classes[1:]:
                place = group.spec.name, group.tag, label, name, entry.run.seed
                curves = (entry.curves[label, curve].tolist() for curve in groups.CURVES)
                for point in zip(metrics.THRESHOLDS.tolist(), *curves, strict=True):
                    yield CurvePoint(*place, *point)
