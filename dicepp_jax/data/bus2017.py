"""BUS2017: 163 ultrasound images of the breast with a lesion, UDIAT's dataset B.

`original/000001.png` and `GT/000001.png`; the numbers have gaps and the sizes vary.
"""

from dicepp_jax.data import pairs
from dicepp_jax.data.builder import Case
from dicepp_jax.data.files import Tree, match
from dicepp_jax.data.specs import BUS2017


def list_cases(files: Tree) -> list[Case]:
    """The cases by number.

    Args:
      files: those in the set's folder or archive.

    Returns:
      A case for each image.

    Raises:
      FileNotFoundError: if nothing is found or an image or mask is missing.
      ValueError: if there are two copies.
    """
    # Six digits, because the images of CVC-ClinicDB are in a folder of the same name.
    images = match(files, r"original/(?P<case>\d{6})\.png")
    masks = match(files, r"GT/(?P<case>\d{6})\.png")
    return pairs.cases(
        BUS2017,
        files,
        pairs.Kind("image", "original/{}.png", images),
        pairs.Kind("mask", "GT/{}.png", masks),
    )
