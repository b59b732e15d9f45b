"""Score runs off distribution: python -m experiments.shift RUN [RUN ...]

The test split of each run is predicted under blur, noise, contrast, brightness and JPEG at five
severities, and scored like the clean one; --shifted=FOLDER adds a data set of your own with the
same classes. Several runs on one data set are compared. The scores of each run are kept in its
folder shift, so that the same command goes on after an interruption; to --output, by default the
folder shift of the first run, go shift.csv, every number in long form; summary.csv and summary.txt,
means with bootstrap errors; and shift.png.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from dicepp_jax.corruptions import CORRUPTIONS, MOST
from experiments.setup import compiled, failures, huge_pages, stopping


def _names(text: str) -> list[str]:
    """Corruptions from NAME,NAME,..."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in CORRUPTIONS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"{unknown[0]!r} is no corruption; known: {', '.join(CORRUPTIONS)}"
        )
    return list(dict.fromkeys(names))


def _severities(text: str) -> list[int]:
    """Severities from NUMBER,NUMBER,..."""
    known = [str(severity) for severity in range(1, MOST + 1)]
    given = [number.strip() for number in text.split(",")]
    if not set(given) <= set(known):
        raise argparse.ArgumentTypeError(f"{text!r}; expected numbers from 1 to {MOST}, as 1,3,5")
    return sorted(set(map(int, given)))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command line."""
    parser = argparse.ArgumentParser(
        "experiments.shift", description="Score runs off distribution.", allow_abbrev=False
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="a run's --workdir, its folder temperature, or an ensemble of experiments.calibrate",
    )
    parser.add_argument(
        "--corruptions",
        type=_names,
        default=list(CORRUPTIONS),
        metavar="NAME,...",
        help=f"by default {','.join(CORRUPTIONS)}; empty for --shifted alone",
    )
    parser.add_argument(
        "--severities",
        type=_severities,
        default=list(range(1, MOST + 1)),
        metavar="NUMBER,...",
        help=f"from 1 to {MOST}, by default all",
    )
    parser.add_argument(
        "--shifted", type=Path, metavar="FOLDER", help="your own data set with the same classes"
    )
    parser.add_argument("--output", type=Path, help="by default shift in the first RUN")
    parser.add_argument("--data_dir", help="of prepared sets, if not that of the runs")
    parser.add_argument("--manual_dir", help="of the set's files, if not that of the runs")
    options = parser.parse_args(argv)
    if not (options.corruptions or options.shifted):
        parser.error("nothing requested; give --corruptions=blur or --shifted=FOLDER")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Score the runs of the command line."""
    options = parse(argv)
    from experiments.training import shifted

    compiled.keep()
    logging.set_verbosity(logging.FATAL)  # Orbax logs what it raises, too.
    workdirs = [path.expanduser() for path in options.runs]
    output = (options.output or workdirs[0] / shifted.FOLDER).expanduser()
    with failures.reported():
        text = shifted.score_shifts(
            workdirs,
            output,
            options.corruptions,
            options.severities,
            second=options.shifted and options.shifted.expanduser(),
            data_dir=options.data_dir,
            manual_dir=options.manual_dir,
        )
    print(f"\n{text}\n\ntables and figure: {output}")


if __name__ == "__main__":
    huge_pages.use()
    stopping.listen("the same command goes on after the last shift that was scored")
    main()
