"""The paper's U-Net with parameters that two libraries can share."""

import math
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from dicepp_jax import train
from dicepp_jax.models.unet import UNet
from dicepp_jax.train import ApplyFn


class Network(NamedTuple):
    """A U-Net of the paper's depth.

    Attributes:
      apply: `(params, images) -> logits`.
      params: of flax, NumPy arrays.
      filters: at full resolution.
      channels: of images.
      classes: of logits.
      ndim: number of spatial axes.
    """

    apply: ApplyFn
    params: Any
    filters: int
    channels: int
    classes: int
    ndim: int

    @property
    def size(self) -> int:
        """The number of parameters."""
        return sum(x.size for x in jax.tree.leaves(self.params))

    @property
    def state(self) -> train.TrainState:
        """The state before the first step, in arrays of its own: a step may overwrite them."""
        params = jax.tree.map(jnp.array, self.params)
        return train.TrainState(jnp.zeros((), jnp.int32), params, train.sgd(0.0).init(params))


def unet(ndim: int, channels: int, classes: int, filters: int) -> Network:
    """A U-Net whose parameters are drawn without running it, which would take memory and time.

    Every parameter is random, biases too, so that one in a wrong place is found out.
    """
    model = UNet(num_classes=classes, filters=filters)
    image = jnp.zeros((1, *(2 ** (UNet.depth + 1),) * ndim, channels))
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    rng = np.random.default_rng(0)

    def drawn(path: tuple[Any, ...], shape: jax.ShapeDtypeStruct) -> np.ndarray:
        values = rng.normal(size=shape.shape).astype(np.float32)
        kind = path[-1].key
        if kind == "kernel":
            return values / math.sqrt(math.prod(shape.shape[:-1]))
        return 0.1 * values + (kind == "scale")

    params = jax.tree_util.tree_map_with_path(drawn, shapes)
    return Network(cast(ApplyFn, model.apply), params, filters, channels, classes, ndim)
