"""Every field there is, at the paper's values; the other configs change a few of them.

A field is overridden on the command line by its path: --config.loss.gamma=3
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """The paper's 2-D setting, on the data set that `data.name` says."""
    config = ConfigDict()
    config.seed = 0
    config.resume = True  # go on from the last checkpoint; False puts an older run aside

    config.data = ConfigDict()
    config.data.name = "phantom"  # a key of dicepp_jax.data.SETS
    config.data.manual_dir = ""  # where the files of the set are, if it is not drawn
    config.data.data_dir = ""  # where prepared sets are kept; "" is ~/tensorflow_datasets
    config.data.size = ()  # what images are resized to, e.g. (128, 128); () is the set's own
    config.data.batch_size = 1
    config.data.cache_gib = 4.0  # prepared cases kept in memory

    config.loss = ConfigDict()
    # A key of dicepp_jax.losses.LOSSES; several, joined by commas, are trained one after another
    # and compared.
    config.loss.name = "dscpp"
    # Hyper-parameters not set keep the loss's own values, those of the paper's Table 2.
    for hyper in ("alpha", "beta", "gamma", "gamma_pp", "delta", "weight"):
        config.loss[hyper] = placeholder(float)

    config.model = ConfigDict()
    config.model.name = "unet"  # a key of dicepp_jax.models.MODELS
    config.model.filters = 32
    config.model.depth = 4
    config.model.dtype = "float32"  # or bfloat16, for the convolutions alone

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

    config.evaluation = ConfigDict()
    config.evaluation.figures = 4  # test cases drawn
    return config
