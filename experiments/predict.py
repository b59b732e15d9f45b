"""Predict images: python -m experiments.predict --workdir=RUN --input FILES --output=DIR

FILES are images, NIfTI volumes, folders, zip archives or patterns. Label maps, probability maps and
pictures go to DIR, on the grid of each image (see experiments/outputs.py). What is there already is
passed over, so that the same command goes on after an interruption; a file that cannot be predicted
is told at the end, after all others, and makes the exit code 1.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from dicepp_jax import metrics
from dicepp_jax.progress import track
from dicepp_jax.saved import PARAMS, Model, segment
from experiments import inputs, outputs, record, runs

SETTINGS = "prediction.json"
INTERRUPTED = 130


class Decision(NamedTuple):
    """How a voxel's class is decided.

    Attributes:
      threshold: foreground where p >= it, None for the most likely class.
      target: the class that it is for, a number.
      told: how it came about.
    """

    threshold: float | None
    target: int
    told: str


def decide(
    model: Model,
    workdir: Path,
    target: str | None,
    *,
    threshold: float | None = None,
    recall: float | None = None,
    precision: float | None = None,
) -> Decision:
    """How voxels' classes are decided; at most one of the last three is given.

    Args:
      model: that predicts.
      workdir: of its run, whose validation split gives the threshold for a recall or precision.
      target: the class to be called by a threshold; may be left out if there is one.
      threshold: the threshold.
      recall: the recall wanted.
      precision: the precision wanted.

    Returns:
      The decision.

    Raises:
      ValueError: if a value cannot be had, or the class is not told or unknown.
      FileNotFoundError: if the validation images are needed and not at hand.
    """
    wanted = {"recall": recall, "precision": precision}
    asked = {name: value for name, value in wanted.items() if value is not None}
    if threshold is None and not asked:
        if target is not None:
            raise ValueError(
                f"--target={target} is the class of a threshold; give --threshold, --recall or "
                "--precision as well, or leave it out"
            )
        return Decision(None, 1, "the most likely class")
    index = _index(model, target)
    label = model.classes[index]
    if threshold is not None:
        if not 0 < threshold <= 1:
            raise ValueError(f"--threshold is {threshold}; it must be above 0 and at most 1")
        return Decision(threshold, index, f"{label} where p >= {threshold:g}")
    ((name, value),) = asked.items()
    if not 0 < value <= 1:
        raise ValueError(f"--{name} is {value}; it must be above 0 and at most 1")
    counts = jax.tree.map(lambda n: n[index], runs.validation_counts(workdir, model))
    found = float(metrics.threshold_for(counts, jnp.asarray(runs.THRESHOLDS), **asked))
    reached = {name: np.asarray(getattr(counts, name)) for name in wanted}
    if np.isnan(reached[name]).all():
        raise ValueError(f"the {name} of {label} is not defined on validation, which has none")
    grid = runs.THRESHOLDS
    if np.isnan(found):
        best = int(np.nanargmax(reached[name]))
        raise ValueError(
            f"no threshold from {grid[0]:g} to {grid[-1]:g} has a {name} of {value:g} for {label} "
            f"on validation; the highest is {reached[name][best]:.4f}, at {grid[best]:g}"
        )
    there = int(np.argmin(np.abs(grid - found)))
    rates = " and ".join(f"{name} {values[there]:.4f}" for name, values in reached.items())
    exact = float(grid[there])
    return Decision(exact, index, f"{label} where p >= {exact:g}, {rates} on validation")


def _index(model: Model, target: str | None) -> int:
    foreground = model.classes[1:]
    if target is None and len(foreground) == 1:
        return 1
    if target not in foreground:
        found = "no --target" if target is None else f"--target={target}"
        raise ValueError(f"{found}; a threshold is for one class: {', '.join(foreground)}")
    return model.classes.index(target)


def predict(
    model: Model, cases: Sequence[inputs.Case], output: Path, decision: Decision, stored: str
) -> list[str]:
    """Predict cases and write what comes out; those that are done are passed over.

    Args:
      model: that predicts.
      cases: the images.
      output: the folder of all predictions.
      decision: how voxels' classes are decided.
      stored: how probabilities are, one of `outputs.STORED`.

    Returns:
      What went wrong, one line a case.
    """
    failed = []
    for case in track(cases, "predicting", len(cases), "case"):
        try:
            picture = inputs.read(case, model.spec)
            probs = model.predict(picture.array, picture.spacing)
            mask = segment(probs, decision.threshold, decision.target)
            to = outputs.paths(output, case, model.spec, stored)
            outputs.write(to, picture, probs, mask, model.classes, stored)
        except (ValueError, OSError) as error:
            failed.append(f"{case.name}: {error}")
    return failed


def keep_settings(output: Path, settings: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write how predictions are made into their folder.

    Args:
      output: the folder.
      settings: what all predictions in it have in common.
      about: what else is worth knowing.

    Raises:
      ValueError: if there are predictions of other settings.
    """
    path = output / SETTINGS
    before = json.loads(path.read_text()) if path.exists() else settings
    changes = [
        f"{name} {before.get(name)} there, {value} here"
        for name, value in settings.items()
        if before.get(name) != value
    ]
    if changes:
        raise ValueError(
            f"{output} holds predictions that were made otherwise ({'; '.join(changes)}); give "
            "another --output, or delete that one"
        )
    output.mkdir(parents=True, exist_ok=True)
    record.write_text(path, json.dumps({**settings, **about}, indent=2) + "\n")


def run(options: argparse.Namespace) -> int:
    """Predict what the options say.

    Returns:
      The exit code.
    """
    workdir, output = options.workdir.expanduser(), options.output.expanduser()
    model = runs.open_model(workdir)
    if options.calibrated:
        model = runs.calibrated(workdir, model)
    about = model.about
    epochs = about["epoch"] + 1
    print(
        f"model: {model.spec.title}, {', '.join(model.classes)}, {epochs} "
        f"epoch{'' if epochs == 1 else 's'}, "
        f"validation loss {about['val_loss']:.4f}"
        + (f", temperature {about['temperature']:.2f}" if options.calibrated else "")
    )
    cases = inputs.find(options.input, model.spec, output)
    asked = {name: getattr(options, name) for name in ("threshold", "recall", "precision")}
    decision = decide(model, workdir, options.target, **asked)
    print(f"classes: {decision.told}")
    settings = {
        "classes": list(model.classes),
        "threshold": decision.threshold,
        "target": None if decision.threshold is None else model.classes[decision.target],
        "probabilities": options.probabilities,
        "network": about["sha256"][PARAMS][:16],
        "temperature": about.get("temperature"),
    }
    config = about["config"]
    keep_settings(
        output,
        settings,
        {
            "decision": decision.told,
            "run": str(workdir.resolve()),
            "dataset": model.spec.title,
            "loss": config.get("loss"),
            "seed": config.get("seed"),
            "epochs": epochs,
        },
    )
    left = [case for case in cases if not _is_done(model, case, output, options.probabilities)]
    if len(left) < len(cases):
        print(f"{len(cases) - len(left)} of {len(cases)} cases are done already")
    failed = predict(model, left, output, decision, options.probabilities)
    print(f"{len(cases) - len(failed)} of {len(cases)} cases are in {output}")
    if failed:
        lines = "\n".join(f"  {line}" for line in failed)
        print(f"error: {len(failed)} of {len(cases)} cases failed:\n{lines}", file=sys.stderr)
    return 1 if failed else 0


def _is_done(model: Model, case: inputs.Case, output: Path, stored: str) -> bool:
    """Whether all files of a case are there, newer than the model and than the image."""
    sources = [model.path, *(Path(file.where) for file in case.files)]
    # Where a member of an archive is, is no path.
    newest = max(path.stat().st_mtime for path in sources if path.exists())
    return outputs.paths(output, case, model.spec, stored).newer_than(newest)


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
        help="images, NIfTI volumes, folders, zip archives or quoted patterns",
    )
    parser.add_argument("--output", type=Path, required=True, help="the folder of predictions")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--threshold", type=float, help="foreground where p >= it")
    how.add_argument("--recall", type=float, help="the threshold with this recall on validation")
    how.add_argument("--precision", type=float, help="that with this precision on validation")
    parser.add_argument("--target", help="the class of the threshold, if there are several")
    parser.add_argument(
        "--calibrated",
        action="store_true",
        help="with the temperature that experiments.calibrate has fitted for the run",
    )
    parser.add_argument(
        "--probabilities",
        choices=outputs.STORED,
        default=outputs.UINT8,
        help="how probability maps are stored",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Predict what the command line says."""
    options = parse(argv)
    logging.set_verbosity(logging.ERROR)  # Orbax tells of every file it opens.
    try:
        code = run(options)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted; the same command goes on after the last case", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(code)


if __name__ == "__main__":
    main()
