"""From a config to the parts of an experiment; configs do not travel below this file."""

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from dicepp_jax import data, inference, losses, parallel, schedule, train
from dicepp_jax.augment import augment
from dicepp_jax.data import pipeline
from dicepp_jax.models import MODELS

VALIDATIONS = ("patch", "sliding_window")
AUGMENTATIONS = ("mirror", "brightness", "elastic", "rotate", "scale")
PAPER_DEPTH = 4

Splits = Mapping[str, data.Subset]


class Parts(NamedTuple):
    """What an experiment is made of.

    Attributes:
      loaded: the data set.
      size: the network's spatial size.
      model: the network.
      loss: `(logits, labels) -> (B,)`.
      augment: `(key, image, label) -> (image, label)`.
      settings: of the schedule.
      devices: that share each batch.
    """

    loaded: data.Loaded
    size: tuple[int, ...]
    model: nn.Module
    loss: train.LossFn
    augment: train.AugmentFn
    settings: schedule.Settings
    devices: parallel.Devices

    @property
    def spec(self) -> data.Spec:
        """Facts of the data set."""
        return self.loaded.spec

    @property
    def splits(self) -> Splits:
        """Stored cases by split."""
        return self.loaded.splits

    @property
    def apply(self) -> train.ApplyFn:
        """From parameters and images to logits."""
        return cast(train.ApplyFn, self.model.apply)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image as the network sees it."""
        return (*self.size, self.spec.channels)


def make(config: ConfigDict, loaded: data.Loaded | None = None) -> Parts:
    """The parts of a single run, checked before anything is computed.

    Args:
      config: of the run.
      loaded: its data set, None to find and open it.

    Returns:
      Its parts.

    Raises:
      ValueError: if a field's value is none it can have, naming the field.
      FileNotFoundError: if the data set's files are missing.
    """
    if loaded is not None:
        return _make(config, loaded.spec, lambda: loaded)
    source = find(config)
    return _make(config, source.spec, lambda: open_set(config, source))


def make_without_data(config: ConfigDict) -> Parts:
    """The parts of a single run as `make` makes them, but that there are no cases."""
    spec = find(config).spec
    return _make(config, spec, lambda: data.Loaded(spec, {}, [], Path()))


def _make(config: ConfigDict, spec: data.Spec, load: Callable[[], data.Loaded]) -> Parts:
    size = tuple(config.data.size) or spec.size
    if len(size) != spec.ndim:
        raise ValueError(
            f"data.size is {size}; {spec.title} has {spec.ndim} spatial axes, "
            f"as in --config.data.size='{spec.size}'"
        )
    _check_minima(config, size)
    _check_patches(config, spec)
    devices = parallel.devices(config.devices)
    parallel.check_batch_size(config.data.batch_size, devices)
    model = make_model(config, spec, size)
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
    plan = schedule.Settings(**settings)
    return Parts(load(), size, model, loss, augmentation, plan, devices)


def find(config: ConfigDict) -> data.Source:
    """The data set of a config, not yet prepared."""
    fields = config.folder
    options = data.Options(
        images=fields.images,
        masks=fields.masks,
        classes=tuple(name.strip() for name in fields.classes.split(",") if name.strip()),
        mask_values=tuple(fields.mask_values),
        spacing=tuple(fields.spacing),
        intensity_range=tuple(fields.intensity_range),
    )
    unused = [name for name, value in options._asdict().items() if value]
    if unused and config.data.name != data.FOLDER:
        raise ValueError(
            f"folder.{unused[0]} is set, but data.name is {config.data.name}; it is for "
            "data.name=folder, a set of your own"
        )
    source = data.find(
        config.data.name,
        config.data.data_dir,
        config.data.manual_dir,
        options=options,
        download=config.data.download,
    )
    for line in source.told:
        print(line)
    return source


def open_set(config: ConfigDict, source: data.Source) -> data.Loaded:
    """The data set of a config, prepared and split."""
    return data.open_set(source, split=config.data.split, split_file=config.data.split_file)


def _check_minima(config: ConfigDict, size: tuple[int, ...]) -> None:
    """Refuse numbers too small to mean anything, naming the field."""
    minima = {
        "seed": (config.seed, 0),
        "devices": (config.devices, 1),
        "data.size": (min(size), 1),
        "data.batch_size": (config.data.batch_size, 1),
        "data.cache_gib": (config.data.cache_gib, 0),
        "model.filters": (config.model.filters, 1),
        "model.depth": (config.model.depth or 0, 0),
        "train.epochs": (config.train.epochs, 1),
        "train.learning_rate": (config.train.learning_rate, 0),
        "train.patience": (config.train.patience, 1),
        "train.stop_patience": (config.train.stop_patience, 1),
        "inference.batch_size": (config.inference.batch_size, 1),
        "evaluation.figures": (config.evaluation.figures, 0),
    }
    for name, (value, least) in minima.items():
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")


def _check_patches(config: ConfigDict, spec: data.Spec) -> None:
    """Refuse what patches cannot be made by, and for whole images what only patches have."""
    fields, windows = config.data, config.inference
    for name, value, known in (
        ("data.validation", fields.validation, VALIDATIONS),
        ("inference.weighting", windows.weighting, inference.WEIGHTINGS),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; it may be {' or '.join(known)}")
    if not 0 <= windows.overlap < 1:
        raise ValueError(f"inference.overlap is {windows.overlap}; it is a share from 0, below 1")
    if not 0 <= fields.foreground <= 1:
        raise ValueError(f"data.foreground is {fields.foreground}; it is a share from 0 to 1")
    for name, value, neutral in (
        ("validation", fields.validation, VALIDATIONS[0]),
        ("foreground", fields.foreground, 0),
    ):
        if value != neutral and not spec.patches:
            raise ValueError(
                f"data.{name} is {value}, but {spec.title} is trained on whole images; it is for "
                "volumes that are cut to patches, so leave it out"
            )


def hyper(config: ConfigDict) -> dict[str, float]:
    """The loss's hyper-parameters that the config sets."""
    return {k: v for k, v in config.loss.items() if k != "name" and v is not None}


def make_model(config: ConfigDict, spec: data.Spec, size: tuple[int, ...]) -> nn.Module:
    """The network of a config; one without a depth is as deep as the size allows.

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
        depth=propose_depth(size) if fields.depth is None else fields.depth,
        dtype=jnp.dtype(fields.dtype),
        remat=fields.remat,
    )


def propose_depth(size: tuple[int, ...]) -> int:
    """The paper's 4 halvings, or as many as leave 2 voxels along the shortest side.

    Example:
      >>> propose_depth((512, 512)), propose_depth((16, 256, 256))
      (4, 3)
    """
    return min(PAPER_DEPTH, max(min(size).bit_length() - 2, 0))


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


def prepared(parts: Parts, config: ConfigDict, split: str) -> pipeline.Cases:
    """The examples of "train" or "validation": images at the network's size, or patches."""
    cases, cache_bytes = parts.splits[split], int(config.data.cache_gib * 2**30)
    if not parts.spec.patches:
        return pipeline.Prepared(cases, parts.spec, parts.size, cache_bytes)
    volumes = pipeline.Volumes(cases, parts.spec, parts.size, cache_bytes)
    if split == "train":
        return pipeline.Patches(volumes, config.seed, split, config.data.foreground)
    if config.data.validation == "patch":
        return pipeline.Patches(volumes, config.seed, split)
    return pipeline.Tiles(volumes, overlap(config, parts.size))


def overlap(config: ConfigDict, size: tuple[int, ...]) -> tuple[int, ...]:
    """Of neighbouring windows, in voxels."""
    return tuple(math.floor(config.inference.overlap * n) for n in size)


def predictor(parts: Parts, config: ConfigDict, params: Any) -> inference.Predict:
    """From a stored image to native probabilities, as the config says."""
    fields = config.inference
    return inference.make_predict(
        parts.apply,
        params,
        parts.spec,
        parts.size,
        windows=inference.Windows(
            overlap(config, parts.size), fields.weighting, fields.batch_size, fields.mirror
        ),
    )


def describe(parts: Parts) -> str:
    """One line on what is about to be trained."""
    parameters = sum(x.size for x in jax.tree.leaves(state_shapes(parts).params))
    splits = ("train", "validation", "test") if parts.splits else ()
    counts = "/".join(str(len(parts.splits[split])) for split in splits)
    cases = f", {counts} cases" if counts else ""
    size = ("patches of " if parts.spec.patches else "") + " x ".join(map(str, parts.size))
    count = f"{parts.devices.count} x " if parts.devices.count > 1 else ""
    device = count + jax.devices()[0].device_kind
    return (
        f"{parts.spec.title}{cases} at {size}, {type(parts.model).__name__} of depth "
        f"{parts.model.depth} and {parameters:,} parameters, on {device}"
    )
