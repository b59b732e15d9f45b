"""Training steps of grids, by every strategy."""

from collections.abc import Sequence

import jax
import numpy as np

from dicepp_jax import train, train_many
from dicepp_jax.losses import get_loss
from dicepp_jax.schedule import Settings
from experiments.benchmarks.networks import unet
from experiments.benchmarks.steps import stepped
from experiments.benchmarks.timing import Shape, TimedCase


def sweep_cases(shape: Shape, members: Sequence[int], filters: int) -> dict[str, TimedCase]:
    """A training step of grids over gamma by every strategy, and of DSC++ trained alone."""
    num_classes = shape[-1]
    network = unet(len(shape) - 2, 1, num_classes, filters)
    image = np.random.default_rng(0).normal(size=(*shape[:-1], 1)).astype(np.float32)
    label = np.random.default_rng(1).integers(0, num_classes, shape[:-1]).astype(np.int32)
    key = jax.random.key(1)
    step = train.make_train_step(network.apply, get_loss("dscpp"), None)
    alone = stepped(step, network.state, {"image": image, "label": label}, key)
    programs = train_many.make_programs(network.apply, get_loss("dscpp"), None)
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
                    programs, grid, network.state, image[None], label[None], strategy
                )
                cases[f"{name}_{count}"] = TimedCase(
                    stepper.step, f"compiled in {stepper.seconds:.1f} s"
                )
    return cases
