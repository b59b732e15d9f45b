"""The device memory that a training step takes, and what would make it fit.

XLA lays out a step's memory when it compiles it, and reports how much it takes. Nothing is run and
no data are needed, so that a machine can judge a step which it could not run; but the layout is for
the device that is present, and differs on others.
"""

import copy
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from dicepp_jax import train
from dicepp_jax.data.pipeline import Batch
from dicepp_jax.data.survey import STEP
from experiments.setup import components
from experiments.setup.components import Components
from experiments.setup.device_memory import device_limit


class Memory(NamedTuple):
    """Bytes that a training step takes on each device.

    Attributes:
      parameters: of the network.
      optimiser: its state.
      batch: images and labels.
      activations: everything computed on the way, gradients included.
    """

    parameters: int
    optimiser: int
    batch: int
    activations: int


def measure(
    step: train.JittedStep, state: train.TrainState, batch: Batch, key: jax.Array
) -> Memory | None:
    """The memory of a step, by XLA's analysis of its compiled program.

    Args:
      step: of `train.make_train_step`.
      state: before it; `jax.ShapeDtypeStruct`s suffice, as for the batch.
      batch: image and label.
      key: the seed's.

    Returns:
      A `Memory`; None where XLA reports none.
    """
    sizes = step.compile(state, batch, key).memory_analysis()
    if sizes is None:
        return None
    # The new state takes the old one's place.
    new = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return Memory(
        parameters=_nbytes(state.params),
        optimiser=_nbytes(state.opt_state),
        batch=_nbytes((batch["image"], batch["label"])) // step.devices.count,
        activations=sizes.temp_size_in_bytes + new,
    )


def batch_shapes(built: Components, batch_size: int) -> Batch:
    """The shapes of a batch."""
    return {
        "image": jax.ShapeDtypeStruct((batch_size, *built.image_shape), jnp.float32),
        "label": jax.ShapeDtypeStruct((batch_size, *built.size), jnp.int32),
    }


def report(memory: Memory, limit: int, config: ConfigDict, built: Components) -> list[str]:
    """Describe the memory of a step, and what would reduce it if it does not fit.

    Args:
      memory: of the step.
      limit: bytes available.
      config: of the run.
      built: its components, with or without cases.

    Returns:
      A line, and if the step does not fit, one for each option that would help.
    """
    total = sum(memory)
    each = ", ".join(f"{name} {_text(value)}" for name, value in memory._asdict().items())
    where = f" on each of {built.devices.count} devices" if built.devices.count > 1 else ""
    line = f"a training step takes {_text(total)} of {_text(limit)}{where} ({each})"
    if total <= limit:
        return [line]
    return [
        f"{line}: it does not fit. What would reduce it:",
        *_remedies(memory, limit, config, built),
    ]


def _text(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _remedies(memory: Memory, limit: int, config: ConfigDict, built: Components) -> Iterator[str]:
    """Options in the order in which to try them, with the memory of a step for each."""
    now, fixed = _kept(config, built), sum(memory) - memory.activations

    def share_with(path: str, value: object) -> float:
        changed = copy.deepcopy(config)
        changed.update_from_flattened_dict({path: value})
        return _kept(changed, built) / now

    def line(path: str, value: object, note: str = "") -> str:
        share = share_with(path, value)
        shown = f"'{value}'".replace(" ", "") if isinstance(value, tuple) else value
        needed = _text(fixed + share * memory.activations)
        return f"  --config.{path}={shown}: {needed} in all{note} ({share:.0%} of the activations)"

    # On a CPU, XLA orders a step for speed, and computes convolutions in float32.
    note = " at best, on an accelerator" if jax.default_backend() == "cpu" else " at best"
    if not config.model.remat:
        yield line("model.remat", True, f"{note}, and slower")
    if config.model.dtype == "float32":
        yield line("model.dtype", "bfloat16", note)
    share = max(limit - fixed, 0) / memory.activations
    count, filters = built.devices.count, config.model.filters // 2
    cases = math.floor(config.data.batch_size * share) // count * count
    if 0 < cases < config.data.batch_size:
        yield line("data.batch_size", cases)
    if size := _smaller_size(built.size, share):
        yield line("data.size", size)
    while filters and share_with("model.filters", filters) > share:
        filters //= 2
    if filters:
        yield line("model.filters", filters)


def _kept(config: ConfigDict, built: Components) -> int:
    """Bytes of activations that a step stores for the gradient, before XLA rearranges it."""
    size = tuple(config.data.size) or built.spec.size
    model = components.make_model(config, built.spec, size)
    built = built._replace(size=size, model=model)
    params, batch = (
        components.state_shapes(built).params,
        batch_shapes(built, config.data.batch_size),
    )

    def gradient(params: Any, batch: Batch) -> Any:
        def loss(params: Any) -> jax.Array:
            return built.loss(built.apply(params, batch["image"]), batch["label"]).mean()

        # The leaves of this function are the residuals that it stores.
        return jax.vjp(loss, params)[1]

    return _nbytes(jax.eval_shape(gradient, params, batch)) - _nbytes(params)


def _nbytes(tree: object) -> int:
    """The bytes of all arrays, or of arrays with these shapes."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _smaller_size(size: tuple[int, ...], share: float) -> tuple[int, ...] | None:
    """The largest size of about the same proportions with at most this share of voxels, if any."""
    for tenths in range(99, 0, -1):
        smaller = tuple(max(STEP, STEP * round(tenths / 100 * n / STEP)) for n in size)
        if math.prod(smaller) <= share * math.prod(size):
            return smaller
    return None


def describe(
    config: ConfigDict,
    built: Components,
    step: train.JittedStep,
    state: train.TrainState,
    batch_size: int,
) -> list[str]:
    """`report` of the memory that a step takes on this device."""
    count, key = built.devices.count, components.step_key(config.seed)
    batch = {**batch_shapes(built, -(-batch_size // count) * count), "total": batch_size}
    memory = measure(step, state, batch, key)
    if memory is None:
        return [f"XLA does not report the memory of a training step on {jax.default_backend()}"]
    return report(memory, device_limit(), config, built)
