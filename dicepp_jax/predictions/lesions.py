"""A table of the connected components of each foreground class: size, probability, position."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from dicepp_jax.data.files import natural
from dicepp_jax.rows import read_csv, write_csv

FEW = 100
"""Of more points than this, only those at the surface are compared."""

FLAT = 1e-9
"""Points that extend less than this share of their length in a direction are flat."""


class Lesion(NamedTuple):
    """A connected component of a class; voxels are connected if they share a face, edge or corner.

    Attributes:
      case: name of the case.
      label: the class.
      number: 1 for the largest of its class in the case, 2, ...
      voxels: number of voxels.
      volume: in `unit` to the power of the number of axes.
      unit: mm if the file says how large voxels are, else pixel.
      probability: the mean probability of the class in the component.
      diameter: the largest distance between centres of voxels, in `unit`.
      voxel_0: of the centroid along the first axis of the file, counted from 0.
      voxel_1: along the second axis.
      voxel_2: along the third axis; NaN for an image.
      right: of the centroid, in mm; NaN if the file has no positions.
      anterior: likewise.
      superior: likewise.
    """

    case: str
    label: str
    number: int
    voxels: int
    volume: float
    unit: str
    probability: float
    diameter: float
    voxel_0: float
    voxel_1: float
    voxel_2: float
    right: float
    anterior: float
    superior: float


def find(
    case: str,
    mask: np.ndarray,
    probs: np.ndarray,
    classes: Sequence[str],
    affine: np.ndarray | None,
) -> list[Lesion]:
    """The components of every foreground class in a case.

    Args:
      case: its name.
      mask: `(*spatial)` classes, along the axes of the file.
      probs: `(*spatial, C)`.
      classes: names, the background first.
      affine: `(4, 4)`, from indices to mm right, anterior and superior; None if it is unknown.

    Returns:
      Class by class, the largest component first.

    Example:
      >>> mask = np.array([[1, 1, 0, 0], [0, 0, 0, 1]])
      >>> probs = np.full((2, 4, 2), 0.5)
      >>> found = find("a", mask, probs, ["background", "vessel"], None)
      >>> [(one.number, one.voxels, one.diameter) for one in found]
      [(1, 2, 1.0), (2, 1, 0.0)]
    """
    return [
        lesion
        for target, label in enumerate(classes[1:], 1)
        for lesion in _of_class(case, label, mask == target, probs[..., target], affine)
    ]


def _of_class(
    case: str, label: str, mask: np.ndarray, p: np.ndarray, affine: np.ndarray | None
) -> Iterator[Lesion]:
    numbered, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
    boxes = ndimage.find_objects(numbered)
    for number, index in enumerate(np.argsort(-sizes, kind="stable"), 1):
        box = boxes[index]
        inside = numbered[box] == index + 1
        corner = [side.start for side in box]
        centroid = np.argwhere(inside).mean(0) + corner
        if sizes[index] > FEW:
            edge = np.argwhere(inside & ~ndimage.binary_erosion(inside)) + corner
        else:
            edge = np.argwhere(inside) + corner
        world = [np.nan] * 3 if affine is None else apply_affine(affine, centroid).tolist()
        size = 1.0 if affine is None else abs(float(np.linalg.det(affine[:3, :3])))
        yield Lesion(
            case,
            label,
            number,
            int(sizes[index]),
            float(sizes[index] * size),
            "pixel" if affine is None else "mm",
            float(p[box][inside].mean(dtype=np.float64)),
            diameter(edge if affine is None else apply_affine(affine, edge)),
            *[*centroid.tolist(), np.nan][:3],
            *world,
        )


def diameter(points: np.ndarray) -> float:
    """The largest distance between two of some points.

    Args:
      points: `(N, D)`.

    Returns:
      The distance, which is that of two corners of the convex hull.

    Example:
      >>> diameter(np.array([[0, 0], [3, 0], [3, 4]]))
      5.0
    """
    if len(points) == 1:
        return 0.0
    centred = points - points.mean(0)
    _, extents, axes = np.linalg.svd(centred, full_matrices=False)
    rank = int(np.sum(extents > FLAT * max(extents[0], 1)))
    # The hull exists only in the line or plane that flat points lie in.
    flat = centred @ axes[: max(rank, 1)].T
    if rank <= 1:
        return float(np.ptp(flat))
    if len(flat) > FEW:
        flat = flat[ConvexHull(flat).vertices]
    return float(pdist(flat).max())


def write(path: Path, lesions: Sequence[Lesion]) -> None:
    """Write the table of a case; it has only a header if there are none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(path, lesions, Lesion)


def join(folder: Path, path: Path) -> None:
    """Join the tables of all cases below a folder, in natural order, to one, unless it is newer."""
    tables = sorted(folder.rglob("*.csv"), key=lambda table: natural(table.as_posix()))
    newest = max((table.stat().st_mtime for table in tables), default=0)
    if path.exists() and path.stat().st_mtime >= newest:
        return
    write_csv(path, [lesion for table in tables for lesion in read_csv(table, Lesion)], Lesion)
