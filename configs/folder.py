"""Your own data set of images and masks, or in nnU-Net's raw layout, with DSC++: no code needed.

Command:   python -m experiments.prepare --config=configs/folder.py --config.data.manual_dir=FOLDER
               to see what is detected and proposed, then the same with experiments.run
Hardware:  depends on the proposed size; reduce --config.data.size or --config.model.filters
Expected:  depends on your data

FOLDER may contain images/ and masks/ (labels/, annotations/, gt/), or images next to their masks
(case.png, case_mask.png), 2-D or 3-D: PNG, JPEG, TIFF, GIF, BMP, NPY, NIfTI; or dataset.json,
imagesTr/ and labelsTr/. Layout, classes, channels, spacing, size and depth are detected and
reported, each with the option that overrides it. See docs/data.md.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import base


def get_config() -> ConfigDict:
    """The paper's training on your own data set."""
    config = base.get_config()
    config.data.name = "folder"
    config.model.depth = placeholder(int)  # default by size: the paper's 4, less for small images
    return config
