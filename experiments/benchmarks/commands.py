"""What is timed: losses, thresholds and grids, in memory, and the table of subcommands.

Every case is one call on arrays that are in memory: for a loss, its mean over the batch and the
gradient in the logits, from integer labels, so that libraries which want one-hot labels make them
within the call; for inference, a volume predicted by a sliding window, from and to host memory.
"""

import argparse
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dicepp_jax import train, train_many
from dicepp_jax.losses import LOSSES, get_loss
from dicepp_jax.metrics.thresholds import THRESHOLDS, threshold_counts
from dicepp_jax.models.unet import UNet
from dicepp_jax.schedule import Settings
from dicepp_jax.train import ApplyFn
from experiments.benchmarks.timing import NOT_INSTALLED, Command, Flag, Shape, TimedCase
from experiments.benchmarks.windows import inference_cases


def _jitted(function: Callable[..., object], *args: jax.Array) -> TimedCase:
    compiled = jax.jit(function)
    return TimedCase(lambda: jax.block_until_ready(compiled(*args)))


def _example(shape: Shape) -> tuple[jax.Array, jax.Array]:
    """Random logits `(B, *spatial, C)` and integer labels."""
    keys = jax.random.split(jax.random.key(0))
    labels = jax.random.randint(keys[1], shape[:-1], 0, shape[-1])
    return jax.random.normal(keys[0], shape), labels


def _mean_and_gradient(loss: Callable[..., jax.Array]) -> Callable[..., object]:
    return jax.value_and_grad(lambda logits, labels: loss(logits, labels).mean())


def _optax_dice(logits: jax.Array, labels: jax.Array) -> jax.Array:
    one_hot = jax.nn.one_hot(labels, logits.shape[-1])
    return optax.losses.dice_loss(logits, one_hot, apply_softmax=True)


def loss_cases(shape: Shape) -> dict[str, TimedCase]:
    """Every loss, those of other libraries, and what moving the arrays alone takes."""
    logits, labels = _example(shape)
    moved = _jitted(lambda x, y: x + y[..., None], logits, labels)
    return {
        "read_write": moved._replace(note="logits and labels read, an array like logits written"),
        "optax_dice": _jitted(_mean_and_gradient(_optax_dice), logits, labels),
        **{
            name: _jitted(_mean_and_gradient(loss.function), logits, labels)
            for name, loss in LOSSES.items()
        },
        **_monai_cases(np.asarray(logits), np.asarray(labels)),
    }


def _monai_cases(logits: np.ndarray, labels: np.ndarray) -> dict[str, TimedCase]:
    """MONAI's losses as they are mostly used: forward and backward, not compiled."""
    try:
        import torch
        from monai.losses import DiceFocalLoss, DiceLoss
    except ImportError:
        return {name: TimedCase(None, NOT_INSTALLED) for name in ("monai_dice", "monai_dice_focal")}
    on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    channels_first = np.ascontiguousarray(np.moveaxis(logits, -1, 1))
    x = torch.tensor(channels_first, device=device, requires_grad=True)
    y = torch.tensor(labels[:, None], device=device, dtype=torch.int64)

    def case(kind: type) -> TimedCase:
        loss = kind(softmax=True, to_onehot_y=True)

        def call() -> None:
            torch.autograd.grad(loss(x, y), x)
            if on_gpu:
                torch.cuda.synchronize()

        return TimedCase(call, f"eager, torch {torch.__version__} on {device}")

    return {"monai_dice": case(DiceLoss), "monai_dice_focal": case(DiceFocalLoss)}


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
    alone = _stepped(step, state, {"image": image, "label": label}, key)
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


def _stepped(
    step: train.JittedStep, state: train.TrainState, batch: Mapping[str, Any], key: jax.Array
) -> TimedCase:
    start = time.perf_counter()
    step.compile(state, dict(batch), key)
    seconds = time.perf_counter() - start
    current = [jax.tree.map(jnp.copy, state)]

    def call() -> None:
        current[0], loss = step(current[0], dict(batch), key, 0.1)
        jax.block_until_ready((current[0], loss))

    return TimedCase(call, f"compiled in {seconds:.1f} s")


def parse_shape(text: str) -> Shape:
    """A shape of logits from a command line."""
    return _sides(text, 3, "8x512x512x2 (batch, space, classes)")


def _window(text: str) -> Shape:
    return _sides(text, 2, "16x32x32 (space)")


def _sides(text: str, least: int, example: str) -> Shape:
    if not re.fullmatch(rf"[1-9]\d*(x[1-9]\d*){{{least - 1},}}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not like {example}")
    return tuple(map(int, text.split("x")))


def _counts(text: str) -> tuple[int, ...]:
    return tuple(parse_count(part) for part in text.split(","))


def parse_count(text: str) -> int:
    """A number from 1 from a command line."""
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


COMMANDS: dict[str, Command] = {
    "losses": Command(loss_cases, "optax_dice", "value and gradient of every loss"),
    "thresholds": Command(threshold_cases, "thresholds_1", "threshold_counts, 1 and 91 thresholds"),
    "inference": Command(
        inference_cases,
        "sliding_window",
        "sliding windows over a volume: windows per second and memory",
        {
            "window": Flag(_window, (16, 32, 32), "its sides"),
            "filters": Flag(parse_count, 8, "of the U-Net at full resolution"),
            "batch_size": Flag(parse_count, 1, "windows at a time"),
        },
        ((1, 32, 64, 64, 3),),
        3,
    ),
    "sweep": Command(
        sweep_cases,
        "alone",
        "a training step of a grid, by every strategy",
        {
            "members": Flag(_counts, (1, 2, 5, 10), "numbers of members, as 1,2,5,10"),
            "filters": Flag(parse_count, 8, "of the U-Net at full resolution"),
        },
        ((1, 96, 96, 2),),
        5,
    ),
}
