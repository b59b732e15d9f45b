"""KiTS19 with DSC++, gamma 2: the paper's full setting.

Command:   python -m experiments.run --config=configs/kits19_dscpp.py
               --config.data.manual_dir=KITS (or, for the imaging, --config.data.download=True)
Hardware:  a GPU of 40 GiB or more; 64 GiB of disk for the prepared set, 5 GiB of memory for it.
           python -m experiments.memory --config=configs/kits19_dscpp.py reports what a step needs
Expected:  kidney Dice 0.911 ± 0.008, Jaccard 0.841 ± 0.013; tumour Dice 0.429 ± 0.041,
           Jaccard 0.311 ± 0.036 (the paper's Table 5; not yet run here)

With --config.data.name=kits19_synthetic, which needs only the masks, it trains in minutes on
synthetic imaging; the docs/results.md has the command and its results.

Volumes are stored at 3.22 x 1.62 x 1.62 mm. An epoch has one random patch of each. The validation
loss is that of one random patch of each validation volume, a different one in each epoch, and this
noisy number determines when to reduce the learning rate and stop;
--config.data.validation=sliding_window uses all windows instead. Prediction averages windows that
overlap by half, 40 x 80 x 80, uniformly.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Patches of 80 x 160 x 160, 3-D U-Net of depth 4 and 32 filters, patience 5 and 10."""
    config = base.get_config()
    config.data.name = "kits19"
    config.train.patience = 5
    config.train.stop_patience = 10
    return config
