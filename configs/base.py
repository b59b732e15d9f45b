"""Every config field, with the paper's values; the other configs change some of them.

A field is overridden on the command line by its path: --config.loss.gamma=3

A row of `FIELDS` is all there is to know about a field: its default, what it may be, an example for
the error of a wrong value, and what it means to leave it unset. Upper bounds of counts and sizes
are beyond what anyone trains; they keep a slip such as a zero too many from exhausting a machine.
"""

from collections.abc import Iterator

from ml_collections import ConfigDict

from configs.fields import (
    Choice,
    Either,
    Field,
    Flag,
    Name,
    Number,
    Several,
    Text,
    Whole,
    build,
    by_path,
    faults,
)

HYPER = ("alpha", "beta", "gamma", "gamma_pp", "delta", "weight", "margin")
"""All hyper-parameters of the losses."""

PROBABILITY = Number(least=0, most=1)
SIDE, FILTERS = Whole(1, 2**14), Whole(1, 2**12)
WIDEST = 2**16
"""The most filters of the deepest level, where a single 3 x 3 kernel then takes 144 GiB."""

FIELDS = by_path({
    "seed": Field(0, Whole(0, 2**31 - 1)),
    "devices": Field(1, Whole(1, 1024)),  # local devices that share each batch
    # Continue from the last checkpoint; False moves an older run aside.
    "resume": Field(True, Flag()),
    "data": {
        "name": Field("phantom", Name("dicepp_jax.data.SETS, or folder, your own data set")),
        "manual_dir": Field("", Text()),  # the folder or zip archive with the set's files
        "download": Field(False, Flag()),  # download files that need no registration
        "data_dir": Field("", Text()),  # for prepared sets; "" is ~/tensorflow_datasets
        # Size that images are resized to, or of the patches of volumes.
        "size": Field((), Several(SIDE, "the set's default", (2, 3)), "'(128,128)'"),
        # "random": Table 1's counts in a fixed permutation, unless the publisher fixes the split;
        # "group": the frames of a video stay together.
        "split": Field("random", Name("dicepp_jax.data.splits.RULES")),
        # Instead, a JSON file {"train": [...], "val": [...], "test": [...]}, or nnU-Net's list of
        # the folds.
        "split_file": Field("", Text()),
        # Cross-validation: 0 to 4, the fold of the training and validation cases that validates;
        # more if nnU-Net's list has more.
        "fold": Field(None, Whole(0, 999), "0", unset="no folds"),
        "batch_size": Field(1, Whole(1, 2**16)),
        "cache_gib": Field(4.0, Number(least=0, most=1e6)),  # memory for prepared cases
        # The next two apply to volumes.
        # Share of training patches that contain a random foreground voxel.
        "foreground": Field(0.0, PROBABILITY, "0.33"),
        # The validation loss is that of one random patch per volume, a different one in each epoch
        # ("patch"), or of all windows of prediction ("sliding_window").
        "validation": Field("patch", Choice(("patch", "sliding_window"))),
    },
    "folder": {  # your own data set; empty fields are detected and reported
        "images": Field("", Text(), "'images/{case}.png'"),
        # Also one file for each class or each rater, 'masks/{class}/{case}.png'.
        "masks": Field("", Text(), "'masks/{case}_mask.*'"),
        "classes": Field("", Text(), "background,kidney,tumour"),
        # Of the classes in the masks, numbers or colours.
        "mask_values": Field(
            (), Several(Either(Whole(0, 2**32), Text()), "detection"), "\"(0,128,'#ff0000')\""
        ),
        # mm that volumes are resampled to, (depth, height, width).
        "spacing": Field(
            (), Several(Number(above=0, most=1e4), "detection", (3,)), "'(3,0.8,0.8)'"
        ),
        # For clipping before the z-score.
        "intensity_range": Field(
            (), Several(Number(), "detection", (2,), rising=True), "'(-79,304)'"
        ),
    },
    "loss": {
        # Several, separated by commas, are trained one after another and compared; dsc+l1_ace is
        # the sum of two.
        "name": Field("dscpp", Name("dicepp_jax.losses.LOSSES, or several, as in dsc,dscpp")),
        # Each loss refuses what is outside the range of its own; the defaults are in the paper's
        # Table 2 and in docs/losses.md.
        **{name: Field(None, Number(), "0.5", unset="the loss's default") for name in HYPER},
    },
    "model": {
        "name": Field("unet", Name("dicepp_jax.models.MODELS")),
        "filters": Field(32, FILTERS),
        "depth": Field(4, Whole(0, 14), unset="4, or less for small images"),
        "dtype": Field("float32", Choice(("float32", "bfloat16"))),  # for the convolutions only
        # Recompute activations for the gradient: less memory, more time.
        "remat": Field(False, Flag()),
        # Rate of dropout in the bottleneck and the decoder while training.
        "dropout": Field(0.0, Number(least=0, below=1)),
    },
    "augment": {
        "mirror": Field(0.5, PROBABILITY),  # of each axis, as in the authors' code; printed: 0.15
        "brightness": Field(0.15, PROBABILITY),
        "elastic": Field(0.15, PROBABILITY),
        "rotate": Field(0.15, PROBABILITY),
        "scale": Field(0.15, PROBABILITY),
    },
    "train": {
        "epochs": Field(1000, Whole(1, 10**6)),  # maximum
        "learning_rate": Field(0.1, Number(above=0)),
        # What the rate is multiplied by after `patience` epochs without improvement; 1 keeps it.
        "factor": Field(0.1, Number(above=0, most=1)),
        "patience": Field(25, Whole(1, 10**9)),
        "min_delta": Field(1e-7, Number(least=0, most=1e3)),
        "min_learning_rate": Field(1e-4, Number(least=0)),
        "stop_patience": Field(50, Whole(1, 10**9)),
        # A loss with which training goes on from the best epoch after that with loss.name.
        "then": Field("", Text(), "ce"),
    },
    "sweep": {  # grids, for python -m experiments.sweep
        # The values of a hyper-parameter; several lists are crossed.
        **{name: Field((), Several(Number(), "no grid of it"), "'(1,2,3)'") for name in HYPER},
        "learning_rate": Field((), Several(Number(above=0), "no grid of it"), "'(0.1,0.01)'"),
        "seeds": Field(1, Whole(1, 1000)),  # seed, seed + 1, ..., crossed with the rest
        "zip": Field("", Text(), "alpha,beta"),  # these vary together instead of being crossed
        # "vmap": members at once; "sequential": one at a time; "devices": spread over all devices;
        # "auto": the fastest by measurement, on all devices.
        "strategy": Field("auto", Choice(("auto", "vmap", "sequential", "devices"))),
    },
    "inference": {
        # Of neighbouring windows, as a fraction of the patch.
        "overlap": Field(0.5, Number(least=0, below=1)),
        "weighting": Field("uniform", Name("dicepp_jax.inference.WEIGHTINGS")),  # of windows
        "batch_size": Field(1, Whole(1, 2**12)),  # windows at once
        "mirror": Field(False, Flag()),  # average over all mirror images
    },
    "evaluation": {
        "figures": Field(4, Whole(0, 10**4)),  # test cases shown in figures
    },
})  # fmt: skip
"""Every field by its path."""


def get_config() -> ConfigDict:
    """The paper's 2-D setting, for the data set `data.name`."""
    return build(FIELDS)


def check(config: ConfigDict) -> None:
    """Refuse a config that no data set could make valid.

    Raises:
      ValueError: with a line for each field that is missing, unknown or of another kind, or for
        fields that contradict each other.

    Example:
      >>> config = get_config()
      >>> config.model.filters = 0
      >>> check(config)
      Traceback (most recent call last):
      ...
      ValueError: model.filters is 0; it must be a whole number from 1 to 4096, as in ...
    """
    found = faults(FIELDS, config) or list(_contradictions(config))
    if found:
        raise ValueError("\n".join(found))


def _contradictions(config: ConfigDict) -> Iterator[str]:
    """What is wrong with fields that are right one by one."""
    rate = min(config.sweep.learning_rate or [config.train.learning_rate])
    least = config.train.min_learning_rate
    if least > rate:
        yield (
            f"train.min_learning_rate is {least:g}, which is above the learning rate {rate:g}; "
            f"give --config.train.min_learning_rate={rate:g} or less"
        )
    filters, depth = config.model.filters, config.model.depth or 0
    if filters * 2**depth > WIDEST:
        yield (
            f"model.filters is {filters} and model.depth {depth}, so the deepest level would have "
            f"{filters * 2**depth} filters; expected at most {WIDEST}, so reduce one of them"
        )
    used = [name for name, value in config.folder.items() if value]
    if used and config.data.name != "folder":
        yield (
            f"folder.{used[0]} is set, but data.name is {config.data.name}; it applies to "
            "data.name=folder, your own data set"
        )
