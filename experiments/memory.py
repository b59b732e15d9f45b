"""What a training step takes of the device's memory: python -m experiments.memory --config=FILE

XLA lays a step's memory out when it compiles it, and says how much there is. Nothing is run and no
prepared data is needed, so that a step can be judged on a machine which could not run it; but the
layout is that for the device at hand, and another device has another.
"""

import copy
import math
import os
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from dicepp_jax import train
from dicepp_jax.data.pipeline import Batch
from dicepp_jax.data.survey import STEP
from experiments import cli
from experiments import parts as parts_lib


class Memory(NamedTuple):
    """Bytes that a training step takes, of each device.

    Attributes:
      parameters: of the network.
      optimiser: its state.
      batch: images and labels.
      activations: all that is computed on the way, gradients included.
    """

    parameters: int
    optimiser: int
    batch: int
    activations: int


def measure(
    step: train.JittedStep, state: train.TrainState, batch: Batch, key: jax.Array
) -> Memory | None:
    """What a step takes, by XLA's analysis of the program that it is compiled to.

    Args:
      step: of `train.make_train_step`.
      state: before it.
      batch: image and label, of which `jax.ShapeDtypeStruct`s are enough, as of the state.
      key: the seed's.

    Returns:
      A `Memory`; None where XLA does not say.
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


def batch_shapes(parts: parts_lib.Parts, batch_size: int) -> Batch:
    """A batch of which only shapes are known."""
    return {
        "image": jax.ShapeDtypeStruct((batch_size, *parts.image_shape), jnp.float32),
        "label": jax.ShapeDtypeStruct((batch_size, *parts.size), jnp.int32),
    }


def device_limit() -> int:
    """Bytes that the device has: what an accelerator's allocator may take, or all of a machine."""
    known = jax.local_devices()[0].memory_stats() or {}
    return known.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def report(memory: Memory, limit: int, config: ConfigDict, parts: parts_lib.Parts) -> list[str]:
    """Lines on what a step takes, and on what would take less if it does not fit.

    Args:
      memory: what it takes.
      limit: bytes that there are.
      config: of the run.
      parts: of the run, with or without cases.

    Returns:
      A line, and if it does not fit one for each option that would help.
    """
    total = sum(memory)
    each = ", ".join(f"{name} {_text(value)}" for name, value in memory._asdict().items())
    where = f" on each of {parts.devices.count} devices" if parts.devices.count > 1 else ""
    line = f"a training step takes {_text(total)} of {_text(limit)}{where} ({each})"
    if total <= limit:
        return [line]
    return [f"{line}: it does not fit. What takes less:", *_remedies(memory, limit, config, parts)]


def _text(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _remedies(
    memory: Memory, limit: int, config: ConfigDict, parts: parts_lib.Parts
) -> Iterator[str]:
    """Options in the order in which to try them, and what a step would take with each."""
    now, fixed = _kept(config, parts), sum(memory) - memory.activations

    def share_with(path: str, value: object) -> float:
        changed = copy.deepcopy(config)
        changed.update_from_flattened_dict({path: value})
        return _kept(changed, parts) / now

    def told(path: str, value: object, note: str = "") -> str:
        share = share_with(path, value)
        shown = f"'{value}'".replace(" ", "") if isinstance(value, tuple) else value
        needed = _text(fixed + share * memory.activations)
        return f"  --config.{path}={shown}: {needed} in all{note} ({share:.0%} of the activations)"

    # For a CPU XLA orders a step for speed, and lets convolutions compute in float32.
    note = " at best, on an accelerator" if jax.default_backend() == "cpu" else " at best"
    if not config.model.remat:
        yield told("model.remat", True, f"{note}, and slower")
    if config.model.dtype == "float32":
        yield told("model.dtype", "bfloat16", note)
    share = max(limit - fixed, 0) / memory.activations
    count, filters = parts.devices.count, config.model.filters // 2
    cases = math.floor(config.data.batch_size * share) // count * count
    if 0 < cases < config.data.batch_size:
        yield told("data.batch_size", cases)
    if size := _smaller_size(parts.size, share):
        yield told("data.size", size)
    while filters and share_with("model.filters", filters) > share:
        filters //= 2
    if filters:
        yield told("model.filters", filters)


def _kept(config: ConfigDict, parts: parts_lib.Parts) -> int:
    """Bytes of activations that a step keeps for the gradient, were XLA not to rearrange it."""
    size = tuple(config.data.size) or parts.spec.size
    model = parts_lib.make_model(config, parts.spec, size)
    parts = parts._replace(size=size, model=model)
    params, batch = (
        parts_lib.state_shapes(parts).params,
        batch_shapes(parts, config.data.batch_size),
    )

    def gradient(params: Any, batch: Batch) -> Any:
        def loss(params: Any) -> jax.Array:
            return parts.loss(parts.apply(params, batch["image"]), batch["label"]).mean()

        # A function, whose leaves are what it holds.
        return jax.vjp(loss, params)[1]

    return _nbytes(jax.eval_shape(gradient, params, batch)) - _nbytes(params)


def _nbytes(tree: object) -> int:
    """Of all arrays, or of shapes of arrays."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _smaller_size(size: tuple[int, ...], share: float) -> tuple[int, ...] | None:
    """The largest size of about the same proportions that has no more of the voxels, if any."""
    for tenths in range(99, 0, -1):
        smaller = tuple(max(STEP, STEP * round(tenths / 100 * n / STEP)) for n in size)
        if math.prod(smaller) <= share * math.prod(size):
            return smaller
    return None


def told(
    config: ConfigDict,
    parts: parts_lib.Parts,
    step: train.JittedStep,
    state: train.TrainState,
    batch_size: int,
) -> list[str]:
    """`report` of what a step takes of the device at hand."""
    count, key = parts.devices.count, parts_lib.step_key(config.seed)
    batch = {**batch_shapes(parts, -(-batch_size // count) * count), "total": batch_size}
    memory = measure(step, state, batch, key)
    if memory is None:
        return [f"XLA does not say what a training step takes on {jax.default_backend()}"]
    return report(memory, device_limit(), config, parts)


def main() -> None:
    """Tell what a step of the config of the flags takes."""
    config = cli.config()
    parts = parts_lib.make_without_data(config)
    step = train.make_train_step(parts.apply, parts.loss, parts.augment, parts.devices)
    print("compiling a step, which may take minutes", flush=True)
    start = time.perf_counter()
    lines = told(config, parts, step, parts_lib.state_shapes(parts), config.data.batch_size)
    seconds = time.perf_counter() - start
    print(f"{parts_lib.describe(parts)}, compiled in {seconds:.0f} s")
    print("\n".join(lines))


if __name__ == "__main__":
    cli.run(main, "nothing was written")
