"""Drawn DICOM series, written by pydicom."""

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

AXIAL = (1, 0, 0, 0, 1, 0)
OBLIQUE = (0.96, 0.0, -0.28, 0.168, 0.8, 0.576)
"""Rows and columns at right angles, turned about two axes."""


def write_series(
    folder,
    array,
    spacing=(3.0, 0.8, 0.7),
    cosines=AXIAL,
    corner=(-90.0, -120.0, 40.0),
    ending=".dcm",
    backwards=True,
    **fields,
):
    """Write stored values slice by slice, the first at the corner.

    Args:
      folder: made if need be.
      array: `(slices, rows, columns)` integers.
      spacing: mm between slices, rows and columns.
      cosines: directions in which columns and rows are counted, as ImageOrientationPatient.
      corner: mm left, posterior and superior of the first value.
      ending: of the files' names.
      backwards: whether names and numbers count from the last slice, so that they mislead.
      **fields: of the headers; functions of the number of the slice are called.

    Returns:
      The paths, slice by slice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    right, down = np.reshape(cosines, (2, 3))
    frame, study, series = (generate_uid(entropy_srcs=[str(folder), what]) for what in "fst")
    paths = []
    for number, values in enumerate(np.asarray(array)):
        position = corner + number * spacing[0] * np.cross(right, down)
        counted = len(array) - number if backwards else number + 1
        modality = fields.get("Modality", "CT")
        header = {
            "SOPClassUID": CTImageStorage if modality == "CT" else MRImageStorage,
            "SOPInstanceUID": generate_uid(entropy_srcs=[str(folder), str(number)]),
            "Modality": "CT",
            "PatientName": "Drawn^Patient",
            "PatientID": "drawn",
            "PatientBirthDate": "",
            "PatientSex": "O",
            "AccessionNumber": "",
            "ReferringPhysicianName": "",
            "StudyInstanceUID": study,
            "StudyID": "1",
            "StudyDate": "20200101",
            "StudyTime": "120000",
            "SeriesInstanceUID": series,
            "SeriesNumber": 1,
            "SeriesDescription": folder.name,
            "FrameOfReferenceUID": frame,
            "PositionReferenceIndicator": "",
            "InstanceNumber": counted,
            "ImagePositionPatient": [f"{value:.9g}" for value in position],
            "ImageOrientationPatient": [f"{value:.9g}" for value in cosines],
            "PixelSpacing": [str(value) for value in spacing[1:]],
            "SliceThickness": str(spacing[0]),
            "Rows": values.shape[0],
            "Columns": values.shape[1],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 16,
            "BitsStored": 12,
            "HighBit": 11,
            "PixelRepresentation": 0,
            "RescaleSlope": "1",
            "RescaleIntercept": "-1024",
        }
        dataset = Dataset()
        for name, value in {**header, **fields}.items():
            value = value(number) if callable(value) else value
            if value is not None:
                setattr(dataset, name, value)
        dataset.PixelData = values.astype(np.uint16).tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"{counted:04d}{ending}"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def stored(shape=(4, 5, 6), seed=0):
    """Values of 12 bits."""
    return np.random.default_rng([7, seed]).integers(0, 4096, shape).astype(np.uint16)
