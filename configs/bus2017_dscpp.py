"""BUS2017 with DSC++, gamma 2: the paper's full setting.

Command:   python -m experiments.run --config=configs/bus2017_dscpp.py
               --config.data.manual_dir=UDIAT
Hardware:  a GPU
Expected:  test NLL 0.034 ± 0.016, Brier 0.013 ± 0.004,
           Dice 0.842 ± 0.031, Jaccard 0.756 ± 0.034 (the paper's Table 4; not yet run here)
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """128 x 128, U-Net of depth 4 and 32 filters, patience 25 and 50."""
    config = base.get_config()
    config.data.name = "bus2017"
    return config
