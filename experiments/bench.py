"""Time losses and metrics on this machine: python -m experiments.bench losses

Every row is one call on arrays that are in memory: for a loss, its mean over the batch and the
gradient in the logits, from integer labels, so that libraries which want them one-hot make them so
within the call. Rows take turns, so that other work on the machine falls on all alike, and a turn
is a call that does not count, which finds its memory and at first compiles, then one that does.
Each subcommand is a row of `COMMANDS`.
"""

import argparse
import datetime
import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from dicepp_jax.losses import LOSSES
from dicepp_jax.metrics.thresholds import THRESHOLDS, threshold_counts
from dicepp_jax.rows import write_csv
from experiments import table

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
    note: str
    hardware: str
    jax: str
    date: str


class Case(NamedTuple):
    """Something to time.

    Attributes:
      call: returns when the work is done; None where it cannot be timed, which the note explains.
      note: what else there is to know.
    """

    call: Callable[[], object] | None
    note: str = ""


class Command(NamedTuple):
    """A subcommand.

    Attributes:
      cases: what it times at a shape of logits, by name.
      reference: name of the one that ratios refer to.
      help: one line.
    """

    cases: Callable[[Shape], dict[str, Case]]
    reference: str
    help: str


def _jitted(function: Callable[..., object], *args: jax.Array) -> Case:
    compiled = jax.jit(function)
    return Case(lambda: jax.block_until_ready(compiled(*args)))


def _example(shape: Shape) -> tuple[jax.Array, jax.Array]:
    """Random logits `(B, *spatial, C)` and integer labels."""
    keys = jax.random.split(jax.random.key(0))
    labels = jax.random.randint(keys[1], shape[:-1], 0, shape[-1])
    return jax.random.normal(keys[0], shape), labels


def _mean_and_gradient(loss: Callable[..., jax.Array]) -> Callable[..., object]:
    return jax.value_and_grad(lambda logits, labels: loss(logits, labels).mean())


def _optax_dice(logits: jax.Array, labels: jax.Array) -> jax.Array:
    one_hot = jax.nn.one_hot(labels, logits.shape[-1])
    return optax.losses.dice_loss(logits, one_hot, apply_softmax=True)


def loss_cases(shape: Shape) -> dict[str, Case]:
    """Every loss, those of other libraries, and what moving the arrays alone takes."""
    logits, labels = _example(shape)
    moved = _jitted(lambda x, y: x + y[..., None], logits, labels)
    return {
        "read_write": moved._replace(note="logits and labels read, an array like logits written"),
        "optax_dice": _jitted(_mean_and_gradient(_optax_dice), logits, labels),
        **{
            name: _jitted(_mean_and_gradient(loss.function), logits, labels)
            for name, loss in LOSSES.items()
        },
        **_monai_cases(np.asarray(logits), np.asarray(labels)),
    }


def _monai_cases(logits: np.ndarray, labels: np.ndarray) -> dict[str, Case]:
    """MONAI's losses as they are mostly used: forward and backward, not compiled."""
    try:
        import torch
        from monai.losses import DiceFocalLoss, DiceLoss
    except ImportError:
        return {name: Case(None, NOT_INSTALLED) for name in ("monai_dice", "monai_dice_focal")}
    on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    channels_first = np.ascontiguousarray(np.moveaxis(logits, -1, 1))
    x = torch.tensor(channels_first, device=device, requires_grad=True)
    y = torch.tensor(labels[:, None], device=device, dtype=torch.int64)

    def case(kind: type) -> Case:
        loss = kind(softmax=True, to_onehot_y=True)

        def call() -> None:
            torch.autograd.grad(loss(x, y), x)
            if on_gpu:
                torch.cuda.synchronize()

        return Case(call, f"eager, torch {torch.__version__} on {device}")

    return {"monai_dice": case(DiceLoss), "monai_dice_focal": case(DiceFocalLoss)}


def threshold_cases(shape: Shape) -> dict[str, Case]:
    """Confusions at one threshold and at those of the paper's curves."""
    logits, labels = _example(shape)
    probs = jax.nn.softmax(logits)
    return {
        f"thresholds_{len(thresholds)}": _jitted(
            threshold_counts, probs, labels, jnp.asarray(thresholds, jnp.float32)
        )
        for thresholds in (np.array([0.5]), THRESHOLDS)
    }


COMMANDS: dict[str, Command] = {
    "losses": Command(loss_cases, "optax_dice", "value and gradient of every loss"),
    "thresholds": Command(threshold_cases, "thresholds_1", "threshold_counts, 1 and 91 thresholds"),
}


def measure(cases: dict[str, Case], repeats: int) -> dict[str, np.ndarray]:
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
      ValueError: if there is no case of a name.
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
            rows.append(
                Timing(_text(shape), name, count, median, float(row.min()), ratio,
                       command.reference, case.note, *about)
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
    repeats = max(r.repeats for r in rows)
    return f"{first.hardware}, jax {first.jax}, {first.date}, {repeats} repeats\n" + table.layout(
        [header, *body]
    )


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _shape(text: str) -> Shape:
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){2,}", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not like 8x512x512x2 (batch, space, classes)"
        )
    return tuple(map(int, text.split("x")))


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the subcommand of the command line."""
    parser = argparse.ArgumentParser("experiments.bench", description="Time losses and metrics.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help)
        sub.add_argument("--shapes", nargs="+", type=_shape, metavar="BxHxWxC",
                         default=[(8, 512, 512, 2), (1, 80, 160, 160, 3)])  # fmt: skip
        sub.add_argument("--only", nargs="+", default=[], metavar="NAME",
                         help=f"rows to time, {command.reference} always among them")  # fmt: skip
        sub.add_argument("--repeats", type=_count, default=15, help="calls of each row")
        sub.add_argument("--output", type=Path, metavar="FILE.csv")
    args = parser.parse_args(argv)
    # Before minutes of timing rather than after.
    if args.output is not None and not args.output.parent.is_dir():
        parser.error(f"--output: there is no directory {args.output.parent}; make it first")
    try:
        rows = bench(COMMANDS[args.command], args.shapes, args.only, args.repeats)
        if args.output is not None:
            write_csv(args.output, rows)
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {error}\n")
    print(report(rows))


if __name__ == "__main__":
    main()
