"""2018DSB with DSC++, gamma 2: the paper's full setting.

Command:   python -m experiments.run --config=configs/dsb2018_dscpp.py
               --config.data.manual_dir=DSB (or --config.data.download=True)
Hardware:  a GPU
Expected:  test NLL 0.033 ± 0.004, Brier 0.019 ± 0.002,
           Dice 0.916 ± 0.006, Jaccard 0.850 ± 0.009 (the paper's Table 4; not yet run here)
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """256 x 256, U-Net of depth 4 and 32 filters, patience 25 and 50."""
    config = base.get_config()
    config.data.name = "dsb2018"
    return config
