"""DRIVE with DSC++, gamma 2: the paper's full setting.

Command:   python -m experiments.run --config=configs/drive_dscpp.py
               --config.data.manual_dir=DRIVE
Hardware:  a GPU; 2 CPU cores with AVX-512 take 44 to 86 minutes, 125 epochs
Expected:  test NLL 0.041 ± 0.003, Brier 0.024 ± 0.001, Dice 0.808 ± 0.003, Jaccard 0.678 ± 0.004
           (the paper's Table 3); here 0.047, 0.0248, 0.806 and 0.676 before resizing, 0.046,
           0.0239, 0.810 and 0.680 at native size (2026-12-01; rows in results/scales/full)

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
