"""Losses and threshold counts of arrays in memory.

Of a loss, its mean over the batch and the gradient in the logits are timed, from integer labels, so
that libraries which want one-hot labels make them within the call.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dicepp_jax.losses import LOSSES
from dicepp_jax.metrics.thresholds import THRESHOLDS, threshold_counts
from experiments.benchmarks.agreement import Outputs
from experiments.benchmarks.timing import NOT_INSTALLED, Shape, TimedCase
from experiments.benchmarks.torch_unet import (
    eager_note,
    from_torch,
    to_torch,
    torch_device,
    torch_dscpp,
    wait,
)

PEERS = ("torch_dscpp", "monai_dice", "monai_dice_focal")
ANOTHER = "another formula, with 1 added to both sides of the fraction"


def _jitted(function: Callable[..., object], *args: jax.Array) -> TimedCase:
    compiled = jax.jit(function)
    return TimedCase(lambda: jax.block_until_ready(compiled(*args)))


def _example(shape: Shape) -> tuple[jax.Array, jax.Array]:
    """Random logits `(B, *spatial, C)` and integer labels."""
    keys = jax.random.split(jax.random.key(0))
    labels = jax.random.randint(keys[1], shape[:-1], 0, shape[-1])
    return jax.random.normal(keys[0], shape), labels


def _loss_case(
    loss: Callable[..., jax.Array], logits: jax.Array, labels: jax.Array, note: str = ""
) -> TimedCase:
    """The mean of a loss and its gradient, compiled."""
    both = jax.jit(jax.value_and_grad(lambda x, y: loss(x, y).mean()))

    def output() -> Outputs:
        value, gradient = both(logits, labels)
        return {"loss": value, "gradient": gradient}

    return TimedCase(lambda: jax.block_until_ready(both(logits, labels)), note=note, output=output)


def _optax_dice(logits: jax.Array, labels: jax.Array) -> jax.Array:
    one_hot = jax.nn.one_hot(labels, logits.shape[-1])
    return optax.losses.dice_loss(logits, one_hot, apply_softmax=True)


def loss_cases(shape: Shape) -> dict[str, TimedCase]:
    """Every loss, those of other libraries, and what moving the arrays alone takes."""
    logits, labels = _example(shape)
    moved = _jitted(lambda x, y: x + y[..., None], logits, labels)
    return {
        "read_write": moved._replace(note="logits and labels read, an array like logits written"),
        "optax_dice": _loss_case(_optax_dice, logits, labels, ANOTHER),
        **{name: _loss_case(loss.function, logits, labels) for name, loss in LOSSES.items()},
        **_torch_cases(np.asarray(logits), np.asarray(labels)),
    }


def _torch_cases(logits: np.ndarray, labels: np.ndarray) -> dict[str, TimedCase]:
    """Losses in torch as they are mostly used: forward and backward, not compiled."""
    try:
        import torch
        from monai.losses import DiceFocalLoss, DiceLoss
    except ImportError:
        return {name: TimedCase(None, NOT_INSTALLED) for name in PEERS}
    device = torch_device()
    x = to_torch(logits, device).requires_grad_()
    y = torch.tensor(labels, device=device, dtype=torch.int64)

    def case(loss: Callable[[], Any], same_as: str, note: str = "") -> TimedCase:
        def call() -> None:
            torch.autograd.grad(loss(), x)
            wait(device)

        def output() -> Outputs:
            value = loss()
            (gradient,) = torch.autograd.grad(value, x)
            return {"loss": value.detach().cpu().numpy(), "gradient": from_torch(gradient)}

        return TimedCase(call, eager_note(device) + note, output=output, same_as=same_as)

    dice, dice_focal = (kind(softmax=True, to_onehot_y=True) for kind in (DiceLoss, DiceFocalLoss))
    return {
        "torch_dscpp": case(lambda: torch_dscpp(x, y).mean(), "dscpp"),
        "monai_dice": case(lambda: dice(x, y[:, None]), "dsc"),
        "monai_dice_focal": case(lambda: dice_focal(x, y[:, None]), "", "; another formula"),
    }


def threshold_cases(shape: Shape) -> dict[str, TimedCase]:
    """Confusions at one threshold and at those of the paper's curves."""
    logits, labels = _example(shape)
    probs = jax.nn.softmax(logits)
    return {
        f"thresholds_{len(thresholds)}": _jitted(
            threshold_counts, probs, labels, jnp.asarray(thresholds, jnp.float32)
        )
        for thresholds in (np.array([0.5]), THRESHOLDS)
    }
