"""Time losses, metrics and prediction on this machine: python -m experiments.bench losses

Each subcommand is a row of experiments/benchmarks/commands.py:COMMANDS.
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

from dicepp_jax.rows import write_csv
from experiments.benchmarks.commands import COMMANDS, parse_count, parse_shape
from experiments.benchmarks.timing import bench, report


def main(argv: Sequence[str] | None = None) -> None:
    """Run the subcommand of the command line."""
    parser = argparse.ArgumentParser("experiments.bench", description="Time what the library does.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help)
        sub.add_argument("--shapes", nargs="+", type=parse_shape, metavar="BxHxWxC",
                         default=command.shapes, help="of logits")  # fmt: skip
        sub.add_argument("--only", nargs="+", default=[], metavar="NAME",
                         help=f"rows to time, {command.reference} always among them")  # fmt: skip
        sub.add_argument(
            "--repeats", type=parse_count, default=command.repeats, help="calls of each row"
        )
        sub.add_argument("--output", type=Path, metavar="FILE.csv")
        for flag, about in command.flags.items():
            sub.add_argument(f"--{flag.replace('_', '-')}", type=about.parse,
                             default=about.default, help=about.help)  # fmt: skip
    args = parser.parse_args(argv)
    # Before minutes of timing rather than after.
    if args.output is not None and not args.output.parent.is_dir():
        parser.error(f"--output: there is no directory {args.output.parent}; make it first")
    command = COMMANDS[args.command]
    own = {flag: getattr(args, flag) for flag in command.flags}
    command = command._replace(cases=functools.partial(command.cases, **own))
    try:
        rows = bench(command, args.shapes, args.only, args.repeats)
        if args.output is not None:
            write_csv(args.output, rows)
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {error}\n")
    print(report(rows))


if __name__ == "__main__":
    main()
