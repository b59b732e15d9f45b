"""DRIVE with DSC++, gamma 2: the paper's full setting.

Command:   python -m experiments.run --config=configs/drive_dscpp.py
               --config.data.manual_dir=DRIVE
Hardware:  a GPU; on 2 CPU cores an epoch takes about four minutes, and there may be hundreds
Expected:  test NLL 0.041 ± 0.003, Brier 0.024 ± 0.001, Dice 0.808 ± 0.003, Jaccard 0.678 ± 0.004
           (the paper's Table 3; not yet run here at full scale except for two epochs on a CPU)

At reduced scale (--config.loss.name=dsc,dscpp --config.data.size='(128,128)'
--config.model.filters=8) ten minutes on 2 CPU cores give NLL 0.227 with DSC and 0.083 with DSC++
(2026-11-23; the table is in docs/results.md, the rows in results/drive_128).
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """512 x 512, U-Net of depth 4 and 32 filters, patience 25 and 50."""
    config = base.get_config()
    config.data.name = "drive"
    return config
