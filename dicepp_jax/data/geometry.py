"""Where the voxels of a NIfTI file are, in mm: which of the geometries in its header is used.

1. The sform if its code is above 0; else the qform if its code is above 0; else `pixdim` alone,
   with axes towards left, anterior and superior. This is nibabel's rule.
2. An sform whose voxels are all of size 1 where `pixdim` has other sizes is a placeholder. Then the
   qform is used, or, if its code is 0, the directions of the sform with the sizes in `pixdim`.
3. Metres and microns are converted to mm; unknown units are mm.

Whatever deviates from a plain header is a `Remark`.
"""

import collections
from collections.abc import Iterable
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import aff2axcodes

from dicepp_jax.wording import by

MM = {"meter": 1000.0, "micron": 0.001}
"""The mm in other units of length."""

AGREE = 0.01
"""Sizes of voxels agree up to this relative difference, which rounding in headers causes."""

SHEAR = 0.01
"""Axes are perpendicular up to this cosine of the angle between them."""


class Remark(NamedTuple):
    """Something unusual about a file that does not prevent its use.

    Attributes:
      kind: what is unusual and what is done about it, the same words for all such files.
      found: the values in this file.
    """

    kind: str
    found: str


class Placement(NamedTuple):
    """The positions of voxels.

    Attributes:
      affine: `(4, 4)` float64, from indices to mm right, anterior and superior.
      placeholder: the affine that was set aside as a placeholder, else None.
      remarks: what is unusual.
    """

    affine: np.ndarray
    placeholder: np.ndarray | None
    remarks: tuple[Remark, ...]


def place(header: nib.Nifti1Header) -> Placement:
    """The positions of a file's voxels by the rule of this module.

    Args:
      header: of the file.

    Returns:
      The positions; the affine may be singular or not finite if the header's values are.

    Raises:
      ValueError: if the qform is used and not a rotation.
    """
    affine, placeholder, remarks = _choose(header)
    remarks += shear(affine)
    unit = _unit(header)
    if unit in MM:
        scale = np.diag([MM[unit]] * 3 + [1])
        affine = scale @ affine
        placeholder = None if placeholder is None else scale @ placeholder
        remarks.append(
            Remark(
                f"lengths are in {unit}s and are converted to mm",
                f"voxels of {_sizes(voxel_sizes(affine))} mm",
            )
        )
    return Placement(affine, placeholder, tuple(remarks))


def _choose(header: nib.Nifti1Header) -> tuple[np.ndarray, np.ndarray | None, list[Remark]]:
    """The affine in the header's unit, the one that was set aside, and remarks."""
    pixdim = np.abs(header["pixdim"][1:4].astype(np.float64))
    sform, qform = (header[code] > 0 for code in ("sform_code", "qform_code"))
    affine = header.get_best_affine()
    if not sform:
        unknown = Remark(
            "sform_code and qform_code are 0, so the orientation is unknown: axes are taken to run "
            "to the left, anterior and superior",
            f"pixdim {_sizes(pixdim)}",
        )
        return affine, None, [] if qform else [unknown]
    sizes = voxel_sizes(affine)
    if _agree(sizes, pixdim):
        return affine, None, _directions(affine, header) if qform else []
    found = f"sform {_sizes(sizes)}, pixdim {_sizes(pixdim)}"
    if not (_agree(sizes, np.ones(3)) and np.isfinite(pixdim).all() and pixdim.all()):
        kind = "sform and pixdim have voxels of other sizes: the sform is used"
        return affine, None, [Remark(kind, found)]
    used = "the qform is used" if qform else "the sizes in pixdim are used"
    better = header.get_qform() if qform else affine * [*(pixdim / sizes), 1]
    kind = f"the sform has voxels of size 1, unlike pixdim: {used}"
    return better, affine, [Remark(kind, found)]


def shear(affine: np.ndarray) -> list[Remark]:
    """The remark on axes that are not perpendicular; none if they are."""
    steps = affine[:3, :3] / np.maximum(np.linalg.norm(affine[:3, :3], axis=0), 1e-30)
    cosine = np.abs(steps.T @ steps - np.eye(3)).max()
    if not cosine > SHEAR:  # Also if it is not finite, which is refused elsewhere.
        return []
    kind = "axes are not perpendicular: distances within a volume are as if they were"
    return [Remark(kind, f"{90 - np.degrees(np.arccos(min(cosine, 1))):.1f} degrees off")]


def summary(remarks: Iterable[tuple[str, Remark]]) -> list[str]:
    """One line for each kind of remark.

    Args:
      remarks: names of files and what is unusual about them.

    Returns:
      Lines with the number of files and the first as an example, the most frequent kind first.

    Example:
      >>> summary([("a.nii", Remark("odd units", "5")), ("b.nii", Remark("odd units", "6"))])
      ['odd units (2 files, such as a.nii: 5)']
    """
    kinds = collections.defaultdict(list)
    for name, remark in remarks:
        kinds[remark.kind].append(f"{name}: {remark.found}")
    lines = sorted(kinds.items(), key=lambda item: -len(item[1]))
    return [
        f"{kind} ({examples[0]})"
        if len(examples) == 1
        else f"{kind} ({len(examples)} files, such as {examples[0]})"
        for kind, examples in lines
    ]


def _agree(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.allclose(one, other, rtol=AGREE, atol=0))


def _sizes(values: np.ndarray) -> str:
    return by(np.round(values, 5))


def _directions(affine: np.ndarray, header: nib.Nifti1Header) -> list[Remark]:
    """The remark on a qform whose axes run in other directions than the sform's."""
    try:
        other = header.get_qform()
    except ValueError:  # It is not used, so it need not be a rotation.
        return []
    used, unused = ("".join(map(str, aff2axcodes(form))) for form in (affine, other))
    if used == unused:
        return []
    kind = "sform and qform have axes in other directions: the sform is used"
    return [Remark(kind, f"sform {used}, qform {unused}")]


def _unit(header: nib.Nifti1Header) -> str:
    try:
        return header.get_xyzt_units()[0]
    except KeyError:  # A number that no unit has.
        return "unknown"
