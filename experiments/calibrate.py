"""Calibrate trained networks after training: python -m experiments.calibrate RUN [RUN ...]

For one run, a temperature, or what another --method needs, is fitted to its validation split; the
scores of the test split go to RUN/temperature, or RUN/METHOD. For several runs, which differ in
their seed or fold, the mean of their predictions is scored: their ensemble, which goes to --output.
If all cases are in folds, so that there is no test split, each case has the score of the run that
was not trained on it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from experiments.setup import compiled, failures, huge_pages, stopping
from experiments.workdirs import derived


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command line."""
    parser = argparse.ArgumentParser(
        "experiments.calibrate",
        description="Calibration of a run, or the ensemble of several seeds or folds.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's --workdir")
    parser.add_argument(
        "--method", choices=derived.METHODS, help="of a single run, temperature by default"
    )
    parser.add_argument("--samples", type=int, help="of MC dropout, 20 by default")
    parser.add_argument("--output", type=Path, help="the folder of an ensemble's scores")
    parser.add_argument("--data_dir", help="of prepared sets, if not that of the run")
    parser.add_argument("--manual_dir", help="of the set's files, if not that of the run")
    options = parser.parse_args(argv)
    if (len(options.runs) > 1) != (options.output is not None):
        parser.error("several runs need --output=DIR, and a single run takes none")
    if options.output and options.method:
        parser.error(f"--method={options.method} is for a single run; omit it for an ensemble")
    if options.samples is not None and options.method != derived.MC_DROPOUT:
        parser.error(f"--samples is for --method={derived.MC_DROPOUT}")
    if options.samples is not None and options.samples < 1:
        parser.error(f"--samples is {options.samples}; it must be at least 1")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Calibrate the runs of the command line."""
    options = parse(argv)
    from dicepp_jax import score_files
    from experiments.training import posthoc

    compiled.keep()
    logging.set_verbosity(logging.FATAL)  # Orbax logs what it raises, too.
    workdirs = [path.expanduser() for path in options.runs]
    with failures.reported():
        if options.output:
            output = options.output.expanduser()
            text = posthoc.combine(workdirs, output, options.data_dir, options.manual_dir)
        else:
            method = options.method or derived.TEMPERATURE
            given = {} if options.samples is None else {"samples": options.samples}
            output = workdirs[0] / method
            text = posthoc.calibrate(
                workdirs[0], method, options.data_dir, options.manual_dir, **given
            )
    print(f"\n{text}\n\nscores: {output / score_files.FOLDER}")


if __name__ == "__main__":
    huge_pages.use()
    stopping.listen("the same command starts again")
    main()
