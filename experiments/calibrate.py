"""Calibrate trained networks without training: python -m experiments.calibrate RUN [RUN ...]

Of one run a temperature is fitted to its validation split; the scores of the test split after
scaling go to RUN/temperature. Of several runs, which differ in their seed, the mean of what they
predict is scored: their deep ensemble, which goes to --output.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from dicepp_jax import inference
from dicepp_jax.calibrate import fit_temperature
from dicepp_jax.losses import from_probabilities
from dicepp_jax.progress import track
from dicepp_jax.rows import Row, read_csv, summarise
from experiments import cli, derived, parts, record, runs, scores, table
from experiments.run import best_predictor

VOXELS = 2**16
"""Of each validation case so many voxels are looked at, drawn at random if it has more."""


def temper(workdir: Path, data_dir: str | None = None, manual_dir: str | None = None) -> str:
    """Fit a temperature to a run's validation split and score its test split with it.

    Args:
      workdir: of the run; the scores go to its folder "temperature".
      data_dir: where prepared sets are, None as for the run.
      manual_dir: where the set's files are, None as for the run.

    Returns:
      A table of the scores before and after.

    Raises:
      FileNotFoundError: if there is no run or its images are not at hand.
      ValueError: if the images are others, or no temperature is best.
    """
    _check(workdir)
    with record.held(workdir):
        config, made = _open(workdir, data_dir, manual_dir)
        predict = best_predictor(config, made, workdir, config.loss.name)
        temperature = fitted(predict, made.splits["validation"], len(made.spec.classes))
        print(f"{config.loss.name}: T = {temperature:.3f}")
        folder = workdir / derived.TEMPERATURE
        (folder / runs.CURVE).unlink(missing_ok=True)
        scored = scores.score(inference.tempered(predict, temperature), config, made, folder)
        derived.write(folder, derived.TEMPERATURE, [workdir], temperature)
    before = read_csv(workdir / scores.FOLDER / scores.CASES, Row)
    names = config.loss.name, f"{config.loss.name}, T = {temperature:.2f}"
    return _report(dict(zip(names, (before, scored.rows), strict=True)), made)


def fitted(predict: inference.Predict, cases: Sequence, num_classes: int) -> float:
    """The temperature for what is predicted of some cases.

    Args:
      predict: what to calibrate.
      cases: stored cases that it was not trained on.
      num_classes: C.

    Returns:
      T, by `calibrate.fit_temperature`.

    Raises:
      ValueError: if no T is best.
    """
    logits, labels, where = [], [], []
    for index, case in enumerate(track(cases, "predicting validation", len(cases), "case")):
        label = case.get("native_label", case["label"])
        probs = predict(case["image"], label.shape).reshape(-1, num_classes)
        chosen = np.arange(label.size)
        if label.size > VOXELS:
            rng = np.random.default_rng([0, index])
            chosen = rng.choice(label.size, VOXELS, replace=False, shuffle=False)
        # All of one shape, so that they share a compilation.
        rest = (0, VOXELS - len(chosen))
        p = np.pad(probs[chosen], (rest, (0, 0)), constant_values=1)
        y = np.pad(label.reshape(-1)[chosen].astype(np.int32), rest)
        logits.append(from_probabilities(jnp.asarray(p[None])))
        labels.append(jnp.asarray(y[None]))
        where.append(jnp.asarray(np.arange(VOXELS) < len(chosen))[None])
    return fit_temperature(logits, labels, where)


def combine(
    workdirs: Sequence[Path],
    output: Path,
    data_dir: str | None = None,
    manual_dir: str | None = None,
) -> str:
    """Score the ensemble of runs on their test split.

    Args:
      workdirs: of the runs.
      output: the folder of the scores.
      data_dir: where prepared sets are, None as for the runs.
      manual_dir: where the set's files are, None as for the runs.

    Returns:
      A table of the scores of each and of all together.

    Raises:
      FileNotFoundError: if there is no run or its images are not at hand.
      ValueError: if the runs differ in more than their seed, the images are others, or the folder
        is a run's.
    """
    if (output / record.RUN).exists() or (
        scores.is_complete(output) and not (output / derived.DERIVED).exists()
    ):
        raise ValueError(
            f"{output} holds a run, whose scores would be lost; give a --output of its own"
        )
    for workdir in workdirs:
        _check(workdir)
    opened = [_open(workdir, data_dir, manual_dir) for workdir in workdirs]
    configs = [config for config, _ in opened]
    for workdir, config in zip(workdirs[1:], configs[1:], strict=True):
        changes = record.differences(configs[0], config, (*record.FREE, "seed"))
        if changes:
            raise ValueError(
                f"{workdirs[0]} and {workdir} differ in more than their seed "
                f"({'; '.join(changes)}); give runs of one config"
            )
    if len({config.seed for config in configs}) < len(configs):
        raise ValueError("two of the runs have the same seed; give each run once")
    predicts = [
        best_predictor(config, made, workdir, str(workdir))
        for (config, made), workdir in zip(opened, workdirs, strict=True)
    ]
    config, made = opened[0]
    with record.held(output):
        scored = scores.score(inference.ensemble(predicts), config, made, output)
        derived.write(output, derived.ENSEMBLE, workdirs)
    rows = {
        f"seed {config.seed}": read_csv(workdir / scores.FOLDER / scores.CASES, Row)
        for config, workdir in zip(configs, workdirs, strict=True)
    }
    return _report({**rows, "ensemble": scored.rows}, made)


def _check(workdir: Path) -> None:
    """Refuse what is no run that has been scored."""
    if not (workdir / record.RUN).exists():
        raise FileNotFoundError(
            f"there is no {workdir / record.RUN}; give the --workdir of experiments.run"
        )
    members = sorted(path.parent.name for path in workdir.glob(f"*/{runs.CHECKPOINTS}"))
    if members:
        raise ValueError(
            f"{workdir} holds several runs; give one of them: "
            f"{', '.join(str(workdir / name) for name in members)}"
        )
    if not scores.is_complete(workdir):
        raise FileNotFoundError(
            f"{workdir} is not scored; give the command of that run again, which goes on with it"
        )


def _open(
    workdir: Path, data_dir: str | None, manual_dir: str | None
) -> tuple[ConfigDict, parts.Parts]:
    config = runs.read_config(workdir)
    if data_dir is not None:
        config.data.data_dir = data_dir
    if manual_dir is not None:
        config.data.manual_dir = manual_dir
    made = parts.make(config)
    if made.loaded.digest != json.loads((workdir / record.RUN).read_text())["data"]:
        raise ValueError(
            f"the cases of {made.spec.title}, their masks or their split are not those of {workdir}"
        )
    return config, made


def _report(rows: dict[str, list[Row]], made: parts.Parts) -> str:
    summaries = {name: summarise(group) for name, group in rows.items()}
    title = f"Test split of {made.spec.title}, mean ± bootstrap standard error"
    return f"{title}\n{table.summary_table(summaries, made.spec.classes[0])}"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command line."""
    parser = argparse.ArgumentParser(
        "experiments.calibrate",
        description="Temperature scaling of a run, or the deep ensemble of several.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's --workdir")
    parser.add_argument("--output", type=Path, help="the folder of an ensemble's scores")
    parser.add_argument("--data_dir", help="of prepared sets, if not as for the run")
    parser.add_argument("--manual_dir", help="of the set's files, if not as for the run")
    options = parser.parse_args(argv)
    if (len(options.runs) > 1) != (options.output is not None):
        parser.error("--output is for several runs, and they need one")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Calibrate what the command line says."""
    options = parse(argv)
    logging.set_verbosity(logging.ERROR)  # Orbax tells of every file it opens.
    workdirs = [path.expanduser() for path in options.runs]
    try:
        if options.output:
            output = options.output.expanduser()
            text = combine(workdirs, output, options.data_dir, options.manual_dir)
        else:
            output = workdirs[0] / derived.TEMPERATURE
            text = temper(workdirs[0], options.data_dir, options.manual_dir)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        cli.leave("the same command begins anew")
    print(f"\n{text}\n\nscores: {output / scores.FOLDER}")


if __name__ == "__main__":
    main()
