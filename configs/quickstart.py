"""DSC against DSC++ on the vessel phantom: the main job in a few minutes on a laptop.

Command:  python -m experiments.run
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """A small U-Net on 32 drawn images of 96 x 96, trained once with each loss."""
    config = base.get_config()
    config.loss.name = "dsc,dscpp"
    config.model.filters = 8
    config.model.depth = 3
    config.train.epochs = 24
    config.train.patience = 6
    config.train.stop_patience = 12
    return config
