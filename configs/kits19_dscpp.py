"""KiTS19 with DSC++, gamma 2, on whole volumes: the paper's network and schedule, not its patches.

Command:   python -m experiments.run --config=configs/kits19_dscpp.py
               --config.data.manual_dir=KITS (or, for the imaging, --config.data.download=True)
Hardware:  a GPU of 40 GiB or more; 64 GiB of disk for the prepared set
Expected:  the paper, by random patches of 80 x 160 x 160: kidney Dice 0.911 ± 0.008,
           Jaccard 0.841 ± 0.013; tumour Dice 0.429 ± 0.041, Jaccard 0.311 ± 0.036 (Table 5; not
           yet run here)

Volumes are stored at 3.22 x 1.62 x 1.62 mm. Training by patches and prediction by a sliding window
are not built yet: until then a volume is shrunk or stretched to the network's size as a whole, and
the result is not the paper's.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """80 x 160 x 160, 3-D U-Net of depth 4 and 32 filters, patience 5 and 10."""
    config = base.get_config()
    config.data.name = "kits19"
    config.train.patience = 5
    config.train.stop_patience = 10
    return config
