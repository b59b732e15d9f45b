"""Sliding windows over a volume with a U-Net, and MONAI's with the same network in torch."""

import functools
import math
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from dicepp_jax.inference import sliding_window
from dicepp_jax.models.layers import INSTANCE_NORM_EPSILON
from dicepp_jax.models.unet import UNet
from dicepp_jax.preprocess import window_starts
from dicepp_jax.train import ApplyFn
from experiments.benchmarks.timing import NOT_INSTALLED, Shape, TimedCase, text


def inference_cases(
    shape: Shape, window: Shape, filters: int, batch_size: int
) -> dict[str, TimedCase]:
    """A volume by windows that overlap by half, with the U-Net of the paper's depth."""
    batch, *spatial, num_classes = shape
    if batch != 1 or len(window) != len(spatial):
        raise ValueError(
            f"--shapes {text(shape)}, --window {text(window)}: expected a batch of 1, and a "
            f"window of as many sides as the volume, such as {'x'.join(['32'] * len(spatial))}"
        )
    halved = 2**UNet.depth
    # Of a single voxel in the deepest block torch takes no instance norm.
    if any(n % halved for n in window) or max(window) == halved:
        raise ValueError(
            f"--window {text(window)}: sides must be multiples of {halved}, and one {2 * halved} "
            "or more"
        )
    volume = np.random.default_rng(0).normal(size=(*spatial, 1)).astype(np.float32)
    overlap = tuple(n // 2 for n in window)
    windows = math.prod(
        len(window_starts(*axis)) for axis in zip(spatial, window, overlap, strict=True)
    )
    model = UNet(num_classes=num_classes, filters=filters)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *window, 1)))
    # Drawing them would run the network, whose memory is to be measured later.
    params = jax.tree.map(lambda x: jnp.full(x.shape, 0.01), shapes)
    apply = cast(ApplyFn, model.apply)
    softmax = jax.jit(lambda params, images: jax.nn.softmax(apply(params, images)))
    forward = functools.partial(softmax, params)
    ours = TimedCase(
        lambda: sliding_window(
            forward, volume, window, overlap, num_classes, batch_size=batch_size
        ),
        f"{sum(x.size for x in jax.tree.leaves(params)):,} parameters",
        windows,
    )
    theirs = _monai_windows(volume, window, num_classes, filters, batch_size)
    return {"sliding_window": ours, "monai_sliding_window": theirs._replace(windows=windows)}


def _monai_windows(
    volume: np.ndarray, window: Shape, num_classes: int, filters: int, batch_size: int
) -> TimedCase:
    """MONAI's sliding window, whose windows lie as ours; not compiled."""
    try:
        import torch
        from monai.inferers import sliding_window_inference
    except ImportError:
        return TimedCase(None, NOT_INSTALLED)
    on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    network = _torch_unet(volume.ndim - 1, filters, num_classes).to(device).eval()
    x = torch.from_numpy(np.moveaxis(volume, -1, 0)[None].copy())

    def call() -> None:
        with torch.inference_mode():
            sliding_window_inference(
                x,
                window,
                batch_size,
                lambda images: network(images).softmax(1),
                overlap=0.5,
                sw_device=device,
                device="cpu",
            )

    parameters = sum(p.numel() for p in network.parameters())
    return TimedCase(
        call, f"{parameters:,} parameters, eager, torch {torch.__version__} on {device}"
    )


def _torch_unet(ndim: int, filters: int, num_classes: int) -> Any:
    """The layers of `UNet` in torch, for images of one channel."""
    import torch
    from torch import nn

    convolution, transposed, pool, norm = (
        getattr(nn, f"{kind}{ndim}d")
        for kind in ("Conv", "ConvTranspose", "MaxPool", "InstanceNorm")
    )

    def block(before: int, after: int) -> nn.Module:
        layers: list[nn.Module] = []
        for width in (before, after):
            layers += [convolution(width, after, 3, padding=1), nn.ReLU()]
            layers += [norm(after, eps=INSTANCE_NORM_EPSILON, affine=True)]
        return nn.Sequential(*layers)

    class TorchUNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            *widths, deepest = (filters * 2**level for level in range(UNet.depth + 1))
            self.down = nn.ModuleList(map(block, (1, *widths[:-1]), widths))
            self.bottom = block(widths[-1], deepest)
            self.up = nn.ModuleList(transposed(2 * n, n, 2, stride=2) for n in widths[::-1])
            self.joined = nn.ModuleList(block(2 * n, n) for n in widths[::-1])
            self.halve = pool(2)
            self.logits = convolution(filters, num_classes, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            skips = []
            for block in self.down:
                x = block(x)
                skips.append(x)
                x = self.halve(x)
            x = self.bottom(x)
            for up, block in zip(self.up, self.joined, strict=True):
                x = block(torch.cat([up(x), skips.pop()], 1))
            return self.logits(x)

    return TorchUNet()
