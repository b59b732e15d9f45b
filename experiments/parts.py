"""From a config to the parts of an experiment; configs do not travel below this file."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from dicepp_jax import data, losses, schedule, train
from dicepp_jax.augment import augment
from dicepp_jax.data import pipeline
from dicepp_jax.models import MODELS

AUGMENTATIONS = ("mirror", "brightness", "elastic", "rotate", "scale")


class Parts(NamedTuple):
    """What an experiment is made of.

    Attributes:
      spec: facts of the data set.
      size: the network's spatial size.
      splits: stored cases by split.
      model: the network.
      loss: `(logits, labels) -> (B,)`.
      augment: `(key, image, label) -> (image, label)`.
      settings: of the schedule.
    """

    spec: data.Spec
    size: tuple[int, ...]
    splits: Mapping[str, Sequence[Any]]
    model: nn.Module
    loss: train.LossFn
    augment: train.AugmentFn
    settings: schedule.Settings

    @property
    def apply(self) -> train.ApplyFn:
        """From parameters and images to logits."""
        return cast(train.ApplyFn, self.model.apply)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image as the network sees it."""
        return (*self.size, self.spec.channels)


def make(config: ConfigDict) -> Parts:
    """The parts of a single run, checked before anything is computed.

    Raises:
      ValueError: if a field's value is none it can have, naming the field.
      FileNotFoundError: if the data set's files are missing.
    """
    spec = data.find_set(config.data.name).spec
    size = tuple(config.data.size) or spec.size
    if len(size) != spec.ndim:
        raise ValueError(f"data.size is {size}; {spec.title} has {spec.ndim} spatial axes")
    _check_minima(config, size)
    model = make_model(config, spec)
    loss = losses.get_loss(config.loss.name, **hyper(config))
    probabilities = {f"p_{name}": config.augment[name] for name in AUGMENTATIONS}
    augmentation = functools.partial(augment, **probabilities)
    # Traced, they refuse values that they cannot have before there is data or a directory.
    label = jax.ShapeDtypeStruct(size, jnp.int32)
    logits = jax.ShapeDtypeStruct((1, *size, len(spec.classes)), jnp.float32)
    image = jax.ShapeDtypeStruct((*size, spec.channels), jnp.float32)
    jax.eval_shape(lambda z, y: loss(z, y[None]), logits, label)
    jax.eval_shape(augmentation, jax.random.key(0), image, label)
    settings = {name: config.train[name] for name in schedule.Settings._fields}
    splits = data.load(config.data.name, config.data.data_dir, config.data.manual_dir)
    return Parts(
        spec,
        size,
        splits,
        model,
        loss,
        augmentation,
        schedule.Settings(**settings),
    )


def _check_minima(config: ConfigDict, size: tuple[int, ...]) -> None:
    """Refuse numbers too small to mean anything, naming the field."""
    minima = {
        "seed": (config.seed, 0),
        "data.size": (min(size), 1),
        "data.batch_size": (config.data.batch_size, 1),
        "data.cache_gib": (config.data.cache_gib, 0),
        "model.filters": (config.model.filters, 1),
        "model.depth": (config.model.depth, 0),
        "train.epochs": (config.train.epochs, 1),
        "train.learning_rate": (config.train.learning_rate, 0),
        "train.patience": (config.train.patience, 1),
        "train.stop_patience": (config.train.stop_patience, 1),
        "evaluation.figures": (config.evaluation.figures, 0),
    }
    for name, (value, least) in minima.items():
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")


def hyper(config: ConfigDict) -> dict[str, float]:
    """The loss's hyper-parameters that the config sets."""
    return {k: v for k, v in config.loss.items() if k != "name" and v is not None}


def make_model(config: ConfigDict, spec: data.Spec) -> nn.Module:
    """The network of a config.

    Raises:
      ValueError: if the model or the dtype is unknown.
    """
    fields = config.model
    if fields.name not in MODELS:
        raise ValueError(f"model.name is {fields.name!r}; known: {', '.join(sorted(MODELS))}")
    if fields.dtype not in ("float32", "bfloat16"):
        raise ValueError(f"model.dtype is {fields.dtype!r}; it may be float32 or bfloat16")
    return MODELS[fields.name](
        num_classes=len(spec.classes),
        filters=fields.filters,
        depth=fields.depth,
        dtype=jnp.dtype(fields.dtype),
    )


def init_state(parts: Parts, seed: int) -> train.TrainState:
    """The state a run with this seed starts from."""
    # It runs once, so the compiler may leave out what makes it fast: 2 s instead of 11 on a CPU.
    options = {"xla_backend_optimization_level": 0}
    return jax.jit(functools.partial(_init_state, parts), compiler_options=options)(seed)


def state_shapes(parts: Parts) -> train.TrainState:
    """Shapes and dtypes of a state of these parts, computing nothing."""
    return jax.eval_shape(functools.partial(_init_state, parts), 0)


def _init_state(parts: Parts, seed: int | jax.Array) -> train.TrainState:
    key = jax.random.fold_in(jax.random.key(seed), 0)
    return train.init_state(parts.model, key, (1, *parts.image_shape))


def step_key(seed: int) -> jax.Array:
    """The key that training steps fold their number into."""
    return jax.random.fold_in(jax.random.key(seed), 1)


def prepared(parts: Parts, config: ConfigDict, split: str) -> pipeline.Prepared:
    """A split at the network's size."""
    cache_bytes = int(config.data.cache_gib * 2**30)
    return pipeline.Prepared(parts.splits[split], parts.spec, parts.size, cache_bytes)
