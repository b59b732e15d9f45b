"""The files that prediction writes for each case, on the grid of its image, and reading them.

    masks/CASE                the label map: NIfTI for NIfTI and DICOM, a palette PNG for images
    probabilities/CLASS/CASE  the map of a foreground class
    entropy/CASE              the entropy of the class probabilities, on request
    overlays/CASE.png         outlines and heat maps, to look at
    segmentations/CASE.dcm    the label map as DICOM SEG, for a DICOM series
    lesions/CASE.csv          connected components; lesions.csv joins those of all cases
    prediction.json           the settings that all of them share

Label maps hold 0, 1, ..., C-1. Probabilities are float32 or bytes; a NIfTI file of bytes has a
slope of 1/255, so that every program shows probabilities; an image is a PNG of 8 bits (0 to 255)
or, for float32, of 16 (0 to 65535). Entropy is divided by its maximum, ln C, and stored alike; as
bytes if probabilities are not stored. Predictions for NumPy volumes are NumPy files. Images with an
EXIF orientation are predicted upright, and so are their files.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from PIL import Image
from scipy import special

from dicepp_jax import names
from dicepp_jax.atomic import NO_ROOM, write_atomically, write_text
from dicepp_jax.data import dicom, files, formats, nifti
from dicepp_jax.data.formats import Pixels
from dicepp_jax.data.geometry import Remark
from dicepp_jax.plots import canvas
from dicepp_jax.plots import cases as case_plots
from dicepp_jax.predictions import dicom_seg, images, lesions
from dicepp_jax.predictions.decisions import Decision
from dicepp_jax.predictions.images import InputCase, InputImage
from dicepp_jax.predictions.wanted import FLOAT32, NONE, UINT8, Wanted
from dicepp_jax.progress import track
from dicepp_jax.saved import PARAMS, Model, segment
from dicepp_jax.spec import Spec
from dicepp_jax.wording import listed

SETTINGS = "prediction.json"
MASKS, PROBABILITIES, OVERLAYS = "masks", "probabilities", "overlays"
ENTROPY, LESIONS, SEGMENTATIONS = "entropy", "lesions", "segmentations"
FOLDERS = (MASKS, PROBABILITIES, OVERLAYS, ENTROPY, LESIONS, SEGMENTATIONS)

SLOPE = float(np.nextafter(np.float32(1 / 255), np.float32(0)))
"""The largest slope that a NIfTI header can hold with 255 * SLOPE <= 1; the next one is above."""


class Paths(NamedTuple):
    """The paths of a case's files.

    Attributes:
      mask: the label map.
      probabilities: of every foreground class; empty if they are not stored.
      overlay: the image.
      lesions: the table.
      entropy: the map; None if it is not stored.
      segmentation: the DICOM SEG; None if the case is not DICOM.
    """

    mask: Path
    probabilities: tuple[Path, ...]
    overlay: Path
    lesions: Path
    entropy: Path | None
    segmentation: Path | None

    def every(self) -> tuple[Path, ...]:
        """All of them."""
        optional = filter(None, (self.entropy, self.segmentation))
        return (self.mask, *self.probabilities, self.overlay, self.lesions, *optional)

    def newer_than(self, moment: float) -> bool:
        """Whether all exist and were written after a moment, in seconds."""
        return all(path.exists() and path.stat().st_mtime > moment for path in self.every())


def paths(output: Path, case: InputCase, spec: Spec, wanted: Wanted) -> Paths:
    """The paths of a case's files.

    Args:
      output: the folder of all predictions.
      case: the case.
      spec: of the model.
      wanted: what is written.

    Returns:
      The paths.

    Raises:
      ValueError: if one of them would lie outside the folder, also by a link, or cannot have its
        name.
    """
    ending = ".npy" if spec.ndim == 3 else ".png"
    is_dicom = dicom.is_series(case.files[0])
    has_grid = is_dicom or formats.is_nifti(case.files[0])
    name = case.name + (".nii.gz" if has_grid else ending)
    classes = spec.classes[1:] if wanted.probabilities != NONE else ()
    made = Paths(
        output / MASKS / name,
        tuple(output / PROBABILITIES / of / name for of in names.folder_names(classes)),
        output / OVERLAYS / f"{case.name}.png",
        output / LESIONS / f"{case.name}.csv",
        output / ENTROPY / name if wanted.entropy else None,
        output / SEGMENTATIONS / f"{case.name}.dcm" if is_dicom else None,
    )
    for path in made.every():
        names.check_output(output, path)
    return made


def write(
    to: Paths,
    case: InputCase,
    image: InputImage,
    probs: np.ndarray,
    mask: np.ndarray,
    model: Model,
    wanted: Wanted,
) -> None:
    """Write the files of a case, each whole or not at all.

    Args:
      to: their paths.
      case: the case.
      image: of the case.
      probs: `(*spatial, C)`.
      mask: `(*spatial)` classes.
      model: that predicted it.
      wanted: what is written.

    Raises:
      ValueError: if a DICOM series lacks what its segmentation must repeat from it.
    """
    classes = model.classes
    for path in (to.mask, *to.probabilities, *([to.entropy] if to.entropy else [])):
        path.parent.mkdir(parents=True, exist_ok=True)
    _write_mask(to.mask, image, mask, len(classes))
    for target, path in enumerate(to.probabilities, 1):
        _write_probability(path, image, probs[..., target], wanted.probabilities)
    if to.entropy:
        stored = FLOAT32 if wanted.probabilities == FLOAT32 else UINT8
        _write_probability(to.entropy, image, entropy(probs), stored)
    native_mask, native_probs = image.as_in_file(mask), image.as_in_file(probs)
    affine = image.grid.affine if image.grid else None
    lesions.write(to.lesions, lesions.find(case.name, native_mask, native_probs, classes, affine))
    if to.segmentation:
        network = model.about["sha256"][PARAMS][:16]
        dicom_seg.write(to.segmentation, case.files[0], native_mask, classes, network)
    figure = case_plots.overlay(
        to.overlay.stem,
        image.array,
        mask,
        probs,
        classes,
        image.spacing,
        from_top=image.grid is not None,
    )
    canvas.save(figure, to.overlay)


def entropy(probs: np.ndarray) -> np.ndarray:
    """The entropy of class probabilities, `-sum p ln p / ln C`.

    Args:
      probs: `(*spatial, C)`.

    Returns:
      `(*spatial)` float32, from 0 where one class is certain to 1 where all are equally probable.

    Example:
      >>> entropy(np.array([[1.0, 0.0], [0.5, 0.5]])).tolist()
      [0.0, 1.0]
    """
    ratio = special.entr(probs.astype(np.float64)).sum(-1) / np.log(probs.shape[-1])
    return np.clip(ratio, 0, 1).astype(np.float32)


def _write_mask(path: Path, image: InputImage, mask: np.ndarray, num_classes: int) -> None:
    if image.grid:
        nifti.write(path, image.as_stored(mask), image.grid, image.header)
    elif path.suffix == ".npy":
        write_atomically(path, lambda temporary: np.save(temporary, mask))
    else:
        picture = Image.fromarray(mask)
        picture.putpalette(case_plots.palette(num_classes))
        write_atomically(path, lambda temporary: picture.save(temporary, "PNG"))


def _write_probability(path: Path, image: InputImage, p: np.ndarray, stored: str) -> None:
    if image.grid:
        _write_nifti(path, image, image.as_stored(p), stored)
    elif path.suffix == ".npy":
        array = _levels(p, np.uint8) if stored == UINT8 else p
        write_atomically(path, lambda temporary: np.save(temporary, array))
    else:
        picture = Image.fromarray(_levels(p, np.uint8 if stored == UINT8 else np.uint16))
        write_atomically(path, lambda temporary: picture.save(temporary, "PNG"))


def _levels(p: np.ndarray, dtype: type[np.unsignedinteger]) -> np.ndarray:
    """Probabilities quantised to the range of an unsigned integer type."""
    return np.rint(np.clip(p, 0, 1) * np.iinfo(dtype).max).astype(dtype)


def _write_nifti(path: Path, image: InputImage, p: np.ndarray, stored: str) -> None:
    assert image.grid
    if stored == FLOAT32:
        nifti.write(path, p, image.grid, image.header)
        return
    native = nifti.to_native(_levels(p, np.uint8), image.grid)
    volume = nifti.as_image(native, image.grid, image.header)
    volume.header.set_slope_inter(SLOPE, 0)
    write_atomically(path, lambda temporary: nib.save(volume, temporary))


def write_settings(output: Path, settings: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write `prediction.json`, which describes all predictions in a folder.

    Args:
      output: the folder.
      settings: what all predictions in it must share.
      about: what else is worth knowing.

    Raises:
      ValueError: if the folder holds predictions made with other settings, or files that are not
        predictions and would be replaced, such as the masks of a data set.
    """
    path = output / SETTINGS
    there = [name for name in FOLDERS if (output / name).exists()]
    if there and not path.exists():
        raise ValueError(
            f"{output} has {listed(there)}, but no {SETTINGS}, so these may be files that are not "
            "predictions; choose another --output"
        )
    # A setting that is not there is newer than the folder, whose cases will be predicted anew.
    earlier = json.loads(path.read_text()) if path.exists() else {}
    changes = [
        f"{name} {earlier[name]} there, {value} here"
        for name, value in settings.items()
        if earlier.get(name, value) != value
    ]
    if changes:
        raise ValueError(
            f"{output} holds predictions made with other settings ({'; '.join(changes)}); choose "
            "another --output, or delete that one"
        )
    output.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({**settings, **about}, indent=2) + "\n")


def is_done(model: Model, case: InputCase, output: Path, wanted: Wanted) -> bool:
    """Whether all files of a case exist and are newer than the model and the image."""
    try:
        made = paths(output, case, model.spec, wanted)
    except ValueError:  # Whoever writes them says why it cannot be done.
        return False
    # A folder of slices changes when a slice is removed.
    read = [one for file in case.files for one in (file, *file.parts)]
    sources = [model.path, *(Path(one.where) for one in read)]
    # A member of an archive has no path of its own.
    newest = max(path.stat().st_mtime for path in sources if path.exists())
    return made.newer_than(newest)


class Outcome(NamedTuple):
    """What there is to say about predicted cases.

    Attributes:
      failed: why cases failed, one line each.
      remarks: cases, and what is unusual about the positions of their voxels.
    """

    failed: list[str]
    remarks: list[tuple[str, Remark]]


def predict_cases(
    model: Model, cases: Sequence[InputCase], output: Path, decision: Decision, wanted: Wanted
) -> Outcome:
    """Predict cases, with progress, and write their files.

    Args:
      model: that predicts.
      cases: the images.
      output: the folder of all predictions.
      decision: how the class of a voxel is decided.
      wanted: what is written.

    Returns:
      What there is to say about the cases.
    """
    failed, remarks, turned = [], [], []
    for case in track(cases, "predicting", len(cases), "case"):
        try:
            image = images.read(case, model.spec)
            remarks += [(case.name, remark) for remark in image.grid.remarks] if image.grid else []
            probs = model.predict(image.array, image.spacing)
            mask = segment(probs, decision.threshold, decision.target)
            to = paths(output, case, model.spec, wanted)
            write(to, case, image, probs, mask, model, wanted)
        except (ValueError, OSError) as error:
            if getattr(error, "errno", None) in NO_ROOM:
                raise  # As it would for all other cases.
            failed.append(f"{case.name}: {error}")
            continue
        if image.turned:
            turned.append(case.name)
    if turned:
        print(
            f"{len(turned)} image{'s' * (len(turned) > 1)} with an EXIF orientation: "
            f"{listed(turned)}; the predictions are upright, as viewers show the image"
        )
    lesions.join(output / LESIONS, output / f"{LESIONS}.csv")
    return Outcome(failed, remarks)


class ProbabilityMap(NamedTuple):
    """A probability map read from a file.

    Attributes:
      pixels: `(*spatial)` float32 in [0, 1], and its grid.
      coarse: whether it was stored in 256 steps.
    """

    pixels: Pixels
    coarse: bool


def read_probability(path: Path) -> ProbabilityMap:
    """Read the map of a class that `write` wrote.

    Args:
      path: of the file.

    Returns:
      The map.

    Raises:
      ValueError: if it cannot be read, or its values are not probabilities.
      FileNotFoundError: if it does not exist.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist, though the maps of other classes do")
    file = files.from_path(path)
    pixels = formats.read_image(file)
    array = pixels.array[..., 0]
    stored = nifti.read_header(file).get_data_dtype() if pixels.grid else array.dtype
    if array.dtype.kind == "u":
        array = array / np.float32(np.iinfo(array.dtype).max)
    elif stored == np.uint8:  # 255 times a slope in float32 is not exactly 1.
        array = np.rint(255 * array) / np.float32(255)
    if not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(
            f"{path} goes from {array.min()} to {array.max()}, expected probabilities from 0 to 1"
        )
    return ProbabilityMap(pixels._replace(array=array), stored == np.uint8)
