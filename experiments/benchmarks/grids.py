"""Training steps of grids, by every strategy."""

from collections.abc import Sequence
from typing import cast

import jax
import numpy as np

from dicepp_jax import train, train_many
from dicepp_jax.losses import get_loss
from dicepp_jax.models.unet import UNet
from dicepp_jax.schedule import Settings
from dicepp_jax.train import ApplyFn
from experiments.benchmarks.steps import stepped
from experiments.benchmarks.timing import Shape, TimedCase


def sweep_cases(shape: Shape, members: Sequence[int], filters: int) -> dict[str, TimedCase]:
    """A training step of grids over gamma by every strategy, and of DSC++ trained alone."""
    num_classes, size = shape[-1], shape[1:-1]
    model = UNet(num_classes=num_classes, filters=filters)
    image = np.random.default_rng(0).normal(size=(*shape[:-1], 1)).astype(np.float32)
    label = np.random.default_rng(1).integers(0, num_classes, shape[:-1]).astype(np.int32)
    # It runs once, so the compiler may leave out what makes it fast.
    init = jax.jit(
        lambda key: train.init_state(model, key, (1, *size, 1)),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    state, key = init(jax.random.key(0)), jax.random.key(1)
    apply = cast(ApplyFn, model.apply)
    step = train.make_train_step(apply, get_loss("dscpp"), None)
    alone = stepped(step, state, {"image": image, "label": label}, key)
    programs = train_many.make_programs(apply, get_loss("dscpp"), None)
    cases = {"alone": alone}
    devices = jax.local_device_count()
    for count in members:
        grid = [train_many.Member({"gamma": 1 + n / 2}, Settings(), key) for n in range(count)]
        ways = {"sequential": train_many.Strategy(1), "vmap": train_many.Strategy(count)}
        if devices > 1:
            ways["devices"] = train_many.Strategy(-(-count // devices), min(count, devices))
        for name, strategy in ways.items():
            if count > 1 or name == "sequential":
                stepper = train_many.Stepper(
                    programs, grid, state, image[None], label[None], strategy
                )
                cases[f"{name}_{count}"] = TimedCase(
                    stepper.step, f"compiled in {stepper.seconds:.1f} s"
                )
    return cases
