"""A report as one self-contained HTML file, and as Markdown."""

import base64
import html
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.report.findings import Finding
from experiments.report.markup import (
    Line,
    ReportTable,
    escape_markdown,
    line_html,
    line_markdown,
    to_html,
    to_markdown,
)


class Picture(NamedTuple):
    """A figure that has been drawn.

    Attributes:
      name: its anchor in the page.
      title: in a few words.
      caption: how to read it.
      path: of the PNG file.
    """

    name: str
    title: str
    caption: str
    path: Path


class Section(NamedTuple):
    """A part of a report.

    Attributes:
      name: its anchor in the page.
      title: its heading.
      tables: in their order.
      missing: what has no runs.
    """

    name: str
    title: str
    tables: tuple[ReportTable, ...]
    missing: tuple[Line, ...] = ()


class Page(NamedTuple):
    """The contents of a report.

    Attributes:
      title: its heading.
      intro: paragraphs.
      findings: the claims, judged.
      sections: the tables.
      pictures: the figures.
    """

    title: str
    intro: tuple[str, ...]
    findings: tuple[Finding, ...]
    sections: tuple[Section, ...]
    pictures: tuple[Picture, ...]


FINDINGS = ("findings", "What holds")
FIGURES = ("figures", "Figures")
JUDGED_BY = (
    "Lower and higher are judged by the paper's rank-sum test over the test cases, p < 0.05, "
    "unadjusted as in the paper. It ignores that all methods saw the same cases; the paired "
    "signed-rank test does not, and a verdict that rests on it alone says so. The tables of tests "
    "have p-values adjusted for their number. Does not hold: the means are the other way round, "
    "significantly or not; where the paired test says the opposite, most cases are the other way "
    "round, and the means rest on a few. Fewer than 4 cases are too few to judge, and the "
    "ranges of thresholds are compared without a test. Of several seeds of a method the lowest one "
    "is judged and compared."
)

CSS = """
:root { color-scheme: light dark; --text: #1c1c1c; --soft: #5c5c5c; --page: #fff; --rule: #c8c8c8;
  --code: #f2f2f2; --link: #0b57a4; --good: #0a6b36; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e6e6; --soft: #a8a8a8; --page: #16181b;
  --rule: #44474d; --code: #24272c; --link: #8ab8f5; --good: #6fd49a; --bad: #ff9a91; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 1rem; color: var(--text);
  background: var(--page); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { margin-top: 2.5rem; font-size: 1.3rem; }
a { color: var(--link); } p, li, figcaption { max-width: 75ch; }
figure { margin: 2rem 0; } figcaption { margin-bottom: .5rem; }
img { max-width: 100%; height: auto; background: #fff; }
.scroll { overflow-x: auto; background:
  linear-gradient(to left, var(--page) 40%, transparent) right / 3rem 100% no-repeat local,
  linear-gradient(to left, rgb(128 128 128 / 40%), transparent) right / 1.2rem 100% no-repeat; }
table { border-collapse: collapse; font-size: .8125rem; font-variant-numeric: tabular-nums;
  border-top: 2px solid var(--text); border-bottom: 2px solid var(--text); }
th, td { padding: .25rem .45rem; text-align: right; white-space: nowrap; font-weight: normal; }
.words td { white-space: normal; min-width: 10rem; text-align: left; vertical-align: top; }
thead th { color: var(--soft); } thead .groups th { color: var(--text); text-align: center;
  border-bottom: 1px solid var(--rule); }
tbody { border-top: 1px solid var(--text); }
tr > :first-child { position: sticky; left: 0; text-align: left; background: var(--page); }
pre { margin: .25rem 0; padding: .5rem; overflow-x: auto; background: var(--code);
  font-size: .8125rem; }
.note { margin: .4rem 0 0; color: var(--soft); font-size: .875rem; }
.verdict { font-weight: 600; } .holds { color: var(--good); } .fails { color: var(--bad); }
@media (max-width: 600px) { th, td { padding: .25rem .4rem; }
  tbody th { white-space: normal; min-width: 6rem; max-width: 8rem; } }
"""


def to_page(page: Page) -> str:
    """A report as HTML, with style and pictures in the file and without scripts."""
    title = html.escape(page.title)
    contents = [FINDINGS, *((s.name, s.title) for s in page.sections)]
    contents += [FIGURES] if page.pictures else []
    lines = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title>",
        f"<style>{CSS}</style>",
        "</head>",
        "<body>",
        f"<h1>{title}</h1>",
        *(f"<p>{html.escape(paragraph)}</p>" for paragraph in page.intro),
        '<nav aria-label="Contents"><ul>',
        *(
            f'<li><a href="#{html.escape(name)}">{html.escape(text)}</a></li>'
            for name, text in contents
        ),
        "</ul></nav>",
        "<main>",
        *_findings_html(page.findings),
        *(line for section in page.sections for line in _section_html(section)),
        *_pictures_html(page.pictures),
        "</main>",
        "</body>",
        "</html>",
        "",
    ]
    return "\n".join(lines)


def _heading(name: str, title: str) -> str:
    return f'<h2 id="{html.escape(name)}">{html.escape(title)}</h2>'


def _findings_html(findings: Sequence[Finding]) -> Iterator[str]:
    yield _heading(*FINDINGS)
    yield f"<p>{html.escape(JUDGED_BY)}</p>"
    for finding in findings:
        claim = html.escape(finding.claim)
        yield f"<p>{claim}: {_verdict_html(finding.verdict)}.</p>"
        if finding.judged:
            yield "<ul>"
            for judged in finding.judged:
                where, by = html.escape(judged.where), html.escape(judged.numbers)
                yield f"<li>{where}: {_verdict_html(judged.verdict)}. {by}.</li>"
            yield "</ul>"


def _verdict_html(verdict: str) -> str:
    kind = {"holds": " holds", "does not hold": " fails"}.get(verdict, "")
    return f'<span class="verdict{kind}">{html.escape(verdict)}</span>'


def _section_html(section: Section) -> Iterator[str]:
    yield _heading(section.name, section.title)
    yield from map(to_html, section.tables)
    yield from map(line_html, section.missing)


def _pictures_html(pictures: Sequence[Picture]) -> Iterator[str]:
    if pictures:
        yield _heading(*FIGURES)
    for picture in pictures:
        content = base64.b64encode(picture.path.read_bytes()).decode()
        yield (
            f'<figure id="{html.escape(picture.name)}"><figcaption><strong>'
            f"{html.escape(picture.title)}.</strong> {html.escape(picture.caption)}</figcaption>"
            f'<img alt="{html.escape(picture.title)}" src="data:image/png;base64,{content}">'
            "</figure>"
        )


def to_markdown_page(page: Page, folder: Path) -> str:
    """A report as Markdown.

    Args:
      page: the report.
      folder: where the file will be; pictures are linked relative to it.

    Returns:
      The text of the file.
    """
    text = escape_markdown
    blocks = [f"# {text(page.title)}", *map(text, page.intro), f"## {FINDINGS[1]}", JUDGED_BY]
    for finding in page.findings:
        lines = [f"{text(finding.claim)}: **{finding.verdict}**."]
        lines += [f"- {text(j.where)}: **{j.verdict}**. {text(j.numbers)}." for j in finding.judged]
        blocks.append("\n".join(lines).replace("\n", "\n\n", 1))
    for section in page.sections:
        blocks += [f"## {text(section.title)}", *map(to_markdown, section.tables)]
        blocks += map(line_markdown, section.missing)
    if page.pictures:
        blocks.append(f"## {FIGURES[1]}")
    for picture in page.pictures:
        path = urllib.parse.quote(picture.path.relative_to(folder).as_posix())
        title = text(picture.title)
        blocks += [f"![{title}]({path})", f"**{title}.** {text(picture.caption)}"]
    return "\n\n".join(blocks) + "\n"
