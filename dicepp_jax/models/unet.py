"""The U-Net of the paper, 2-D or 3-D depending on the rank of its input."""

import itertools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

INSTANCE_NORM_EPSILON = 1e-3


def _slow_in_3d(x: jax.Array) -> bool:
    """Whether XLA's convolutions of x are about ten times slower than necessary."""
    return x.ndim == 5 and jax.default_backend() == "cpu"


def convolve_slices(x: jax.Array, kernel: jax.Array, *args: Any, **options: Any) -> jax.Array:
    """`lax.conv_general_dilated` for a 3x3x3 kernel, stride 1 and same padding, fast on a CPU.

    It is a 2-D convolution of every slice, with its two neighbours as further channels.

    Args:
      x: `(B, D, H, W, channels)`.
      kernel: `(3, 3, 3, channels, filters)`.
      *args: ignored; flax passes the arguments of `lax.conv_general_dilated`.
      **options: ignored as well.

    Returns:
      `(B, D, H, W, filters)`.
    """
    del args, options
    depth = x.shape[1]
    padded = jnp.pad(x, [(0, 0), (1, 1), (0, 0), (0, 0), (0, 0)])
    slices = jnp.concatenate([padded[:, i : i + depth] for i in range(3)], axis=-1)
    y = jax.lax.conv_general_dilated(
        slices.reshape(-1, *slices.shape[2:]),
        jnp.concatenate(list(kernel), axis=-2),
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y.reshape(*x.shape[:-1], -1)


class ConvTransposeCPU(nn.Module):
    """`flax.linen.ConvTranspose` with a 2x2x2 kernel and stride 2, as a matrix product for a CPU.

    The windows do not overlap, so each input voxel determines eight output voxels. The parameters
    are those of flax.
    """

    filters: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (2, 2, 2, x.shape[-1], self.filters)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.filters,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        # The kernel is flipped, as in a convolution: the first offset uses the last tap.
        y = jnp.einsum("bdhwi,xyzio->bdxhywzo", x, kernel[::-1, ::-1, ::-1])
        batch, depth, height, width, _ = x.shape
        y = y.reshape(batch, 2 * depth, 2 * height, 2 * width, self.filters)
        return y + bias.reshape(1, 1, 1, 1, -1)


class Block(nn.Module):
    """Two times a 3x3(x3) convolution, ReLU and instance normalisation."""

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
                conv_general_dilated=convolve_slices if _slow_in_3d(x) else None,
            )(x)
            # The mean and the variance are computed in float32 whatever the dtype.
            x = nn.InstanceNorm(epsilon=INSTANCE_NORM_EPSILON, dtype=self.dtype)(nn.relu(x))
        return x


class UNet(nn.Module):
    """U-Net: an encoder and a decoder of `Block`s with skip connections between them.

    The encoder doubles the number of filters at each of `depth` 2x max-poolings. In the decoder,
    the output of a 2x2(x2) transposed convolution of stride 2, without activation, is concatenated
    with the skip connection. A 1x1 convolution computes the logits. Kernels are initialised
    Glorot-uniform, biases with 0.

    Sides that are not divisible by 2**depth are padded by repeating the border, and the logits are
    cropped back.

    Attributes:
      num_classes: number of classes C.
      filters: number of filters at full resolution.
      depth: number of poolings.
      dtype: dtype of the convolutions, float32 or bfloat16; parameters and logits are float32.
      remat: whether training stores only the input of a block and recomputes its activations for
        the gradient: the same numbers with less memory and more time.

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

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Compute the logits of images.

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
        kind = nn.remat(Block) if self.remat else Block
        numbers = itertools.count()

        def block(level: int, x: jax.Array) -> jax.Array:
            # The name that flax chooses without `remat`; with it, flax would choose another.
            name = f"Block_{next(numbers)}"
            return kind(self.filters * 2**level, self.dtype, name=name)(x)

        skips = []
        for level in range(self.depth):
            x = block(level, x)
            skips.append(x)
            x = nn.max_pool(x, two, strides=two)
        x = block(self.depth, x)
        for number, level in enumerate(reversed(range(self.depth))):
            x = self._up(level, f"ConvTranspose_{number}", x)
            x = block(level, jnp.concatenate([x, skips[level]], -1))
        logits = nn.Conv(
            self.num_classes,
            (1,) * len(spatial),
            dtype=self.dtype,
            kernel_init=nn.initializers.glorot_uniform(),
        )(x)
        crop = tuple(slice(0, n) for n in spatial)
        return logits[(slice(None), *crop)].astype(jnp.float32)

    def _up(self, level: int, name: str, x: jax.Array) -> jax.Array:
        """Double the spatial size by a transposed convolution."""
        filters, two = self.filters * 2**level, (2,) * (x.ndim - 2)
        if _slow_in_3d(x):
            return ConvTransposeCPU(filters, self.dtype, name=name)(x)
        return nn.ConvTranspose(
            filters,
            two,
            strides=two,
            dtype=self.dtype,
            kernel_init=nn.initializers.glorot_uniform(),
            name=name,
        )(x)


def pad_to_multiple(image: jax.Array, multiple: int) -> jax.Array:
    """Pad the end of every spatial axis of `(B, *spatial, channels)` to a multiple.

    The border is repeated rather than padded with zeros, which instance normalisation would treat
    as part of the image.
    """
    spatial: Sequence[int] = image.shape[1:-1]
    widths = [(0, 0), *((0, -n % multiple) for n in spatial), (0, 0)]
    return jnp.pad(image, widths, mode="edge") if any(after for _, after in widths) else image
