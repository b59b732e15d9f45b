"""Prediction with a U-Net, whole or by sliding windows, beside the same network in torch."""

import functools
import math
from collections.abc import Callable

import jax
import numpy as np

from dicepp_jax.inference import sliding_window
from dicepp_jax.models.unet import UNet
from dicepp_jax.preprocess import window_starts
from experiments.benchmarks.networks import Network, unet
from experiments.benchmarks.timing import NOT_INSTALLED, Shape, TimedCase, text
from experiments.benchmarks.torch_unet import (
    eager_note,
    from_torch,
    to_torch,
    torch_device,
    torch_unet,
    wait,
)


def inference_cases(
    shape: Shape, window: Shape, filters: int, channels: int, batch_size: int
) -> dict[str, TimedCase]:
    """An image from host memory to its probabilities there, with the U-Net of the paper's depth."""
    batch, *spatial, classes = shape
    if batch != 1 or len(window) not in (0, len(spatial)):
        raise ValueError(
            f"--shapes {text(shape)}, --window {text(window)}: expected a batch of 1, and a "
            f"window of as many sides as the volume, such as {'x'.join(['32'] * len(spatial))}"
        )
    halved = 2**UNet.depth
    # Of a single voxel in the deepest block torch takes no instance norm.
    if window and (any(n % halved for n in window) or max(window) == halved):
        raise ValueError(
            f"--window {text(window)}: sides must be multiples of {halved}, and one {2 * halved} "
            "or more"
        )
    image = np.random.default_rng(0).normal(size=(*spatial, channels)).astype(np.float32)
    network = unet(len(spatial), channels, classes, filters)
    if window:
        return _by_windows(network, image, window, batch_size)
    return _whole(network, image)


def _forward(network: Network) -> Callable[[np.ndarray], jax.Array]:
    """From images to probabilities, compiled; parameters are no constants of the program."""
    softmax = jax.jit(lambda params, images: jax.nn.softmax(network.apply(params, images)))
    return functools.partial(softmax, jax.device_put(network.params))


def _by_windows(
    network: Network, volume: np.ndarray, window: Shape, batch_size: int
) -> dict[str, TimedCase]:
    """By windows that overlap by half."""
    overlap = tuple(n // 2 for n in window)
    count = math.prod(
        len(window_starts(*axis)) for axis in zip(volume.shape, window, overlap, strict=False)
    )
    forward = _forward(network)

    def predict() -> np.ndarray:
        return sliding_window(
            forward, volume, window, overlap, network.classes, batch_size=batch_size
        )

    ours = TimedCase(
        predict,
        f"{network.size:,} parameters",
        count,
        "windows",
        output=lambda: {"probabilities": predict()},
    )
    theirs = _monai_windows(network, volume, window, batch_size)
    return {
        "sliding_window": ours,
        "monai_sliding_window": theirs._replace(items=count, item="windows"),
    }


def _monai_windows(
    network: Network, volume: np.ndarray, window: Shape, batch_size: int
) -> TimedCase:
    """MONAI's sliding window, whose windows lie as ours; not compiled."""
    try:
        import torch
        from monai.inferers import sliding_window_inference
    except ImportError:
        return TimedCase(None, NOT_INSTALLED)
    device = torch_device()
    model = torch_unet(network, device).eval()
    x = to_torch(volume[None], "cpu")

    def predict() -> np.ndarray:
        with torch.inference_mode():
            probs = sliding_window_inference(
                x,
                window,
                batch_size,
                lambda images: model(images).softmax(1),
                overlap=0.5,
                sw_device=device,
                device="cpu",
            )
        return from_torch(probs)[0]

    return TimedCase(
        predict,
        eager_note(device),
        output=lambda: {"probabilities": predict()},
        same_as="sliding_window",
    )


def _whole(network: Network, image: np.ndarray) -> dict[str, TimedCase]:
    """At once; sides that cannot be halved are padded by repeating the border."""
    forward = _forward(network)

    def predict() -> np.ndarray:
        return np.asarray(forward(image[None]))[0]

    ours = TimedCase(
        predict,
        f"{network.size:,} parameters",
        1,
        "images",
        output=lambda: {"probabilities": predict()},
    )
    theirs = _torch_whole(network, image)
    return {"whole_image": ours, "torch_whole_image": theirs._replace(items=1, item="images")}


def _torch_whole(network: Network, image: np.ndarray) -> TimedCase:
    """The same network in torch, padded likewise; not compiled."""
    try:
        import torch
    except ImportError:
        return TimedCase(None, NOT_INSTALLED)
    device = torch_device()
    model = torch_unet(network, device).eval()
    spatial = image.shape[:-1]
    # torch lists the last axis first.
    pads = [n for side in reversed(spatial) for n in (0, -side % 2**UNet.depth)]
    crop = tuple(slice(0, n) for n in spatial)

    def predict() -> np.ndarray:
        with torch.inference_mode():
            x = torch.nn.functional.pad(to_torch(image[None], device), pads, mode="replicate")
            probs = model(x).softmax(1)
            wait(device)
        return from_torch(probs)[0][crop]

    return TimedCase(
        predict,
        eager_note(device),
        output=lambda: {"probabilities": predict()},
        same_as="whole_image",
    )
