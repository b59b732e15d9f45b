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
from experiments.setup import compiled, failures, huge_pages, stopping

RESUMES = "the same command resumes"


def _folders(text: str) -> dict[str, str]:
    """Data sets and their folders from NAME=FOLDER,NAME,..."""
    folders = {}
    for item in text.split(","):
        name, _, folder = item.strip().partition("=")
        if name not in (*cells.SETS, *cells.DRAWN):
            raise argparse.ArgumentTypeError(
                f"{name!r} is not a data set; known: {', '.join((*cells.SETS, *cells.DRAWN))}. For "
                "example --data=drive=FOLDER,dsb2018=FOLDER"
            )
        folders[name] = str(Path(folder).expanduser()) if folder else ""
    return folders


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
        choices=cells.SCALES,
        default="full",
        help="full, the paper's; reduced, for a CPU; tiny, to see that it works (configs/paper.py)",
    )
    parser.add_argument(
        "--data",
        type=_folders,
        default={},
        metavar="NAME=FOLDER,...",
        help="the data sets that you have and the folders with their files (NAME alone for a set "
        f"that is prepared or drawn): {', '.join((*cells.SETS, *cells.DRAWN))}",
    )
    parser.add_argument("--data_dir", default="", help="of prepared sets")
    parser.add_argument("--workdir", type=Path, default=Path("runs/paper"), help="runs/paper")
    parser.add_argument("--seeds", type=int, default=3, help="of ensembles, 1 for no ensembles; 3")
    parser.add_argument("--budget_minutes", type=float, default=math.inf, metavar="MINUTES")
    parser.add_argument("--dry_run", action="store_true", help="print the plan only")
    options = parser.parse_args(argv)
    if not (options.all or options.table or options.figure or options.frontier):
        parser.error("nothing requested; give --table=4, --figure=5, --all or --frontier")
    if options.budget_minutes < 0:
        parser.error(f"--budget_minutes is {options.budget_minutes:g}; it must not be negative")
    if options.seeds < 1:
        parser.error(f"--seeds is {options.seeds}; it must be at least 1")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Reproduce the tables and figures of the command line."""
    options = parse(argv)
    from experiments.reproduce.perform import reproduce

    compiled.keep()
    logging.set_verbosity(logging.FATAL)  # Orbax logs what it raises, too.
    try:
        with failures.reported():
            code = reproduce(
                (*(PAPER if options.all else options.table), *options.frontier),
                tuple(FIGURES) if options.all else tuple(options.figure),
                scale=options.scale,
                folders=options.data,
                data_dir=options.data_dir,
                workdir=options.workdir.expanduser(),
                seeds=options.seeds,
                budget=60 * options.budget_minutes,
                dry_run=options.dry_run,
            )
    except KeyboardInterrupt:
        stopping.leave(RESUMES)
    sys.exit(code)


if __name__ == "__main__":
    huge_pages.use()
    stopping.listen(RESUMES)
    main()
