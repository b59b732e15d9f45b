"""DRIVE with DSC++, gamma 2: the paper's setting in full."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """512 x 512, U-Net of depth 4 and 32 filters, patience 25 and 50."""
    config = base.get_config()
    config.data.name = "drive"
    return config
