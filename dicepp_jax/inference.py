"""From an image to class probabilities on a native grid."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dicepp_jax.data import preprocess
from dicepp_jax.data.specs import Spec
from dicepp_jax.train import ApplyFn

Predict = Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
"""From an image `(*spatial, channels)` and a spatial size to probabilities `(*size, C)`."""


def make_predict(apply: ApplyFn, params: Any, spec: Spec, size: tuple[int, ...]) -> Predict:
    """The function from a stored image to native probabilities.

    The image is resized and normalised as in training; the softmax is resized linearly to the
    native grid, where everything is scored and thresholded.

    Args:
      apply: `(params, images) -> logits`, such as a flax module's.
      params: its parameters.
      spec: facts of the data set.
      size: the network's spatial size.

    Returns:
      `predict(image (*stored, channels), native) -> (*native, C)` float32 probabilities; the two
      sizes differ for volumes that are stored resampled.
    """

    @jax.jit
    def softmax(params: Any, image: jax.Array) -> jax.Array:
        return jax.nn.softmax(apply(params, image), axis=-1)

    def predict(image: np.ndarray, native: tuple[int, ...]) -> np.ndarray:
        prepared = preprocess.network_image(spec, image, size)
        probs = np.asarray(softmax(params, prepared[None])[0])
        return preprocess.resize(probs, native)

    return predict
