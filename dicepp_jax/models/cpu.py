"""Convolutions in the forms that XLA computes fastest on a CPU, see docs/performance.md.

They are `lax.conv_general_dilated` with kernels of 1 or 3 taps per axis, stride 1 and same padding:
the same numbers but for rounding.
"""

from typing import Any

import jax
import jax.numpy as jnp

NHWC = ("NHWC", "HWIO", "NHWC")
FEW_CHANNELS = 8


def convolve(x: jax.Array, kernel: jax.Array, *args: Any, **options: Any) -> jax.Array:
    """Convolution of images or volumes, stride 1 and same padding.

    In 3-D it is a 2-D convolution of every slice, with its two neighbours as further channels.

    Args:
      x: `(B, H, W, channels)` or `(B, D, H, W, channels)`.
      kernel: `(k, k, channels, filters)` or `(k, k, k, channels, filters)` with k 1 or 3.
      *args: ignored; flax passes the arguments of `lax.conv_general_dilated`.
      **options: ignored as well.

    Returns:
      `(B, *spatial, filters)`. It has a gradient of any order, but no forward-mode derivative.
    """
    del args, options
    if kernel.shape[0] == 1:
        y = x.reshape(-1, x.shape[-1]) @ kernel.reshape(kernel.shape[-2:])
        return y.reshape(*x.shape[:-1], -1)
    if x.ndim == 4:
        return _convolve(x, kernel)
    depth = x.shape[1]
    padded = jnp.pad(x, [(0, 0), (1, 1), (0, 0), (0, 0), (0, 0)])
    slices = jnp.concatenate([padded[:, i : i + depth] for i in range(3)], axis=-1)
    y = _convolve(slices.reshape(-1, *slices.shape[2:]), jnp.concatenate(list(kernel), axis=-2))
    return y.reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`(B, H, W, channels)` by `(3, 3, channels, filters)`."""
    batch, height, width, channels = x.shape
    if channels >= FEW_CHANNELS:
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC)
    # The channels of three neighbours lie side by side, so they can be one window of one channel.
    return jax.lax.conv_general_dilated(
        x.reshape(batch, height, width * channels, 1),
        kernel.reshape(3, 3 * channels, 1, -1),
        window_strides=(1, channels),
        padding=((1, 1), (channels, channels)),
        dimension_numbers=NHWC,
    )


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(x, kernel), (x, kernel)


def _backward(kept: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    return _image_gradient(g, kernel), _kernel_gradient(x, g)


_convolve.defvjp(_forward, _backward)


def _image_gradient(g: jax.Array, kernel: jax.Array) -> jax.Array:
    """Sum over taps of g times the tap, shifted: `(B, H, W, channels)`."""
    if kernel.size < 4 * g.size:
        return _convolve(g, kernel[::-1, ::-1].swapaxes(2, 3))
    # In the deepest layers, to transpose the kernel takes longer than to convolve. A matrix product
    # with all taps needs no transposition; what it gives is small enough to shift afterwards.
    batch, height, width, filters = g.shape
    taps = jnp.einsum("po,ko->pk", g.reshape(-1, filters), kernel.reshape(-1, filters))
    taps = taps.reshape(batch, height, width, 3, 3, -1)
    padded = jnp.pad(taps, [(0, 0), (1, 1), (1, 1), (0, 0), (0, 0), (0, 0)])
    shifted = (
        padded[:, 2 - y : 2 - y + height, 2 - x : 2 - x + width, y, x]
        for y in range(3)
        for x in range(3)
    )
    return sum(shifted, start=jnp.zeros((), g.dtype))


def _kernel_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
    """Sum over all pixels of x, shifted by a tap, times g: `(3, 3, channels, filters)`.

    XLA would derive a convolution of one channel with a kernel as large as the image, which uses a
    fraction of the processor. Here the columns are the channels of a 1-D convolution over the rows
    of all images, and one of x and g is copied three times, shifted by a column.
    """
    # If there is less of g, copying it instead pays, unless transposing the result costs more.
    if g.shape[-1] < x.shape[-1] and x.size > 9 * x.shape[-1] * g.shape[-1]:
        return _by_taps(g, x)[::-1, ::-1].swapaxes(2, 3)
    return _by_taps(x, g)


def _by_taps(shifted: jax.Array, fixed: jax.Array) -> jax.Array:
    """The same sums, `(3, 3, channels of shifted, channels of fixed)`, of any two arrays."""
    batch, height, width, channels = shifted.shape
    columns = jnp.pad(shifted.transpose(3, 0, 1, 2), [(0, 0), (0, 0), (1, 1), (1, 1)])
    copies = jnp.concatenate([columns[..., i : i + width] for i in range(3)])
    rows = copies.reshape(3 * channels, batch * (height + 2), width)
    if batch > 1:
        # The rows of padding between two images meet zeros.
        rows = jnp.pad(rows, [(0, 0), (0, 2), (0, 0)])
        fixed = jnp.pad(fixed, [(0, 0), (0, 2), (0, 0), (0, 0)])
    y = jax.lax.conv_general_dilated(
        rows,
        fixed.reshape(-1, width, fixed.shape[-1]),
        window_strides=(1,),
        padding="VALID",
        dimension_numbers=("NHC", "HIO", "NHC"),
    )
    return y.reshape(3, channels, 3, -1).transpose(2, 0, 1, 3)
