"""Rare foreground: losses compared on lesion phantoms, in which 1 pixel in 10 to 10000 is lesion.

Command:   python -m experiments.run --config=configs/imbalance.py:0.001
Hardware:  2 CPU cores; seven networks take four minutes of CPU time
Expected:  Dice of DSC and DSC++ 0.882 and 0.898 at 0.1, 0.877 and 0.861 at 0.01, 0.867 and 0.855 at
           0.001, 0.025 and 0.563 at 0.0001, where CE, Focal and Unified Focal find nothing (seed 0,
           2026-11-29; docs/results.md)
"""

from ml_collections import ConfigDict

from configs import base

SHARES = ("0.1", "0.01", "0.001", "0.0001")


def get_config(share: str = "0.001") -> ConfigDict:
    """Seven losses on the phantom with this share of foreground, for too few epochs to converge.

    Raises:
      LookupError: if there is no such phantom.
    """
    if share not in SHARES:
        raise LookupError(
            f"unknown share {share!r}, expected one of {', '.join(SHARES)}, as in "
            "--config=configs/imbalance.py:0.001"
        )
    config = base.get_config()
    config.data.name = f"phantom_1in{round(1 / float(share))}"
    config.loss.name = "ce,weighted_ce,focal,dsc,dscpp,tversky,unified_focal"
    config.model.filters = 4
    config.model.depth = 3
    config.train.epochs = 10
    config.train.patience = 3
    config.train.stop_patience = 6
    return config
