"""The tables of reports: those of the paper, with the numbers that it prints, and one beyond it.

Tables 3 to 6 of Yeung et al. 2023, means and standard errors over the test cases. Two errors of
Table 3's Jaccard are printed as 0.05 and read as 0.005. NLL and Brier of Table 5 (KiTS19) are of
another definition, see docs/decisions.md.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from configs import paper as cells


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
    from dicepp_jax.rows import read_csv  # Here, since it loads scipy.

    return tuple(read_csv(Path(__file__).with_name("paper.csv"), Published))


FRONTIER = 7
"""The number of the table that the paper does not have: more losses, and the baselines it names."""


class PaperTable(NamedTuple):
    """A table of the paper, or `FRONTIER`: its cells, and the pairs that are compared.

    Attributes:
      number: 3 to 6, or `FRONTIER`.
      title: its subject.
      datasets: the paper's, in its order.
      drawn: sets of drawn images, on which it can be tried out.
      methods: its rows for each data set.
      pairs: methods whose scores are compared, each with the one that it should improve on.
    """

    number: int
    title: str
    datasets: tuple[str, ...]
    drawn: tuple[str, ...]
    methods: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """Its name in those of files: "table4"."""
        return "frontier" if self.number == FRONTIER else f"table{self.number}"

    @property
    def heading(self) -> str:
        """Its name in headings: "Table 4"."""
        return "Beyond the paper" if self.number == FRONTIER else f"Table {self.number}"

    @property
    def option(self) -> str:
        """The option of experiments.reproduce that asks for it: "--table=4"."""
        return "--frontier" if self.number == FRONTIER else f"--table={self.number}"


GAMMAS = tuple(f"gamma={n / 2:g}" for n in range(1, 11))
PAIR = ("dsc", "dscpp")
"""The Dice loss and its ++ form, which most figures compare."""

LOSSES = ("ce", "focal", *PAIR)
VARIANTS = ("tversky", "focal_tversky", "combo", "unified_focal")
AGAINST_DSCPP = (("dscpp", "dsc"), ("dscpp", "ce"), ("dscpp", "focal"))
RIVALS = (
    "dsc_ce",
    "unified_focal",
    "exp_ce",
    "label_smoothing",
    "svls",
    "mbls",
    "nacl",
    "dsc+l1_ace",
    "dsc+soft_l1_ace",
    "dsc_ce+l1_ace",
    "dscpp+l1_ace",
)
"""Losses that are compared with the paper's four, many of them published since."""

TABLES = {
    table.number: table
    for table in (
        PaperTable(
            3,
            "The exponent gamma of DSC++",
            ("drive",),
            ("phantom",),
            GAMMAS,
            tuple((gamma, "gamma=1") for gamma in GAMMAS if gamma != "gamma=1"),
        ),
        PaperTable(
            4,
            "Losses on two-dimensional sets",
            ("drive", "bus2017", "dsb2018", "isic2018", "cvc_clinicdb"),
            ("phantom",),
            LOSSES,
            AGAINST_DSCPP,
        ),
        PaperTable(
            5,
            "Losses in three dimensions",
            ("kits19",),
            ("kits19_synthetic", "phantom_3d"),
            LOSSES,
            AGAINST_DSCPP,
        ),
        PaperTable(
            6,
            "Variants of the Dice loss and their ++ forms",
            ("drive",),
            ("phantom",),
            tuple(name for loss in VARIANTS for name in (loss, f"{loss}pp")),
            tuple((f"{loss}pp", loss) for loss in VARIANTS),
        ),
        PaperTable(
            FRONTIER,
            "More losses, and other means to calibrate",
            ("drive", "bus2017", "dsb2018", "isic2018", "cvc_clinicdb", "kits19"),
            ("kits19_synthetic", "phantom", "phantom_3d"),
            (*LOSSES, *RIVALS),
            tuple((name, "dscpp") for name in (*LOSSES, *RIVALS) if name != "dscpp"),
        ),
    )
}

PAPER = tuple(number for number in TABLES if number != FRONTIER)
"""The numbers of the paper's own tables."""

FIGURES: Mapping[int, tuple[int, tuple[str, ...]]] = {
    1: (3, PAIR),
    2: (3, (cells.GAMMA,)),
    3: (4, TABLES[4].methods),
    4: (5, TABLES[5].methods),
    5: (3, PAIR),
}
"""For each figure, the table whose data sets it shows, and the cells that are trained for it."""

COLUMNS = ("nll", "brier", "dice", "jaccard")
"""The metrics in the columns of the paper's tables."""

PLOTTED = ("nll", "brier", "ece", "dice", "jaccard")
"""The metrics of figures: the paper's columns, and the calibration error."""

REPORTED = (*PLOTTED, "nll_band", "ece_band")
"""The columns that reports print and test, named as by `rows.column_of`: also calibration near the
borders of objects, since most of an image is distant background."""

AT_INPUT = ("nll_input", "brier_input")
"""Columns printed beside the paper's once more, and tested: before probabilities are resized, as it
very probably scored."""

TITLES = {
    "ce": "CE",
    "focal": "Focal",
    "dsc": "DSC",
    "dscpp": "DSC++",
    "tversky": "Tversky",
    "tverskypp": "Tversky++",
    "focal_tversky": "Focal Tversky",
    "focal_tverskypp": "Focal Tversky++",
    "combo": "Combo",
    "combopp": "Combo++",
    "unified_focal": "Unified Focal",
    "unified_focalpp": "Unified Focal++",
    "dsc_ce": "DSC + CE",
    "dscpp_ce": "DSC++ + CE",
    "l1_ace": "L1-ACE",
    "soft_l1_ace": "Soft L1-ACE",
    "nacl": "NACL",
    "mbls": "MbLS",
    "svls": "SVLS",
    "label_smoothing": "Label smoothing",
    "dml": "DML",
    "exp_ce": "Exponential CE",
    "weighted_ce": "Weighted CE",
}
"""The names of losses in tables and figures."""
