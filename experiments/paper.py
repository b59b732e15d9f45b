"""The numbers that the paper prints, to stand beside ours.

Tables 3 to 6 of Yeung et al. 2023, means and standard errors over the test cases. Two errors of
Table 3's Jaccard are printed as 0.05 and read as 0.005. NLL and Brier of Table 5 (KiTS19) are of
another definition, see docs/decisions.md.
"""

import functools
from pathlib import Path
from typing import NamedTuple

from dicepp_jax.rows import read_csv


class Published(NamedTuple):
    """A cell of a table of the paper.

    Attributes:
      table: its number.
      dataset: a key of `dicepp_jax.data.SETS`.
      label: the class.
      method: a key of `dicepp_jax.losses.LOSSES`; in Table 3 "gamma=0.5".
      metric: its name.
      mean: over the test cases.
      error: its standard error.
    """

    table: int
    dataset: str
    label: str
    method: str
    metric: str
    mean: float
    error: float


@functools.cache
def published() -> tuple[Published, ...]:
    """Every cell of Tables 3 to 6."""
    return tuple(read_csv(Path(__file__).with_name("paper.csv"), Published))
