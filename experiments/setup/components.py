"""From a config to the components of an experiment; configs do not travel below this file."""

import difflib
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from configs import base
from dicepp_jax import data, inference, losses, parallel, schedule, train
from dicepp_jax.augment import augment
from dicepp_jax.data import pipeline, splits
from dicepp_jax.data.card import findings
from dicepp_jax.models import MODELS
from experiments.setup.device_memory import device_limit

AUGMENTATIONS = ("mirror", "brightness", "elastic", "rotate", "scale")
PAPER_DEPTH = 4

Splits = Mapping[str, data.Subset]


class Components(NamedTuple):
    """What an experiment consists of.

    Attributes:
      loaded: the data set.
      size: the network's spatial size.
      model: the network.
      loss: `(logits, labels) -> (B,)`.
      augment: `(key, image, label) -> (image, label)`.
      settings: of the schedule.
      devices: the devices that share each batch.
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
    def scored_part(self) -> str:
        """The part that is scored: "test", or "validation" if every case is in a fold."""
        return "test" if self.splits["test"] else "validation"

    @property
    def scored_title(self) -> str:
        """What the scores are of, for the title of a report."""
        if self.splits["test"]:
            return f"Test split of {self.spec.title}"
        return f"Validation split of {self.spec.title}, which also chose the epoch (no test split)"

    @property
    def apply(self) -> train.ApplyFn:
        """From parameters and images to logits."""
        return cast(train.ApplyFn, self.model.apply)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image as the network sees it."""
        return (*self.size, self.spec.channels)


def check(config: ConfigDict) -> None:
    """Refuse the config of a single run as far as that is possible without its data set.

    Raises:
      ValueError: if a field has an invalid value or fields contradict each other, naming them.
    """
    base.check(config)
    _check_name("model.name", config.model.name, MODELS)
    _check_name("data.split", config.data.split, splits.RULES)
    _check_name("inference.weighting", config.inference.weighting, inference.WEIGHTINGS)
    loss = losses.get_loss(config.loss.name, **hyper(config))
    if config.train.then:
        _check_name("train.then", config.train.then, losses.LOSSES)
    # Tracing raises the errors of hyper-parameters that the loss refuses.
    logits, label = (
        jax.ShapeDtypeStruct((1, 1, 2), jnp.float32),
        jax.ShapeDtypeStruct((1, 1), jnp.int32),
    )
    jax.eval_shape(loss, logits, label)
    parallel.check_batch_size(config.data.batch_size, parallel.devices(config.devices))


def build(config: ConfigDict, loaded: data.Loaded | None = None) -> Components:
    """The components of a single run, checked before data are prepared or anything is computed.

    Args:
      config: of the run.
      loaded: its data set, None to find and open it.

    Returns:
      Its components.

    Raises:
      ValueError: if a field has an invalid value, naming the field.
      FileNotFoundError: if the data set's files are missing.
    """
    check(config)
    if loaded is not None:
        return _open(config, loaded.spec, lambda: loaded)
    source = find_data(config)
    return _open(config, source.spec, lambda: _warn_of_leaks(open_data(config, source)))


def _open(config: ConfigDict, spec: data.Spec, load: Callable[[], data.Loaded]) -> Components:
    planned = _plan(config, spec)
    _check_memory(config, planned)
    loaded = load()
    for part in ("train", "validation"):
        if not loaded.splits[part]:
            raise ValueError(
                f"the {part} part of {spec.title} has no cases; give it at least one by "
                "--config.data.split_file=FILE.json"
            )
    return planned._replace(loaded=loaded)


def build_all(configs: Mapping[str, ConfigDict]) -> dict[str, Components]:
    """The components of runs on one data set, which is opened once; by name."""
    for config in configs.values():
        check(config)
    built: dict[str, Components] = {}
    loaded = None
    for name, config in configs.items():
        built[name] = build(config, loaded)
        loaded = built[name].loaded
    return built


def build_without_data(config: ConfigDict) -> Components:
    """The components of a single run as of `build`, but without cases."""
    check(config)
    return _plan(config, find_data(config).spec)


def reopen(config: ConfigDict) -> Components:
    """The components of a run that exists, and was checked when it began."""
    source = find_data(config)
    return _plan(config, source.spec)._replace(loaded=_warn_of_leaks(open_data(config, source)))


def _warn_of_leaks(loaded: data.Loaded) -> data.Loaded:
    """The data set, after a warning of images that are in several parts of its split."""
    ids = {part: subset.ids for part, subset in loaded.splits.items()}
    for finding in findings(loaded.facts, ids):
        if finding.leak:
            print(f"{loaded.spec.title}: {finding.line()}")
    return loaded


def _plan(config: ConfigDict, spec: data.Spec) -> Components:
    """The components without cases, of a config that fits a data set."""
    size = tuple(config.data.size) or spec.size
    if len(size) != spec.ndim:
        raise ValueError(
            f"data.size is {size}; {spec.title} has {spec.ndim} spatial axes, "
            f"as in --config.data.size='{spec.size}'"
        )
    _check_depth(config.model.depth, size)
    _check_patches(config, spec)
    loss = losses.get_loss(config.loss.name, **hyper(config))
    probabilities = {f"p_{name}": config.augment[name] for name in AUGMENTATIONS}
    augmentation = functools.partial(augment, **probabilities)
    settings = {name: config.train[name] for name in schedule.Settings._fields}
    return Components(
        data.Loaded(spec, {}, [], Path()),
        size,
        make_model(config, spec, size),
        loss,
        augmentation,
        schedule.Settings(**settings),
        parallel.devices(config.devices),
    )


def find_data(config: ConfigDict) -> data.Source:
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
    source = data.find(
        config.data.name,
        config.data.data_dir,
        config.data.manual_dir,
        options=options,
        download=config.data.download,
    )
    for line in source.notes:
        print(line)
    return source


def open_data(config: ConfigDict, source: data.Source) -> data.Loaded:
    """The data set of a config, prepared and split."""
    fields = config.data
    return data.open_set(source, split=fields.split, split_file=fields.split_file, fold=fields.fold)


def _check_name(path: str, name: str, table: Iterable[str]) -> None:
    """Refuse a name that is not in a table, with the nearest that is."""
    known = sorted(table)
    if name not in known:
        close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
        guess = f", did you mean {close[0]!r}?" if close else "."
        raise ValueError(f"{path} is {name!r}{guess} Known: {', '.join(known)}")


def _check_depth(depth: int | None, size: tuple[int, ...]) -> None:
    """Refuse a network that halves every side more often than is possible.

    Single sides may be short: the network pads them.
    """
    halvings = max(size).bit_length() - 1
    if depth and depth > halvings:
        raise ValueError(
            f"model.depth is {depth}, but the longest side of the network's input, {size}, can be "
            f"halved {halvings} times; give --config.model.depth={propose_depth(size)}, or a "
            "larger data.size"
        )


def _check_patches(config: ConfigDict, spec: data.Spec) -> None:
    """Refuse options of patches for whole images."""
    for path in ("data.validation", "data.foreground"):
        group, name = path.split(".")
        value = config[group][name]
        if value != base.FIELDS[path].default and not spec.patches:
            raise ValueError(
                f"{path} is {value}, but {spec.title} is trained on whole images; it applies "
                "to volumes that are cut into patches, so omit it"
            )


def _check_memory(config: ConfigDict, built: Components) -> None:
    """Refuse a training of which even a part does not fit into the memory of a device.

    The parts are the parameters, their momentum and gradient, and two maps of the first block for
    each example; all of a step is known when it is compiled (`step_memory`).
    """
    state = state_shapes(built)
    parameters = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((state, state.params)))
    examples = config.data.batch_size // built.devices.count
    if built.spec.patches:
        examples = max(examples, config.inference.batch_size)
    itemsize = jnp.dtype(config.model.dtype).itemsize
    maps = 2 * examples * math.prod(built.size) * config.model.filters * itemsize
    limit = device_limit()
    if parameters + maps > limit:
        raise ValueError(
            f"training needs more than {(parameters + maps) / 2**30:.1f} GiB, and a device has "
            f"{limit / 2**30:.1f}: {parameters / 2**30:.1f} for parameters, their momentum and "
            f"gradient (model.filters is {config.model.filters}, model.depth {built.model.depth}), "
            f"{maps / 2**30:.1f} for the first feature maps of {examples} x {built.size} (data.size"
            ", data.batch_size, inference.batch_size); reduce these"
        )


def hyper(config: ConfigDict) -> dict[str, float]:
    """The loss's hyper-parameters that the config sets."""
    return {k: v for k, v in config.loss.items() if k != "name" and v is not None}


def make_model(config: ConfigDict, spec: data.Spec, size: tuple[int, ...]) -> nn.Module:
    """The network of a config; one without a depth is as deep as the size allows.

    Raises:
      ValueError: if the model is unknown.
    """
    fields = config.model
    _check_name("model.name", fields.name, MODELS)
    return MODELS[fields.name](
        num_classes=len(spec.classes),
        filters=fields.filters,
        depth=propose_depth(size) if fields.depth is None else fields.depth,
        dtype=jnp.dtype(fields.dtype),
        remat=fields.remat,
        dropout=fields.dropout,
    )


def propose_depth(size: tuple[int, ...]) -> int:
    """The paper's 4 halvings, or as many as leave 2 voxels along the shortest side.

    Example:
      >>> propose_depth((512, 512)), propose_depth((16, 256, 256))
      (4, 3)
    """
    return min(PAPER_DEPTH, max(min(size).bit_length() - 2, 0))


def init_state(components: Components, seed: int) -> train.TrainState:
    """The state a run with this seed starts from."""
    return _initialiser(components.model, components.image_shape)(seed)


def state_shapes(components: Components) -> train.TrainState:
    """Shapes and dtypes of the training state; nothing is computed."""
    return _initialiser(components.model, components.image_shape).eval_shape(0)


@functools.cache
def _initialiser(model: nn.Module, image_shape: tuple[int, ...]) -> Any:
    """The compiled function from a seed to a state, traced once for both of the above."""

    def initial(seed: jax.Array) -> train.TrainState:
        key = jax.random.fold_in(jax.random.key(seed), 0)
        return train.init_state(model, key, (1, *image_shape))

    # It runs once, so compiling without optimisation is faster: 2 s instead of 11 on a CPU.
    return jax.jit(initial, compiler_options={"xla_backend_optimization_level": 0})


def step_key(seed: int) -> jax.Array:
    """The key that training steps fold their number into."""
    return jax.random.fold_in(jax.random.key(seed), 1)


def sample_key(seed: int) -> jax.Array:
    """The key of the samples of MC dropout."""
    return jax.random.fold_in(jax.random.key(seed), 2)


def train_step(components: Components) -> train.JittedStep:
    """The compiled training step."""
    return train.make_train_step(
        components.apply,
        components.loss,
        components.augment,
        components.devices,
        dropout=components.model.dropout > 0,
    )


def examples(components: Components, config: ConfigDict, split: str) -> pipeline.Cases:
    """The examples of "train" or "validation": images at the network's size, or patches."""
    cases, cache_bytes = components.splits[split], int(config.data.cache_gib * 2**30)
    spec, size = components.spec, components.size
    if not spec.patches:
        return pipeline.Prepared(cases, spec, size, cache_bytes)
    volumes = pipeline.Volumes(cases, spec, size, cache_bytes)
    if split == "train":
        return pipeline.Patches(volumes, config.seed, split, config.data.foreground)
    if config.data.validation == "patch":
        return pipeline.Patches(volumes, config.seed, split)
    return pipeline.Tiles(volumes, _overlap(config, size))


def windows(config: ConfigDict, size: tuple[int, ...]) -> inference.Windows:
    """How prediction applies a network of this size."""
    fields = config.inference
    return inference.Windows(
        _overlap(config, size), fields.weighting, fields.batch_size, fields.mirror
    )


def _overlap(config: ConfigDict, size: tuple[int, ...]) -> tuple[int, ...]:
    """The overlap of neighbouring windows in voxels."""
    return tuple(math.floor(config.inference.overlap * n) for n in size)


def predictor(
    components: Components,
    config: ConfigDict,
    params: Any,
    samples: inference.Samples | None = None,
) -> inference.Predict:
    """From a stored image to native probabilities, as the config says."""
    return inference.make_predict(
        components.apply,
        params,
        components.spec,
        components.size,
        windows=windows(config, components.size),
        samples=samples,
    )


def describe(components: Components) -> str:
    """One line that describes what is about to be trained."""
    parameters = sum(x.size for x in jax.tree.leaves(state_shapes(components).params))
    splits = ("train", "validation", "test") if components.splits else ()
    counts = "/".join(str(len(components.splits[split])) for split in splits)
    cases = f", {counts} cases" if counts else ""
    size = ("patches of " if components.spec.patches else "") + " x ".join(
        map(str, components.size)
    )
    count = f"{components.devices.count} x " if components.devices.count > 1 else ""
    device = count + jax.devices()[0].device_kind
    return (
        f"{components.spec.title}{cases} at {size}, {type(components.model).__name__} of depth "
        f"{components.model.depth} and {parameters:,} parameters, on {device}"
    )
