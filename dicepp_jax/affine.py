"""Calibration after training by affine maps of log-probabilities: Platt scaling and its relatives.

The cross entropy is convex in the parameters of such a map, so fitting has one result, whatever
the start.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage, optimize, special

SLOPE = 1e-8
"""Norm of the gradient at which a fit ends."""

RIDGE = 1e-3
"""Weight of the penalty of neighbours, whose logits are so alike that many kernels fit as well."""


class Affine(NamedTuple):
    """z'_c(x) = sum_k weight_c(k) z_c(x + k) + offset_c, k over the voxels of a kernel.

    At the border of an image, the nearest voxel stands for what is outside.

    Attributes:
      weight: `(*kernel, C)`, or `(*kernel, 1)` if all classes share it.
      offset: `(C,)`; the first is 0, since only differences matter.

    Example:
      >>> Affine(np.full((1, 1), 2.0), np.array([0.0, 3.0]))(np.array([[1.0, -1.0]]))
      array([[2., 1.]])
    """

    weight: np.ndarray
    offset: np.ndarray

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """The calibrated logits of `(*spatial, C)`, of the same shape and dtype."""
        mapped = np.empty_like(logits)
        weight = np.broadcast_to(self.weight, (*self.weight.shape[:-1], logits.shape[-1]))
        for c, offset in enumerate(self.offset):
            ndimage.correlate(logits[..., c], weight[..., c], mapped[..., c], mode="nearest")
            mapped[..., c] += offset
        return mapped


def neighbours(logits: np.ndarray, voxels: np.ndarray, kernel: Sequence[int]) -> np.ndarray:
    """The logits that an affine map combines at some voxels of an image.

    Args:
      logits: `(*spatial, C)`.
      voxels: `(N,)`, their numbers in the flattened image.
      kernel: odd lengths, one for each spatial axis.

    Returns:
      `(N, K, C)`, K the number of voxels of the kernel.

    Example:
      >>> neighbours(np.array([[1.0], [2.0], [3.0]]), np.array([0, 1]), (3,))[..., 0]
      array([[1., 1., 2.],
             [1., 2., 3.]])
    """
    spatial = logits.shape[:-1]
    places = np.stack(np.unravel_index(voxels, spatial), -1)
    shifts = np.indices(kernel).reshape(len(kernel), -1).T - np.array(kernel) // 2
    inside = np.clip(places[:, None] + shifts, 0, np.array(spatial) - 1)
    return logits[tuple(np.moveaxis(inside, -1, 0))]


def fit_affine(
    logits: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    kernel: Sequence[int] = (1,),
    *,
    per_class: bool = False,
) -> Affine:
    """The affine map that minimises the mean cross entropy of softmax(z') plus a small penalty.

    z'_c(x) = sum_k weight_c(k) z_c(x + k) + offset_c
    mean_x ce(z'(x), y(x)) + 0.001 / 2 sum_(k != 0) weight_c(k)**2

    With a kernel of one voxel this is Platt scaling, for two classes the logistic regression of the
    label on the difference of the logits; per class it is vector scaling. With a larger kernel it
    is an auxiliary network of one convolution. Use images that the network was not trained on.

    Args:
      logits: `(N, K, C)` of voxels and their neighbours, as of `neighbours`; several such arrays,
        one for each image.
      labels: `(N,)` integer, as many arrays.
      kernel: lengths along the spatial axes, of K voxels.
      per_class: whether each class has weights of its own. They depend on how logits are
        normalised, so give log-probabilities then.

    Returns:
      The map.

    Raises:
      ValueError: if shapes do not match, a logit is not finite, a class has no voxel, or no map is
        best, since every voxel can be classified correctly.

    Example:
      >>> logits = np.random.default_rng(0).normal(0, 3, (10000, 1, 2))
      >>> odds = np.exp(2 * (logits[:, 0, 1] - logits[:, 0, 0]) - 1)
      >>> labels = (np.random.default_rng(1).random(10000) < odds / (1 + odds)).astype(int)
      >>> weight, offset = fit_affine([logits], [labels])
      >>> print(weight.round(1), offset.round(1))
      [[2.]] [ 0. -1.]

    Reference:
      Platt, Probabilistic outputs for support vector machines, 1999; Guo et al., On calibration of
      modern neural networks, ICML 2017 (vector scaling); Rousseau et al., Post training uncertainty
      calibration of deep networks for medical image segmentation, ISBI 2021 (auxiliary network).
    """
    _check(logits, labels, kernel)
    num_classes, size = logits[0].shape[-1], logits[0].shape[1]
    columns = num_classes if per_class else 1
    weights = size * columns
    designs = [_design(z, columns) for z in logits]
    start = np.zeros(weights + num_classes - 1)
    start[:weights].reshape(size, columns)[size // 2] = 1
    ridge = np.zeros(len(start))
    ridge[:weights] = RIDGE * (1 - start[:weights])
    voxels = sum(map(len, labels))

    def mean(theta: np.ndarray) -> tuple[float, np.ndarray]:
        parts = [_value(theta, *part) for part in zip(designs, labels, strict=True)]
        value, slope = (sum(of_all) / voxels for of_all in zip(*parts, strict=True))
        return value + theta @ (ridge * theta) / 2, slope + ridge * theta

    def curvature(theta: np.ndarray) -> np.ndarray:
        return sum(_curvature(theta, design) for design in designs) / voxels + np.diag(ridge)

    found = optimize.minimize(
        mean, start, jac=True, hess=curvature, method="trust-exact", options={"gtol": SLOPE}
    )
    if all(((d @ found.x).argmax(-1) == y).all() for d, y in zip(designs, labels, strict=True)):
        raise ValueError(
            "no map is best: every voxel is classified correctly, so that no probability is too "
            "high; use more images, which the network was not trained on"
        )
    if not found.success:
        raise ValueError(f"no best map was found ({found.message}); use more images")
    weight = found.x[:weights].reshape(*kernel, columns)
    return Affine(weight, np.concatenate([[0.0], found.x[weights:]]))


def _check(
    logits: Sequence[np.ndarray], labels: Sequence[np.ndarray], kernel: Sequence[int]
) -> None:
    if len(logits) != len(labels) or not len(logits):
        raise ValueError(
            f"there are {len(logits)} arrays of logits and {len(labels)} of labels; give as many, "
            "one or more"
        )
    size, num_classes = int(np.prod(kernel)), logits[0].shape[-1]
    for z, y in zip(logits, labels, strict=True):
        if z.shape != (len(y), size, num_classes):
            raise ValueError(
                f"logits have shape {z.shape}, expected {(len(y), size, num_classes)}: voxels as "
                f"of the labels, the {size} of the kernel {tuple(kernel)}, and classes"
            )
        if not np.isfinite(z).all():
            raise ValueError("logits must be finite, found NaN or infinity")
    present = np.unique(np.concatenate(labels))
    if present.tolist() != list(range(num_classes)):
        raise ValueError(
            f"the labels have the classes {present.tolist()}, expected voxels of each of the "
            f"{num_classes} from 0 to {num_classes - 1}: the offset of one without voxels has no "
            "best value"
        )


def _design(logits: np.ndarray, columns: int) -> np.ndarray:
    """The derivative `(N, C, P)` of z' by the parameters, which does not depend on them."""
    count, size, num_classes = logits.shape
    design = np.zeros((count, num_classes, size * columns + num_classes - 1), logits.dtype)
    weights = design[..., : size * columns].reshape(count, num_classes, size, columns)
    for c in range(num_classes):
        weights[:, c, :, c % columns] = logits[..., c]
        if c:
            design[:, c, size * columns + c - 1] = 1
    design[..., : size * columns] = weights.reshape(count, num_classes, -1)
    return design


def _value(theta: np.ndarray, design: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """The sum of the cross entropy over voxels, and its gradient, in float64."""
    log_p = special.log_softmax(design @ theta, axis=-1)
    right = np.arange(len(labels)), labels
    error = np.exp(log_p)
    error[right] -= 1
    return -log_p[right].sum(), np.einsum("ncp,nc->p", design, error, optimize=True)


def _curvature(theta: np.ndarray, design: np.ndarray) -> np.ndarray:
    """The Hessian of that sum: over voxels, the covariance of the design's rows under p."""
    p = special.softmax(design @ theta, axis=-1)
    second = (design * np.sqrt(p)[..., None]).reshape(-1, design.shape[-1])
    first = np.einsum("ncp,nc->np", design, p, optimize=True)
    return second.T @ second - first.T @ first
