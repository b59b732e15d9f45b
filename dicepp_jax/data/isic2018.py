"""ISIC2018: 2594 photographs of skin lesions, the training images of the challenge's task 1.

`ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg` and
`ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png`. The challenge's validation and
test images, which are in separate folders, and the superpixels in some archives are ignored.
"""

from dicepp_jax.data import pairs
from dicepp_jax.data.builder import Case
from dicepp_jax.data.files import Tree, match
from dicepp_jax.data.specs import ISIC2018

INPUT = "ISIC2018_Task1-2_Training_Input"
GROUND_TRUTH = "ISIC2018_Task1_Training_GroundTruth"


def list_cases(files: Tree) -> list[Case]:
    """The cases by name.

    Args:
      files: those in the set's folder or archives.

    Returns:
      A case for each image.

    Raises:
      FileNotFoundError: if nothing is found or an image or mask is missing.
      ValueError: if there are two copies.
    """
    images = match(files, rf"{INPUT}/(?P<case>ISIC_\d+)\.jpg")
    masks = match(files, rf"{GROUND_TRUTH}/(?P<case>ISIC_\d+)_segmentation\.png")
    return pairs.cases(
        ISIC2018,
        files,
        pairs.Kind("image", f"{INPUT}/{{}}.jpg", images),
        pairs.Kind("mask", f"{GROUND_TRUTH}/{{}}_segmentation.png", masks),
    )
