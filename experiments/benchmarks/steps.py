"""A whole training step of the U-Net, and the same step in torch."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dicepp_jax import train
from dicepp_jax.losses import get_loss
from dicepp_jax.models.unet import UNet
from experiments.benchmarks.agreement import Outputs
from experiments.benchmarks.networks import Network, unet
from experiments.benchmarks.timing import NOT_INSTALLED, CannotTimeError, Shape, TimedCase, text
from experiments.benchmarks.torch_unet import (
    eager_note,
    from_torch,
    load_parameters,
    to_torch,
    torch_device,
    torch_dscpp,
    torch_unet,
    wait,
)

RATE = 0.1
PEERS = ("torch_eager", "torch_compile")


def train_cases(shape: Shape, filters: int, classes: int) -> dict[str, TimedCase]:
    """Forward, DSC++, backward and update on images `(B, *spatial, channels)`, not augmented."""
    halved = 2**UNet.depth
    # The network in torch does not pad.
    if any(n % halved for n in shape[1:-1]):
        raise ValueError(f"--shapes {text(shape)}: sides must be multiples of {halved}")
    network = unet(len(shape) - 2, shape[-1], classes, filters)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.normal(size=shape).astype(np.float32),
        "label": rng.integers(0, classes, shape[:-1]).astype(np.int32),
    }
    step = train.make_train_step(network.apply, get_loss("dscpp"), None)
    key = jax.random.key(0)

    def output() -> Outputs:
        logits = jax.jit(network.apply)(network.params, batch["image"])
        later, loss = step(network.state, batch, key, RATE)
        _, second = step(later, batch, key, RATE)
        return {"logits": logits, "loss": loss, "loss after a step": second}

    ours = stepped(step, network.state, batch, key)._replace(output=output)
    ours = ours._replace(note=f"{network.size:,} parameters, {ours.note}")
    return {"train_step": ours, **_torch_cases(network, batch)}


def stepped(
    step: train.JittedStep, state: train.TrainState, batch: Mapping[str, Any], key: jax.Array
) -> TimedCase:
    """A step from the state that its last call gave; the first overwrites the one passed here."""
    start = time.perf_counter()
    step.compile(state, dict(batch), key)
    seconds = time.perf_counter() - start
    current = [state]

    def call() -> None:
        current[0], loss = step(current[0], dict(batch), key, RATE)
        jax.block_until_ready((current[0], loss))

    return TimedCase(call, f"compiled in {seconds:.1f} s")


def _torch_cases(network: Network, batch: Mapping[str, np.ndarray]) -> dict[str, TimedCase]:
    """The same step in torch: eagerly, and with the network and the loss compiled."""
    try:
        import torch
    except ImportError:
        return {name: TimedCase(None, NOT_INSTALLED) for name in PEERS}
    device = torch_device()
    x = to_torch(batch["image"], device)
    y = torch.tensor(batch["label"], device=device, dtype=torch.int64)

    def case(compiled: bool) -> TimedCase:
        model = torch_unet(network, device)
        optimiser = torch.optim.SGD(
            model.parameters(), RATE, momentum=train.MOMENTUM, nesterov=True
        )

        def forward() -> Any:
            logits = model(x)
            return torch_dscpp(logits, y).mean(), logits

        run = torch.compile(forward) if compiled else forward

        def step() -> Any:
            optimiser.zero_grad()
            loss, logits = run()
            loss.backward()
            optimiser.step()
            wait(device)
            return loss, logits

        def output() -> Outputs:
            load_parameters(model, network.params)
            optimiser.state.clear()
            try:
                loss, logits = step()
            except Exception as error:
                # A compiler fails in many ways, and most commonly is not there.
                if not compiled:
                    raise
                told = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise CannotTimeError(f"torch.compile does not work here: {told}") from error
            first = {"logits": from_torch(logits), "loss": loss.detach().cpu().numpy()}
            return {**first, "loss after a step": step()[0].detach().cpu().numpy()}

        note = f"network and loss by torch.compile on {device}" if compiled else eager_note(device)
        return TimedCase(step, note, output=output, same_as="train_step")

    return {"torch_eager": case(False), "torch_compile": case(True)}
