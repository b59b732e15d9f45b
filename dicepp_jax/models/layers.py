"""Layers of the U-Net in one form for 2-D and 3-D; parameters are named and shaped as flax's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

INSTANCE_NORM_EPSILON = 1e-3


class ConvTranspose(nn.Module):
    """`flax.linen.ConvTranspose` with a 2x2(x2) kernel and stride 2, as a matrix product.

    The windows do not overlap, so each input pixel determines four (eight) output pixels.

    Attributes:
      filters: number of channels of the result.
      dtype: of the result.
    """

    filters: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, *spatial, channels = x.shape
        rank = len(spatial)
        shape = (*(2,) * rank, channels, self.filters)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.filters,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        # The kernel is flipped, as in a convolution: the first offset uses the last tap.
        taps = jnp.moveaxis(jnp.flip(kernel, range(rank)), rank, 0).reshape(channels, -1)
        y = x.reshape(-1, channels) @ taps
        y = y.reshape(batch, *spatial, *(2,) * rank, self.filters)
        interleaved = [axis for i in range(1, rank + 1) for axis in (i, i + rank)]
        y = y.transpose(0, *interleaved, 2 * rank + 1)
        y = y.reshape(batch, *(2 * n for n in spatial), self.filters)
        return y + _of_channels(bias, y)


def _of_channels(x: jax.Array, like: jax.Array) -> jax.Array:
    """`(channels,)` with as many axes as an array `(B, *spatial, channels)`."""
    return x.reshape((1,) * (like.ndim - 1) + (-1,))


def dropout(x: jax.Array, keys: jax.Array, rate: float) -> jax.Array:
    """Set values to 0 with a probability and divide the others by that of being kept.

    Args:
      x: `(B, *spatial, channels)`.
      keys: `(B,)`, one for each image, whatever other images are in the batch.
      rate: the probability, below 1.

    Returns:
      An array like x, whose expectation is x.

    Reference:
      Srivastava et al., Dropout: a simple way to prevent neural networks from overfitting, JMLR 15,
      2014.
    """
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(kept, x / (1 - rate), 0)


def max_pool(x: jax.Array) -> jax.Array:
    """The maximum of windows of 2x2(x2) of `(B, *spatial, channels)` with even sides.

    Equal values share the gradient. In the U-Net they come from a ReLU's zeros, through which no
    gradient passes.
    """
    for axis in range(1, x.ndim - 1):
        pairs = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
        first, second = (jax.lax.index_in_dim(pairs, i, axis + 1, False) for i in range(2))
        x = jnp.maximum(first, second)
    return x


class InstanceNorm(nn.Module):
    """ReLU, then `flax.linen.InstanceNorm`: the two in as few passes over the array as possible."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones_init(), x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros_init(), x.shape[-1:])
        return relu_instance_norm(x, scale, bias)


@jax.custom_vjp
def relu_instance_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Rectify, and normalise each channel of each image.

    r = max(x, 0), n = (r - mean r) / sqrt(var r + 1e-3), y = scale n + bias

    Mean, variance and gradient are computed in float32 whatever the dtype. The gradient in x is
    0 where x <= 0, else

    scale / sqrt(var r + 1e-3) * (g - mean g - n mean(g n))

    Args:
      x: `(B, *spatial, channels)`.
      scale: `(channels,)`.
      bias: `(channels,)`.

    Returns:
      An array like x. It has a gradient of any order, but no forward-mode derivative.
    """
    return _forward(x, scale, bias)[0]


def _forward(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, tuple]:
    r, axes = nn.relu(x).astype(jnp.float32), tuple(range(1, x.ndim - 1))
    mean = r.mean(axes, keepdims=True)
    # As flax, in one pass over the array.
    variance = jnp.maximum((r * r).mean(axes, keepdims=True) - mean * mean, 0)
    inverse = jax.lax.rsqrt(variance + INSTANCE_NORM_EPSILON)
    y = (r - mean) * (inverse * _of_channels(scale, x)) + _of_channels(bias, x)
    return y.astype(x.dtype), (x, scale, mean, inverse)


def _backward(kept: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, mean, inverse = kept
    axes = tuple(range(1, x.ndim - 1))
    r, upstream = nn.relu(x).astype(jnp.float32), g.astype(jnp.float32)
    count = x.size // (x.shape[0] * x.shape[-1])
    sum_g = upstream.sum(axes, keepdims=True)
    sum_gn = ((upstream * r).sum(axes, keepdims=True) - mean * sum_g) * inverse
    slope = -inverse * sum_gn / count
    in_r = _of_channels(scale, x) * inverse * (upstream + slope * (r - mean) - sum_g / count)
    per_channel = (0, *axes)
    in_x = jnp.where(x > 0, in_r, 0).astype(x.dtype)
    return in_x, sum_gn.sum(per_channel), sum_g.sum(per_channel)


relu_instance_norm.defvjp(_forward, _backward)
