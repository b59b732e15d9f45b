"""What is known about a data set before any file is read: one frozen record per set."""

import dataclasses
from typing import NamedTuple


class Download(NamedTuple):
    """A file that a set is made of.

    Attributes:
      url: where it is.
      path: where it goes, below the manual directory.
      sha256: of its content, None where its makers give none.
    """

    url: str
    path: str
    sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class Spec:
    """A data set's facts.

    Attributes:
      name: what configs and the builder call it.
      title: what people call it.
      classes: class names, the background first.
      channels: image channels.
      dtype: what pixels are stored as.
      size: spatial size the network is given, (H, W) or (D, H, W): of whole images or of patches.
      counts: cases in train, validation and test by the paper's Table 1, or as drawn; empty for
        a set of the user's own.
      homepage: where the set lives.
      licence: its terms.
      citation: whom to cite.
      obtain: how to get the files and where to put them, step by step; empty if nothing is needed.
      downloads: what can be had without a form.
      native_size: the one size all images have on disk, None where it varies.
      spacing: mm that volumes are resampled to, along the axes of `size`; None to keep the grid.
      intensity_range: intensities are clipped to it before the z-score, None for no clipping.
      per_channel: whether each channel has a z-score of its own, as for several MR sequences.
      patches: whether training and prediction go by patches of `size`, cut from the volume, rather
        than by whole images resized to it.
      label_map: whether it is scored by `metrics.LABEL_MAP`, too, to compare with the paper.
      drawn: a sentence for captions of a set whose images are not of patients, else empty.
      stands_for: name of the set of the paper that a set with drawn images stands for, else None.
      region: name of a part of the image that is scored beside the whole, None if there is none.
      excluded: cases that are left out, as the paper did.
      index: what a number means in a list of splits such as the authors': "position from 0",
        "position from 1" (in the sorted list of cases), "name" (the number in the case's name);
        None where cases are listed by name.
      version: of the stored set; a change of what is stored needs a new one.
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
    # Not in the repr, which enters the fingerprint of a stored set (`data.builder`).
    patches: bool = dataclasses.field(default=False, repr=False)
    label_map: bool = dataclasses.field(default=False, repr=False)
    drawn: str = dataclasses.field(default="", repr=False)
    stands_for: str | None = dataclasses.field(default=None, repr=False)
    region: str | None = None
    excluded: tuple[str, ...] = ()
    index: str | None = None
    version: str = "2.0.0"

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.size)
