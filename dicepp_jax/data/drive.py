"""DRIVE: 40 retinal photographs with the vessels drawn by hand.

`training/images/21_training.tif` to `40_training.tif` and `test/images/01_test.tif` to
`20_test.tif`, with the first observer's vessels and the field of view. A second observer's vessels,
which the test images come with, are read where they are there. The split is fixed: the test folder
is for testing, the last four of the training folder are for validation.
"""

import functools
from collections.abc import Iterator

import numpy as np

from dicepp_jax.data import pairs, readers
from dicepp_jax.data.builder import Case, Example
from dicepp_jax.data.files import File, Tree, match
from dicepp_jax.data.specs import DRIVE
from dicepp_jax.wording import by, listed

FOLDERS = (("training", range(21, 41)), ("test", range(1, 21)))
VALIDATION = range(37, 41)


def list_cases(files: Tree) -> list[Case]:
    """The cases, those of the training folder first.

    Args:
      files: those in the set's folder or archive.

    Returns:
      Cases by number, the training folder's before the test folder's.

    Raises:
      FileNotFoundError: if one of the 40 images or a mask is missing, with how to get the set.
      ValueError: if there are two copies.
    """
    kinds = [
        pairs.Kind("image", "images/{}_*.tif", match(files, r"images/(?P<case>\d\d)_\w+\.tif")),
        pairs.Kind(
            "manual segmentation",
            "1st_manual/{}_manual1.gif",
            match(files, r"1st_manual/(?P<case>\d\d)_manual1\.gif"),
        ),
        pairs.Kind(
            "field of view",
            "mask/{}_*_mask.gif",
            match(files, r"mask/(?P<case>\d\d)_\w+_mask\.gif"),
        ),
    ]
    pairs.check(DRIVE, files, *kinds)
    missing = [
        f"{folder}/images/{number:02d}_{folder}.tif"
        for folder, numbers in FOLDERS
        for number in numbers
        if f"{number:02d}" not in kinds[0].found
    ]
    if missing:
        raise FileNotFoundError(
            f"DRIVE: missing images ({len(missing)} of 40): {listed(missing)}. {DRIVE.obtain}"
        )
    second = match(files, r"2nd_manual/(?P<case>\d\d)_manual2\.gif")
    return list(_cases(kinds, second))


def _cases(kinds: list[pairs.Kind], second: Tree) -> Iterator[Case]:
    for folder, numbers in FOLDERS:
        for number in numbers:
            members = [kind.found[f"{number:02d}"] for kind in kinds]
            members += [second[f"{number:02d}"]] if f"{number:02d}" in second else []
            part = "validation" if number in VALIDATION else folder.replace("training", "train")
            read = functools.partial(_read, *members)
            yield Case(f"{number:02d}_{folder}", read, tuple(members), part)


def _read(image: File, manual: File, field_of_view: File, *others: File) -> Example:
    picture = readers.read_rgb(image)
    label, region = map(readers.read_mask, (manual, field_of_view))
    raters = [label, *map(readers.read_mask, others)]
    for file, other in zip(others, raters[1:], strict=True):
        if other.shape != label.shape:
            raise ValueError(
                f"{file} has size {by(other.shape)} and {manual} has {by(label.shape)}; they must "
                "have the same size"
            )
    return Example(picture, label, region, raters=np.stack(raters))
