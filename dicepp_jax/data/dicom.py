"""Series of DICOM slices as volumes; needs `pip install 'dicepp_jax[dicom]'`.

A folder of DICOM files is one volume: CT or MR slices, one in each file, of one series. Their
positions in the patient decide their order; file names do not matter. pydicom is imported when the
first file is read.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from dicepp_jax.data import geometry, limits, nifti
from dicepp_jax.data.files import File
from dicepp_jax.data.geometry import Remark
from dicepp_jax.data.nifti import TOLERANCE, Grid
from dicepp_jax.wording import by, listed

ENDING = ".dcm"

PREFIX = 128, b"DICM"
"""Where a DICOM file says that it is one, and how."""

INDEX = "DICOMDIR"
"""The table of contents of a disc, which is DICOM but no image."""

REQUIRED = ("SeriesInstanceUID", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")

CLOSE = 1e-3
"""Slices at positions as close as this, in mm, are at the same one; also the largest difference
between direction cosines, and the largest relative one between pixel spacings, of a series."""

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From DICOM's axes, left, posterior and superior, to those of `Grid`."""

Header = Any
"""A pydicom Dataset without pixels."""


class Slices(NamedTuple):
    """The slices of a series in order.

    Attributes:
      files: one for each slice, along the normal of the slices.
      headers: of the files.
      grid: columns, rows and slices.
    """

    files: tuple[File, ...]
    headers: tuple[Header, ...]
    grid: Grid


def load_pydicom() -> ModuleType:
    """The module pydicom.

    Raises:
      ValueError: if it is not installed.
    """
    try:
        import pydicom
    except ImportError as error:
        raise ValueError(missing_extra("pydicom")) from error
    return pydicom


def missing_extra(package: str) -> str:
    """The error message about a package that is not installed."""
    return f"DICOM needs {package}, which is not installed: pip install 'dicepp_jax[dicom]'"


def is_series(file: File) -> bool:
    """Whether a file is DICOM, by its ending, which `gather` gives to every series."""
    return file.name.lower().endswith(ENDING)


def gather(files: Iterable[File], known: Sequence[str]) -> list[File]:
    """Take the DICOM files of each folder together as one file, the series.

    Args:
      files: any files.
      known: endings of other formats, whose files are not opened to see what they are.

    Returns:
      The files in their order; a series stands where its first file stood, is named after its
      folder with the ending .dcm, and has its files as `parts`.
    """
    others = tuple(f".{ending}" for ending in known if f".{ending}" != ENDING)
    found: dict[str, File | list[File]] = {}
    for file in files:
        if not file.parts and not file.name.lower().endswith(others) and _is_dicom(file):
            slices = found.setdefault(str(Path(file.where).parent), [])
            assert isinstance(slices, list)
            slices.append(file)
        else:
            found[f"{file.where}/"] = file  # A name that no folder has.
    return [
        file if isinstance(file, File) else _series(folder, file) for folder, file in found.items()
    ]


def _is_dicom(file: File) -> bool:
    if file.name.rpartition("/")[2].upper() == INDEX:
        return False
    if is_series(file):
        return True
    start, magic = PREFIX
    try:
        with file.open() as stream:
            return stream.read(start + len(magic))[start:] == magic
    except OSError:  # Whoever reads it will say so.
        return False


def _series(folder: str, slices: Sequence[File]) -> File:
    first = slices[0]
    stamps = repr([(file.name, file.stamp) for file in slices])
    return File(
        name=(first.name.rpartition("/")[0] or Path(folder).name) + ENDING,
        where=folder,
        stamp=hashlib.blake2b(stamps.encode(), digest_size=16).hexdigest(),
        archived=first.archived,
        open=first.open,
        parts=tuple(slices),
        size=sum(one.size for one in slices),
    )


def read(file: File) -> nifti.Volume:
    """Read a series.

    Args:
      file: of `gather`, or a single slice.

    Returns:
      The volume in canonical order: rescaled values, such as Hounsfield units, int16 or int32 if
      slopes and intercepts are whole numbers, else float32. Values of MONOCHROME1 are inverted, so
      that high values are bright, except in CT, whose units do not depend on the display.

    Raises:
      ValueError: if it is not one series of single slices at equal distances, or a file cannot be
        read.
    """
    slices = arrange(file)
    dtype = _type(slices.headers)
    _check_size(file, slices, dtype)
    array = np.empty(slices.grid.canonical_shape, dtype)
    native = nifti.to_native(array, slices.grid)  # A view of `array`.
    for number, one in enumerate(slices.files):
        native[:, :, number] = _pixels(one).T
    return nifti.Volume(array, slices.grid)


def arrange(file: File) -> Slices:
    """Read the headers of a series and put its slices in order.

    Args:
      file: as for `read`.

    Returns:
      The slices and the grid.

    Raises:
      ValueError: as for `read`, except for errors in the pixels.
    """
    files = file.parts or (file,)
    headers = [_header(one) for one in files]
    _check_one_series(file, headers)
    first = headers[0]
    for one, header in zip(files[1:], headers[1:], strict=True):
        _check_alike(files[0], first, one, header)
    cosines = np.array(first.ImageOrientationPatient, np.float64).reshape(2, 3)
    normal = np.cross(*cosines)
    places = np.array([header.ImagePositionPatient for header in headers], np.float64)
    order = np.argsort(places @ normal, kind="stable")
    files, headers = tuple(files[n] for n in order), [headers[n] for n in order]
    places = places[order]
    remarks = []
    if len(files) == 1:
        step, remark = _thickness(first)
        steps = step * normal
        remarks.append(remark)
    else:
        _check_even(file, files, places, places @ normal)
        steps = (places[-1] - places[0]) / (len(places) - 1)
    between_rows, between_columns = map(float, first.PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = cosines[0] * between_columns, cosines[1] * between_rows
    affine[:3, 2], affine[:3, 3] = steps, places[0]
    if _is_inverted(first):
        remarks.append(Remark("grey values are inverted", "MONOCHROME1"))
    remarks += geometry.shear(affine)
    shape = (int(first.Columns), int(first.Rows), len(files))
    return Slices(files, tuple(headers), Grid(shape, TO_RAS @ affine, None, tuple(remarks)))


def _check_size(file: File, slices: Slices, dtype: np.dtype) -> None:
    """Check that the files can hold the pixels that their headers state, and the memory too."""
    columns, rows, _ = slices.grid.shape
    try:
        for one, header in zip(slices.files, slices.headers, strict=True):
            limits.check_array((columns, rows), int(header.BitsAllocated) // 8, one.size)
        # A slice is rescaled in float64.
        voxel = len(slices.files) * dtype.itemsize + 2 * np.dtype(np.float64).itemsize
        limits.check_memory(columns * rows * voxel, f"a series of {by(slices.grid.shape)}")
    except ValueError as error:
        raise ValueError(f"{file} cannot be read as DICOM ({error}); export it again") from error


def _read(file: File, **options: bool) -> Any:
    pydicom = load_pydicom()
    try:
        with file.open() as stream:
            dataset = pydicom.dcmread(stream, force=True, **options)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{file} does not exist any more; restore it, or run this again to list the files anew"
        ) from error
    except PermissionError as error:
        raise PermissionError(
            f"{file} cannot be read ({error.strerror}); get read permission"
        ) from error
    except Exception as error:  # Damaged files raise many types.
        raise ValueError(
            f"{file} cannot be read as DICOM ({error}); export or download it again"
        ) from error
    if "SOPClassUID" not in dataset:
        raise ValueError(
            f"{file} cannot be read as DICOM (it has no SOP class); export or download it again"
        )
    return dataset


def _header(file: File) -> Header:
    """The header of a file that holds one slice."""
    header = _read(file, stop_before_pixels=True)
    kind = header.SOPClassUID.name
    frames = int(header.get("NumberOfFrames") or 1)
    if frames > 1 or "SharedFunctionalGroupsSequence" in header:
        raise ValueError(
            f"{file} is a multi-frame object ({kind}, {frames} frames), expected one slice in each "
            "file; convert it to NIfTI, for example by dcm2niix"
        )
    if "Rows" not in header:
        raise ValueError(f"{file} is no image ({kind}); remove it from the folder of the series")
    missing = [name for name in REQUIRED if not header.get(name)]
    if missing:
        raise ValueError(
            f"{file} ({kind}) has no {listed(missing)}, expected a slice of a CT or MR series; "
            "export the original series, or convert the image to PNG"
        )
    if header.get("SamplesPerPixel", 1) != 1:
        raise ValueError(
            f"{file} has {header.SamplesPerPixel} values per pixel "
            f"({header.get('PhotometricInterpretation')}), expected one; convert it to PNG"
        )
    return header


def _check_one_series(file: File, headers: Sequence[Header]) -> None:
    series: dict[str, list[Header]] = {}
    for header in headers:
        series.setdefault(header.SeriesInstanceUID, []).append(header)
    if len(series) > 1:
        found = listed(
            f"{uid} ({slices[0].get('SeriesDescription') or slices[0].get('Modality')}, "
            f"{len(slices)} slices)"
            for uid, slices in series.items()
        )
        raise ValueError(
            f"{file} holds {len(series)} series, expected one: {found}; move the files of each "
            "to a folder of its own"
        )


def _check_alike(first_file: File, first: Header, file: File, header: Header) -> None:
    """Check that two slices have the same size, orientation and pixel spacing."""
    remedy = "move slices that do not belong to the volume, such as scouts, to another folder"
    for what, names, tolerance, relative in (
        ("size", ("Rows", "Columns"), 0, 0),
        ("orientation", ("ImageOrientationPatient",), CLOSE, 0),
        ("pixel spacing", ("PixelSpacing",), 0, CLOSE),
    ):
        one, other = (
            np.hstack([np.asarray(h[name].value, np.float64) for name in names])
            for h in (first, header)
        )
        if not np.allclose(one, other, atol=tolerance, rtol=relative):
            raise ValueError(
                f"{first_file} and {file} differ in {what}: {one.tolist()} and {other.tolist()}; "
                f"{remedy}"
            )


def _check_even(file: File, files: Sequence[File], places: np.ndarray, along: np.ndarray) -> None:
    """Check that slices are at equal distances, on a line."""
    gaps = np.diff(along)
    same = np.flatnonzero(gaps < CLOSE).tolist()
    if same:
        found = listed(f"{files[n]} and {files[n + 1]} at {along[n]:g} mm" for n in same)
        raise ValueError(
            f"{file} has several slices at the same position: {found}; move each echo, phase or "
            "copy to a folder of its own"
        )
    step = float(np.median(gaps))
    uneven = np.flatnonzero(np.abs(gaps - step) > TOLERANCE * step).tolist()
    if uneven:
        found = listed(f"{gaps[n]:g} mm from {along[n]:g} to {along[n + 1]:g} mm" for n in uneven)
        raise ValueError(
            f"{file} has slices every {step:g} mm along their normal, but {found}; add the missing "
            "files, or resample the series to equal distances and convert it to NIfTI"
        )
    line = np.linspace(places[0], places[-1], len(places))
    off = np.linalg.norm(places - line, axis=1)
    if off.max() > TOLERANCE * step:
        worst = int(off.argmax())
        raise ValueError(
            f"{files[worst]} is {off[worst]:g} mm beside the line from the first slice of the "
            "series to the last; convert the series to NIfTI, or remove this slice"
        )


def _thickness(header: Header) -> tuple[float, Remark]:
    """The depth of a single slice."""
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        if header.get(name):
            return float(header[name].value), Remark("there is one slice", f"{name} is its depth")
    return 1.0, Remark("there is one slice of unknown depth, taken as 1 mm", "no SliceThickness")


def _is_inverted(header: Header) -> bool:
    monochrome1 = header.get("PhotometricInterpretation") == "MONOCHROME1"
    return monochrome1 and header.get("Modality") != "CT"


def _rescale(header: Header) -> tuple[float, float]:
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    return (1.0 if slope is None else float(slope)), float(intercept or 0)


def _stored_range(header: Header, bits: int) -> tuple[int, int]:
    """The lowest and the highest value of so many bits."""
    if header.get("PixelRepresentation") == 1:
        return -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return 0, (1 << bits) - 1


def _type(headers: Sequence[Header]) -> np.dtype:
    """The smallest type of `read` that holds all values which slices can have."""
    # Not by BitsStored, which some files exceed.
    scales = [(_rescale(h), _stored_range(h, int(h.BitsAllocated))) for h in headers]
    if all(number.is_integer() for scale, _ in scales for number in scale):
        limits = [slope * end + intercept for (slope, intercept), ends in scales for end in ends]
        for dtype in (np.int16, np.int32):
            if np.iinfo(dtype).min <= min(limits) and max(limits) <= np.iinfo(dtype).max:
                return np.dtype(dtype)
    return np.dtype(np.float32)


def _pixels(file: File) -> np.ndarray:
    """The rescaled values of a slice, `(rows, columns)` float64."""
    dataset = _read(file)
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:  # Files from before there was such a field.
        uid, (implicit, little) = load_pydicom().uid, dataset.original_encoding
        plain = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        syntax = dataset.file_meta.TransferSyntaxUID = plain if little else uid.ExplicitVRBigEndian
    try:
        stored = dataset.pixel_array.astype(np.float64)
    except Exception as error:  # pydicom raises many types, by syntax and plugin.
        if syntax.is_compressed:
            raise ValueError(
                f"{file} is compressed as {syntax.name}, and no installed plugin decodes it: pip "
                "install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg, or decompress it, for "
                f"example by gdcmconv --raw ({' '.join(str(error).split())})"
            ) from error
        raise ValueError(
            f"{file} has pixels that cannot be read ({error}); export or download it again"
        ) from error
    slope, intercept = _rescale(dataset)
    if _is_inverted(dataset):
        stored = sum(_stored_range(dataset, int(dataset.BitsStored))) - stored
    return slope * stored + intercept
