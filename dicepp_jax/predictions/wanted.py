"""What prediction writes of a case on request."""

from typing import NamedTuple

UINT8, FLOAT32, NONE = "uint8", "float32", "none"
STORED = (UINT8, FLOAT32, NONE)
"""Ways to store probabilities."""


class Wanted(NamedTuple):
    """What is written of a case besides its mask, overlay and lesions.

    Attributes:
      probabilities: how probabilities are stored, one of `STORED`.
      entropy: whether the entropy is stored.
    """

    probabilities: str = UINT8
    entropy: bool = False
