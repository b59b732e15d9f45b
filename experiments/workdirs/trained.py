"""Trained runs: their model and config, and the counts of their validation split by threshold."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from filelock import FileLock
from ml_collections import ConfigDict

from dicepp_jax import metrics, saved, train
from dicepp_jax.checkpoint import Checkpoints
from dicepp_jax.data import FOLDER, Spec
from dicepp_jax.metrics import Confusion
from dicepp_jax.predictions.decisions import THRESHOLDS
from dicepp_jax.progress import track
from dicepp_jax.rows import read_csv, write_csv
from experiments.setup import components
from experiments.workdirs import derived, directory, stored

CURVE = "validation_thresholds.csv"
CHUNK = 2**18
"""Number of voxels counted at a time, so that images of all sizes share one compilation."""


class ValidationCount(NamedTuple):
    """Confusion of a class at a threshold, over the validation split.

    Attributes:
      epoch: of the model.
      label: the class.
      threshold: foreground where p >= threshold.
      tp: true positives.
      fp: false positives.
      fn: false negatives.
      tn: true negatives.
      precision: by these counts.
      recall: by these counts.
    """

    epoch: int
    label: str
    threshold: float
    tp: int
    fp: int
    fn: int
    tn: int
    precision: float
    recall: float


def open_model(workdir: Path) -> saved.Model:
    """The model of a run's best epoch so far, saved into the run's directory if necessary.

    Args:
      workdir: the directory of a run, or one that contains only a saved model.

    Returns:
      The model.

    Raises:
      FileNotFoundError: if there is neither a run nor a model.
      ValueError: if there are several runs, no epoch is finished, or a file is broken.
    """
    if not workdir.exists():
        raise FileNotFoundError(f"{workdir} does not exist; give the --workdir of a run")
    directory.check_single(workdir)
    if not (workdir / directory.CHECKPOINTS).exists():
        return saved.load_model(workdir)
    with Checkpoints(workdir / directory.CHECKPOINTS, read_only=True) as checkpoints:
        epoch = checkpoints.best_epoch
        if epoch is None:
            raise ValueError(f"{workdir} has no checkpoint yet; wait for its first epoch")
        model = _saved_model(workdir, epoch)
        if model is None:
            # Of several processes that predict with a run, one saves the model.
            with FileLock(workdir / f".{saved.FOLDER}.lock"):
                if _saved_model(workdir, epoch) is None:
                    _save(workdir, checkpoints, epoch)
    return model or saved.load_model(workdir)


def _saved_model(workdir: Path, epoch: int) -> saved.Model | None:
    """The saved model, if it is that of this epoch."""
    if not (workdir / saved.FOLDER / saved.ABOUT).exists():
        return None
    model = saved.load_model(workdir)
    return model if model.about["epoch"] == epoch else None


def calibrated(workdir: Path, model: saved.Model) -> saved.Model:
    """A run's model with the temperature that experiments.calibrate fitted.

    Args:
      workdir: the run's directory.
      model: its model.

    Returns:
      The model after temperature scaling.

    Raises:
      FileNotFoundError: if none was fitted.
      ValueError: if the run has changed since.
    """
    folder = workdir / derived.TEMPERATURE
    if not (folder / derived.DERIVED).exists():
        raise FileNotFoundError(
            f"{workdir} has no temperature yet; fit it by python -m experiments.calibrate {workdir}"
        )
    return model.tempered(derived.read(folder)["temperature"])


def _save(workdir: Path, checkpoints: Checkpoints, epoch: int) -> None:
    config = read_config(workdir)
    spec = _read_spec(workdir, config)
    size = tuple(config.data.size) or spec.size
    model = components.make_model(config, spec, size)
    shape = (1, *size, spec.channels)
    like = jax.eval_shape(lambda: train.init_state(model, jax.random.key(0), shape))
    best = checkpoints.restore_best(like)
    assert best is not None and best.epoch == epoch
    saved.save_model(
        workdir,
        cast(train.ApplyFn, model.apply),
        best.state.params,
        spec,
        size,
        windows=components.windows(config, size),
        epoch=best.epoch,
        val_loss=best.val_loss,
        config=json.loads(config.to_json()),
    )


def read_config(workdir: Path) -> ConfigDict:
    """The config of a run; fields that did not exist when it began have their defaults.

    The folder of its data set's files is left out if it is gone: what was prepared from it is
    enough.
    """
    there = stored.read(workdir / directory.RUN, {"config": dict})["config"]
    config = ConfigDict(directory.completed(there))
    folder = config.data.manual_dir
    if config.data.name != FOLDER and folder and not Path(folder).expanduser().exists():
        config.data.manual_dir = ""
    return config


def _read_spec(workdir: Path, config: ConfigDict) -> Spec:
    if (workdir / directory.SPEC).exists():
        return directory.read_spec(workdir)
    # Runs from before this file existed were trained on whole images.
    return dataclasses.replace(components.find_data(config).spec, patches=False)


def validation_counts(workdir: Path, model: saved.Model) -> Confusion:
    """Counts of a run's validation split at `THRESHOLDS`, cached in its directory.

    Args:
      workdir: the run's directory.
      model: its model.

    Returns:
      `Confusion` of int64 arrays `(C, T)`.

    Raises:
      FileNotFoundError: if they have not been counted and the data are not available.
    """
    # They differ for a model after temperature scaling.
    folder = workdir / derived.TEMPERATURE if "temperature" in model.about else workdir
    path = folder / CURVE
    rows = read_csv(path, ValidationCount) if path.exists() else []
    if not rows or rows[0].epoch != model.about["epoch"]:
        try:
            rows = _count(workdir, model)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{path} has no counts for this model, and the validation images to count on are "
                f"not available: {error}"
            ) from error
        write_csv(path, rows)
    columns = np.array([(row.tp, row.fp, row.fn, row.tn) for row in rows], np.int64)
    return Confusion(*columns.T.reshape(4, len(model.classes), len(THRESHOLDS)))


def _count(workdir: Path, model: saved.Model) -> list[ValidationCount]:
    if not (workdir / directory.RUN).exists():
        raise FileNotFoundError(f"{workdir / directory.RUN}, which names them, does not exist")
    config = read_config(workdir)
    cases = components.open_data(config, components.find_data(config)).splits["validation"]
    print(f"counting the voxels of {len(cases)} validation cases, once for this model")
    counts = np.zeros((4, len(model.classes), len(THRESHOLDS)), np.int64)
    for case in track(cases, "thresholds on validation", len(cases), "case"):
        label = case.get("native_label", case["label"])
        # Stored volumes are at the model's spacing already.
        probs = model.predict(case["image"], model.spec.spacing, label.shape)
        for chunk in _chunks(probs, label):
            counts += np.array(metrics.threshold_counts(*chunk))[:, 0]
    return list(_rows(model, Confusion(*counts)))


def _chunks(probs: np.ndarray, label: np.ndarray) -> Iterator[tuple[jax.Array, ...]]:
    """The arguments of `threshold_counts` for the voxels of an image, part by part."""
    flat, true = probs.reshape(-1, probs.shape[-1]), label.reshape(-1).astype(np.int32)
    for start in range(0, len(true), CHUNK):
        p, y = flat[start : start + CHUNK], true[start : start + CHUNK]
        left = CHUNK - len(y)
        yield (
            jnp.asarray(np.pad(p, ((0, left), (0, 0)))[None]),
            jnp.asarray(np.pad(y, (0, left))[None]),
            jnp.asarray(THRESHOLDS),
            jnp.asarray(np.arange(CHUNK)[None] < len(y)),
        )


def _rows(model: saved.Model, counts: Confusion) -> Iterator[ValidationCount]:
    precision, recall = np.asarray(counts.precision), np.asarray(counts.recall)
    for c, label in enumerate(model.classes):
        for t, threshold in enumerate(THRESHOLDS):
            tp, fp, fn, tn = (int(n[c, t]) for n in counts)
            rates = float(precision[c, t]), float(recall[c, t])
            yield ValidationCount(
                model.about["epoch"], label, float(threshold), tp, fp, fn, tn, *rates
            )
