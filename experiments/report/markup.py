"""Tables of a report, and how they are written in HTML, Markdown and LaTeX.

Every text is escaped, since names of cases, classes and sets may come from others.
"""

import html
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from dicepp_jax.names import UNSAFE


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
      text: of the cell.
      bold: whether it is the best of its column.
    """

    text: str
    bold: bool = False


class Column(NamedTuple):
    """The head of a column.

    Attributes:
      name: of the column.
      group: the heading that it shares with its neighbours, "" if it has none.
    """

    name: str
    group: str = ""


class Line(NamedTuple):
    """Something that is missing, and how to make it.

    Attributes:
      text: what is missing.
      command: that makes it, "" if there is none.
    """

    text: str
    command: str = ""


class ReportTable(NamedTuple):
    """A table of a report.

    Attributes:
      name: of its file, and its anchor in a page.
      title: in a few words.
      caption: its source, and how to read it.
      columns: their heads; the first is that of the rows' names.
      blocks: of rows, with a rule between two of them.
      notes: sentences below the table.
      missing: likewise below the table.
      phrases: whether cells have phrases, to be broken into lines, instead of numbers.
    """

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    blocks: tuple[tuple[tuple[Cell, ...], ...], ...]
    notes: tuple[str, ...] = ()
    missing: tuple[Line, ...] = ()
    phrases: bool = False


def _groups(columns: Sequence[Column]) -> Iterator[tuple[str, int]]:
    """The groups of neighbouring columns, and their spans."""
    for group, of_group in itertools.groupby(columns, key=lambda column: column.group):
        yield group, len(list(of_group))


def to_html(table: ReportTable) -> str:
    """A figure with a table that scrolls in its own box."""
    name = html.escape(table.name)
    lines = [
        f'<figure class="table" id="{name}">',
        f'<figcaption id="{name}_caption"><strong>{html.escape(table.title)}.</strong> '
        f"{html.escape(table.caption)}</figcaption>",
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{name}_caption">',
        '<table class="words">' if table.phrases else "<table>",
        "<thead>",
        *_html_head(table.columns),
        "</thead>",
    ]
    for block in table.blocks:
        lines += ["<tbody>", *map(_html_row, block), "</tbody>"]
    lines += ["</table>", "</div>"]
    lines += [f'<p class="note">{html.escape(note)}</p>' for note in table.notes]
    lines += map(line_html, table.missing)
    return "\n".join([*lines, "</figure>"])


def _html_head(columns: Sequence[Column]) -> Iterator[str]:
    grouped = any(column.group for column in columns)
    if grouped:
        cells = [
            f'<th scope="colgroup" colspan="{span}">{html.escape(group)}</th>'
            if group
            else "<td></td>" * span
            for group, span in _groups(columns)
        ]
        yield f'<tr class="groups">{"".join(cells)}</tr>'
    names = "".join(f'<th scope="col">{html.escape(column.name)}</th>' for column in columns)
    yield f"<tr>{names}</tr>"


def _html_row(row: Sequence[Cell]) -> str:
    first, *rest = (
        f"<strong>{html.escape(cell.text)}</strong>" if cell.bold else html.escape(cell.text)
        for cell in row
    )
    cells = "".join(f"<td>{text}</td>" for text in rest)
    return f'<tr><th scope="row">{first}</th>{cells}</tr>'


def line_html(line: Line) -> str:
    """A missing item, with its command on a line of its own."""
    command = f"<pre><code>{html.escape(line.command)}</code></pre>" if line.command else ""
    return f'<p class="note">{html.escape(line.text)}</p>{command}'


def to_markdown(table: ReportTable) -> str:
    """A table in the pipes of GitHub's Markdown."""
    heads = [f"{column.group}, {column.name}".removeprefix(", ") for column in table.columns]
    lines = [
        f"**{escape_markdown(table.title)}.** {escape_markdown(table.caption)}",
        "",
        _pipe_row(map(escape_markdown, heads)),
        _pipe_row(["---", *["---:"] * (len(heads) - 1)]),
        *(_pipe_row(map(_markdown_cell, row)) for block in table.blocks for row in block),
    ]
    for note in table.notes:
        lines += ["", escape_markdown(note)]
    for line in table.missing:
        lines += ["", line_markdown(line)]
    return "\n".join(lines)


def line_markdown(line: Line) -> str:
    """A missing item, with its command as a block of code."""
    text = escape_markdown(line.text)
    return f"{text}\n\n    {_one_line(line.command)}" if line.command else text


def _pipe_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Cell) -> str:
    text = escape_markdown(cell.text)
    return f"**{text}**" if cell.bold else text


MARKUP = re.compile(r"[\\`|\[\]*~]|<(?=[a-zA-Z/!?])|&(?=#?\w+;)|(?<!\w)_|_(?!\w)")
"""What Markdown takes for more than text within a line."""


def escape_markdown(text: str) -> str:
    r"""Text as Markdown shows it, on one line.

    Example:
      >>> print(escape_markdown("a_b | [x](javascript:y)\n<img>"))
      a_b \| \[x\](javascript:y) \<img>
    """
    return MARKUP.sub(r"\\\g<0>", _one_line(text))


def _one_line(text: str) -> str:
    """Without line breaks and other control characters."""
    return UNSAFE.sub(" ", text)


LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{character: f"${character}$" for character in "<>|"},
    # Else an option of the line break before them.
    **{character: f"{{{character}}}" for character in "[*"},
    "±": r"$\pm$",
    "−": "$-$",
}
"""Characters that LaTeX cannot print as they are."""


def escape_latex(text: str) -> str:
    r"""Text as LaTeX sets it.

    Example:
      >>> print(escape_latex("50 % of a_b ± 1"))
      50 \% of a\_b $\pm$ 1
    """
    return "".join(LATEX.get(character, character) for character in _one_line(text))


def to_latex(table: ReportTable) -> str:
    """A floating table, which needs the package booktabs."""
    title = escape_latex(table.title)
    lines = [
        r"\begin{table}[tbp]",
        r"\centering",
        rf"\caption{{\textbf{{{title}.}} {escape_latex(table.caption)}}}",
        rf"\label{{tab:{table.name}}}",
        r"\scriptsize",
        r"\setlength{\tabcolsep}{3pt}",
        rf"\begin{{tabular}}{{l{_latex_width(table) * (len(table.columns) - 1)}}}",
        r"\toprule",
        *_latex_groups(table.columns),
        _latex_row([escape_latex(column.name) for column in table.columns]),
    ]
    for block in table.blocks:
        lines += [r"\midrule", *(_latex_row([_latex_cell(c) for c in row]) for row in block)]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\smallskip\raggedright {escape_latex(note)}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}", ""])


def _latex_width(table: ReportTable) -> str:
    """Of a column, as wide as its numbers or an equal share of four fifths of the page."""
    share = 0.8 / max(1, len(table.columns) - 1)
    return rf"p{{{share:.2f}\linewidth}}" if table.phrases else "r"


def _latex_groups(columns: Sequence[Column]) -> Iterator[str]:
    if not any(column.group for column in columns):
        return
    cells, rules, start = [], [], 1
    for group, span in _groups(columns):
        if group:
            cells.append(rf"\multicolumn{{{span}}}{{c}}{{{escape_latex(group)}}}")
            rules.append(rf"\cmidrule(lr){{{start}-{start + span - 1}}}")
        else:
            cells += [""] * span
        start += span
    yield _latex_row(cells)
    yield "".join(rules)


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    return rf"\textbf{{{text}}}" if cell.bold else text


def _latex_row(cells: Sequence[str]) -> str:
    return rf"{' & '.join(cells)} \\"
