"""The paper's tables and figures: python -m experiments.reproduce --table=4 --data=drive=DRIVE

Plans the runs that are needed, estimates how long they take at most, runs what is missing and
writes the report (experiments.report). Finished runs are kept, interrupted ones resume, and
failures are listed at the end and do not stop the rest. After an interruption the same command
resumes.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from configs import paper as cells
from experiments.report.published import FIGURES, FRONTIER, PAPER
from experiments.reproduce import options
from experiments.setup import compiled, failures, huge_pages, stopping

RESUMES = "the same command resumes"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command line."""
    parser = argparse.ArgumentParser(
        "experiments.reproduce",
        description="Reproduce tables and figures of the DSC++ paper.",
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what, one or several")
    what.add_argument("--table", type=int, choices=PAPER, action="append", default=[])
    what.add_argument("--figure", type=int, choices=FIGURES, action="append", default=[])
    what.add_argument("--all", action="store_true", help="all tables and figures of the paper")
    more = "beyond the paper: losses published since, and other means to calibrate"
    what.add_argument("--frontier", action="store_const", const=[FRONTIER], default=[], help=more)
    parser.add_argument(
        "--scale",
        type=options.scales,
        action="extend",
        default=[],
        metavar="NAME,...",
        help="full, the paper's; reduced, for a CPU; tiny, to see that it works; 256x32, images of "
        "256 x 256 and 32 filters with the paper's schedule, likewise others (configs/paper.py); "
        "several make a report of all besides that of each",
    )
    parser.add_argument(
        "--data",
        type=options.folders,
        action="append",
        default=[],
        metavar="NAME=FOLDER,...",
        help="the data sets that you have and the folders with their files (NAME alone for a set "
        f"that is prepared or drawn): {', '.join((*cells.SETS, *cells.DRAWN))}",
    )
    parser.add_argument("--data_dir", default="", help="of prepared sets")
    parser.add_argument("--workdir", type=Path, default=Path("runs/paper"), help="runs/paper")
    parser.add_argument("--seeds", type=int, default=3, help="of ensembles, 1 for no ensembles; 3")
    parser.add_argument(
        "--budget_minutes",
        type=float,
        default=math.inf,
        metavar="MINUTES",
        help="of all scales together; what is unfinished by then is left for the same command",
    )
    parser.add_argument("--dry_run", action="store_true", help="print the plan only")
    parsed = parser.parse_args(argv)
    parsed.scale = tuple(dict.fromkeys(parsed.scale)) or ("full",)
    parsed.data = {name: folder for of in parsed.data for name, folder in of.items()}
    if not (parsed.all or parsed.table or parsed.figure or parsed.frontier):
        parser.error("nothing requested; give --table=4, --figure=5, --all or --frontier")
    if parsed.budget_minutes < 0:
        parser.error(f"--budget_minutes is {parsed.budget_minutes:g}; it must not be negative")
    if parsed.seeds < 1:
        parser.error(f"--seeds is {parsed.seeds}; it must be at least 1")
    return parsed


def main(argv: Sequence[str] | None = None) -> None:
    """Reproduce the tables and figures of the command line."""
    parsed = parse(argv)
    from experiments.reproduce.perform import reproduce

    compiled.keep()
    logging.set_verbosity(logging.FATAL)  # Orbax logs what it raises, too.
    try:
        with failures.reported():
            code = reproduce(
                (*(PAPER if parsed.all else parsed.table), *parsed.frontier),
                tuple(FIGURES) if parsed.all else tuple(parsed.figure),
                scales=parsed.scale,
                folders=parsed.data,
                data_dir=parsed.data_dir,
                workdir=parsed.workdir.expanduser(),
                seeds=parsed.seeds,
                budget=60 * parsed.budget_minutes,
                dry_run=parsed.dry_run,
            )
    except KeyboardInterrupt:
        stopping.leave(RESUMES)
    sys.exit(code)


if __name__ == "__main__":
    huge_pages.use()
    stopping.listen(RESUMES)
    main()
