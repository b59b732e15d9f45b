"""The U-Net of the paper, in 2-D or 3-D by the rank of what it is given."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

INSTANCE_NORM_EPSILON = 1e-3


class Block(nn.Module):
    """Twice: 3x3(x3) convolution, ReLU, instance normalisation."""

    filters: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = (3,) * (x.ndim - 2)
        for _ in range(2):
            x = nn.Conv(
                self.filters,
                kernel,
                dtype=self.dtype,
                kernel_init=nn.initializers.glorot_uniform(),
            )(x)
            # The mean and the variance are taken in float32 whatever the dtype.
            x = nn.InstanceNorm(epsilon=INSTANCE_NORM_EPSILON, dtype=self.dtype)(nn.relu(x))
        return x


class UNet(nn.Module):
    """U-Net: an encoder and a decoder of `Block`s with skip connections between them.

    Going down, `filters` doubles at each of `depth` 2x max-poolings; going up, a 2x2(x2)
    transposed convolution of stride 2, without activation, is put before the skip. A 1x1
    convolution makes the logits. Kernels start Glorot-uniform, biases 0.

    Sides that 2**depth does not divide are padded by repeating the border, and the logits cropped
    back.

    Attributes:
      num_classes: number of classes C.
      filters: number of filters at full resolution.
      depth: number of poolings.
      dtype: what convolutions compute in, float32 or bfloat16; parameters and logits are float32.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = UNet(num_classes=2, filters=4, depth=2)
      >>> image = jnp.zeros((1, 30, 20, 3))
      >>> logits, params = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
      >>> logits.shape
      (1, 30, 20, 2)

    Reference:
      DSC++ paper, section 2.7, with the widths and the order of layers of the authors' pipeline.
    """

    num_classes: int
    filters: int = 32
    depth: int = 4
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Logits of images.

        Args:
          image: `(B, *spatial, channels)` with two or three spatial axes.

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
        two = (2,) * len(spatial)

        skips = []
        for level in range(self.depth):
            x = Block(self.filters * 2**level, self.dtype)(x)
            skips.append(x)
            x = nn.max_pool(x, two, strides=two)
        x = Block(self.filters * 2**self.depth, self.dtype)(x)
        for level in reversed(range(self.depth)):
            x = nn.ConvTranspose(
                self.filters * 2**level,
                two,
                strides=two,
                dtype=self.dtype,
                kernel_init=nn.initializers.glorot_uniform(),
            )(x)
            x = Block(self.filters * 2**level, self.dtype)(jnp.concatenate([x, skips[level]], -1))
        logits = nn.Conv(
            self.num_classes,
            (1,) * len(spatial),
            dtype=self.dtype,
            kernel_init=nn.initializers.glorot_uniform(),
        )(x)
        crop = tuple(slice(0, n) for n in spatial)
        return logits[(slice(None), *crop)].astype(jnp.float32)


def pad_to_multiple(image: jax.Array, multiple: int) -> jax.Array:
    """Pad the end of every spatial axis of `(B, *spatial, channels)` to a multiple.

    The border is repeated rather than zeros put in, which the instance norm would take for a part
    of the image.
    """
    spatial: Sequence[int] = image.shape[1:-1]
    widths = [(0, 0), *((0, -n % multiple) for n in spatial), (0, 0)]
    return jnp.pad(image, widths, mode="edge") if any(after for _, after in widths) else image
