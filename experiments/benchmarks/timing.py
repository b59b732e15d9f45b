"""Timing of cases that take turns, and the table of the results.

A turn is a call that does not count, which finds its memory and at first compiles, then one that
does; since cases take turns, other work on the machine slows all alike. The memory of a case is
measured in a process of its own: how far its resident memory (VmHWM of Linux) rises in the first
call above what libraries, weights and volume took before. That includes the compiler's memory, and
not an accelerator's.
"""

import concurrent.futures
import datetime
import math
import multiprocessing
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from dicepp_jax.text_table import layout

NOT_INSTALLED = "not installed: pip install -e '.[bench]'"

Shape = tuple[int, ...]


class Timing(NamedTuple):
    """One row of a table of times.

    Attributes:
      shape: of the logits, `(B, *spatial, C)`.
      name: what was timed.
      repeats: number of calls.
      median_ms: of the calls, NaN if there were none.
      minimum_ms: of the calls, NaN if there were none.
      ratio: of the median to that of the reference.
      reference: name of the row that ratios refer to.
      windows_per_s: at the median, NaN for what has no windows.
      peak_mib: memory of a call, NaN for what has no windows and where it cannot be measured.
      note: what else there is to know.
      hardware: processor and cores, or accelerator.
      jax: version.
      date: day of the run.
    """

    shape: str
    name: str
    repeats: int
    median_ms: float
    minimum_ms: float
    ratio: float
    reference: str
    windows_per_s: float
    peak_mib: float
    note: str
    hardware: str
    jax: str
    date: str


class TimedCase(NamedTuple):
    """Something to time.

    Attributes:
      call: returns when the work is done; None where it cannot be timed, which the note explains.
      note: what else there is to know.
      windows: that a call predicts.
    """

    call: Callable[[], object] | None
    note: str = ""
    windows: int = 0


Cases = Callable[[Shape], dict[str, TimedCase]]
"""What to time at a shape of logits, by name."""


class Flag(NamedTuple):
    """A flag of one subcommand.

    Attributes:
      parse: from its text.
      default: its value if it is not given.
      help: one line.
    """

    parse: Callable[[str], Any]
    default: Any
    help: str


class Command(NamedTuple):
    """A subcommand.

    Attributes:
      cases: what it times at a shape of logits, by name; takes its own flags by keyword.
      reference: name of the one that ratios refer to.
      help: one line.
      flags: its own, by name.
      shapes: that are timed if none are given.
      repeats: likewise.
    """

    cases: Callable[..., dict[str, TimedCase]]
    reference: str
    help: str
    flags: Mapping[str, Flag] = {}
    shapes: tuple[Shape, ...] = ((8, 512, 512, 2), (1, 80, 160, 160, 3))
    repeats: int = 15


def measure(cases: dict[str, TimedCase], repeats: int) -> dict[str, np.ndarray]:
    """Milliseconds `(repeats,)` of those cases that can be timed."""
    calls = {name: case.call for name, case in cases.items() if case.call is not None}
    milliseconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in tqdm(range(repeats), "rounds", leave=False, disable=None):
        for name, call in calls.items():
            call()
            start = time.perf_counter()
            call()
            milliseconds[name].append(1e3 * (time.perf_counter() - start))
    return {name: np.array(times) for name, times in milliseconds.items()}


def bench(
    command: Command, shapes: Sequence[Shape], only: Sequence[str], repeats: int
) -> list[Timing]:
    """Time a command's cases.

    Args:
      command: from `COMMANDS`.
      shapes: of logits, `(B, *spatial, C)`.
      only: names of the cases to time beside the reference; all if there are none.
      repeats: calls of each.

    Returns:
      A row for every shape and case.

    Raises:
      ValueError: if a name is unknown.
    """
    about = hardware(), jax.__version__, datetime.date.today().isoformat()
    rows = []
    for shape in shapes:
        cases = command.cases(shape)
        unknown = sorted(set(only) - set(cases))
        if unknown:
            raise ValueError(f"--only: there is no {', '.join(unknown)}; known: {', '.join(cases)}")
        wanted = {command.reference, *(only or cases)}
        cases = {name: case for name, case in cases.items() if name in wanted}
        times = measure(cases, repeats)
        reference = np.median(times[command.reference])
        for name, case in cases.items():
            row = times.get(name, np.array([np.nan]))
            median, ratio = float(np.median(row)), float(np.median(row) / reference)
            count = repeats if name in times else 0
            speed = 1e3 * case.windows / median if case.windows else math.nan
            measurable = case.windows and case.call is not None
            peak = peak_memory(command.cases, shape, name) if measurable else math.nan
            rows.append(
                Timing(text(shape), name, count, median, float(row.min()), ratio,
                       command.reference, speed, peak, case.note, *about)
            )  # fmt: skip
    return rows


def hardware() -> str:
    """The accelerator, or the processor with its cores."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return f"{model[1] if model else platform.processor()}, {os.cpu_count()} cores"


def report(rows: Sequence[Timing]) -> str:
    """What is printed: the hardware, and a table."""

    def number(value: float) -> str:
        return "-" if np.isnan(value) else f"{value:.2f}"

    first = rows[0]
    header = ["logits", "name", "median ms", "minimum ms", f"/ {first.reference}", "note"]
    body = [
        [r.shape, r.name, number(r.median_ms), number(r.minimum_ms), number(r.ratio), r.note]
        for r in rows
    ]
    if not all(np.isnan(r.windows_per_s) for r in rows):
        header[-1:-1] = ["windows/s", "peak MiB"]
        for cells, r in zip(body, rows, strict=True):
            cells[-1:-1] = [number(r.windows_per_s), number(r.peak_mib)]
    repeats = max(r.repeats for r in rows)
    return f"{first.hardware}, jax {first.jax}, {first.date}, {repeats} repeats\n" + layout(
        [header, *body]
    )


def peak_memory(cases: Cases, shape: Shape, name: str) -> float:
    """MiB by which the first call of a case raises the memory of a fresh process."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_peak, cases, shape, name).result()


def _peak(cases: Cases, shape: Shape, name: str) -> float:
    call = cases(shape)[name].call
    assert call is not None
    before = _resident("VmRSS")
    call()
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    """MiB, now (VmRSS) or at most so far (VmHWM).

    Not ru_maxrss of getrusage, in which a process begins with what the one that started it had.
    """
    status = Path("/proc/self/status")
    found = re.search(rf"{field}:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) / 1024 if found else math.nan


def text(shape: Shape) -> str:
    """A shape as 8x512x512x2."""
    return "x".join(map(str, shape))
