"""What is known of each data set before a file is read: one frozen record a set."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Spec:
    """A data set's facts.

    Attributes:
      name: what configs and the builder call it.
      title: what people call it.
      classes: class names, the background first.
      channels: image channels.
      dtype: what pixels are stored as.
      size: spatial size the network is given, (H, W) or (D, H, W).
      counts: cases in train, validation and test.
      homepage: where the set lives.
      licence: its terms.
      citation: whom to cite.
      obtain: how to get the files and where to put them, step by step; empty if nothing is needed.
      intensity_range: intensities are clipped to it before the z-score, None for no clipping.
      region: name of a part of the image that is scored beside the whole, None if there is none.
      version: of the stored set; a change of what is stored needs a new one.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    channels: int
    dtype: str
    size: tuple[int, ...]
    counts: tuple[int, int, int]
    homepage: str
    licence: str
    citation: str
    obtain: str = ""
    intensity_range: tuple[float, float] | None = None
    region: str | None = None
    version: str = "1.0.0"

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.size)


DRIVE = Spec(
    name="drive",
    title="DRIVE",
    classes=("background", "vessel"),
    channels=3,
    dtype="uint8",
    size=(512, 512),
    counts=(16, 4, 20),
    region="field of view",
    homepage="https://drive.grand-challenge.org",
    licence="Free for research after registration; no redistribution.",
    citation=(
        "J. Staal, M. D. Abramoff, M. Niemeijer, M. A. Viergever, B. van Ginneken: Ridge-based "
        "vessel segmentation in color images of the retina. IEEE TMI 23(4), 2004."
    ),
    obtain=(
        "1. Register at https://drive.grand-challenge.org and download the archives. "
        "2. Unpack them into one folder so that it holds training/images/21_training.tif, "
        "training/1st_manual/21_manual1.gif, training/mask/21_training_mask.gif and the same for "
        "test/ (01_test.tif, ...). Some archives leave out test/1st_manual, against which the test "
        "images are scored. "
        "3. Pass that folder as --config.data.manual_dir=FOLDER."
    ),
)

PHANTOM = Spec(
    name="phantom",
    title="Vessel phantom",
    classes=("background", "vessel"),
    channels=3,
    dtype="uint8",
    size=(96, 96),
    counts=(32, 8, 20),
    homepage="",
    licence="Apache-2.0, as dicepp_jax, which draws it.",
    citation="dicepp_jax.data.phantom.vessels",
)

PHANTOM_3D = Spec(
    name="phantom_3d",
    title="Kidney phantom",
    classes=("background", "kidney", "tumour"),
    channels=1,
    dtype="int16",
    size=(32, 64, 64),
    counts=(12, 4, 8),
    intensity_range=(-79.0, 304.0),
    homepage="",
    licence="Apache-2.0, as dicepp_jax, which draws it.",
    citation="dicepp_jax.data.phantom.kidney",
)
