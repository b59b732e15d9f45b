"""Augmentation of examples, beside batchgenerators, which the paper's experiments used."""

import functools
import itertools
from typing import Any

import jax
import numpy as np

from dicepp_jax import augment
from experiments.benchmarks.timing import NOT_INSTALLED, Shape, TimedCase

PEERS = ("batchgenerators", "batchgenerators_linear")
MIRROR = 0.5
"""Of each axis, fixed in batchgenerators."""


def augment_cases(shape: Shape, probability: float, examples: int) -> dict[str, TimedCase]:
    """Examples `(*spatial, channels)` with their labels, one after another.

    Mirroring of each axis has probability 1/2, and brightness, elastic deformation, rotation and
    scaling the given one. Every call draws anew.
    """
    rng = np.random.default_rng(0)
    image = rng.normal(size=shape).astype(np.float32)
    label = rng.integers(0, 2, shape[:-1]).astype(np.int32)
    augmented = jax.jit(
        functools.partial(
            augment.augment,
            p_mirror=MIRROR,
            p_brightness=probability,
            p_elastic=probability,
            p_rotate=probability,
            p_scale=probability,
        )
    )
    on_device, numbers = jax.device_put((image, label)), itertools.count()

    def call() -> None:
        keys = jax.random.split(jax.random.key(next(numbers)), examples)
        jax.block_until_ready([augmented(key, *on_device) for key in keys])

    theirs = _batchgenerators_cases(image, label, probability, examples)
    cases = {"augment": TimedCase(call, "linear interpolation"), **theirs}
    return {name: case._replace(items=examples, item="examples") for name, case in cases.items()}


def _batchgenerators_cases(
    image: np.ndarray, label: np.ndarray, probability: float, examples: int
) -> dict[str, TimedCase]:
    """The same transforms by its own functions, with its cubic and with linear interpolation."""
    try:
        from batchgenerators.transforms.abstract_transforms import Compose
        from batchgenerators.transforms.color_transforms import BrightnessMultiplicativeTransform
        from batchgenerators.transforms.spatial_transforms import MirrorTransform, SpatialTransform
    except ImportError:
        return {name: TimedCase(None, NOT_INSTALLED) for name in PEERS}
    data, seg = np.moveaxis(image, -1, 0)[None], label[None, None].astype(np.float32)

    def case(order: int, interpolation: str) -> TimedCase:
        transform = Compose([
            MirrorTransform(axes=tuple(range(label.ndim))),
            BrightnessMultiplicativeTransform(augment.BRIGHTNESS, p_per_sample=probability),
            SpatialTransform(
                label.shape,
                alpha=augment.ALPHA,
                sigma=augment.SIGMA,
                angle_x=augment.ANGLE,
                angle_y=augment.ANGLE,
                angle_z=augment.ANGLE,
                scale=augment.SCALE,
                border_mode_data="constant",
                order_data=order,
                random_crop=False,
                p_el_per_sample=probability,
                p_rot_per_sample=probability,
                p_scale_per_sample=probability,
            ),
        ])  # fmt: skip

        def call() -> list[Any]:
            # Copies, since some transforms write into what they are given.
            return [transform(data=data.copy(), seg=seg.copy()) for _ in range(examples)]

        note = f"{interpolation} interpolation; draws differ from ours, so results are not compared"
        return TimedCase(call, note)

    return dict(zip(PEERS, (case(3, "cubic"), case(1, "linear")), strict=True))
