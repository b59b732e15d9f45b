"""KiTS19: abdominal CT with the kidneys and their tumours, 210 labelled cases.

`case_00000/imaging.nii.gz` and `case_00000/segmentation.nii.gz`, in one folder or in two, since
masks and imaging are published in different places; the imaging may also be named
`images/case_00000.nii.gz`, as on the publisher's server. Volumes are stored at one spacing,
together with the native labels.
"""

import functools

import numpy as np

from dicepp_jax.data import nifti, pairs
from dicepp_jax.data.builder import Case, Example
from dicepp_jax.data.files import File, Tree, match
from dicepp_jax.data.specs import KITS19
from dicepp_jax.preprocess import resample, resample_label

IMAGING = r"(images/)?case_(?P<case>\d{5})(?(1)|/imaging)\.nii(\.gz)?"
SEGMENTATION = r"case_(?P<case>\d{5})/segmentation\.nii(\.gz)?"

MASK = "case_{}/segmentation.nii.gz"

LABELLED = 210
"""The masks of the cases from this number on are not public; the challenge ranks with them."""


def list_cases(files: Tree) -> list[Case]:
    """The labelled cases by number, without `KITS19.excluded`.

    Args:
      files: those in the set's folder or archives.

    Returns:
      A case for each mask.

    Raises:
      FileNotFoundError: if nothing is found or imaging or a mask is missing.
      ValueError: if there are two copies.
    """
    imaging, masks = included(files, IMAGING), included(files, SEGMENTATION)
    imaging = {n: file for n, file in imaging.items() if int(n) < LABELLED or n in masks}
    numbers = pairs.check(
        KITS19,
        files,
        pairs.Kind("imaging", "case_{}/imaging.nii.gz", imaging),
        pairs.Kind("mask", MASK, masks),
    )
    return [_case(f"case_{number}", imaging[number], masks[number]) for number in numbers]


def included(files: Tree, pattern: str) -> dict[str, File]:
    """The files that match a pattern by case number, without `KITS19.excluded`."""
    excluded = {name.removeprefix("case_") for name in KITS19.excluded}
    return {case: file for case, file in match(files, pattern).items() if case not in excluded}


def read_label(name: str, mask: File) -> np.ndarray:
    """The `(D, H, W)` classes of a case on its native grid, uint8.

    Raises:
      ValueError: if the mask contains other classes than KiTS19's.
    """
    label = nifti.read_label(mask).array
    unknown = np.unique(label[label >= len(KITS19.classes)])
    if unknown.size:
        known = ", ".join(f"{n} {title}" for n, title in enumerate(KITS19.classes))
        raise ValueError(
            f"{mask} of {name} contains {', '.join(map(str, unknown))}, expected {known}; it is "
            "damaged or from a later challenge, so download KiTS19's mask again"
        )
    return label


def _case(name: str, imaging: File, mask: File) -> Case:
    return Case(name, functools.partial(_read, name, imaging, mask), (imaging, mask))


def _read(name: str, imaging: File, mask: File) -> Example:
    assert KITS19.spacing is not None
    grid = nifti.read_grid(imaging)
    nifti.check_same_grid(imaging, grid, mask, nifti.read_grid(mask))
    label = read_label(name, mask)
    return Example(
        image=_resample_image(imaging, KITS19.spacing),
        label=resample_label(label, grid.spacing, KITS19.spacing, len(KITS19.classes)),
        native_label=label,
        spacing=grid.spacing,
    )


def _resample_image(imaging: File, spacing: tuple[float, ...]) -> np.ndarray:
    """Hounsfield units, `(D, H, W, 1)` int16."""
    image, grid = nifti.read(imaging)
    unusable = image.size - np.count_nonzero(np.isfinite(image))
    if unusable:
        raise ValueError(
            f"{unusable / image.size:.1%} of {imaging} is NaN or infinite, expected Hounsfield "
            "units; download it again, or replace these values by that of air, -1024"
        )
    image = resample(image, grid.spacing, spacing)
    limits = np.iinfo(np.int16)
    return np.clip(np.rint(image), limits.min, limits.max).astype(np.int16)[..., None]
