"""Summaries as text: one line a method, class and region, one column a metric."""

from collections.abc import Mapping, Sequence

from dicepp_jax.rows import ALL_CLASSES, Summary


def summary_table(summaries: Mapping[str, Sequence[Summary]], background: str) -> str:
    """Mean and bootstrap standard error of every metric, the background left out.

    Args:
      summaries: by method.
      background: the class to leave out.

    Returns:
      A table in plain text.
    """
    every = [summary for group in summaries.values() for summary in group]
    names = list(dict.fromkeys(s.metric for s in every if s.label != ALL_CLASSES))
    whole = list(dict.fromkeys(s.metric for s in every if s.label == ALL_CLASSES))
    places = dict.fromkeys((s.label, s.region) for s in every)
    rows = [["class", "region", "loss", *names, *whole]]
    for label, region in places:
        if label in (background, ALL_CLASSES):
            continue
        for method, group in summaries.items():
            cells = {(s.label, s.region, s.metric): s for s in group}
            values = [cells[label, region, name] for name in names]
            values += [cells[ALL_CLASSES, region, name] for name in whole]
            rows.append([label, region, method, *map(_cell, values)])
    return layout(rows)


def _cell(summary: Summary) -> str:
    text = f"{summary.mean:.4f} ± {summary.error:.4f}"
    return f"{text} ({summary.undefined} undefined)" if summary.undefined else text


def layout(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text in aligned columns, a line under the first."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
