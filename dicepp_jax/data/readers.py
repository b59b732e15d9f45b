"""Read image and mask files into arrays; every error names the file."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image


def _open(path: Path, mode: str) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing; the data set looks half unpacked") from error
    except Exception as error:  # Pillow meets damage with OSError, SyntaxError and many others.
        raise ValueError(
            f"{path} cannot be read as an image ({error}); unpack or download it again"
        ) from error


def read_rgb(path: Path) -> np.ndarray:
    """A colour image, uint8 (H, W, 3).

    Raises:
      FileNotFoundError: if it is not there.
      ValueError: if it is truncated or not an image.
    """
    return _open(path, "RGB")


def read_mask(path: Path) -> np.ndarray:
    """A binary mask of any encoding (0 and 255, 0 and 1, palette, noisy), uint8 (H, W) of 0 and 1.

    A pixel is foreground above 127, or above 0 in a file that holds nothing above 1. A mask that is
    empty or all foreground is read as such, with a warning that names it.

    Raises:
      FileNotFoundError: if it is not there.
      ValueError: if it is truncated or not an image.
    """
    grey = _open(path, "L")
    mask = (grey > (0 if grey.max() <= 1 else 127)).astype(np.uint8)
    if mask.min() == mask.max():
        warnings.warn(f"{path} is all {'foreground' if mask.max() else 'background'}", stacklevel=2)
    return mask
