"""DRIVE: 40 retinal photographs with the vessels drawn by hand, in the official layout."""

import functools
from collections.abc import Iterator
from pathlib import Path

from dicepp_jax.data import readers
from dicepp_jax.data.builder import Case, Example
from dicepp_jax.data.specs import DRIVE

VALIDATION = 4
"""The last so many of the training folder, in sorted order, are validation."""


def cases(manual_dir: Path | None) -> dict[str, list[Case]]:
    """The cases of each split.

    Args:
      manual_dir: the folder that holds `training/` and `test/`.

    Returns:
      Cases by split: train, validation, test.

    Raises:
      FileNotFoundError: if a folder or file is missing, with how to obtain the set.
    """
    if manual_dir is None:
        raise FileNotFoundError(f"DRIVE needs --config.data.manual_dir. {DRIVE.obtain}")
    training = list(_folder(manual_dir / "training", "training", 20))
    test = list(_folder(manual_dir / "test", "test", 20))
    return {"train": training[:-VALIDATION], "validation": training[-VALIDATION:], "test": test}


def _folder(folder: Path, suffix: str, expected: int) -> Iterator[Case]:
    images = sorted((folder / "images").glob(f"*_{suffix}.tif"))
    if len(images) != expected:
        raise FileNotFoundError(
            f"{folder / 'images'} holds {len(images)} images *_{suffix}.tif, expected {expected}. "
            f"{DRIVE.obtain}"
        )
    for path in images:
        number = path.name.split("_")[0]
        files = (
            path,
            folder / "1st_manual" / f"{number}_manual1.gif",
            folder / "mask" / f"{path.stem}_mask.gif",
        )
        for file in files:
            if not file.exists():
                raise FileNotFoundError(f"{file} is missing. {DRIVE.obtain}")
        yield Case(path.stem, functools.partial(_read, *files))


def _read(image: Path, manual: Path, field_of_view: Path) -> Example:
    return Example(
        readers.read_rgb(image), readers.read_mask(manual), readers.read_mask(field_of_view)
    )
