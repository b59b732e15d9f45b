"""The official layouts of data sets in miniature, written to disk for tests to prepare."""

from typing import NamedTuple

import numpy as np
from PIL import Image


class Written(NamedTuple):
    """The arrays of a case as they should be read back."""

    image: np.ndarray
    label: np.ndarray
    region: np.ndarray


def _palette(mask):
    """Two entries whose grey values are 3 and 253, as DRIVE's second observer has them."""
    image = Image.fromarray(mask)
    image.putpalette([4, 2, 4, 252, 254, 252])
    return image


def _noisy(mask):
    """As after lossy compression: values below 100 for background, above 155 for foreground."""
    noise = np.random.default_rng([2, 0]).integers(0, 100, mask.shape)
    return Image.fromarray(np.where(mask, 255 - noise, noise).astype(np.uint8))


ENCODINGS = {
    "grey": lambda mask: Image.fromarray(255 * mask),
    "ones": Image.fromarray,
    "palette": _palette,
    "noisy": _noisy,
    "boolean": lambda mask: Image.fromarray(mask.astype(bool)),
    "rgb": lambda mask: Image.fromarray(np.stack([255 * mask] * 3, -1)),
}
"""Ways in which a mask of 0 and 1, uint8, is kept in a file."""


def write_mask(path, mask, encoding="grey"):
    """Write a mask of 0 and 1, the folder too if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ENCODINGS[encoding](mask).save(path)


def write_rgb(path, image):
    """Write a colour image, TIFFs compressed with LZW, the folder too if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"compression": "tiff_lzw"} if path.suffix == ".tif" else {}
    Image.fromarray(image).save(path, **options)


def truncate(path, keep=0.5):
    """Cut a file short, as an interrupted download does."""
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])


def drive(folder, *, training=20, test=20, size=(29, 31), encoding="grey"):
    """Write DRIVE.

    Args:
      folder: where `training/` and `test/` go.
      training: number of cases in `training/`, from 21 on.
      test: number of cases in `test/`, from 1 on.
      size: height and width of the images.
      encoding: of the masks, a key of `ENCODINGS`.

    Returns:
      `Written` by the case's name, such as "21_training".
    """
    written = {}
    for suffix, first, count in (("training", 21, training), ("test", 1, test)):
        for number in range(first, first + count):
            case = _fundus(number, size)
            part = folder / suffix
            write_rgb(part / "images" / f"{number:02d}_{suffix}.tif", case.image)
            write_mask(part / "1st_manual" / f"{number:02d}_manual1.gif", case.label, encoding)
            write_mask(part / "mask" / f"{number:02d}_{suffix}_mask.gif", case.region, encoding)
            if suffix == "test":  # The second observer, whom nothing should read.
                manual = part / "2nd_manual" / f"{number:02d}_manual2.gif"
                write_mask(manual, 1 - case.label, "palette")
            written[f"{number:02d}_{suffix}"] = case
    return written


def _fundus(number, size):
    rng = np.random.default_rng([1, number])
    row, column = np.indices(size)
    centre = rng.uniform(0.4, 0.6, 2) * size
    region = np.hypot(row - centre[0], column - centre[1]) < 0.45 * min(size)
    return Written(
        image=rng.integers(0, 256, (*size, 3), dtype=np.uint8),
        label=(region & (rng.random(size) < 0.2)).astype(np.uint8),
        region=region.astype(np.uint8),
    )
