"""Prediction of images with a trained run."""

import functools
from collections.abc import Sequence
from pathlib import Path

from dicepp_jax.data import geometry
from dicepp_jax.predictions import images, outputs
from dicepp_jax.predictions.decisions import decide
from dicepp_jax.predictions.wanted import Wanted
from dicepp_jax.saved import PARAMS
from experiments.workdirs import trained


def predict(
    workdir: Path,
    inputs: Sequence[str],
    output: Path,
    wanted: Wanted,
    *,
    threshold: float | None = None,
    recall: float | None = None,
    precision: float | None = None,
    target: str | None = None,
    calibrated: bool = False,
) -> list[str]:
    """Predict images and write the files of each case; finished cases are skipped.

    Args:
      workdir: of the run, or of a saved model.
      inputs: files, folders, zip archives and patterns.
      output: the folder of all predictions.
      wanted: what to write besides masks.
      threshold: foreground where p >= it; at most one of this and the next two is given.
      recall: the wanted recall on validation.
      precision: the wanted precision on validation.
      target: the class of the threshold, if there are several.
      calibrated: whether to use the temperature that was fitted for the run.

    Returns:
      Why cases failed, one line each.

    Raises:
      FileNotFoundError: if an input, the run, or the validation images that a recall or a precision
        needs do not exist.
      ValueError: if an option is invalid, or the folder has predictions made with other settings.
    """
    model = trained.open_model(workdir)
    if calibrated:
        model = trained.calibrated(workdir, model)
    about, epochs = model.about, model.about["epoch"] + 1
    print(
        f"model: {model.spec.title}, {', '.join(model.classes)}, {epochs} "
        f"epoch{'' if epochs == 1 else 's'}, validation loss {about['val_loss']:.4f}"
        + (f", temperature {about['temperature']:.2f}" if calibrated else "")
    )
    cases = images.find(inputs, model.spec, output)
    decision = decide(
        model.classes,
        target,
        functools.partial(trained.validation_counts, workdir, model),
        threshold=threshold,
        recall=recall,
        precision=precision,
    )
    print(f"classes: {decision.description}")
    settings = {
        "classes": list(model.classes),
        "threshold": decision.threshold,
        "target": None if decision.threshold is None else model.classes[decision.target],
        **wanted._asdict(),
        "network": about["sha256"][PARAMS][:16],
        "temperature": about.get("temperature"),
    }
    record = {
        "decision": decision.description,
        "run": str(workdir.resolve()),
        "dataset": model.spec.title,
        "loss": about["config"].get("loss"),
        "seed": about["config"].get("seed"),
        "epochs": epochs,
    }
    outputs.write_settings(output, settings, record)
    left = [case for case in cases if not outputs.is_done(model, case, output, wanted)]
    if len(left) < len(cases):
        print(f"{len(cases) - len(left)} of {len(cases)} cases are already done")
    failed, remarks = outputs.predict_cases(model, left, output, decision, wanted)
    for line in geometry.summary(remarks):
        print(f"geometry: {line}")
    print(f"{len(cases) - len(failed)} of {len(cases)} cases are in {output}")
    return failed
