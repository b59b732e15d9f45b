"""The paper's tables from finished runs: python -m experiments.report WORKDIR [WORKDIR ...]

Reads the scores of runs, of grids and of what experiments.calibrate made of them, below one or
several directories, and trains and predicts nothing. To --output, by default the folder "report" of
the first directory, it writes report.html, one file that needs nothing beside it; report.md;
tables/*.tex, which need the package booktabs; figures/*.png; tables.csv, comparisons.csv and
curves.csv, every number in long form. Equal runs give equal files.
"""

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from dicepp_jax import metrics, plots
from dicepp_jax.rows import write_csv
from experiments import finished, groups, page, paper_tables, record, report_figures
from experiments.derived import ENSEMBLE, TEMPERATURE
from experiments.findings import findings
from experiments.groups import Group
from experiments.paper import TABLES
from experiments.paper_tables import OTHER, Part
from experiments.tables import Table, to_latex

FOLDER = "report"
HTML, MARKDOWN = "report.html", "report.md"
MADE = (HTML, MARKDOWN, "*.csv", "tables/*.tex", "figures/*.png")
"""What a report consists of."""

DRAWN = ("all", "numbers", "none")
"""Which figures a report has."""

TITLE = "Calibrating the Dice loss: the paper's tables and these runs"
PAPER = (
    "The paper is Yeung et al., Calibrating the Dice loss to handle neural network overconfidence "
    "for biomedical image segmentation, J. Digit. Imaging 36 (2023), "
    "doi:10.1007/s10278-022-00735-3."
)

COLUMNS = (
    "NLL and Brier score are those of the paper's tables, of one class, the mean over all voxels. "
    "NLL counts the voxels of the class alone: a network that calls everything probable has a low "
    "one, so read it beside Brier, ECE and Dice. A temperature is fitted to NLL of all classes, "
    "not to this one. ECE is the expected calibration error of the class in 20 bins. Dice and "
    "Jaccard are of the most likely class."
)


class Compared(NamedTuple):
    """A pair of methods in a table, a row of `comparisons.csv`; as `rows.Comparison`.

    Attributes:
      table: its number, 0 for none of the paper; holm is adjusted for all rows of a table, data set
        and scale.
      dataset: the data set.
      scale: as of `groups.Group.tag`.
    """

    table: int
    dataset: str
    scale: str
    method_a: str
    method_b: str
    label: str
    region: str
    metric: str
    cases: int
    undefined: int
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    rank_sum: float
    signed_rank: float
    holm: float
    rank_biserial: float


class Point(NamedTuple):
    """Means over the test cases at a threshold, a row of `curves.csv`.

    Attributes:
      dataset: the data set.
      scale: as of `groups.Group.tag`.
      label: the class.
      method: as of `groups.method`.
      seed: of the run.
      threshold: foreground where p >= threshold.
      recall: at it.
      precision: at it, NaN where nothing is called in any case.
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
      output: the folder of the report; of an earlier report there, what is no longer made goes.
      drawn: which figures, one of `DRAWN`.

    Returns:
      What holds, and where the report is.

    Raises:
      FileNotFoundError: if there are no runs, or scores are incomplete.
      ValueError: if two runs are of the same cell.
    """
    runs = finished.find(workdirs)
    gathered = groups.gather(runs)
    parts = paper_tables.divide(gathered)
    numbers = [paper_tables.numbers(part) for part in parts]
    tables = [paper_tables.tables(*pair) for pair in zip(parts, numbers, strict=True)]
    found = findings(parts)
    earlier = {path for pattern in MADE for path in output.glob(pattern)}
    (output / "tables").mkdir(parents=True, exist_ok=True)
    pictures = []
    for figure in report_figures.figures(gathered):
        if drawn == "none" or (drawn == "numbers" and figure.shows_cases):
            continue
        path = output / "figures" / f"{figure.name}.png"
        plots.save(figure.draw(), path)
        pictures.append(page.Picture(figure.name, figure.title, figure.caption, path))
    sections = _sections(parts, tables)
    told = page.Page(TITLE, _intro(gathered), tuple(found), sections, tuple(pictures))
    texts = {
        output / HTML: page.to_page(told),
        output / MARKDOWN: page.to_markdown_page(told, output),
    }
    for table in itertools.chain.from_iterable(tables):
        texts[output / "tables" / f"{table.name}.tex"] = to_latex(table)
    for path, text in texts.items():
        record.write_text(path, text)
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
            f"of {'; '.join(group.title for group in gathered)}:",
            *(f"{f.claim}: {f.verdict}" for f in found),
            f"report: {output / HTML}",
        ]
    )


def _intro(gathered: Sequence[Group]) -> tuple[str, ...]:
    entries = [entry for group in gathered for entry in _all(group)]
    kinds = Counter(entry.run.kind for entry in entries)
    counted = [f"{kinds['']} networks"]
    counted += [f"{kinds[TEMPERATURE]} after temperature scaling"] * bool(kinds[TEMPERATURE])
    counted += [f"{kinds[ENSEMBLE]} ensembles"] * bool(kinds[ENSEMBLE])
    return PAPER, COLUMNS, f"{', '.join(counted)}. {groups.made_by(entries)}"


def _all(group: Group) -> Iterator[groups.Entry]:
    """Every run of a group, whatever its seed."""
    for name, entry in group.entries.items():
        yield from group.seeds.get(name, (entry,))


def _sections(parts: Sequence[Part], tables: Sequence[list[Table]]) -> tuple[page.Section, ...]:
    sections = []
    # Who has but a set of their own does not ask for the paper's.
    of_paper = TABLES if any(part.number != OTHER for part in parts) else ()
    for number in (*of_paper, OTHER):
        shown = [
            table
            for part, of_part in zip(parts, tables, strict=True)
            if part.number == number
            for table in of_part
        ]
        if number != OTHER:
            title = f"Table {number}: {TABLES[number].title}"
            missing = tuple(paper_tables.absent(number, parts))
            sections.append(page.Section(f"table{number}", title, tuple(shown), missing))
        elif shown:
            sections.append(page.Section("other", "Other runs", tuple(shown)))
    return tuple(sections)


def _compared(parts: Sequence[Part]) -> Iterator[Compared]:
    for part in parts:
        place = part.number, part.group.spec.name, part.group.tag
        yield from (Compared(*place, **comparison._asdict()) for comparison in part.compared)


def _points(gathered: Sequence[Group]) -> Iterator[Point]:
    for group in gathered:
        for entry in _all(group):
            name = groups.method(entry.run)
            for label in group.spec.classes[1:]:
                place = group.spec.name, group.tag, label, name, entry.run.seed
                curves = (entry.curves[label, curve].tolist() for curve in groups.CURVES)
                for point in zip(metrics.THRESHOLDS.tolist(), *curves, strict=True):
                    yield Point(*place, *point)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command line."""
    parser = argparse.ArgumentParser(
        "experiments.report",
        description="Write the tables and figures of the DSC++ paper from finished runs.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "workdirs", nargs="+", type=Path, metavar="WORKDIR", help="of runs, or above several"
    )
    parser.add_argument("--output", type=Path, help=f"by default {FOLDER} in the first WORKDIR")
    parser.add_argument(
        "--figures",
        choices=DRAWN,
        default=DRAWN[0],
        help="numbers leaves out what shows images of the data sets, perhaps not yours to hand "
        "on; none draws nothing",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the report that the command line asks for."""
    options = parse(argv)
    workdirs = [path.expanduser() for path in options.workdirs]
    try:
        output = (options.output or workdirs[0] / FOLDER).expanduser()
        print(write(workdirs, output, options.figures))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
