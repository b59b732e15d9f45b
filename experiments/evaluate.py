"""Score label maps: python -m experiments.evaluate --predictions=DIR --truth=DIR

DIR of the predictions is what experiments.predict wrote, or any folder of label maps; instead of a
folder a pattern may be given, such as 'truth/{case}_manual1.gif'. A prediction and its truth have
the same name. Of several raters, as in --truth='truth/{rater}/{case}.png', the first is the truth,
and a table shows the scores against all. Every metric is computed on their grid; distances in mm
where files say how large voxels are; calibration where there are probability maps. Cases that
cannot be scored are listed at the end, after all others, and make the exit code 1.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.setup import compiled, failures, stopping


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command line."""
    parser = argparse.ArgumentParser(
        "experiments.evaluate", description="Score label maps.", allow_abbrev=False
    )
    place = "a folder, or a pattern like 'FOLDER/{case}_mask.png'"
    parser.add_argument("--predictions", required=True, metavar="PLACE", help=place)
    parser.add_argument("--truth", required=True, metavar="PLACE", help=place)
    parser.add_argument("--output", type=Path, help="the folder for cases.csv and summary.csv")
    parser.add_argument(
        "--classes", default="", help="background,NAME,...; by default those of the predictions"
    )
    parser.add_argument(
        "--tolerance", type=float, default=1.0, metavar="MM", help="of the surface Dice, 1 mm"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Score what the command line names."""
    options = parse(argv)
    from dicepp_jax.predictions import label_maps

    compiled.keep()
    with failures.reported():
        failed = label_maps.evaluate(
            options.predictions, options.truth, options.classes, options.tolerance, options.output
        )
    lines = "\n".join(f"  {line}" for line in failed)
    sys.exit(f"error: not everything could be scored:\n{lines}" if failed else 0)


if __name__ == "__main__":
    stopping.listen("the same command starts again")
    main()
