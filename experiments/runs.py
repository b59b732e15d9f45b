"""A run's directory, opened to predict: its model, and how its validation split thresholds."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import base
from dicepp_jax import metrics, saved, train
from dicepp_jax.checkpoint import Checkpoints
from dicepp_jax.data import Spec
from dicepp_jax.inference import Windows
from dicepp_jax.metrics import Confusion
from dicepp_jax.progress import track
from dicepp_jax.rows import read_csv, write_csv
from experiments import derived, parts, record

CHECKPOINTS = "checkpoints"
CURVE = "validation_thresholds.csv"
THRESHOLDS: np.ndarray = np.arange(1, 1000) / 1000
"""Finer than the paper's 0.05, ..., 0.95, beyond which overconfident networks have much."""
CHUNK = 2**18
"""So many voxels are counted at a time: images of all sizes share one compilation."""


class Count(NamedTuple):
    """Voxels of the validation split that are called of a class at a threshold.

    Attributes:
      epoch: of the model.
      label: the class.
      threshold: foreground where p >= threshold.
      tp: true positives.
      fp: false positives.
      fn: false negatives.
      tn: true negatives.
      precision: of these counts.
      recall: of these counts.
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
    """The model of a run's best epoch so far, which is saved into the run's directory if need be.

    Args:
      workdir: the run's directory, or one that holds nothing but a saved model.

    Returns:
      The model.

    Raises:
      FileNotFoundError: if there is neither a run nor a model.
      ValueError: if there are several runs, no epoch is finished, or a file is broken.
    """
    if not workdir.exists():
        raise FileNotFoundError(f"there is no run {workdir}; give the --workdir of one")
    if not (workdir / CHECKPOINTS).exists():
        members = sorted(path.parent.name for path in workdir.glob(f"*/{CHECKPOINTS}"))
        if members:
            raise ValueError(
                f"{workdir} holds several runs; give one of them: "
                f"{', '.join(f'--workdir={workdir / name}' for name in members)}"
            )
        return saved.load_model(workdir)
    with Checkpoints(workdir / CHECKPOINTS, read_only=True) as checkpoints:
        epoch = checkpoints.best_epoch
        if epoch is None:
            raise ValueError(f"{workdir} holds no checkpoint yet; wait for its first epoch")
        if (workdir / saved.FOLDER / saved.ABOUT).exists():
            model = saved.load_model(workdir)
            if model.about["epoch"] == epoch:
                return model
        _save(workdir, checkpoints, epoch)
    return saved.load_model(workdir)


def calibrated(workdir: Path, model: saved.Model) -> saved.Model:
    """A run's model with the temperature that experiments.calibrate has fitted.

    Args:
      workdir: the run's directory.
      model: its model.

    Returns:
      The model after temperature scaling.

    Raises:
      FileNotFoundError: if none has been fitted.
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
    model = parts.make_model(config, spec, size)
    shape = (1, *size, spec.channels)
    like = jax.eval_shape(lambda: train.init_state(model, jax.random.key(0), shape))
    best = checkpoints.restore(epoch, like)
    saved.save_model(
        workdir,
        cast(train.ApplyFn, model.apply),
        best.state.params,
        spec,
        size,
        windows=Windows(
            parts.overlap(config, size),
            config.inference.weighting,
            config.inference.batch_size,
            config.inference.mirror,
        ),
        epoch=best.epoch,
        val_loss=best.val_loss,
        config=json.loads(config.to_json()),
    )


def read_config(workdir: Path) -> ConfigDict:
    """The config of a run; fields that it is older than have their defaults."""
    kept = json.loads((workdir / record.RUN).read_text())["config"]
    return ConfigDict(_merged(json.loads(base.get_config().to_json()), kept))


def _merged(defaults: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    both = defaults | kept
    return {
        name: _merged(defaults.get(name, {}), value) if isinstance(value, dict) else value
        for name, value in both.items()
    }


def _read_spec(workdir: Path, config: ConfigDict) -> Spec:
    if (workdir / record.SPEC).exists():
        return record.read_spec(workdir)
    # Runs that are older than this file were trained on whole images.
    return dataclasses.replace(parts.find(config).spec, patches=False)


def validation_counts(workdir: Path, model: saved.Model) -> Confusion:
    """Counts of a run's validation split at `THRESHOLDS`, measured once and kept in its directory.

    Args:
      workdir: the run's directory.
      model: its model.

    Returns:
      `Confusion` of int64 arrays `(C, T)`.

    Raises:
      FileNotFoundError: if they have not been measured and the data are not at hand.
    """
    # Of a model after temperature scaling there are others.
    folder = workdir / derived.TEMPERATURE if "temperature" in model.about else workdir
    path = folder / CURVE
    kept = read_csv(path, Count) if path.exists() else []
    if not kept or kept[0].epoch != model.about["epoch"]:
        try:
            kept = _measure(workdir, model)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"there is no {path} of this model, and the validation images that it is measured "
                f"on are not at hand: {error}"
            ) from error
        write_csv(path, kept)
    columns = np.array([(row.tp, row.fp, row.fn, row.tn) for row in kept], np.int64)
    return Confusion(*columns.T.reshape(4, len(model.classes), len(THRESHOLDS)))


def _measure(workdir: Path, model: saved.Model) -> list[Count]:
    if not (workdir / record.RUN).exists():
        raise FileNotFoundError(f"there is no {workdir / record.RUN}, which says what they are")
    config = read_config(workdir)
    cases = parts.open_set(config, parts.find(config)).splits["validation"]
    print(f"counting the voxels of {len(cases)} validation cases, which is done once")
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


def _rows(model: saved.Model, counts: Confusion) -> Iterator[Count]:
    precision, recall = np.asarray(counts.precision), np.asarray(counts.recall)
    for c, label in enumerate(model.classes):
        for t, threshold in enumerate(THRESHOLDS):
            tp, fp, fn, tn = (int(n[c, t]) for n in counts)
            rates = float(precision[c, t]), float(recall[c, t])
            yield Count(model.about["epoch"], label, float(threshold), tp, fp, fn, tn, *rates)
