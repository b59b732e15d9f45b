"""What is known about a data set before any file is read: one frozen record per set."""

import dataclasses
from typing import NamedTuple

from dicepp_jax import names


class Download(NamedTuple):
    """A file to download.

    Attributes:
      url: its address.
      path: where to store it, relative to the manual directory.
      sha256: of its content, None if the publisher gives none.
    """

    url: str
    path: str
    sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class Spec:
    """Describes a data set.

    Attributes:
      name: its name in configs and in tfds.
      title: its name in text.
      classes: class names, the background first.
      channels: image channels.
      dtype: type that pixels are stored as.
      size: spatial size of the network's input, (H, W) or (D, H, W): of whole images or of patches.
      counts: number of training, validation and test cases in the paper's Table 1, or of a
        synthetic set; empty for your own data set.
      homepage: address of its web page.
      licence: its terms of use.
      citation: what to cite.
      obtain: how to get the files and where to put them, step by step; empty if none are needed.
      downloads: the files that can be downloaded without registration.
      native_size: the size of all images on disk, None if it varies.
      spacing: mm that volumes are resampled to, along the axes of `size`; None to keep the grid.
      intensity_range: intensities are clipped to it before the z-score, None for no clipping.
      per_channel: whether the z-score is computed for each channel separately, as for several MR
        sequences.
      patches: whether training and prediction use patches of `size`, cut from the volume, rather
        than whole images resized to it.
      label_map: whether it is also scored by `metrics.LABEL_MAP`, to compare with the paper.
      drawn: a sentence for captions if the images are synthetic, else empty.
      stands_for: name of the paper's set that a set of synthetic images stands for, else None.
      region: name of a part of the image that is scored in addition to the whole, None if there is
        none.
      raters: whether its cases may have labels of several raters, of whom the first is the truth.
      excluded: cases that are left out, as in the paper.
      index: what a number means in a split file such as the authors': "position from 0",
        "position from 1" (in the sorted list of cases), "name" (the number in the case's name);
        None if such files name the cases.
      version: of the stored set, to be increased if what is stored changes.

    Raises:
      ValueError: if its name, its title or a class has a character that is not safe to print, since
        these may come from someone else's data set, run or saved model.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    channels: int
    dtype: str
    size: tuple[int, ...]
    counts: tuple[int, ...]
    homepage: str
    licence: str
    citation: str
    obtain: str = ""
    downloads: tuple[Download, ...] = ()
    native_size: tuple[int, ...] | None = None
    spacing: tuple[float, ...] | None = None
    intensity_range: tuple[float, float] | None = None
    per_channel: bool = False
    # Left out of the repr, which is part of a stored set's fingerprint (`data.builder`).
    patches: bool = dataclasses.field(default=False, repr=False)
    label_map: bool = dataclasses.field(default=False, repr=False)
    drawn: str = dataclasses.field(default="", repr=False)
    stands_for: str | None = dataclasses.field(default=None, repr=False)
    raters: bool = dataclasses.field(default=False, repr=False)
    region: str | None = None
    excluded: tuple[str, ...] = ()
    index: str | None = None
    version: str = "2.0.0"

    def __post_init__(self) -> None:
        for what, name in (
            *(("the name of a data set", self.name), ("the title of a data set", self.title)),
            *(("the class", label) for label in self.classes),
        ):
            names.check(name, what)

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.size)
