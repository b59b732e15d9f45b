"""ISIC2018 with DSC++, gamma 2: the paper's full setting.

Command:   python -m experiments.run --config=configs/isic2018_dscpp.py
               --config.data.manual_dir=ISIC (or --config.data.download=True)
Hardware:  a GPU, 16 GiB of memory for cached images, 60 GiB of disk
Expected:  test NLL 0.086 ± 0.011, Brier 0.034 ± 0.003,
           Dice 0.882 ± 0.006, Jaccard 0.811 ± 0.008 (the paper's Table 4; not yet run here)
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """512 x 512, U-Net of depth 4 and 32 filters, patience 25 and 50."""
    config = base.get_config()
    config.data.name = "isic2018"
    config.data.cache_gib = 8.0  # all 2076 training and validation cases at 512 x 512
    return config
