"""Networks by name. A new model is one flax module and one row of `MODELS`.

    MODELS[name](num_classes=C, filters=..., depth=..., dtype=...)

gives a flax module from images `(B, *spatial, channels)` to float32 logits `(B, *spatial, C)`.
"""

from collections.abc import Callable

import flax.linen as nn

from dicepp_jax.models.unet import UNet

__all__ = ["MODELS", "UNet"]

MODELS: dict[str, Callable[..., nn.Module]] = {"unet": UNet}
