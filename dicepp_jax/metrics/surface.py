"""Distances between the surfaces of segmentation and truth, per example and class.

These metrics run on the host in float64, with scipy, and cannot be jitted. The surface of a class
consists of its voxels that have a neighbour of another class along an axis. There is no class
outside the image, so an object cut off by the border has a surface there. Voxels of label -1 are of
no class: they belong to no surface, and neighbours of them are on one. Distances are measured in
mm from the centre of each surface voxel to the nearest surface voxel of the other segmentation.

A class that is neither present nor predicted has NaN. One that is only present, or only predicted,
has infinite distance and surface Dice 0; means of distances should state how they treat infinity.
"""

import numbers
from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from dicepp_jax.array_checks import as_array
from dicepp_jax.metrics import given


def hausdorff95(
    mask: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    spacing: Sequence[float],
    where: np.ndarray | None = None,
) -> np.ndarray:
    """95% Hausdorff distance: max(P95(d(mask, truth)), P95(d(truth, mask))).

    d(a, b) are the distances from all surface voxels of a to the surface of b, P95 is their 95th
    percentile with linear interpolation, as in MONAI's
    `compute_hausdorff_distance(percentile=95)`.

    Args:
      mask: `(B, *spatial)` predicted classes, integer.
      labels: `(B, *spatial)` true classes, integer.
      num_classes: number of classes C.
      spacing: voxel spacing in mm, one value per spatial axis.
      where: `(B, *spatial)` boolean, False for voxels to leave out of both mask and truth.

    Returns:
      `(B, C)` in mm; NaN for a class absent from both, inf for a class absent from only one.

    Raises:
      ValueError: if the shapes differ or the spacing is invalid.

    Example:
      >>> labels = np.zeros((1, 8, 8), int)
      >>> labels[0, 2:5, 2:5] = 1
      >>> print(hausdorff95(np.roll(labels, 2, axis=2), labels, 2, spacing=(1.0, 0.5))[:, 1])
      [1.]

    Reference:
      Huttenlocher et al., Comparing images using the Hausdorff distance, 1993.
    """

    def distance(there: np.ndarray, back: np.ndarray) -> float:
        if not len(there) or not len(back):
            return np.inf
        return max(np.percentile(there, 95), np.percentile(back, 95))

    return _per_class(distance, mask, labels, num_classes, spacing, where)


def surface_dice(
    mask: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    spacing: Sequence[float],
    tolerance: float,
    where: np.ndarray | None = None,
) -> np.ndarray:
    """Normalised surface Dice: fraction of surface voxels within `tolerance` of the other surface.

    (|{d(mask, truth) <= t}| + |{d(truth, mask) <= t}|) / (|d(mask, truth)| + |d(truth, mask)|), as
    in MONAI's `compute_surface_dice` with its default of counting voxels.

    Args:
      mask: `(B, *spatial)` predicted classes, integer.
      labels: `(B, *spatial)` true classes, integer.
      num_classes: number of classes C.
      spacing: voxel spacing in mm, one value per spatial axis.
      tolerance: t in mm, the deviation that does not count as an error.
      where: `(B, *spatial)` boolean, False for voxels to leave out of both mask and truth.

    Returns:
      `(B, C)` in [0, 1]; NaN for a class absent from both, 0 for a class absent from only one.

    Raises:
      ValueError: if the shapes differ, or the spacing or the tolerance is invalid.

    Example:
      >>> labels = np.zeros((1, 8, 8), int)
      >>> labels[0, 2:5, 2:5] = 1
      >>> moved = np.roll(labels, 1, axis=2)
      >>> print(surface_dice(moved, labels, 2, spacing=(1.0, 0.5), tolerance=0.4)[:, 1])
      [0.5]

    Reference:
      Nikolov et al., Clinically applicable segmentation of head and neck anatomy for radiotherapy,
      J. Med. Internet Res. 23 (2021).
    """
    if not isinstance(tolerance, numbers.Real) or not 0 <= tolerance < np.inf:
        raise ValueError(f"tolerance must be a distance in mm, 0 or more, got {tolerance}")
    # Three voxels of 0.1 mm are 0.30000000000000004 mm apart.
    limit = tolerance * (1 + 1e-9)

    def share(there: np.ndarray, back: np.ndarray) -> float:
        return float(np.mean(np.concatenate([there, back]) <= limit))

    return _per_class(share, mask, labels, num_classes, spacing, where)


def _per_class(
    metric: Callable[[np.ndarray, np.ndarray], float],
    mask: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    spacing: Sequence[float],
    where: np.ndarray | None,
) -> np.ndarray:
    """`metric(d(mask, truth), d(truth, mask))` of every example and class, `(B, C)`."""
    arrays = given.masks(mask, labels, num_classes, where, lowest=-1)
    mask, labels = np.asarray(arrays[0]), np.asarray(arrays[1])
    scale = np.asarray(as_array("spacing", spacing)).astype(float)
    if scale.shape != (labels.ndim - 1,) or not np.all((scale > 0) & (scale < np.inf)):
        raise ValueError(
            f"spacing must be {labels.ndim - 1} positive lengths in mm, one for each spatial axis "
            f"of labels (B, *spatial) {labels.shape}, got {spacing}"
        )
    if where is not None:
        # In int32, since uint8 has no -1.
        included = np.asarray(where, bool)
        mask, labels = (np.where(included, x.astype(np.int32), -1) for x in (mask, labels))
    values = np.full((len(labels), num_classes), np.nan)
    for b, images in enumerate(zip(mask, labels, strict=True)):
        predicted, true = (_surfaces(image, num_classes, scale) for image in images)
        for c, (p, t) in enumerate(zip(predicted, true, strict=True)):
            if len(p) or len(t):
                values[b, c] = metric(_distances(p, t), _distances(t, p))
    return values


def _surfaces(image: np.ndarray, num_classes: int, spacing: np.ndarray) -> list[np.ndarray]:
    """Positions in mm of the surface voxels of every class, `(voxels, axes)` each."""
    surfaces = []
    # Numbered from 1, since find_objects ignores 0.
    boxes = ndimage.find_objects(image.astype(np.int32) + 1, num_classes)
    for c, box in enumerate(boxes):
        if box is None:
            surfaces.append(np.empty((0, image.ndim)))
            continue
        # Nothing of a class lies outside its bounding box, so erosion needs no margin.
        inside = image[box] == c
        surface = inside & ~ndimage.binary_erosion(inside)
        corner = [edge.start for edge in box]
        surfaces.append((np.argwhere(surface) + corner) * spacing)
    return surfaces


def _distances(surface: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Distance from every voxel of a surface to the other surface, inf if that is empty."""
    if not len(other):
        return np.full(len(surface), np.inf)
    return KDTree(other).query(surface)[0]
