"""The official layout of KiTS19 in miniature, written to disk for tests to read."""

import zipfile
from typing import NamedTuple

import nibabel as nib
import numpy as np

SLICES_FIRST = "IPL"
"""How KiTS19's makers store it."""

AXES = {"I": 0, "S": 0, "P": 1, "A": 1, "L": 2, "R": 2}
"""Which axis of an (I, P, L) array a direction is along."""

DIRECTIONS = {
    "R": (1, 0, 0),
    "L": (-1, 0, 0),
    "A": (0, 1, 0),
    "P": (0, -1, 0),
    "S": (0, 0, 1),
    "I": (0, 0, -1),
}


class Scan(NamedTuple):
    """A case as it is kept, in (I, P, L) order whatever the order in the file.

    Attributes:
      image: `(D, H, W)` Hounsfield units.
      label: `(D, H, W)` classes.
      spacing: mm between voxels.
    """

    image: np.ndarray
    label: np.ndarray
    spacing: tuple[float, float, float]


def write_nifti(path, array, spacing, order=SLICES_FIRST, corner=(90.0, 120.0, -30.0)):
    """Write an (I, P, L) array with its axes in another order, the folder too if need be.

    Args:
      path: .nii or .nii.gz.
      array: `(D, H, W)`, or `(D, H, W, ...)`.
      spacing: mm between voxels.
      order: where each axis of the file runs to, such as "RAS".
      corner: mm right, anterior and superior of the array's first voxel, so that orders differ in
        how a volume is stored and not in where it is.

    Returns:
      The affine.
    """
    axes = [AXES[letter] for letter in order]
    flipped = [n for n, letter in enumerate(order) if letter not in SLICES_FIRST]
    native = np.flip(array.transpose(*axes, *range(3, array.ndim)), flipped)
    affine = np.eye(4)
    affine[:3, 3] = corner
    for n, letter in enumerate(order):
        affine[:3, n] = np.multiply(spacing[axes[n]], DIRECTIONS[letter])
        if n in flipped:
            affine[:3, 3] -= (native.shape[n] - 1) * affine[:3, n]
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(native, affine), path)
    return affine


def scan(number, shape=(11, 24, 24), spacing=(3.0, 0.78, 0.78)):
    """Two kidneys, one with a tumour, in noise."""
    rng = np.random.default_rng([3, number])
    depth, row, column = (np.indices(shape).T / np.subtract(shape, 1)).T
    label = np.zeros(shape, np.uint8)
    for height, side in ((0.4, 0.25), (0.5, 0.75)):
        label[np.sqrt((depth - height) ** 2 + (row - 0.6) ** 2 + (column - side) ** 2) < 0.2] = 1
    label[np.sqrt((depth - 0.4) ** 2 + (row - 0.5) ** 2 + (column - 0.7) ** 2) < 0.12] = 2
    image = np.array([-60, 180, 90])[label] + rng.integers(-200, 200, shape)
    return Scan(image.astype(np.int16), label, spacing)


def kits19(folder):
    """Write cases 0 to 5 with what is odd about some, an excluded one and one without a mask.

    Case 0 is as most, 1 has a uint16 mask, 2 slices that are not square, 3 axes in another order,
    4 the spacing that is resampled to and imaging in float64, 5 its mask in the zip of the makers'
    repository and its imaging named as on their host.

    Returns:
      `Scan` by the case's name, of cases 0 to 5.
    """
    scans = {
        0: scan(0),
        1: scan(1, shape=(14, 20, 20), spacing=(5.0, 0.9, 0.9)),
        2: scan(2, shape=(9, 16, 25)),
        3: scan(3, shape=(12, 21, 22), spacing=(2.5, 0.7, 0.7)),
        4: scan(4, spacing=(3.22, 1.62, 1.62)),
        5: scan(5, shape=(29, 18, 18), spacing=(1.0, 0.8, 0.8)),
    }
    imaging, data = folder / "imaging", folder / "kits19" / "data"
    for number, (image, label, spacing) in scans.items():
        order = "RAS" if number == 3 else SLICES_FIRST
        label = label.astype(np.uint16) if number == 1 else label
        image = image.astype(np.float64) if number == 4 else image
        path = imaging / name(number) / "imaging.nii.gz"
        if number == 5:
            path = folder / "images" / f"{name(number)}.nii.gz"
        write_nifti(path, image, spacing, order)
        write_nifti(data / name(number) / "segmentation.nii.gz", label, spacing, order)
    pack(folder / "kits19-master.zip", folder, data / name(5) / "segmentation.nii.gz")
    for number in (15, 210):
        image, _, spacing = scan(number)
        write_nifti(imaging / name(number) / "imaging.nii.gz", image, spacing)
    return {name(number): written for number, written in scans.items()}


def name(number):
    """What a case is called."""
    return f"case_{number:05d}"


def pack(archive, root, *paths):
    """Move files into a zip, which is made if need be, named as they lie below a folder."""
    with zipfile.ZipFile(archive, "a") as opened:
        for path in paths:
            opened.write(path, path.relative_to(root))
            path.unlink()
