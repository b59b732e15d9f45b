"""Methods of calibrating a trained network: what is fitted, and the prediction with it."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dicepp_jax import affine, inference
from dicepp_jax.inference import Predict
from dicepp_jax.losses import from_probabilities
from dicepp_jax.losses.inputs import EPSILON
from dicepp_jax.progress import track
from dicepp_jax.scaling import fit_temperature
from experiments.setup import components
from experiments.setup.components import Components
from experiments.training.single import best_predictor
from experiments.workdirs import derived, finished

VOXELS = 2**16
"""Number of voxels of each validation case that a fit uses, drawn at random if it has more."""

NEIGHBOURED = 2**13
"""Likewise if a fit uses neighbours too, which take as much memory."""

KERNEL = 5
"""Length of the auxiliary network's kernel along each axis."""

SAMPLES = 20
"""Of MC dropout."""


class Calibrated(NamedTuple):
    """A trained network after calibration.

    Attributes:
      predict: its prediction.
      title: of the method with what was fitted, in a few words.
      fitted: the parameters, for `derived.json`.
      evaluations: of the network in a prediction.
    """

    predict: Predict
    title: str
    fitted: Mapping[str, Any]
    evaluations: int = 1


def temperature(config: ConfigDict, built: Components, workdir: Path) -> Calibrated:
    """Temperature scaling."""
    predict = best_predictor(config, built, workdir, finished.loss_of(config))
    found = fit(predict, built.splits["validation"], len(built.spec.classes))
    title = f"T = {found:.2f}"
    return Calibrated(inference.tempered(predict, found), title, {"temperature": found})


def mapped(
    kind: str,
    length: int,
    per_class: bool,
    config: ConfigDict,
    built: Components,
    workdir: Path,
) -> Calibrated:
    """An affine map of log-probabilities, with a kernel of a length along each axis."""
    predict = best_predictor(config, built, workdir, finished.loss_of(config))
    kernel = (length,) * built.spec.ndim
    count = VOXELS if length == 1 else NEIGHBOURED
    logits, labels = [], []
    for probs, label, chosen in _drawn(predict, built.splits["validation"], count):
        z = np.log(np.maximum(probs, EPSILON))
        logits.append(affine.neighbours(z, chosen, kernel))
        labels.append(label.reshape(-1)[chosen].astype(np.int32))
    found = affine.fit_affine(logits, labels, kernel, per_class=per_class)
    fitted = {name: value.tolist() for name, value in found._asdict().items()}
    title = derived.METHODS[kind]
    if length == 1:
        weights, offsets = (", ".join(f"{x:.2f}" for x in values.ravel()) for values in found)
        title += f" (weight {weights}; offset {offsets})"
    return Calibrated(inference.affine(predict, found), title, fitted)


def mc_dropout(
    config: ConfigDict, built: Components, workdir: Path, samples: int = SAMPLES
) -> Calibrated:
    """The mean prediction over random dropout masks.

    Raises:
      ValueError: if the network has no dropout.
    """
    if not config.model.dropout:
        raise ValueError(
            f"{workdir} was trained without dropout (model.dropout is 0), so that all samples of "
            "its predictions are equal; train a run with --config.model.dropout=0.5"
        )
    drawn = inference.Samples(samples, components.sample_key(config.seed))
    predict = best_predictor(config, built, workdir, finished.loss_of(config), drawn)
    title = f"{derived.METHODS[derived.MC_DROPOUT]}, {samples} samples"
    return Calibrated(predict, title, {"samples": samples}, samples)


CALIBRATORS: Mapping[str, Callable[..., Calibrated]] = {
    derived.TEMPERATURE: temperature,
    "platt": functools.partial(mapped, "platt", 1, False),
    "vector": functools.partial(mapped, "vector", 1, True),
    "auxiliary": functools.partial(mapped, "auxiliary", KERNEL, False),
    derived.MC_DROPOUT: mc_dropout,
}
"""Functions `(config, built, workdir) -> Calibrated` by the kinds of `derived.METHODS`."""


def fit(predict: Predict, cases: Sequence, num_classes: int) -> float:
    """The temperature that calibrates predictions of some cases.

    Args:
      predict: what to calibrate.
      cases: stored cases that the network was not trained on.
      num_classes: C.

    Returns:
      T, by `scaling.fit_temperature`.

    Raises:
      ValueError: if no T is best.
    """
    logits, labels, where = [], [], []
    for probs, label, chosen in _drawn(predict, cases, VOXELS):
        # All have one shape, so that they share a compilation.
        rest = (0, VOXELS - len(chosen))
        voxels = probs.reshape(-1, num_classes)[chosen]
        p = np.pad(voxels, (rest, (0, 0)), constant_values=1)
        y = np.pad(label.reshape(-1)[chosen].astype(np.int32), rest)
        logits.append(from_probabilities(jnp.asarray(p[None])))
        labels.append(jnp.asarray(y[None]))
        where.append(jnp.asarray(np.arange(VOXELS) < len(chosen))[None])
    return fit_temperature(logits, labels, where)


def _drawn(
    predict: Predict, cases: Sequence, count: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Probabilities and label of each case, and the numbers of at most so many of its voxels."""
    for index, case in enumerate(track(cases, "predicting validation", len(cases), "case")):
        label = case.get("native_label", case["label"])
        chosen = np.arange(label.size)
        if label.size > count:
            rng = np.random.default_rng([0, index])
            chosen = rng.choice(label.size, count, replace=False, shuffle=False)
        yield predict(case["image"], label.shape), label, chosen
