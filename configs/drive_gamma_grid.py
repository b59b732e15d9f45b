"""DRIVE with DSC++ for ten values of gamma: the paper's Table 3.

Command:   python -m experiments.sweep --config=configs/drive_gamma_grid.py
               --config.data.manual_dir=DRIVE
Hardware:  a GPU; --config.sweep.seeds=3 crosses the grid with three seeds
Expected:  NLL 0.281 at gamma 0.5, 0.204 at 1, 0.041 at 2, about the same above; Brier 0.033, 0.031,
           0.024 and rising from 3 on (the paper's Table 3; not yet run here at full scale)

At 96 x 96 with 8 filters and patience 10 and 20 it takes half an hour on 2 CPU cores: NLL 0.286 at
1, 0.101 at 2, 0.064 at 5; Brier 0.052, 0.049, 0.090 (2026-11-23; results/drive_gamma_96).
"""

from ml_collections import ConfigDict

from configs import drive_dscpp


def get_config() -> ConfigDict:
    """The paper's setting on DRIVE, gamma from 0.5 to 5 by 0.5."""
    config = drive_dscpp.get_config()
    config.sweep.gamma = tuple(n / 2 for n in range(1, 11))
    return config
