"""The paper's tables from finished runs: python -m experiments.report WORKDIR [WORKDIR ...]

Reads the scores of runs, of grids and of experiments.calibrate below one or several directories; it
trains and predicts nothing. To --output, by default the folder "report" of the first directory, it
writes report.html, a self-contained file; report.md; tables/*.tex, which need the package booktabs;
figures/*.png; tables.csv, comparisons.csv and curves.csv, every number in long form. Equal runs
give equal files.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.report.contents import DRAWN, FOLDER
from experiments.setup import failures


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command line."""
    parser = argparse.ArgumentParser(
        "experiments.report",
        description="Write the tables and figures of the DSC++ paper from finished runs.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "workdirs", nargs="+", type=Path, metavar="WORKDIR", help="of runs, or above several"
    )
    parser.add_argument("--output", type=Path, help=f"by default {FOLDER} in the first WORKDIR")
    parser.add_argument(
        "--figures",
        choices=DRAWN,
        default=DRAWN[0],
        help="numbers omits figures that show images of the data sets, which you may not be "
        "allowed to pass on; none draws nothing",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the report of the command line."""
    options = parse(argv)
    from experiments.report.write import write

    workdirs = [path.expanduser() for path in options.workdirs]
    with failures.reported():
        output = (options.output or workdirs[0] / FOLDER).expanduser()
        print(write(workdirs, output, options.figures))


if __name__ == "__main__":
    main()
