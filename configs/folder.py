"""Your own images and masks, or a data set in nnU-Net's raw layout, with DSC++: no code needed.

Command:   python -m experiments.prepare --config=configs/folder.py --config.data.manual_dir=FOLDER
               to see what is found and proposed, then the same with experiments.run
Hardware:  what the proposed size needs; --config.data.size and --config.model.filters make it less
Expected:  nothing is known of your data

FOLDER may hold images/ and masks/ (labels/, annotations/, gt/), or images and masks side by side
(case.png, case_mask.png), 2-D or 3-D: PNG, JPEG, TIFF, GIF, BMP, NPY, NIfTI; or dataset.json,
imagesTr/ and labelsTr/. Layout, classes, channels, spacing, size and depth are found out and told,
each with the option that overrides it. docs/data.md says more.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import base


def get_config() -> ConfigDict:
    """The paper's training on a set of your own."""
    config = base.get_config()
    config.data.name = "folder"
    config.model.depth = placeholder(int)  # by the size: the paper's 4, less for small images
    return config
