"""The U-Net of the paper, 2-D or 3-D depending on the rank of its input."""

import itertools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dicepp_jax.models.cpu import convolve
from dicepp_jax.models.layers import ConvTranspose, InstanceNorm, dropout, max_pool


def _convolution(filters: int, kernel: tuple[int, ...], dtype: DTypeLike) -> nn.Conv:
    """A convolution with same padding, in the form that is fast on this backend."""
    return nn.Conv(
        filters,
        kernel,
        dtype=dtype,
        kernel_init=nn.initializers.glorot_uniform(),
        conv_general_dilated=convolve if jax.default_backend() == "cpu" else None,
    )


class Block(nn.Module):
    """Two times a 3x3(x3) convolution, ReLU and instance normalisation."""

    filters: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(2):
            x = _convolution(self.filters, (3,) * (x.ndim - 2), self.dtype)(x)
            x = InstanceNorm()(x)
        return x


class UNet(nn.Module):
    """U-Net: an encoder and a decoder of `Block`s with skip connections between them.

    The encoder doubles the number of filters at each of `depth` 2x max-poolings. In the decoder,
    the output of a 2x2(x2) transposed convolution of stride 2, without activation, is concatenated
    with the skip connection. A 1x1 convolution computes the logits. Kernels are initialised
    Glorot-uniform, biases with 0.

    Sides that are not divisible by 2**depth are padded by repeating the border, and the logits are
    cropped back.

    The network has gradients of any order, but no forward-mode derivative (`jax.jvp`,
    `jax.hessian`): the gradients of its norm, and of its convolutions on a CPU, are written out.

    Attributes:
      num_classes: number of classes C.
      filters: number of filters at full resolution.
      depth: number of poolings.
      dtype: dtype of the convolutions, float32 or bfloat16; parameters and logits are float32.
      remat: whether training stores only the input of a block and recomputes its activations for
        the gradient: the same numbers with less memory and more time.
      dropout: rate after the blocks of the bottleneck and of the decoder, where there are keys.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = UNet(num_classes=2, filters=4, depth=2)
      >>> image = jnp.zeros((1, 30, 20, 3))
      >>> logits, params = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
      >>> logits.shape
      (1, 30, 20, 2)

    Reference:
      DSC++ paper, section 2.7, with the filters and the order of layers of the authors' code.
    """

    num_classes: int
    filters: int = 32
    depth: int = 4
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, image: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Compute the logits of images.

        Args:
          image: `(B, *spatial, channels)` with two or three spatial axes.
          keys: `(B,)` random keys of dropout, one for each image; None for no dropout.

        Returns:
          `(B, *spatial, C)` float32 logits.

        Raises:
          ValueError: if there are not two or three spatial axes.
        """
        spatial = image.shape[1:-1]
        if len(spatial) not in (2, 3):
            raise ValueError(
                "UNet takes images of shape (B, H, W, channels) or (B, D, H, W, channels), "
                f"got {image.shape}"
            )
        x = pad_to_multiple(image, 2**self.depth).astype(self.dtype)
        kind = nn.remat(Block) if self.remat else Block
        numbers = itertools.count()

        def block(level: int, x: jax.Array) -> jax.Array:
            # The name that flax chooses without `remat`; with it, flax would choose another.
            name = f"Block_{next(numbers)}"
            return kind(self.filters * 2**level, self.dtype, name=name)(x)

        def dropped(number: int, x: jax.Array) -> jax.Array:
            if keys is None or not self.dropout:
                return x
            return dropout(
                x, jax.vmap(lambda key: jax.random.fold_in(key, number))(keys), self.dropout
            )

        skips = []
        for level in range(self.depth):
            x = block(level, x)
            skips.append(x)
            x = max_pool(x)
        x = dropped(0, block(self.depth, x))
        for number, level in enumerate(reversed(range(self.depth))):
            name = f"ConvTranspose_{number}"
            x = ConvTranspose(self.filters * 2**level, self.dtype, name=name)(x)
            x = dropped(number + 1, block(level, jnp.concatenate([x, skips[level]], -1)))
        logits = _convolution(self.num_classes, (1,) * len(spatial), self.dtype)(x)
        crop = tuple(slice(0, n) for n in spatial)
        return logits[(slice(None), *crop)].astype(jnp.float32)


def pad_to_multiple(image: jax.Array, multiple: int) -> jax.Array:
    """Pad the end of every spatial axis of `(B, *spatial, channels)` to a multiple.

    The border is repeated rather than padded with zeros, which instance normalisation would treat
    as part of the image.
    """
    spatial: Sequence[int] = image.shape[1:-1]
    widths = [(0, 0), *((0, -n % multiple) for n in spatial), (0, 0)]
    return jnp.pad(image, widths, mode="edge") if any(after for _, after in widths) else image
