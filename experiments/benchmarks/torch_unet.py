"""The same network and loss in torch, which is imported only when they are asked for.

Images are `(B, channels, *spatial)` there.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from dicepp_jax.losses.inputs import EPSILON
from dicepp_jax.models.layers import INSTANCE_NORM_EPSILON
from dicepp_jax.models.unet import UNet
from experiments.benchmarks.networks import Network


def torch_device() -> str:
    """The device of torch that is of the same kind as ours."""
    import torch

    return "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"


def wait(device: str) -> None:
    """Return when what torch was told to do is done."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def eager_note(device: str) -> str:
    """How torch runs."""
    import torch

    return f"eager, torch {torch.__version__} on {device}"


def to_torch(images: np.ndarray, device: str) -> Any:
    """Images or logits `(B, *spatial, channels)` as a tensor with the channels in front."""
    import torch

    return torch.tensor(np.ascontiguousarray(np.moveaxis(images, -1, 1)), device=device)


def from_torch(tensor: Any) -> np.ndarray:
    """A tensor of `to_torch` as an array with the channels last."""
    return np.moveaxis(tensor.detach().cpu().numpy(), 1, -1)


def torch_dscpp(logits: Any, labels: Any, gamma: float = 2.0) -> Any:
    """`losses.dscpp` in torch.

    Args:
      logits: `(B, C, *spatial)`.
      labels: integers `(B, *spatial)`.
      gamma: the exponent.

    Returns:
      `(B,)` losses.
    """
    import torch

    p = logits.softmax(1).flatten(2)
    y = torch.nn.functional.one_hot(labels, logits.shape[1]).movedim(-1, 1).flatten(2)
    overlap = (p * y).sum(-1)
    errors = ((p * (1 - y)) ** gamma).sum(-1) + (((1 - p) * y) ** gamma).sum(-1)
    return (errors / (2 * overlap + errors + EPSILON)).mean(-1)


def torch_unet(network: Network, device: str) -> Any:
    """The layers of `UNet` with the parameters of a network."""
    import torch
    from torch import nn

    filters, classes = network.filters, network.classes
    convolution, transposed, pool, norm = (
        getattr(nn, f"{kind}{network.ndim}d")
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
            self.down = nn.ModuleList(map(block, (network.channels, *widths[:-1]), widths))
            self.bottom = block(widths[-1], deepest)
            self.up = nn.ModuleList(transposed(2 * n, n, 2, stride=2) for n in widths[::-1])
            self.joined = nn.ModuleList(block(2 * n, n) for n in widths[::-1])
            self.halve = pool(2)
            self.logits = convolution(filters, classes, 1)

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

    found = TorchUNet().to(device)
    load_parameters(found, network.params)
    return found


def load_parameters(network: Any, params: Any) -> None:
    """Give a network of `torch_unet` the parameters of flax.

    Args:
      network: whose parameters are overwritten.
      params: of a `Network`.
    """
    import torch

    layers = params["params"]
    blocks = [*network.down, network.bottom, *network.joined]
    pairs = [(network.logits, _convolution(layers["Conv_0"]))]
    for number, block in enumerate(blocks):
        of_block = layers[f"Block_{number}"]
        for half in range(2):
            norm = of_block[f"InstanceNorm_{half}"]
            pairs.append((block[3 * half], _convolution(of_block[f"Conv_{half}"])))
            pairs.append((block[3 * half + 2], (norm["scale"], norm["bias"])))
    for number, up in enumerate(network.up):
        pairs.append((up, _transposed_convolution(layers[f"ConvTranspose_{number}"])))
    with torch.no_grad():
        for layer, (weight, bias) in pairs:
            layer.weight.copy_(torch.tensor(np.array(weight)))
            layer.bias.copy_(torch.tensor(np.array(bias)))


def _convolution(layer: Any) -> Sequence[np.ndarray]:
    """From `(*window, in, out)` to `(out, in, *window)`."""
    kernel = np.asarray(layer["kernel"])
    return np.moveaxis(kernel, (-1, -2), (0, 1)), layer["bias"]


def _transposed_convolution(layer: Any) -> Sequence[np.ndarray]:
    """From `(*window, in, out)` to `(in, out, *window)`, mirrored: flax uses the last tap first."""
    kernel = np.asarray(layer["kernel"])
    window = tuple(range(kernel.ndim - 2))
    return np.moveaxis(np.flip(kernel, window), (-2, -1), (0, 1)), layer["bias"]
