"""A report of timings: as text, as JSON, and as a figure of several."""

import datetime
import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import numpy as np

from dicepp_jax.atomic import write_text
from experiments.benchmarks.machine import Floor, Machine
from experiments.benchmarks.timing import Timing


class Report(NamedTuple):
    """What a run of the command found.

    Attributes:
      machine: where.
      line: the command line.
      date: day of the run.
      rows: what was timed.
    """

    machine: Machine
    line: str
    date: str
    rows: Sequence[Timing]


def make_report(machine: Machine, line: str, rows: Sequence[Timing]) -> Report:
    """A report of today."""
    return Report(machine, line, datetime.date.today().isoformat(), rows)


def write_json(path: Path, report: Report) -> None:
    """Write a report as JSON, with null where a row has no number; whole or not at all."""
    machine = {**report.machine._asdict(), "floor": report.machine.floor._asdict()}
    rows = [
        {name: None if value != value else value for name, value in row._asdict().items()}
        for row in report.rows
    ]
    content = {"machine": machine, "line": report.line, "date": report.date, "rows": rows}
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Report:
    """Read a file of `write_json`.

    Raises:
      ValueError: if it is not such a file.
    """
    kinds = get_type_hints(Timing)

    def row(values: Mapping[str, Any]) -> Timing:
        filled: dict[str, Any] = {
            name: math.nan if kinds[name] is float and value is None else value
            for name, value in values.items()
        }
        return Timing(**filled)

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        machine = content["machine"]
        floor = Floor(**machine.pop("floor"))
        rows = [row(values) for values in content["rows"]]
        return Report(Machine(**machine, floor=floor), content["line"], content["date"], rows)
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is not a report of experiments.bench: {error!r}; make one with --json"
        ) from error


def describe(report: Report) -> str:
    """What is printed: the machine and its speed, then a table of each command."""
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    lines = [
        f"{machine.hardware}; {versions}; {report.date}",
        report.line,
        f"floor: {machine.floor.gflops:.1f} GFLOP/s in a float32 matrix product, "
        f"{machine.floor.gb_per_s:.1f} GB/s in adding to an array",
    ]
    for command in dict.fromkeys(row.command for row in report.rows):
        rows = [row for row in report.rows if row.command == command]
        repeats = max(row.repeats for row in rows)
        lines += ["", f"{command}, {repeats} repeats", _table(rows)]
    return "\n".join(lines)


def _table(rows: Sequence[Timing]) -> str:
    """Ratios first, then times, then what else the rows have."""
    from dicepp_jax.text_table import layout

    def number(value: float) -> str:
        return "-" if np.isnan(value) else f"{value:.2f}"

    def ratio(row: Timing) -> str:
        if np.isnan(row.ratio):
            return "-"
        return f"{row.ratio:.2f} ({row.ratio_low:.2f}-{row.ratio_high:.2f})"

    columns = {
        "shape": [row.shape for row in rows],
        "options": [row.options for row in rows],
        "name": [row.name for row in rows],
        "ratio (quartiles)": [ratio(row) for row in rows],
        "to": [row.reference for row in rows],
        "median ms": [number(row.median_ms) for row in rows],
        "minimum ms": [number(row.minimum_ms) for row in rows],
        "per second": [
            "-" if np.isnan(row.items_per_s) else f"{row.items_per_s:.2f} {row.item}"
            for row in rows
        ],
        "peak MiB": [number(row.peak_mib) for row in rows],
        "waiting": ["-" if np.isnan(row.data_wait) else f"{row.data_wait:.0%}" for row in rows],
        "note": [row.note for row in rows],
    }
    always = ("name", "ratio (quartiles)", "to", "median ms", "minimum ms", "note")
    shown = {
        name: cells
        for name, cells in columns.items()
        if name in always or any(cell not in ("", "-") for cell in cells)
    }
    return layout([list(shown), *(list(line) for line in zip(*shown.values(), strict=True))])


Bar = tuple[float, float, float]


def bars(report: Report, commands: Collection[str]) -> dict[str, Bar]:
    """Ratio and quartiles of every row but the references, by a name that says what it is."""
    return {
        f"{row.command}: {row.name} / {row.reference}, {row.shape}"
        + (f", {row.options}" if row.options else ""): (row.ratio, row.ratio_low, row.ratio_high)
        for row in report.rows
        if row.command in commands and row.name != row.reference and not math.isnan(row.ratio)
    }
