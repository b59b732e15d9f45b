"""Predict images: python -m experiments.predict --workdir=RUN --input FILES --output=DIR

FILES are images, NIfTI volumes, folders (also of DICOM slices), zip archives or patterns. Label
maps, probability maps, pictures and a table of lesions go to DIR, on the grid of each image (see
dicepp_jax/predictions/outputs.py). Finished cases are skipped, so the same command resumes after an
interruption; files that cannot be predicted are listed at the end, after all others, and make the
exit code 1.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from dicepp_jax.predictions.wanted import STORED, UINT8, Wanted
from experiments.setup import compiled, failures, huge_pages, stopping


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command line."""
    parser = argparse.ArgumentParser(
        "experiments.predict", description="Predict images with a trained run.", allow_abbrev=False
    )
    parser.add_argument(
        "--workdir", type=Path, required=True, help="the run's directory, or a saved model's"
    )
    parser.add_argument(
        "--input",
        nargs="+",
        action="extend",
        required=True,
        metavar="PATH",
        help="images, NIfTI volumes, folders (also of DICOM slices), zip archives, quoted patterns",
    )
    parser.add_argument("--output", type=Path, required=True, help="the folder of predictions")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--threshold", type=float, help="foreground where p >= it")
    how.add_argument("--recall", type=float, help="the threshold with this recall on validation")
    how.add_argument(
        "--precision", type=float, help="the threshold with this precision on validation"
    )
    parser.add_argument("--target", help="the class of the threshold, if there are several")
    parser.add_argument(
        "--calibrated",
        action="store_true",
        help="with the temperature that experiments.calibrate fitted for the run",
    )
    parser.add_argument(
        "--probabilities",
        choices=STORED,
        default=UINT8,
        help="how to store probability maps",
    )
    parser.add_argument(
        "--entropy", action="store_true", help="also write maps of the entropy, divided by ln C"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Predict the images of the command line."""
    options = parse(argv)
    from experiments.workdirs.prediction import predict

    compiled.keep()
    logging.set_verbosity(logging.FATAL)  # Orbax logs what it raises, too.
    with failures.reported():
        failed = predict(
            options.workdir.expanduser(),
            options.input,
            options.output.expanduser(),
            Wanted(options.probabilities, options.entropy),
            threshold=options.threshold,
            recall=options.recall,
            precision=options.precision,
            target=options.target,
            calibrated=options.calibrated,
        )
    lines = "\n".join(f"  {line}" for line in failed)
    cases = f"{len(failed)} case{'' if len(failed) == 1 else 's'}"
    sys.exit(f"error: {cases} failed:\n{lines}" if failed else 0)


if __name__ == "__main__":
    huge_pages.use()
    stopping.listen("the same command resumes after the last case")
    main()
