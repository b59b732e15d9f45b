"""Summaries as text: one line a class, region and metric, one column a method."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from dicepp_jax.rows import (
    ALL_CLASSES,
    RATER_DICE,
    Comparison,
    FalsePositives,
    Row,
    Summary,
    column_of,
    is_of_raters,
    of_raters,
    summarise,
)
from dicepp_jax.split_calibration import SplitCalibration

P_VALUES = ("p rank-sum", "p signed-rank", "p by Holm")
"""The paper's test, the paired one, and the paired one adjusted for the number of lines."""

OTHER_RATERS = "the other raters"
"""The line of what raters score against the first of them."""


def summary_table(
    summaries: Mapping[str, Sequence[Summary]],
    background: str,
    compared: Sequence[Comparison] = (),
) -> str:
    """Mean and bootstrap standard error of every metric, the background left out.

    What compares with several raters is in a table of its own, `rater_table`.

    Args:
      summaries: by method.
      background: the class to leave out.
      compared: two of the methods compared, whose p-values are to stand beside their means.

    Returns:
      A table in plain text.
    """
    cells = {
        method: {(s.label, s.region, s.metric): s for s in group}
        for method, group in summaries.items()
    }
    tests = {(c.label, c.region, c.metric): c for c in compared}
    places = dict.fromkeys(place for group in cells.values() for place in group)
    rows = [["class", "region", "metric", *cells, *(P_VALUES if tests else ())]]
    for place in places:
        if place[0] != background and not is_of_raters(place[2]):
            row = [*place, *(_cell(group[place]) for group in cells.values())]
            if tests:
                test = tests[place]
                row += [f"{p:.2g}" for p in (test.rank_sum, test.signed_rank, test.holm)]
            rows.append(row)
    return layout(rows)


def grid_table(
    summaries: Mapping[str, Sequence[Summary]],
    label: str,
    metrics: Sequence[str],
    beside: Mapping[tuple[str, str, str], str],
) -> str:
    """One line a setting, one column a metric of a class.

    Args:
      summaries: by setting.
      label: the class.
      metrics: names as of `rows.column_of`.
      beside: published numbers, by setting, label and metric; a column for each metric of
        which there is something.

    Returns:
      A table in plain text.
    """
    others = [m for m in metrics if any(key[1:] == (label, m) for key in beside)]
    rows = [["setting", *metrics, *(f"{metric}, paper" for metric in others)]]
    for setting, group in summaries.items():
        cells = {column_of(s): s for s in group if s.label == label}
        rows.append([
            setting,
            *(_cell(cells[metric]) for metric in metrics),
            *(beside.get((setting, label, metric), "") for metric in others),
        ])  # fmt: skip
    return layout(rows)


def normal_table(found: Mapping[str, Sequence[FalsePositives]]) -> str:
    """What was predicted in cases without foreground.

    Args:
      found: of every such case and foreground class, by method.

    Returns:
      A blank line and a table in plain text; "" if there are no such cases.
    """
    cases = {row.case for rows in found.values() for row in rows}
    if not cases:
        return ""
    table = [["class", "method", "voxels, mean", "voxels, max", "components, all cases"]]
    for label in dict.fromkeys(row.label for rows in found.values() for row in rows):
        for method, rows in found.items():
            of_label = [row for row in rows if row.label == label]
            voxels = [row.voxels for row in of_label]
            components = sum(row.components for row in of_label)
            table.append(
                [label, method, f"{np.mean(voxels):.1f}", str(max(voxels)), str(components)]
            )
    title = f"False positives in the {len(cases)} cases without foreground"
    return f"\n\n{title}\n{layout(table)}"


def truth_text(rows: Sequence[Row]) -> str:
    """What the truth itself scores at the size at which the network sees images.

    Args:
      rows: of `resolution.truth_at_size`, of every case.

    Returns:
      A blank line and a sentence; "" if there are no rows.

    Example:
      >>> place = ("vessel", "image", "dice")
      >>> truth_text([Row("a", *place, 0.75), Row("b", *place, 0.85)]).strip()
      "Dice of the truth itself, resized to the network's input and back: vessel 0.8000 ± 0.0349"
    """
    means = [s for s in summarise(rows) if s.metric == "dice"]
    texts = ", ".join(f"{s.label} {_cell(s)}" for s in means)
    title = "Dice of the truth itself, resized to the network's input and back"
    return f"\n\n{title}: {texts}" if means else ""


def rater_table(rows: Mapping[str, Sequence[Row]], background: str) -> str:
    """What the cases with several raters score against all of them, one line a method.

    Args:
      rows: of every case, by method.
      background: the class to leave out.

    Returns:
      A blank line and a table in plain text; "" if there are no such cases.
    """
    chosen = {method: of_raters(of_method) for method, of_method in rows.items()}
    cases = {row.case for of_method in chosen.values() for row in of_method}
    if not cases:
        return ""
    found = {
        method: {(s.label, s.region, s.metric): s for s in summarise(of_method)}
        for method, of_method in chosen.items()
    }
    places = dict.fromkeys(place for of_method in found.values() for place in of_method)
    columns = rater_columns([metric for _, _, metric in places])
    table = [["class", "region", "method", *columns]]
    for label, region, metric in places:
        if metric == RATER_DICE and label != background:
            for method, of_method in found.items():
                of_line = [
                    of_method.get((label, region, column))
                    or of_method.get((ALL_CLASSES, region, column))
                    for column in columns
                ]
                table.append([label, region, method, *(_cell(s) if s else "" for s in of_line)])
            agreement = next(of[label, region, metric] for of in found.values())
            blank = [""] * (len(columns) - 1)
            table.append([label, region, OTHER_RATERS, _cell(agreement), *blank])
    title = (
        f"Several raters, {len(cases)} cases: Dice against the first of them, the rest against all"
    )
    return f"\n\n{title}\n{layout(table)}"


def rater_columns(metrics: Iterable[str]) -> list[str]:
    """The columns of a table of several raters, Dice first.

    Args:
      metrics: of the rows of `rows.of_raters`.

    Example:
      >>> rater_columns(["dice", "rater_nll", "p_marked_by_0_of_2", "rater_dice", "dice"])
      ['dice', 'rater_nll', 'p_marked_by_0_of_2']
    """
    return [name for name in dict.fromkeys(("dice", *metrics)) if name != RATER_DICE]


def calibration_table(found: Mapping[str, Sequence[SplitCalibration]]) -> str:
    """Calibration of the whole split: of all its voxels together, and of predicted lesions.

    Args:
      found: of each foreground class, by method; methods of which nothing is known are left out.

    Returns:
      A blank line and a table in plain text; "" if nothing is known.
    """
    if not any(found.values()):
        return ""
    heads = ["class", "method", "ECE, all voxels", "95% interval"]
    table = [[*heads, "lesions", "correct", "ECE, lesions", "Brier, lesions"]]
    for label in dict.fromkeys(row.label for rows in found.values() for row in rows):
        for method, rows in found.items():
            for row in rows:
                if row.label == label:
                    table.append([label, method, *calibration_cells(row)])
    title = "Calibration of all cases together; lesions are connected parts of the prediction"
    return f"\n\n{title}\n{layout(table)}"


def calibration_cells(row: SplitCalibration) -> list[str]:
    """The numbers of a class as text."""
    ece, low, high, lesion_ece, lesion_brier = (
        "undefined" if np.isnan(x) else f"{x:.4f}"
        for x in (row.ece, row.low, row.high, row.lesion_ece, row.lesion_brier)
    )
    interval = "undefined" if np.isnan(row.low) else f"{low} to {high}"
    return [ece, interval, str(row.lesions), str(row.correct), lesion_ece, lesion_brier]


def _cell(summary: Summary) -> str:
    if not summary.cases:
        return "undefined"
    text = f"{summary.mean:.4f}" + (f" ± {summary.error:.4f}" if summary.cases > 1 else "")
    return f"{text} ({summary.undefined} undefined)" if summary.undefined else text


def layout(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text in aligned columns, a line under the first."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
