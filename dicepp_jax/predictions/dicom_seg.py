"""Label maps as DICOM Segmentation objects, which refer to the series that was predicted.

Each foreground class is a segment. Its name in the data set is coded in a scheme of this project,
since no standard code is known for classes that users name themselves.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

import dicepp_jax
from dicepp_jax.atomic import write_atomically
from dicepp_jax.data import dicom
from dicepp_jax.data.files import File

SCHEME = "99DICEPP"
"""Names of schemes that are not registered begin with 99."""

LONG, SHORT = 64, 16
"""The most characters of names and of codes in DICOM."""

SERIES_NUMBER = 300
"""Of predictions; series of scanners have lower numbers."""


def check_installed() -> None:
    """Check that the package that writes these objects is installed.

    Raises:
      ValueError: if it is not.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise ValueError(dicom.missing_extra("highdicom")) from error


def write(path: Path, series: File, mask: np.ndarray, classes: Sequence[str], model: str) -> None:
    """Write the label map of a series, whole or not at all.

    Args:
      path: of the new file.
      series: that was predicted.
      mask: `(columns, rows, slices)` classes, along the axes of the series' grid.
      classes: their names, the background first.
      model: what identifies the network.

    Raises:
      ValueError: if the series lacks what such an object must repeat from it, or highdicom is not
        installed.
    """
    check_installed()
    import highdicom
    from pydicom.sr.codedict import codes

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=dicepp_jax.__name__,
        family=codes.DCM.ArtificialIntelligence,
        version=dicepp_jax.__version__,
    )
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=label[:LONG],
            segmented_property_category=codes.SCT.SpatialAndRelationalConcept,
            segmented_property_type=highdicom.sr.CodedConcept(
                label[:SHORT], SCHEME, label[:LONG], dicepp_jax.__version__[:SHORT]
            ),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, label in enumerate(classes[1:], 1)
    ]
    try:
        segmentation = highdicom.seg.Segmentation(
            source_images=dicom.arrange(series).headers,
            pixel_array=np.ascontiguousarray(mask.transpose(2, 1, 0)),
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=highdicom.UID(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer=dicepp_jax.__name__,
            manufacturer_model_name=dicepp_jax.__name__,
            software_versions=dicepp_jax.__version__,
            device_serial_number=model,
            # An object without frames would be invalid.
            omit_empty_frames=bool(mask.any()),
        )
    except (AttributeError, ValueError, TypeError) as error:
        raise ValueError(
            f"{series} cannot be referred to by a DICOM SEG ({error}); its headers lack what such "
            "an object repeats: export the series again, or convert it to NIfTI and predict that"
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, segmentation.save_as)
