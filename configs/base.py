"""Every config field, with the paper's values; the other configs change some of them.

A field is overridden on the command line by its path: --config.loss.gamma=3
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

HYPER = ("alpha", "beta", "gamma", "gamma_pp", "delta", "weight")
"""All hyper-parameters of the losses."""


def get_config() -> ConfigDict:
    """The paper's 2-D setting, for the data set `data.name`."""
    config = ConfigDict()
    config.seed = 0
    config.devices = 1  # local devices that share each batch
    config.resume = True  # continue from the last checkpoint; False moves an older run aside

    config.data = ConfigDict()
    config.data.name = "phantom"  # a key of dicepp_jax.data.SETS, or "folder", your own data set
    config.data.manual_dir = ""  # the folder or zip archive with the set's files
    config.data.download = False  # download files that need no registration
    config.data.data_dir = ""  # for prepared sets; "" is ~/tensorflow_datasets
    # Size that images are resized to, or of the patches of volumes, e.g. (128, 128); () is the data
    # set's default.
    config.data.size = ()
    # "random": Table 1's counts in a fixed permutation, unless the publisher fixes the split;
    # "group": the frames of a video stay together.
    config.data.split = "random"
    # Instead, a JSON file {"train": [...], "val": [...], "test": [...]}, or nnU-Net's list of the
    # folds.
    config.data.split_file = ""
    # Cross-validation: 0 to 4, the fold of the training and validation cases that validates.
    config.data.fold = placeholder(int)
    config.data.batch_size = 1
    config.data.cache_gib = 4.0  # memory for prepared cases
    # The next two apply to volumes.
    config.data.foreground = 0.0  # share of training patches that contain a random foreground voxel
    # The validation loss is that of one random patch per volume, a different one in each epoch
    # ("patch"), or of all windows of prediction ("sliding_window").
    config.data.validation = "patch"

    config.folder = ConfigDict()  # your own data set; empty fields are detected and reported
    config.folder.images = ""  # e.g. "images/{case}.png"
    config.folder.masks = ""  # e.g. "masks/{case}_mask.*", "masks/{class}/{case}.png"
    config.folder.classes = ""  # e.g. "background,kidney,tumour"
    config.folder.mask_values = ()  # of the classes in the masks: (0, 128, 255), (0, "#ff0000")
    config.folder.spacing = ()  # mm that volumes are resampled to, (depth, height, width)
    config.folder.intensity_range = ()  # for clipping before the z-score, e.g. (-79, 304) for CT

    config.loss = ConfigDict()
    # A key of dicepp_jax.losses.LOSSES; several, separated by commas, are trained one after another
    # and compared.
    config.loss.name = "dscpp"
    # Hyper-parameters that are not set have the loss's defaults, those of the paper's Table 2.
    for hyper in HYPER:
        config.loss[hyper] = placeholder(float)

    config.model = ConfigDict()
    config.model.name = "unet"  # a key of dicepp_jax.models.MODELS
    config.model.filters = 32
    config.model.depth = 4
    config.model.dtype = "float32"  # or bfloat16, for the convolutions only
    config.model.remat = False  # recompute activations for the gradient: less memory, more time

    config.augment = ConfigDict()  # probabilities
    config.augment.mirror = 0.5  # of each axis, as in the authors' code; the paper prints 0.15
    config.augment.brightness = 0.15
    config.augment.elastic = 0.15
    config.augment.rotate = 0.15
    config.augment.scale = 0.15

    config.train = ConfigDict()
    config.train.epochs = 1000  # maximum
    config.train.learning_rate = 0.1
    config.train.factor = 0.1
    config.train.patience = 25
    config.train.min_delta = 1e-7
    config.train.min_learning_rate = 1e-4
    config.train.stop_patience = 50

    config.sweep = ConfigDict()  # grids, for python -m experiments.sweep
    # The values of a hyper-parameter; () does not vary it. Several lists are crossed.
    for hyper in (*HYPER, "learning_rate"):
        config.sweep[hyper] = ()
    config.sweep.seeds = 1  # number of seeds, seed, seed + 1, ..., crossed with the rest
    config.sweep.zip = ""  # e.g. "alpha,beta": these vary together instead of being crossed
    # "vmap": members at once; "sequential": one at a time; "devices": spread over all devices;
    # "auto": the fastest by measurement, on all devices.
    config.sweep.strategy = "auto"

    config.inference = ConfigDict()
    config.inference.overlap = 0.5  # of neighbouring windows, as a fraction of the patch
    config.inference.weighting = "uniform"  # of overlapping windows, or "gaussian"
    config.inference.batch_size = 1  # windows at once
    config.inference.mirror = False  # average over all mirror images

    config.evaluation = ConfigDict()
    config.evaluation.figures = 4  # test cases shown in figures
    return config
