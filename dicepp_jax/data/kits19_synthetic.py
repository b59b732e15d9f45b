"""KiTS19's annotations with synthetic imaging: real 3-D anatomy without the large download.

The masks are a small download, the imaging tens of gigabytes. Intensities are synthesised on the
grid that volumes are resampled to; the native labels are KiTS19's. Results on this set show how
methods compare on such shapes, and nothing about real CT.
"""

import functools

from dicepp_jax.data import kits19, nifti, pairs, phantom
from dicepp_jax.data.builder import Case, Example
from dicepp_jax.data.files import File, Tree
from dicepp_jax.data.specs import KITS19_SYNTHETIC
from dicepp_jax.preprocess import resample_label

SEED = 0


def list_cases(files: Tree) -> list[Case]:
    """The labelled cases by number, without those that the paper excludes.

    Args:
      files: those in the set's folder or archives.

    Returns:
      A case for each mask.

    Raises:
      FileNotFoundError: if there are none.
      ValueError: if there are two copies.
    """
    masks = kits19.included(files, kits19.SEGMENTATION)
    numbers = pairs.check(KITS19_SYNTHETIC, files, pairs.Kind("mask", kits19.MASK, masks))
    return [_case(int(number), masks[number]) for number in numbers]


def _case(number: int, mask: File) -> Case:
    name = f"case_{number:05d}"
    return Case(name, functools.partial(_read, name, number, mask), (mask,))


def _read(name: str, number: int, mask: File) -> Example:
    spacing = KITS19_SYNTHETIC.spacing
    assert spacing is not None
    native = kits19.read_label(name, mask)
    grid = nifti.read_grid(mask)
    label = resample_label(native, grid.spacing, spacing, len(KITS19_SYNTHETIC.classes))
    depth, height, width = spacing
    return Example(
        image=phantom.scan(SEED, number, label, (depth, height, width))[..., None],
        label=label,
        native_label=native,
        spacing=grid.spacing,
    )
