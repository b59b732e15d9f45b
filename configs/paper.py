"""Every cell of the paper's Tables 3 to 6, and of one beyond it: SCALE/DATASET/METHOD.

Command:   python -m experiments.run --config=configs/paper.py:full/dsb2018/focal
               --config.data.manual_dir=DSB
           python -m experiments.sweep --config=configs/paper.py:full/drive/gamma (Table 3)
           python -m experiments.reproduce runs the cells of a table or a figure one after another
Hardware:  full: a GPU. reduced: 2 CPU cores take a minute (DRIVE) to eleven (2018DSB) per cell,
           half an hour for Table 3. tiny: seconds; only a check that everything runs
Expected:  experiments/report/paper.csv at full scale; results/paper_reduced at reduced scale

SCALE is full, reduced, tiny, or SIDExFILTERS, such as 256x32: images of 256 x 256 and a network of
32 filters, with the paper's depth and schedule. METHOD is a loss with its hyper-parameters from the
paper's Table 2, a sum of losses ("dsc+l1_ace"), one of `BASELINES`, or "gamma" for Table 3's grid;
METHOD_seed=N sets another seed. DATASET is one of the paper's six, or a synthetic one:
kits19_synthetic, phantom, phantom_3d.
"""

import importlib
import re

from ml_collections import ConfigDict

from configs.base import FILTERS, SIDE

SETS = ("drive", "bus2017", "dsb2018", "isic2018", "cvc_clinicdb", "kits19")
DRAWN = ("kits19_synthetic", "phantom", "phantom_3d")
VOLUMES = ("kits19", "kits19_synthetic", "phantom_3d")
SMALLEST = 2**4
"""The least side of a scale by size: a network of the paper's depth halves it four times."""
GAMMA = "gamma"
DROPOUT = "dsc_dropout"

BASELINES = {
    DROPOUT: {"loss.name": "dsc", "model.dropout": 0.2},
    "dsc_then_ce": {"loss.name": "dsc", "train.then": "ce"},
}
"""Means to calibrate the Dice loss that need a training of their own, and the fields they set."""


def get_config(cell: str = "") -> ConfigDict:
    """The config of a cell.

    Raises:
      LookupError: if there is no such cell.
    """
    pattern = rf"(\w+)/({'|'.join((*SETS, *DRAWN))})/([\w+]+?)(?:_seed=(\d+))?"
    found = re.fullmatch(pattern, cell)
    if not (found and is_scale(found[1], found[2])):
        raise LookupError(_unknown(cell, "the name of a loss, such as dscpp"))
    scale, dataset, method, seed = found.groups()

    from dicepp_jax.losses import LOSSES, find_loss  # Here, since it loads JAX.

    if method not in (*BASELINES, GAMMA):
        try:
            find_loss(method)
        except ValueError as error:
            raise LookupError(_unknown(cell, ", ".join((*BASELINES, *LOSSES)))) from error
    if dataset in SETS:
        config = importlib.import_module(f"configs.{dataset}_dscpp").get_config()
    else:
        name = "kits19" if dataset in VOLUMES else "drive"
        config = importlib.import_module(f"configs.{name}_dscpp").get_config()
        config.data.name = dataset
    config.seed = int(seed or 0)
    if method == GAMMA:
        config.sweep.gamma = tuple(n / 2 for n in range(1, 11))
        # The choice of "auto" may differ between two runs, and with it the last digits.
        config.sweep.strategy = "vmap"
    else:
        config.update_from_flattened_dict(BASELINES.get(method, {"loss.name": method}))
    if sized := side_and_filters(scale):
        side, config.model.filters = sized
        config.data.size = (side, side)
    else:
        SCALES[scale](config)
    return config


def is_scale(name: str, dataset: str = "") -> bool:
    """Whether there is a scale of this name; volumes have those of `SCALES` alone.

    Example:
      >>> is_scale("256x32"), is_scale("full", "kits19"), is_scale("256x32", "kits19")
      (True, True, False)
    """
    return name in SCALES or (dataset not in VOLUMES and side_and_filters(name) is not None)


def side_and_filters(name: str) -> tuple[int, int] | None:
    """What the name of a scale by size says; None for another name.

    Example:
      >>> side_and_filters("256x32"), side_and_filters("8x32"), side_and_filters("full")
      ((256, 32), None, None)
    """
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", name)
    if not found:
        return None
    side, filters = int(found[1]), int(found[2])
    possible = side >= SMALLEST and SIDE.accepts(side) and FILTERS.accepts(filters)
    return (side, filters) if possible else None


def _unknown(cell: str, methods: str) -> str:
    return (
        f"unknown cell {cell!r}, expected SCALE/DATASET/METHOD, as in "
        f"--config=configs/paper.py:reduced/drive/dscpp. SCALE: {SCALE_NAMES}; DATASET: "
        f"{', '.join((*SETS, *DRAWN))}; METHOD: {GAMMA}, {methods}"
    )


def _full(config: ConfigDict) -> None:
    """The paper's setting."""


def _reduced(config: ConfigDict) -> None:
    """96 x 96, or patches of volumes, 8 filters, at most 120 epochs, patience 10 and 20."""
    config.model.filters = 8
    config.train.epochs = 120
    config.train.patience = 10
    config.train.stop_patience = 20
    config.evaluation.figures = 2
    if config.data.name not in VOLUMES:
        config.data.size = (96, 96)
    elif config.data.name != "phantom_3d":
        # With few validation volumes, one patch of each is too noisy for early stopping.
        config.data.validation = "sliding_window"
        config.inference.overlap = 0.0
        if config.data.name == "kits19":
            config.data.size = (40, 80, 80)


def _tiny(config: ConfigDict) -> None:
    """32 x 32 or 16 x 32 x 32, 2 filters, depth 2, 2 epochs; results are meaningless."""
    config.model.filters = 2
    config.model.depth = 2
    config.train.epochs = 2
    config.train.patience = 1
    config.train.stop_patience = 2
    config.evaluation.figures = 1
    config.data.size = (16, 32, 32) if config.data.name in VOLUMES else (32, 32)


SCALES = {"full": _full, "reduced": _reduced, "tiny": _tiny}
"""The changes of each scale to the paper's setting."""

SCALE_NAMES = (
    f"{', '.join(SCALES)}, or SIDExFILTERS such as 256x32 (images, not volumes; SIDE from "
    f"{SMALLEST} to {SIDE.most}, FILTERS up to {FILTERS.most})"
)
