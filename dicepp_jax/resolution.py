"""What is lost by the size at which a network sees its images, whatever its predictions."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from dicepp_jax import metrics, preprocess
from dicepp_jax.data.pipeline import case_id
from dicepp_jax.rows import WHOLE_IMAGE, Row
from dicepp_jax.spec import Spec

METRICS = ("dice", "jaccard")


def truth_at_size(stored: dict[str, Any], spec: Spec, size: tuple[int, ...]) -> Iterator[Row]:
    """Dice and Jaccard of the truth itself, resized to the network's grid and back.

    That of a network which predicts its training labels exactly. A prediction may be better where
    its probabilities say more than a class about a pixel of the smaller image, but rarely is.

    Args:
      stored: a stored case, with the truth "label", on the native grid as "native_label" if the
        volume is stored resampled.
      spec: of its data set.
      size: spatial input size of the network; of one that sees patches it does not matter.

    Yields:
      A `Row` for each foreground class and metric; none if the network works on the native grid.

    Example:
      >>> from dicepp_jax.data.specs import PHANTOM
      >>> label = np.zeros((8, 8), np.uint8)
      >>> label[:, 3] = 1
      >>> stored = {"id": b"a", "label": label}
      >>> [round(row.value, 3) for row in truth_at_size(stored, PHANTOM, (4, 4))]
      [0.0, 0.0]
    """
    native = stored.get("native_label", stored["label"])
    seen, classes = stored["label"], spec.classes
    if not spec.patches:
        seen = preprocess.resize_label(native, size, len(classes))
    if seen.shape == native.shape:
        return
    back = preprocess.resize_label(seen, native.shape, len(classes))
    for number, label in enumerate(classes[1:], 1):
        a, b = back == number, native == number
        counts = (np.sum(x, dtype=float) for x in (a & b, a & ~b, ~a & b, ~(a | b)))
        confusion = metrics.Confusion(*counts)
        for metric in METRICS:
            value = float(getattr(confusion, metric))
            yield Row(case_id(stored), label, WHOLE_IMAGE, metric, value)
