"""2018DSB: 670 microscopy images of nuclei, stage 1 of the 2018 Data Science Bowl.

`ID/images/ID.png` and `ID/masks/*.png`, one mask for each nucleus; the label is their union. The
images of `stage1_test` and `stage2_test_final` are not part of the set and are ignored; any other
image must have masks.
"""

import functools
import re

import numpy as np

from dicepp_jax.data import pairs, readers
from dicepp_jax.data.builder import Case, Example
from dicepp_jax.data.files import File, Tree, match
from dicepp_jax.data.specs import DSB2018

TEST = re.compile(r"(^|/)stage\d_test", re.IGNORECASE)
IMAGE = r"(?P<case>[0-9a-f]{64})/images/(?P=case)\.png"
MASK = re.compile(r"((?:.*/)?[0-9a-f]{64})/masks/[^/]+\.png", re.IGNORECASE)


def list_cases(files: Tree) -> list[Case]:
    """The cases in alphabetical order of their names.

    Args:
      files: those in the set's folder or archive.

    Returns:
      A case for each image.

    Raises:
      FileNotFoundError: if nothing is found, or an image or all of its masks are missing.
      ValueError: if there are two copies.
    """
    training = {name: file for name, file in files.items() if not TEST.search(name)}
    found = match(training, IMAGE)
    # Names are hexadecimal, so natural order, which compares numbers by value, would differ.
    images = {case: found[case] for case in sorted(found)}
    nuclei: dict[str, list[File]] = {}  # by folder of a case, to keep copies apart
    for name, file in training.items():
        if hit := MASK.fullmatch(name):
            nuclei.setdefault(hit[1], []).append(file)
    masks = {c: nuclei[_folder(f)] for c, f in images.items() if _folder(f) in nuclei}
    masks |= {f[-64:]: some for f, some in nuclei.items() if f[-64:] not in images}
    order = pairs.check(
        DSB2018,
        files,
        pairs.Kind("image", "{0}/images/{0}.png", images),
        pairs.Kind("mask", "{}/masks/*.png", {case: some[0] for case, some in masks.items()}),
    )
    members = {case: (images[case], *masks[case]) for case in order}
    return [Case(case, functools.partial(_read, *some), some) for case, some in members.items()]


def _folder(image: File) -> str:
    return image.name.rsplit("/", 2)[0]


def _read(image: File, *nuclei: File) -> Example:
    picture = readers.read_rgb(image)
    label = np.zeros(picture.shape[:-1], np.uint8)
    for file in nuclei:
        mask = readers.read_mask(file)
        if mask.shape != label.shape:
            raise ValueError(
                f"{file} has shape {mask.shape} and its image {label.shape}; they must have the "
                "same size"
            )
        label |= mask
    return Example(picture, label)
