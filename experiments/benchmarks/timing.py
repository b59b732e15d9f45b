"""Timing of cases that take turns, after a check that they compute the same.

A turn is a call that does not count, which finds its memory and at first compiles, then one that
does; since cases take turns, other work on the machine slows all alike. A ratio is therefore taken
within each round, to the reference of the same round. The memory of a case is measured in a
process of its own: how far its resident memory (VmHWM of Linux) rises in the first call above what
libraries, weights and volume took before. That includes the compiler's memory, and not an
accelerator's.
"""

import concurrent.futures
import datetime
import functools
import math
import multiprocessing
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from experiments.benchmarks.agreement import TOLERANCE, Outputs, largest_difference
from experiments.benchmarks.machine import hardware, versions

NOT_INSTALLED = "not installed: pip install -e '.[bench]'"

Shape = tuple[int, ...]


class Timing(NamedTuple):
    """One row of a table of times.

    Attributes:
      command: the subcommand.
      shape: of logits or images, as the subcommand says.
      options: of the subcommand, as its flags say.
      name: what was timed.
      repeats: number of calls that count.
      ratio: median over rounds of the time divided by the reference's, NaN without calls.
      ratio_low: their lower quartile.
      ratio_high: their upper quartile.
      reference: name of the row that ratios refer to.
      median_ms: of the calls, NaN if there were none.
      minimum_ms: of the calls, NaN if there were none.
      item: what a call handles several of, such as windows; empty for what has none.
      items_per_s: at the median, NaN for what has none.
      peak_mib: memory of a call, NaN where it is not measured.
      data_wait: fraction of the time spent waiting for batches, NaN for what does not train.
      note: what else there is to know.
      hardware: processor and cores, or accelerator.
      jax: version.
      date: day of the run.
    """

    command: str
    shape: str
    options: str
    name: str
    repeats: int
    ratio: float
    ratio_low: float
    ratio_high: float
    reference: str
    median_ms: float
    minimum_ms: float
    item: str
    items_per_s: float
    peak_mib: float
    data_wait: float
    note: str
    hardware: str
    jax: str
    date: str


class TimedCase(NamedTuple):
    """Something to time.

    Attributes:
      call: returns when the work is done; None where it cannot be timed, which the note explains.
      note: what else there is to know.
      items: how many a call handles.
      item: of what, in the plural.
      output: computes what is compared with another case; None if nothing is. May raise
        `CannotTimeError`.
      same_as: name of the case whose output must be the same.
      tolerance: the largest relative difference from it.
      data_wait: fraction of the calls' time that was spent waiting for batches.
    """

    call: Callable[[], object] | None
    note: str = ""
    items: int = 0
    item: str = ""
    output: Callable[[], Outputs] | None = None
    same_as: str = ""
    tolerance: float = TOLERANCE
    data_wait: Callable[[], float] = lambda: math.nan


class CannotTimeError(RuntimeError):
    """A case turned out to be impossible here; the message becomes its note."""


Cases = Callable[[Shape], dict[str, TimedCase]]
"""What to time at a shape, by name."""


class Flag(NamedTuple):
    """A flag of one subcommand.

    Attributes:
      parse: from its text.
      default: its value if it is not given.
      help: one line.
      text: of a value.
    """

    parse: Callable[[str], Any]
    default: Any
    help: str
    text: Callable[[Any], str] = str


class Setting(NamedTuple):
    """A shape, and what a subcommand's flags are at it.

    Attributes:
      shape: of logits or images.
      own: values of flags, by name; the others have their default.
    """

    shape: Shape
    own: Mapping[str, Any] = {}


class Command(NamedTuple):
    """A subcommand.

    Attributes:
      cases: what it times at a shape, by name; takes its own flags by keyword.
      references: names of the cases that ratios refer to: to the first that can be timed.
      help: one line.
      shape_of: what a shape is of, and its axes.
      flags: its own, by name.
      settings: that are timed if no shapes are given.
      repeats: calls of each case, if no number is given.
      memory: whether to measure the memory of a call.
    """

    cases: Callable[..., dict[str, TimedCase]]
    references: tuple[str, ...]
    help: str
    shape_of: str
    settings: tuple[Setting, ...]
    flags: Mapping[str, Flag] = {}
    repeats: int = 15
    memory: bool = False


def text(shape: Shape) -> str:
    """A shape as 8x512x512x2."""
    return "x".join(map(str, shape))


def settings(
    command: Command, shapes: Sequence[Shape] = (), given: Mapping[str, Any] = MappingProxyType({})
) -> tuple[Setting, ...]:
    """What to time: the command's settings, or shapes; flags that are given hold for all.

    Args:
      command: from `COMMANDS`.
      shapes: none for those of the command.
      given: values of flags, None for those that are not given.

    Returns:
      Settings with a value for every flag.
    """
    chosen = tuple(map(Setting, shapes)) or command.settings
    defaults = {name: flag.default for name, flag in command.flags.items()}
    known = {name: value for name, value in given.items() if value is not None}
    return tuple(Setting(shape, {**defaults, **own, **known}) for shape, own in chosen)


def bench(
    name: str,
    command: Command,
    chosen: Sequence[Setting],
    only: Sequence[str] = (),
    repeats: int | None = None,
) -> list[Timing]:
    """Time a command's cases.

    Args:
      name: of the command.
      command: from `COMMANDS`.
      chosen: of `settings`.
      only: names of the cases to time beside the reference; all if there are none.
      repeats: calls of each; None for the command's number.

    Returns:
      A row for every setting and case.

    Raises:
      ValueError: if a name is unknown, or cases that should compute the same do not.
    """
    repeats = repeats or command.repeats
    rows = []
    for shape, own in chosen:
        at_shape = functools.partial(command.cases, **own)
        known = at_shape(shape)
        unknown = sorted(set(only) - set(known))
        if unknown:
            raise ValueError(f"--only: there is no {', '.join(unknown)}; known: {', '.join(known)}")
        wanted = {*command.references, *(only or known)}
        cases = checked({name: case for name, case in known.items() if name in wanted}, known)
        times = measure(cases, repeats)
        options = ", ".join(
            f"{flag} {command.flags[flag].text(value)}" for flag, value in own.items()
        )
        peaks = {
            case: peak_memory(at_shape, shape, case) if command.memory else math.nan
            for case in times
        }
        rows += [
            row._replace(command=name, shape=text(shape), options=options)
            for row in _rows(cases, times, command.references, peaks)
        ]
    return rows


def checked(cases: Mapping[str, TimedCase], known: Mapping[str, TimedCase]) -> dict[str, TimedCase]:
    """The cases, with notes on what they have in common, if it is as they say.

    Args:
      cases: that are to be timed.
      known: those, and others that they may be the same as.

    Returns:
      The cases; those that turn out to be impossible have no call.

    Raises:
      ValueError: if a case is not the same as that which it names.
    """
    outputs: dict[str, Outputs] = {}
    found = {}
    for name, case in cases.items():
        other = known.get(case.same_as, TimedCase(None))
        if case.output is not None and other.output is not None:
            try:
                output = case.output()
            except CannotTimeError as error:
                found[name] = TimedCase(None, str(error))
                continue
            if case.same_as not in outputs:
                outputs[case.same_as] = other.output()
            difference = largest_difference(
                name, output, case.same_as, outputs[case.same_as], case.tolerance
            )
            note = f"{', '.join(output)} as of {case.same_as} to {difference:.0e}"
            case = case._replace(note=f"{case.note}; {note}" if case.note else note)
        found[name] = case
    return found


def measure(cases: Mapping[str, TimedCase], repeats: int) -> dict[str, np.ndarray]:
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


def ratios(times: np.ndarray, reference: np.ndarray) -> tuple[float, float, float]:
    """Median and quartiles of the ratios of each round.

    Args:
      times: of a case, by round.
      reference: of the reference, in the same rounds.

    Returns:
      The median, the lower and the upper quartile.

    Example:
      >>> ratios(np.array([2.0, 3.0, 8.0]), np.array([1.0, 2.0, 2.0]))
      (2.0, 1.75, 3.0)
    """
    low, median, high = np.quantile(times / reference, (0.25, 0.5, 0.75))
    return float(median), float(low), float(high)


def _rows(
    cases: Mapping[str, TimedCase],
    times: Mapping[str, np.ndarray],
    references: Sequence[str],
    peaks: Mapping[str, float],
) -> list[Timing]:
    reference = next(name for name in references if name in times)
    about = hardware(), versions()["jax"], datetime.date.today().isoformat()
    rows = []
    for name, case in cases.items():
        row = times.get(name, np.array([np.nan]))
        median = float(np.median(row))
        ratio = ratios(row, times[reference]) if name in times else (math.nan,) * 3
        speed = 1e3 * case.items / median if case.items else math.nan
        rows.append(
            Timing("", "", "", name, len(row) if name in times else 0, *ratio, reference, median,
                   float(row.min()), case.item, speed, peaks.get(name, math.nan),
                   case.data_wait(), case.note, *about)
        )  # fmt: skip
    return rows


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
