"""Every field there is, at the paper's values; the other configs change a few of them.

A field is overridden on the command line by its path: --config.loss.gamma=3
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

HYPER = ("alpha", "beta", "gamma", "gamma_pp", "delta", "weight")
"""The hyper-parameters that losses have."""


def get_config() -> ConfigDict:
    """The paper's 2-D setting, on the data set that `data.name` says."""
    config = ConfigDict()
    config.seed = 0
    config.devices = 1  # local devices that share each batch
    config.resume = True  # go on from the last checkpoint; False puts an older run aside

    config.data = ConfigDict()
    config.data.name = "phantom"  # a key of dicepp_jax.data.SETS, or "folder": a set of your own
    config.data.manual_dir = ""  # the folder or zip with the set's files, if it is not drawn
    config.data.download = False  # fetch what can be fetched without a form
    config.data.data_dir = ""  # where prepared sets are kept; "" is ~/tensorflow_datasets
    # What images are resized to, or the patches that volumes are cut to, e.g. (128, 128); () is the
    # set's own.
    config.data.size = ()
    # "random": Table 1's counts in a fixed permutation, where the makers fix no split; "group":
    # the frames of a video stay together.
    config.data.split = "random"
    config.data.split_file = ""  # or a JSON file {"train": [...], "val": [...], "test": [...]}
    config.data.batch_size = 1
    config.data.cache_gib = 4.0  # prepared cases kept in memory
    # The next two are for volumes that are cut to patches.
    config.data.foreground = 0.0  # share of training patches put around a voxel of some foreground
    # The loss is of "patch", one random patch a volume, another in each epoch; or "sliding_window",
    # all windows of prediction.
    config.data.validation = "patch"

    config.folder = ConfigDict()  # a set of your own; what is empty is found out, and told
    config.folder.images = ""  # e.g. "images/{case}.png"
    config.folder.masks = ""  # e.g. "masks/{case}_mask.*", "masks/{class}/{case}.png"
    config.folder.classes = ""  # e.g. "background,kidney,tumour"
    config.folder.mask_values = ()  # of the classes in the masks, e.g. (0, 128, 255)
    config.folder.spacing = ()  # mm that volumes are resampled to, (depth, height, width)
    config.folder.intensity_range = ()  # clipped to before the z-score, e.g. (-79, 304) for CT

    config.loss = ConfigDict()
    # A key of dicepp_jax.losses.LOSSES; several, joined by commas, are trained one after another
    # and compared.
    config.loss.name = "dscpp"
    # Hyper-parameters not set keep the loss's own values, those of the paper's Table 2.
    for hyper in HYPER:
        config.loss[hyper] = placeholder(float)

    config.model = ConfigDict()
    config.model.name = "unet"  # a key of dicepp_jax.models.MODELS
    config.model.filters = 32
    config.model.depth = 4
    config.model.dtype = "float32"  # or bfloat16, for the convolutions alone
    config.model.remat = False  # compute activations again for the gradient: less memory, more time

    config.augment = ConfigDict()  # probabilities
    config.augment.mirror = 0.5  # of each axis; the authors' code, where the paper prints 0.15
    config.augment.brightness = 0.15
    config.augment.elastic = 0.15
    config.augment.rotate = 0.15
    config.augment.scale = 0.15

    config.train = ConfigDict()
    config.train.epochs = 1000  # at most
    config.train.learning_rate = 0.1
    config.train.factor = 0.1
    config.train.patience = 25
    config.train.min_delta = 1e-7
    config.train.min_learning_rate = 1e-4
    config.train.stop_patience = 50

    config.sweep = ConfigDict()  # grids, for python -m experiments.sweep
    # The values of a hyper-parameter; () leaves it as it is. Those of several are crossed.
    for hyper in (*HYPER, "learning_rate"):
        config.sweep[hyper] = ()
    config.sweep.seeds = 1  # seed, seed + 1, ..., crossed with the rest
    config.sweep.zip = ""  # e.g. "alpha,beta": these advance together instead of being crossed
    # "vmap", members at once; "sequential", one at a time; "devices", spread over all there are;
    # "auto" takes the fastest by measurement, on all devices there are.
    config.sweep.strategy = "auto"

    config.inference = ConfigDict()
    config.inference.overlap = 0.5  # of neighbouring windows, as a share of the patch
    config.inference.weighting = "uniform"  # where windows overlap, or "gaussian"
    config.inference.batch_size = 1  # windows at once
    config.inference.mirror = False  # average over all mirrorings

    config.evaluation = ConfigDict()
    config.evaluation.figures = 4  # test cases drawn
    return config
