"""CVC-ClinicDB with DSC++, gamma 2: the paper's full setting.

Command:   python -m experiments.run --config=configs/cvc_clinicdb_dscpp.py
               --config.data.manual_dir=CVC
Hardware:  a GPU
Expected:  test NLL 0.037 ± 0.007, Brier 0.013 ± 0.002,
           Dice 0.894 ± 0.013, Jaccard 0.829 ± 0.015 (the paper's Table 4; not yet run here)

The 612 frames come from 29 videos, and neighbouring frames are nearly the same image. The paper's
split, and the default here, draws single frames, so most test frames have a near-duplicate in
training, and the results above are better than for a new patient. --config.data.split=group keeps
every video in one part.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """288 x 384, the native size, U-Net of depth 4 and 32 filters, patience 25 and 50."""
    config = base.get_config()
    config.data.name = "cvc_clinicdb"
    return config
