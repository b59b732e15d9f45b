"""Networks by name. To add one, write a flax module and add a row to `MODELS`.

    MODELS[name](num_classes=C, filters=..., depth=..., dtype=..., remat=..., dropout=...)

returns a flax module that maps images `(B, *spatial, channels)` to float32 logits
`(B, *spatial, C)`; with keys `(B,)` as a second argument, with dropout at that rate.
"""

from collections.abc import Callable

import flax.linen as nn

from dicepp_jax.models.unet import UNet

__all__ = ["MODELS", "UNet"]

MODELS: dict[str, Callable[..., nn.Module]] = {"unet": UNet}
