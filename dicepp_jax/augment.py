"""Training-time augmentation of one (image, label) pair with two or three spatial axes.

An image is `(*spatial, channels)` floats, already z-scored; its label is `(*spatial)` integers, 0
for the background. Everything is pure JAX and works under `jit` and `vmap`:
`draw` samples the parameters of one augmentation from a key, the other functions apply given
parameters, and `augment` does both. A transform that is not drawn has its neutral value (no flip,
factor 1, alpha 0, angle 0, scale 1), at which it changes nothing at all.

The protocol is that of Yeung et al. (2023), "Calibrating the Dice loss to handle neural network
overconfidence for biomedical image segmentation", https://doi.org/10.1007/s10278-022-00735-3,
whose experiments used MIScnn with batchgenerators: mirroring, brightness, then one warp of the
sampling coordinates that combines an elastic deformation, a rotation and a scaling.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from dicepp_jax.array_checks import as_array, is_integer

BRIGHTNESS = (0.5, 2.0)
ALPHA = (0.0, 900.0)
SIGMA = (9.0, 13.0)
ANGLE = (math.radians(-15.0), math.radians(15.0))
SCALE = (0.85, 1.25)

_TRUNCATE = 4
_MAX_SIGMA = 128


class Draw(NamedTuple):
    """The parameters of one augmentation, sampled by `draw`.

    Attributes:
      flips: `(ndim,)` bool, whether each spatial axis is mirrored.
      factors: `(channels,)` brightness factors, all 1 when not drawn.
      alpha: Magnitude of the elastic deformation in voxels, 0 when not drawn.
      sigma: Smoothness of the elastic deformation in voxels.
      angles: `(1,)` in 2-D or `(3,)` in 3-D, in radians, all 0 when not drawn.
      scale: Factor on the sampling coordinates, 1 when not drawn.
    """

    flips: jax.Array
    factors: jax.Array
    alpha: jax.Array
    sigma: jax.Array
    angles: jax.Array
    scale: jax.Array


def draw(
    key: jax.Array,
    ndim: int,
    channels: int,
    *,
    p_mirror: float = 0.5,
    p_brightness: float = 0.15,
    p_elastic: float = 0.15,
    p_rotate: float = 0.15,
    p_scale: float = 0.15,
) -> Draw:
    """Draw the parameters of one augmentation, every transform independently of the others.

    Args:
      key: A JAX random key.
      ndim: Number of spatial axes, 2 or 3.
      channels: Number of image channels.
      p_mirror: Probability of mirroring, for each axis. Yeung et al. (2023) state 0.15, but their
        code used the fixed 0.5 of batchgenerators. Like the others, not a traced value.
      p_brightness: Probability of one factor per channel, uniform in [0.5, 2].
      p_elastic: Probability of an elastic deformation, alpha uniform in [0, 900] voxels and
        sigma uniform in [9, 13] voxels.
      p_rotate: Probability of a rotation, each angle uniform in [-15, 15] degrees.
      p_scale: Probability of a scaling, uniform in [0.85, 1] or in [1, 1.25] with equal chance.

    Returns:
      The parameters; transforms that are not drawn have their neutral values.

    Raises:
      ValueError: `ndim` is not 2 or 3, or a probability is outside [0, 1].

    Example:
      >>> params = draw(jax.random.key(0), 2, 3, p_mirror=0.0, p_scale=0.0)
      >>> params.flips.tolist(), float(params.scale)
      ([False, False], 1.0)
    """
    _check_ndim(ndim)
    probabilities = {
        "p_mirror": p_mirror,
        "p_brightness": p_brightness,
        "p_elastic": p_elastic,
        "p_rotate": p_rotate,
        "p_scale": p_scale,
    }
    for name, p in probabilities.items():
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"{name} is {p}, which is not a probability; pass a float in [0, 1]")
    keys = jax.random.split(key, 7)
    p_parts = jnp.array([p_brightness, p_elastic, p_rotate, p_scale])
    brighten, deform, rotate, rescale = jax.random.bernoulli(keys[0], p_parts)

    def uniform(key: jax.Array, bounds: tuple[float, float], shape: tuple[int, ...]) -> jax.Array:
        return jax.random.uniform(key, shape, minval=bounds[0], maxval=bounds[1])

    flips = jax.random.bernoulli(keys[1], p_mirror, (ndim,))
    factors = jnp.where(brighten, uniform(keys[2], BRIGHTNESS, (channels,)), 1.0)
    alpha = jnp.where(deform, uniform(keys[3], ALPHA, ()), 0.0)
    sigma = uniform(keys[4], SIGMA, ())
    angles = jnp.where(rotate, uniform(keys[5], ANGLE, (math.comb(ndim, 2),)), 0.0)
    side = uniform(keys[6], (-1.0, 1.0), ())
    reach = jnp.where(side < 0, 1.0 - SCALE[0], SCALE[1] - 1.0)
    scale = jnp.where(rescale, 1.0 + side * reach, 1.0)
    return Draw(flips, factors, alpha, sigma, angles, scale)


def mirror(image: jax.Array, label: jax.Array, flips: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Reverse the spatial axes whose entry in `flips` is true.

    Args:
      image: `(*spatial, channels)` floats.
      label: `(*spatial)` integers.
      flips: `(ndim,)` bool.

    Returns:
      The mirrored image and label.

    Raises:
      ValueError: Image and label do not match, or `flips` has the wrong shape.

    Example:
      >>> label = jnp.array([[0, 1], [2, 3]])
      >>> mirror(label[..., None] * 1.0, label, jnp.array([True, False]))[1].tolist()
      [[2, 3], [0, 1]]
    """
    image, label = _pair(image, label)
    flips = as_array("flips", flips)
    if flips.shape != (label.ndim,) or not is_integer(flips):
        raise ValueError(
            f"flips have shape {flips.shape} and are {flips.dtype}; pass one bool per spatial axis"
        )
    for axis in range(label.ndim):
        image = jnp.where(flips[axis], jnp.flip(image, axis), image)
        label = jnp.where(flips[axis], jnp.flip(label, axis), label)
    return image, label


def brightness(image: jax.Array, factors: jax.Array) -> jax.Array:
    """Multiply each channel by its factor; for z-scored images this changes the contrast.

    Args:
      image: `(*spatial, channels)` floats.
      factors: `(channels,)` floats.

    Returns:
      The image times the factors, in the image's dtype.

    Raises:
      ValueError: There is not one factor per channel.

    Example:
      >>> brightness(jnp.ones((1, 1, 2)), jnp.array([0.5, 2.0])).tolist()
      [[[0.5, 2.0]]]
    """
    image, factors = as_array("image", image), _finite("factors", factors)
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f"image is {image.dtype}; z-score it and pass a floating dtype")
    if image.ndim < 2 or factors.shape != image.shape[-1:]:
        raise ValueError(
            f"factors have shape {factors.shape}; pass {image.shape[-1:]}, one per channel"
        )
    factors = jnp.expand_dims(factors, tuple(range(image.ndim - 1)))
    return (image * factors).astype(image.dtype)


def smooth_noise(noise: jax.Array, sigma: jax.Array | float) -> jax.Array:
    """Smooth every axis but the first with a Gaussian, with zeros outside the array.

    Each axis is multiplied by the Toeplitz matrix `K[i, j] = w(i - j) / sum_k w(k)`, with
    `w(k) = exp(-k^2 / (2 sigma^2))` for `|k| <= int(4 sigma + 1/2)` and 0 beyond. This is
    `scipy.ndimage.gaussian_filter` with `mode="constant"`, for a sigma known only at run time.

    Args:
      noise: `(fields, *spatial)` floats.
      sigma: Standard deviation in voxels, above 0 and at most 128.

    Returns:
      The smoothed noise, of the same shape.

    Raises:
      ValueError: The noise has no spatial axis or no floats, or `sigma` is out of range and not
        traced.

    Example:
      >>> smoothed = smooth_noise(jnp.zeros((1, 65)).at[0, 32].set(1.0), 8.0)
      >>> round(float(smoothed.sum()), 4)
      1.0
    """
    noise = as_array("noise", noise)
    if noise.ndim < 2 or not jnp.issubdtype(noise.dtype, jnp.floating):
        raise ValueError(
            f"noise is {noise.dtype} of shape {noise.shape}; pass floats (fields, *spatial)"
        )
    if not isinstance(sigma, jax.core.Tracer) and not 0 < np.asarray(sigma) <= _MAX_SIGMA:
        raise ValueError(f"sigma is {sigma} voxels; pass a value in (0, {_MAX_SIGMA}]")
    for size in noise.shape[1:]:
        # Contracting axis 1 appends the smoothed axis, so a full cycle restores the order.
        kernel = _gaussian_toeplitz(size, sigma)
        noise = jnp.tensordot(noise, kernel, axes=(1, 1), precision="highest")
    return noise


def elastic_displacement(
    noise: jax.Array, alpha: jax.Array | float, sigma: jax.Array | float
) -> jax.Array:
    """Elastic deformation `alpha * smooth_noise(noise, sigma)` of Simard et al. (2003).

    Args:
      noise: `(ndim, *spatial)`, one field in [-1, 1] per axis.
      alpha: Magnitude in voxels.
      sigma: Smoothness in voxels, as in `smooth_noise`.

    Returns:
      `(ndim, *spatial)` displacements in voxels.

    Raises:
      ValueError: As `smooth_noise`, or there is not one field per axis.

    Example:
      >>> noise = jnp.ones((2, 301, 301))
      >>> elastic_displacement(noise, 100.0, 9.0)[:, 150, 150].round(2).tolist()
      [100.0, 100.0]
    """
    noise = as_array("noise", noise)
    if noise.ndim != noise.shape[0] + 1:
        raise ValueError(
            f"noise has shape {noise.shape}; pass (ndim, *spatial), one field per axis"
        )
    return alpha * smooth_noise(noise, sigma)


def rotation_matrix(angles: jax.Array) -> jax.Array:
    """Rotation of the sampling coordinates.

    In 2-D `[[cos a, -sin a], [sin a, cos a]]`. In 3-D `R_0(a_0) R_1(a_1) R_2(a_2)`, where
    `R_k` is the right-handed rotation about spatial axis `k`. Sampling at rotated coordinates
    rotates the image the other way: +90 degrees in 2-D gives `np.rot90(image, -1)`.

    Args:
      angles: `(1,)` for 2-D or `(3,)` for 3-D, in radians.

    Returns:
      `(2, 2)` or `(3, 3)`, orthogonal with determinant 1.

    Raises:
      ValueError: The number of angles is neither 1 nor 3.

    Example:
      >>> rotation_matrix(jnp.array([jnp.pi / 2])).round(3).astype(int).tolist()
      [[0, -1], [1, 0]]
    """
    angles = _finite("angles", angles)
    if angles.shape not in ((1,), (3,)):
        raise ValueError(
            f"angles have shape {angles.shape}; pass (1,) for 2-D or (3,) for 3-D, in radians"
        )
    if angles.shape == (1,):
        return _plane_rotation(2, 0, 1, angles[0])
    first, second, third = (
        _plane_rotation(3, (axis + 1) % 3, (axis + 2) % 3, angles[axis]) for axis in range(3)
    )
    return jnp.linalg.multi_dot([first, second, third], precision="highest")


def warp(
    image: jax.Array, label: jax.Array, displacement: jax.Array, matrix: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Resample image and label at `centre + matrix @ (grid - centre + displacement)`.

    The centre is `(n - 1) / 2` on each axis. The image is interpolated linearly, the label
    by nearest neighbour; outside the array both are 0. A matrix that enlarges the coordinates
    shrinks the object. Zero displacement and the identity matrix return the input exactly.

    Args:
      image: `(*spatial, channels)` floats.
      label: `(*spatial)` integers.
      displacement: `(ndim, *spatial)` in voxels.
      matrix: `(ndim, ndim)`, rotation and scale together.

    Returns:
      The resampled image and label, in their own dtypes.

    Raises:
      ValueError: Image and label do not match, or displacement or matrix have the wrong shape.

    Example:
      >>> label = jnp.array([[0, 1, 2]])
      >>> shift = jnp.stack([jnp.zeros((1, 3)), jnp.ones((1, 3))])
      >>> warp(label[..., None] * 1.0, label, shift, jnp.eye(2))[1].tolist()
      [[1, 2, 0]]
    """
    image, label = _pair(image, label)
    displacement, matrix = _finite("displacement", displacement), _finite("matrix", matrix)
    ndim = label.ndim
    if displacement.shape != (ndim, *label.shape) or matrix.shape != (ndim, ndim):
        raise ValueError(
            f"displacement {displacement.shape} and matrix {matrix.shape} do not match a label "
            f"{label.shape}; pass {(ndim, *label.shape)} and {(ndim, ndim)}"
        )
    centre = [(size - 1) / 2 for size in label.shape]
    grid = jnp.indices(label.shape, dtype=jnp.float32)
    offset = [grid[axis] - centre[axis] + displacement[axis] for axis in range(ndim)]
    # Written out to keep full precision: a matrix product may round to TF32 on a GPU.
    coordinates = [
        centre[row] + sum(matrix[row, column] * offset[column] for column in range(ndim))
        for row in range(ndim)
    ]
    sample = partial(map_coordinates, coordinates=coordinates, mode="constant")
    warped = jax.vmap(partial(sample, order=1), in_axes=-1, out_axes=-1)(image)
    return warped, sample(label, order=0)


def augment(
    key: jax.Array,
    image: jax.Array,
    label: jax.Array,
    *,
    p_mirror: float = 0.5,
    p_brightness: float = 0.15,
    p_elastic: float = 0.15,
    p_rotate: float = 0.15,
    p_scale: float = 0.15,
) -> tuple[jax.Array, jax.Array]:
    """Augment one pair: mirror, brightness, then one warp (elastic deformation, rotation, scale).

    The first half of `jax.random.split(key)` goes to `draw`, the second to the elastic
    noise. The warp costs nothing when none of its transforms is drawn, but under `vmap` it always
    runs: for a batch at low probabilities `jax.lax.map` is cheaper.

    Args:
      key: A JAX random key; the same key gives the same result.
      image: `(*spatial, channels)` floats, z-scored.
      label: `(*spatial)` integers.
      p_mirror: See `draw`, as for the other probabilities.
      p_brightness: See `draw`.
      p_elastic: See `draw`.
      p_rotate: See `draw`.
      p_scale: See `draw`.

    Returns:
      The augmented image and label, of the same shapes and dtypes.

    Raises:
      ValueError: Image and label do not match, or a probability is outside [0, 1].

    Example:
      >>> image, label = jnp.ones((8, 8, 1)), jnp.ones((8, 8), int)
      >>> image, label = jax.jit(augment)(jax.random.key(0), image, label)
      >>> image.shape, label.shape
      ((8, 8, 1), (8, 8))
    """
    image, label = _pair(image, label)
    draw_key, noise_key = jax.random.split(key)
    params = draw(
        draw_key,
        label.ndim,
        image.shape[-1],
        p_mirror=p_mirror,
        p_brightness=p_brightness,
        p_elastic=p_elastic,
        p_rotate=p_rotate,
        p_scale=p_scale,
    )
    image, label = mirror(image, label, params.flips)
    image = brightness(image, params.factors)
    field = (label.ndim, *label.shape)

    def deform() -> jax.Array:
        noise = jax.random.uniform(noise_key, field, minval=-1.0, maxval=1.0)
        return elastic_displacement(noise, params.alpha, params.sigma)

    def resample() -> tuple[jax.Array, jax.Array]:
        displacement = jax.lax.cond(params.alpha > 0, deform, lambda: jnp.zeros(field))
        return warp(image, label, displacement, params.scale * rotation_matrix(params.angles))

    drawn = (params.alpha > 0) | jnp.any(params.angles != 0) | (params.scale != 1)
    result: tuple[jax.Array, jax.Array] = jax.lax.cond(drawn, resample, lambda: (image, label))
    return result


def _check_ndim(ndim: int) -> None:
    if ndim not in (2, 3):
        raise ValueError(
            f"found {ndim} spatial axes, expected 2 or 3; "
            "pass one sample at a time and vmap over a batch"
        )


def _finite(name: str, x: jax.Array) -> jax.Array:
    """An array whose values are finite, if they are known: a NaN has no place in an image."""
    x = as_array(name, x)
    if not isinstance(x, jax.core.Tracer) and not np.isfinite(np.asarray(x, np.float32)).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity among {x.shape}")
    return jnp.asarray(x)


def _pair(image: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
    image, label = as_array("image", image), as_array("label", label)
    _check_ndim(label.ndim)
    if image.shape[:-1] != label.shape:
        raise ValueError(
            f"image {image.shape} does not match label {label.shape}; "
            "pass image (*spatial, channels) with label (*spatial)"
        )
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f"image is {image.dtype}; z-score it and pass a floating dtype")
    if not jnp.issubdtype(label.dtype, jnp.integer):
        raise ValueError(f"label is {label.dtype}; pass integer class indices")
    if not label.size or not image.size:
        raise ValueError(f"image {image.shape} has no voxel or no channel; pass a non-empty image")
    return jnp.asarray(image), jnp.asarray(label)


def _gaussian_toeplitz(size: int, sigma: jax.Array | float) -> jax.Array:
    radius = jnp.floor(_TRUNCATE * sigma + 0.5)

    def weight(offset: jax.Array) -> jax.Array:
        return jnp.where(jnp.abs(offset) <= radius, jnp.exp(-0.5 * (offset / sigma) ** 2), 0.0)

    # The sum is over the whole kernel, which may be wider than the axis.
    total = weight(jnp.arange(-_TRUNCATE * _MAX_SIGMA, _TRUNCATE * _MAX_SIGMA + 1)).sum()
    index = jnp.arange(size)
    return weight(index[:, None] - index[None, :]) / total


def _plane_rotation(ndim: int, i: int, j: int, angle: jax.Array) -> jax.Array:
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    eye = jnp.eye(ndim)
    return eye.at[i, i].set(cos).at[i, j].set(-sin).at[j, i].set(sin).at[j, j].set(cos)
