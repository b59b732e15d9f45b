"""Time losses, training, prediction and more on this machine: python -m experiments.bench losses

Each subcommand is a row of experiments/benchmarks/commands.py:COMMANDS; `all` runs every one, and
`plot` draws what --json wrote.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.benchmarks.arguments import parse_count, parse_shape
from experiments.benchmarks.commands import COMMANDS
from experiments.benchmarks.machine import this_machine
from experiments.benchmarks.results import bars, describe, make_report, read_json, write_json
from experiments.benchmarks.timing import Timing, bench, settings
from experiments.setup import huge_pages


def main(argv: Sequence[str] | None = None) -> None:
    """Run the subcommand of the command line."""
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser()
    args = parser.parse_args(argv)
    # Before minutes of timing rather than after.
    for flag in ("output", "json"):
        path = getattr(args, flag, None)
        if path is not None and not path.parent.is_dir():
            parser.error(f"--{flag}: there is no directory {path.parent}; make it first")
    try:
        if args.command == "plot":
            _plot(args)
        else:
            _time(args, shlex.join(["python", "-m", "experiments.bench", *argv]))
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {error}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("experiments.bench", description="Time what the library does.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help)
        default = " ".join("x".join(map(str, setting.shape)) for setting in command.settings)
        sub.add_argument("--shapes", nargs="+", type=parse_shape, metavar="SHAPE", default=[],
                         help=f"of {command.shape_of}; default: {default}")  # fmt: skip
        sub.add_argument("--only", nargs="+", default=[], metavar="NAME", help="rows to time, "
                         f"{' and '.join(command.references)} always among them")  # fmt: skip
        for flag, about in command.flags.items():
            sub.add_argument(f"--{flag.replace('_', '-')}", type=about.parse, help=about.help)
        _add_outputs(sub)
    every = commands.add_parser("all", help="every command, each as by default")
    _add_outputs(every)
    plot = commands.add_parser("plot", help="ratios of one report of --json, or before and after")
    plot.add_argument("reports", nargs="+", type=Path, metavar="FILE.json", help="one or two")
    plot.add_argument("--output", type=Path, required=True, metavar="FIGURE.png")
    plot.add_argument("--commands", nargs="+", choices=tuple(COMMANDS), default=tuple(COMMANDS),
                      help="whose rows are drawn; default: every one's")  # fmt: skip
    return parser


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=parse_count, help="calls of each row")
    parser.add_argument("--output", type=Path, metavar="FILE.csv")
    parser.add_argument("--json", type=Path, metavar="FILE.json")


def _time(args: argparse.Namespace, line: str) -> None:
    """Time, write and print; the machine's speed first, which is at the head."""
    from dicepp_jax.rows import write_csv

    machine = this_machine()
    rows: list[Timing] = []
    for name, command in COMMANDS.items():
        if args.command == "all":
            rows += bench(name, command, settings(command), repeats=args.repeats)
        elif args.command == name:
            given = {flag: getattr(args, flag) for flag in command.flags}
            chosen = settings(command, args.shapes, given)
            rows += bench(name, command, chosen, args.only, args.repeats)
    report = make_report(machine, line, rows)
    if args.output is not None:
        write_csv(args.output, rows)
    if args.json is not None:
        write_json(args.json, report)
    print(describe(report))


def _plot(args: argparse.Namespace) -> None:
    from dicepp_jax.plots import canvas, ratios

    if len(args.reports) > 2:
        raise ValueError(f"found {len(args.reports)} reports; give one, or two: before and after")
    reports = {path.stem: bars(read_json(path), args.commands) for path in args.reports}
    canvas.save(ratios.ratio_bars(reports), args.output)


if __name__ == "__main__":
    huge_pages.use()
    main()
