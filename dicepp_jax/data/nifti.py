"""NIfTI volumes in a canonical axis order, and back on their original grid.

Canonical is "IPL": axis 0 runs from superior to inferior, axis 1 from anterior to posterior, axis 2
from right to left, so slices come first. A file may store its axes in any order and direction; for
oblique volumes the nearest axes are used and nothing is interpolated, so the inverse is exact.

Files are decompressed and read a few slices at a time, so that little more than the returned array
is in memory, whatever the type of the file.
"""

import contextlib
import gzip
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple, cast

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.arrayproxy import ArrayProxy
from nibabel.orientations import (
    aff2axcodes,
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)

from dicepp_jax.atomic import write_atomically
from dicepp_jax.data import geometry, limits
from dicepp_jax.data.files import File
from dicepp_jax.data.geometry import Placement, Remark

CANONICAL = axcodes2ornt("IPL")

TOLERANCE = 0.1
"""The largest distance between the corners of two equal grids, in voxels."""

SLAB = 1 << 26
"""Bytes of a volume that are read at a time."""

INTEGRAL = 1e-3
"""The largest deviation of a label from a whole number, caused by scaling in the header."""

GEOMETRY = (
    *("xyzt_units", "pixdim", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)
"""The header fields that define the positions of voxels."""

Shape = tuple[int, int, int]


class Grid(NamedTuple):
    """The positions of the voxels of a file: its native grid.

    Attributes:
      shape: voxels along the axes of the file.
      affine: `(4, 4)` float64, from indices along those axes to mm right, anterior and superior.
      placeholder: an affine in the header that was set aside as a placeholder, else None.
      remarks: what is unusual about the header.
    """

    shape: Shape
    affine: np.ndarray
    placeholder: np.ndarray | None = None
    remarks: tuple[Remark, ...] = ()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """The mm between voxels along the canonical axes."""
        sizes = voxel_sizes(self.affine)
        first, second, third = (float(sizes[axis]) for axis in self._axes)
        return first, second, third

    @property
    def canonical_shape(self) -> Shape:
        """Voxels along the canonical axes."""
        first, second, third = (self.shape[axis] for axis in self._axes)
        return first, second, third

    @property
    def canonical(self) -> "Grid":
        """The same positions with the axes in canonical order."""
        turned = ornt_transform(io_orientation(self.affine), CANONICAL)
        affine = self.affine @ inv_ornt_aff(turned, self.shape)
        return Grid(self.canonical_shape, affine)

    @property
    def _axes(self) -> np.ndarray:
        """The axis of the file for each canonical axis."""
        return np.argsort(ornt_transform(io_orientation(self.affine), CANONICAL)[:, 0])


class Volume(NamedTuple):
    """The content of a file.

    Attributes:
      array: `(D, H, W)` in canonical order.
      grid: of the file.
    """

    array: np.ndarray
    grid: Grid


def to_canonical(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Bring an array from the axis order of its file to the canonical order.

    Args:
      array: `(X, Y, Z)` or `(X, Y, Z, channels)` along the axes of the file.
      affine: `(4, 4)`, of the file.

    Returns:
      A view `(D, H, W)` or `(D, H, W, channels)`.

    Example:
      >>> to_canonical(np.arange(3).reshape(1, 1, 3), np.eye(4)).ravel().tolist()
      [2, 1, 0]
    """
    return apply_orientation(array, ornt_transform(io_orientation(affine), CANONICAL))


def to_native(array: np.ndarray, grid: Grid) -> np.ndarray:
    """The inverse of `to_canonical`.

    Args:
      array: `(D, H, W)` or `(D, H, W, channels)` in canonical order.
      grid: of the file.

    Returns:
      A view along the axes of the file.

    Raises:
      ValueError: if the grid has a different size.

    Example:
      >>> to_native(np.zeros((5, 4, 3)), Grid((3, 4, 5), np.eye(4))).shape
      (3, 4, 5)
    """
    if array.shape[:3] != grid.canonical_shape:
        raise ValueError(
            f"the array has shape {array.shape}, but the grid {grid.canonical_shape} in canonical "
            "order; resize the array to the grid first"
        )
    return apply_orientation(array, ornt_transform(CANONICAL, io_orientation(grid.affine)))


def read(file: File) -> Volume:
    """Read an image.

    Args:
      file: .nii or .nii.gz with one 3-D volume; further axes must have length 1.

    Returns:
      The volume, in its stored integer type, or float32 if it is stored as floating point or scaled
      by the header.

    Raises:
      ValueError: if it is truncated, not NIfTI, not one real 3-D volume, or its affine is unusable.
      FileNotFoundError: if it does not exist any more.
      PermissionError: if it is not readable.
    """
    return _load(file, _image_type, lambda slab: slab)


def read_label(file: File) -> Volume:
    """Read a label map.

    Args:
      file: as for `read`; floating point is accepted if all values are whole numbers.

    Returns:
      The volume, uint8.

    Raises:
      ValueError: as for `read`, and if values are fractional, negative or above 255.
      FileNotFoundError: if it does not exist any more.
      PermissionError: if it is not readable.
    """
    return _load(file, lambda _: np.dtype(np.uint8), lambda slab: _whole(file, slab))


def read_header(file: File) -> nib.Nifti1Header:
    """Read the header alone.

    Args:
      file: as for `read`.

    Returns:
      The header, as accepted by `write`.

    Raises:
      ValueError: if it is truncated or not NIfTI.
      FileNotFoundError: if it does not exist any more.
      PermissionError: if it is not readable.
    """
    with contextlib.ExitStack() as opened:
        return _open(file, opened)[1]


def read_grid(file: File) -> Grid:
    """Read the grid alone, from the header.

    Args:
      file: as for `read`.

    Returns:
      The grid.

    Raises:
      ValueError: as for `read`, except for errors in the voxels.
      FileNotFoundError: if it does not exist any more.
      PermissionError: if it is not readable.
    """
    return _grid(file, read_header(file))


def write(
    path: Path, array: np.ndarray, grid: Grid, header: nib.Nifti1Header | None = None
) -> None:
    """Write labels or probabilities on the grid of a file, under a temporary name and then renamed.

    Args:
      path: ends in .nii or .nii.gz.
      array: `(D, H, W)` in canonical order: labels up to 255, stored as uint8, or floating point,
        stored as float32.
      grid: of the file that they belong to.
      header: of that file, from which units, qform and sform are copied; None for mm and an sform.

    Raises:
      ValueError: if the path has another ending, the grid another size, or a label is above 255.

    Example:
      >>> import tempfile
      >>> from dicepp_jax.data.files import from_path
      >>> grid = Grid((4, 3, 2), np.diag([0.5, 0.5, 3, 1]))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder) / "mask.nii.gz"
      ...     write(path, np.ones((2, 3, 4), np.uint8), grid)
      ...     label = read_label(from_path(path))
      >>> label.array.shape, label.grid.spacing
      ((2, 3, 4), (3.0, 0.5, 0.5))
    """
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path} is not the name of a NIfTI file; it must end in .nii.gz or .nii")
    native = to_native(array, grid)
    if native.dtype.kind == "f":
        native = native.astype(np.float32)
    elif native.min() < 0 or native.max() > 255:
        raise ValueError(
            f"labels range from {native.min()} to {native.max()}, expected 0 to 255; convert "
            "images to floating point"
        )
    else:
        native = native.astype(np.uint8)
    image = as_image(native, grid, header)
    write_atomically(path, lambda temporary: nib.save(image, temporary))


def as_image(
    native: np.ndarray, grid: Grid, header: nib.Nifti1Header | None = None
) -> nib.Nifti1Image:
    """An array on the grid of a file, to be saved.

    Args:
      native: `(X, Y, Z)` along the axes of the file.
      grid: of the file.
      header: of the file, whose units, qform and sform are kept as they are, so that every program
        places both alike; None for mm and an sform.

    Returns:
      The image.
    """
    # nibabel writes an affine of its own unless it equals the one that it finds in the header.
    image = nib.Nifti1Image(native, grid.affine if header is None else header.get_best_affine())
    image.header.set_xyzt_units("mm")
    if header is not None:
        for field in GEOMETRY:
            image.header[field] = header[field]
    return image


def check_same_grid(a: File, grid_a: Grid, b: File, grid_b: Grid) -> None:
    """Check that the voxels of two files have the same positions, in whatever order of axes.

    A label map that was saved with the placeholder affine of its image is on the image's grid.

    Args:
      a: a file, such as an image.
      grid_a: its grid.
      b: another, such as its label map.
      grid_b: its grid.

    Raises:
      ValueError: if the shapes differ, or corners are more than `TOLERANCE` voxels apart.
    """
    if grid_a.canonical_shape == grid_b.canonical_shape:
        pairs = [
            (grid_a, grid_b),
            *((known, grid_b) for known in _by_placeholder(grid_a)),
            *((grid_a, known) for known in _by_placeholder(grid_b)),
        ]
        apart = [_apart(*pair) for pair in pairs]
        if min(apart) <= TOLERANCE:
            return
        found = [f"corners are {apart[0]:.3g} voxels apart"]
    else:
        found = [f"shape {grid_a.shape} against {grid_b.shape}"]
    for name, of in (("orientation", _orientation), ("spacing", _spacing), ("origin", _origin)):
        if of(grid_a) != of(grid_b):
            found.append(f"{name} {of(grid_a)} against {of(grid_b)}")
    raise ValueError(
        f"{a} and {b} are on different grids: {', '.join(found)}. Resample one onto the other's "
        "grid, for example with nibabel.processing.resample_from_to (order=0 for labels); if only "
        "one header is wrong, save its array again with the affine of the other file"
    )


def common(grids: Sequence[Grid]) -> Grid:
    """Of grids that `check_same_grid` accepts as one, the one whose spacing holds for all.

    That is one from whose header a placeholder was set aside, since the others may have been saved
    with the placeholder.
    """
    return next((grid for grid in grids if grid.placeholder is not None), grids[0])


def _by_placeholder(grid: Grid) -> list[Grid]:
    """The grid by the placeholder in its header, if that leads to the same canonical order."""
    if grid.placeholder is None:
        return []
    one, other = (io_orientation(affine) for affine in (grid.affine, grid.placeholder))
    return [Grid(grid.shape, grid.placeholder)] if (one == other).all() else []


def _apart(one: Grid, other: Grid) -> float:
    """The largest distance between corresponding corners, in voxels of either grid."""
    one, other = one.canonical, other.canonical
    corners = np.array(list(itertools.product(*((-0.5, size - 0.5) for size in one.shape))))
    there = np.linalg.inv(other.affine) @ one.affine
    moved = [apply_affine(affine, corners) for affine in (there, np.linalg.inv(there))]
    return float(np.abs(np.subtract(moved, corners[None])).max())


def _orientation(grid: Grid) -> str:
    return "".join(map(str, aff2axcodes(grid.affine)))


def _spacing(grid: Grid) -> str:
    return " x ".join(f"{size:.5g}" for size in voxel_sizes(grid.affine)) + " mm"


def _origin(grid: Grid) -> str:
    return "(" + ", ".join(f"{x:.5g}" for x in grid.affine[:3, 3]) + ") mm"


@contextlib.contextmanager
def _reading(file: File) -> Iterator[None]:
    """Turn any error into one that names the file and a remedy."""
    try:
        yield
    except PermissionError as error:
        raise PermissionError(
            f"{file} cannot be read ({error.strerror}); get read permission"
        ) from error
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{file} does not exist any more; restore it, or run this again to list the files anew"
        ) from error
    except Exception as error:  # Damaged files raise OSError, EOFError, zlib.error and others.
        raise ValueError(
            f"{file} cannot be read as NIfTI ({error}); it seems to be incomplete or in another "
            "format: download it again, or convert it to .nii.gz"
        ) from error


def _open(file: File, opened: contextlib.ExitStack) -> tuple[IO[bytes], nib.Nifti1Header]:
    """The decompressed stream and the header."""
    with _reading(file):
        stream: IO[bytes] = opened.enter_context(file.open())
        compressed = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        if compressed:
            stream = cast(IO[bytes], opened.enter_context(gzip.GzipFile(fileobj=stream)))
        start = stream.read(348)
        stream.seek(0)
        if start[344:347] == b"n+1":
            return stream, _header(nib.Nifti1Header, stream)
        if start[4:7] == b"n+2":
            return stream, _header(nib.Nifti2Header, stream)
        raise ValueError("it does not start like a .nii file")


def _header(kind: type[nib.Nifti1Header], stream: IO[bytes]) -> nib.Nifti1Header:
    """A header that nibabel has checked, but for the sizes of voxels."""
    # Without the extensions, which nobody needs and which may state any length.
    header = kind(stream.read(kind.template_dtype.itemsize), check=False)
    sizes = np.abs(header["pixdim"][1:4])
    # nibabel's check would make any size of 0 a size of 1; axes of one voxel may go without.
    sizes[(sizes == 0) & (header["dim"][1:4] <= 1)] = 1
    header["pixdim"][1:4] = 1
    header.check_fix()
    header["pixdim"][1:4] = sizes
    return header


def _grid(file: File, header: nib.Nifti1Header) -> Grid:
    shape = tuple(map(int, header.get_data_shape()))
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 3:
        raise ValueError(
            f"{file} is {len(shape)}-D with shape {shape}, expected one 3-D volume; split it, for "
            "example with nibabel.four_to_three, into one file per channel, such as nnU-Net's "
            "case_0000.nii.gz and case_0001.nii.gz"
        )
    if 0 in shape:
        raise ValueError(f"{file} has shape {shape}, so it has no voxels; download it again")
    first, second, third = (*shape, 1, 1)[:3]
    placed = _place(file, header)
    return Grid((first, second, third), placed.affine, placed.placeholder, placed.remarks)


def _place(file: File, header: nib.Nifti1Header) -> Placement:
    remedy = (
        "save it again with a correct affine, nibabel.Nifti1Image(array, affine), whose columns "
        "are the mm from voxel to voxel along each axis; or convert the original images again"
    )
    try:
        placed = geometry.place(header)
    except ValueError as error:
        raise ValueError(
            f"{file} has a qform that is not a rotation ({error}); {remedy}"
        ) from error
    affine = placed.affine
    finite = np.isfinite(affine).all()
    # The determinant of unit vectors along the axes is 0 if two of them are parallel.
    steps = affine[:3, :3]
    if not finite or abs(np.linalg.det(steps)) <= 1e-4 * np.linalg.norm(steps, axis=0).prod():
        raise ValueError(
            f"{file} has an affine that is {'singular' if finite else 'not finite'}, "
            f"{affine.tolist()}; {remedy}"
        )
    return placed


def _image_type(proxy: ArrayProxy) -> np.dtype:
    scaled = (proxy.slope, proxy.inter) != (1, 0)
    real = scaled or proxy.dtype.kind == "f"
    return np.dtype(np.float32) if real else proxy.dtype.newbyteorder("=")


def _load(
    file: File,
    dtype: Callable[[ArrayProxy], np.dtype],
    convert: Callable[[np.ndarray], np.ndarray],
) -> Volume:
    with contextlib.ExitStack() as opened:
        stream, header = _open(file, opened)
        grid = _grid(file, header)
        proxy = ArrayProxy(stream, header).reshape(grid.shape)
        if proxy.dtype.kind not in "iuf":
            raise ValueError(
                f"{file} has {header.get_value_label('datatype')} values, expected one real number "
                "per voxel; save the magnitude, or one file per channel"
            )
        with _reading(file):  # A damaged header may state any size.
            limits.check_array(grid.shape, proxy.dtype.itemsize, file.size)
            array = np.empty(grid.canonical_shape, dtype(proxy))
        native = to_native(array, grid)  # A view of `array`, which is filled in canonical order.
        *plane, depth = grid.shape
        step = max(1, SLAB // (int(np.prod(plane)) * proxy.dtype.itemsize))
        for start in range(0, depth, step):
            part = np.s_[:, :, start : start + step]
            with _reading(file):
                slab = proxy[part]
            native[part] = convert(slab)
        with _reading(file):  # To the end of the file, where gzip has its checksum.
            if len(stream.read(SLAB)) == SLAB:
                raise ValueError("it goes on after the voxels that its header states")
    return Volume(array, grid)


def _whole(file: File, slab: np.ndarray) -> np.ndarray:
    if slab.dtype.kind == "f":
        nearest = np.rint(slab)
        with np.errstate(invalid="ignore"):  # NaN and infinity are not whole numbers either.
            wrong = slab[~(np.abs(slab - nearest) < INTEGRAL)]
        if wrong.size:
            raise ValueError(
                f"{file} is a label map but contains {wrong[0]}, expected whole numbers; if it was "
                "resampled, resample it again with nearest-neighbour interpolation"
            )
        slab = nearest
    for value in (slab.min(), slab.max()):
        if not 0 <= value <= 255:
            raise ValueError(
                f"{file} is a label map but contains {value}, expected classes from 0 to 255; "
                "number the classes from 0, the background, or check that it is not an image"
            )
    return slab
