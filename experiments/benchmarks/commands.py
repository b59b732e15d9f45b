"""The table of what experiments.bench times.

What is timed is imported when it is timed, so that `--help` need not load JAX.
"""

import functools
import importlib
from collections.abc import Callable

from experiments.benchmarks.arguments import (
    parse_count,
    parse_counts,
    parse_probability,
    parse_window,
)
from experiments.benchmarks.timing import Command, Flag, Setting, TimedCase, text

LOGITS = "logits, BxHxWxC or BxDxHxWxC"
IMAGES = "images, BxHxWxC or BxDxHxWxC"
ARRAYS = (Setting((8, 512, 512, 2)), Setting((1, 80, 160, 160, 3)))
FILTERS = Flag(parse_count, 8, "of the U-Net at full resolution")


def _cases(module: str, function: str, *args: object, **flags: object) -> dict[str, TimedCase]:
    found = importlib.import_module(f"experiments.benchmarks.{module}")
    return getattr(found, function)(*args, **flags)


def _late(module: str, function: str) -> Callable[..., dict[str, TimedCase]]:
    """The cases of a module of this package, which is imported when they are asked for."""
    return functools.partial(_cases, module, function)


COMMANDS: dict[str, Command] = {
    "losses": Command(
        _late("arrays", "loss_cases"),
        ("optax_dice",),
        "value and gradient of every loss",
        LOGITS,
        ARRAYS,
    ),
    "thresholds": Command(
        _late("arrays", "threshold_cases"),
        ("thresholds_1",),
        "threshold_counts, 1 and 91 thresholds",
        LOGITS,
        ARRAYS,
    ),
    "train": Command(
        _late("steps", "train_cases"),
        ("torch_eager", "train_step"),
        "a training step: forward, DSC++, backward, update",
        IMAGES,
        (
            Setting((1, 128, 128, 3)),
            Setting((1, 256, 256, 3)),
            Setting((1, 512, 512, 3)),
            Setting((1, 128, 128, 3), {"filters": 8}),
            Setting((1, 32, 64, 64, 1), {"filters": 16, "classes": 3}),
            # On a CPU, torch convolves a single volume otherwise than several.
            Setting((2, 32, 64, 64, 1), {"filters": 16, "classes": 3}),
        ),
        {
            "filters": FILTERS._replace(default=32),
            "classes": Flag(parse_count, 2, "number of them"),
        },
        5,
    ),
    "augment": Command(
        _late("augmentations", "augment_cases"),
        ("batchgenerators", "augment"),
        "augmentation of examples, mirroring always with 1/2",
        "an example, HxWxC or DxHxWxC",
        (
            Setting((512, 512, 3), {"probability": 1.0}),
            Setting((512, 512, 3), {"examples": 8}),
            Setting((80, 160, 160, 1), {"probability": 1.0}),
            Setting((80, 160, 160, 1), {"examples": 8}),
        ),
        {
            "probability": Flag(parse_probability, 0.15, "of each other transform"),
            "examples": Flag(parse_count, 1, "in a call"),
        },
        5,
    ),
    "inference": Command(
        _late("windows", "inference_cases"),
        ("monai_sliding_window", "torch_whole_image", "sliding_window", "whole_image"),
        "prediction, whole and by sliding windows: images or windows per second and memory",
        LOGITS,
        (
            Setting((1, 32, 64, 64, 3)),
            Setting((1, 584, 565, 2), {"window": (), "filters": 32, "channels": 3}),
        ),
        {
            "window": Flag(
                parse_window, (16, 32, 32), "its sides, or whole", lambda w: text(w) or "whole"
            ),
            "filters": FILTERS,
            "channels": Flag(parse_count, 1, "of the image"),
            "batch_size": Flag(parse_count, 1, "windows at a time"),
        },
        3,
        memory=True,
    ),
    "sweep": Command(
        _late("grids", "sweep_cases"),
        ("alone",),
        "a training step of a grid, by every strategy",
        LOGITS,
        (Setting((1, 96, 96, 2)),),
        {
            "members": Flag(
                parse_counts,
                (1, 2, 5, 10),
                "numbers of members, as 1,2,5,10",
                lambda counts: ",".join(map(str, counts)),
            ),
            "filters": FILTERS,
        },
        5,
    ),
    "data": Command(
        _late("epochs", "data_cases"),
        ("cached",),
        "epochs of the input pipeline, and how long training waits for it",
        IMAGES,
        (Setting((4, 96, 96, 3)), Setting((1, 16, 32, 32, 1))),
        {"filters": FILTERS._replace(default=4)},
        5,
    ),
    "startup": Command(
        _late("startup", "startup_cases"),
        ("first_step_cold",),
        "until commands begin: help, imports, a first step with a cold and a warm cache",
        IMAGES,
        (Setting((1, 96, 96, 3)),),
        {"filters": FILTERS},
        3,
    ),
}
