"""The official layouts of data sets in miniature, written to disk for tests to prepare."""

import hashlib
import zipfile
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import Image


class Written(NamedTuple):
    """The arrays of a case as they should be read back."""

    image: np.ndarray
    label: np.ndarray
    region: np.ndarray | None = None
    raters: np.ndarray | None = None


def _palette(mask):
    """Two entries whose grey values are 3 and 253, as DRIVE's second observer has them."""
    image = Image.fromarray(mask)
    image.putpalette([4, 2, 4, 252, 254, 252])
    return image


def _noisy(mask):
    """As after lossy compression: most values near 0 or 255, all below 100 or above 155."""
    noise = np.minimum(np.random.default_rng([2, 0]).geometric(0.06, mask.shape), 99)
    return Image.fromarray(np.where(mask, 255 - noise, noise).astype(np.uint8))


ENCODINGS = {
    "grey": lambda mask: Image.fromarray(255 * mask),
    "ones": Image.fromarray,
    "palette": _palette,
    "noisy": _noisy,
    "boolean": lambda mask: Image.fromarray(mask.astype(bool)),
    "rgb": lambda mask: Image.fromarray(np.stack([255 * mask] * 3, -1)),
    "rgba": lambda mask: Image.fromarray(np.stack([*[255 * mask] * 3, 99 + mask], -1)),
    "uint16": lambda mask: Image.fromarray(mask * np.uint16(65535)),
}
"""Ways in which a mask of 0 and 1, uint8, is kept in a file."""


def write_mask(path, mask, encoding="grey"):
    """Write a mask of 0 and 1, the folder too if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ENCODINGS[encoding](mask).save(path)


def write_rgb(path, image):
    """Write a colour image, TIFFs compressed with LZW, the folder too if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"compression": "tiff_lzw"} if path.suffix == ".tif" else {}
    Image.fromarray(image).save(path, **options)


def write_odd_tiff(path, image):
    """Write colours as three samples said to be grey (PhotometricInterpretation 1)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"photometric": "minisblack", "planarconfig": "contig", "metadata": None}
    tifffile.imwrite(path, image, **options)


def zipped(folder, path, top=""):
    """Pack what a folder holds into a new zip archive, whose names begin with `top`."""
    members = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in members:
            archive.write(file, f"{top}{file.relative_to(folder).as_posix()}")


def truncate(path, keep=0.5):
    """Cut a file short, as an interrupted download does."""
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])


def drive(folder, *, training=20, test=20, size=(29, 31), encoding="grey", second=range(1, 21)):
    """Write DRIVE.

    Args:
      folder: where `training/` and `test/` go.
      training: number of cases in `training/`, from 21 on.
      test: number of cases in `test/`, from 1 on.
      size: height and width of the images.
      encoding: of the masks, a key of `ENCODINGS`.
      second: numbers of the test cases that have a second observer's vessels.

    Returns:
      `Written` by the case's name, such as "21_training".
    """
    written = {}
    for suffix, first, count in (("training", 21, training), ("test", 1, test)):
        for number in range(first, first + count):
            case = _fundus(number, size)
            part = folder / suffix
            write_rgb(part / "images" / f"{number:02d}_{suffix}.tif", case.image)
            write_mask(part / "1st_manual" / f"{number:02d}_manual1.gif", case.label, encoding)
            write_mask(part / "mask" / f"{number:02d}_{suffix}_mask.gif", case.region, encoding)
            raters = [case.label]
            if suffix == "test" and number in second:
                flipped = np.random.default_rng([3, number]).random(size) < 0.1
                raters.append(case.label ^ flipped)
                manual = part / "2nd_manual" / f"{number:02d}_manual2.gif"
                write_mask(manual, raters[1], "palette")
            written[f"{number:02d}_{suffix}"] = case._replace(raters=np.stack(raters))
    return written


def _fundus(number, size):
    rng = np.random.default_rng([1, number])
    row, column = np.indices(size)
    centre = rng.uniform(0.4, 0.6, 2) * size
    region = np.hypot(row - centre[0], column - centre[1]) < 0.45 * min(size)
    return Written(
        image=rng.integers(0, 256, (*size, 3), dtype=np.uint8),
        label=(region & (rng.random(size) < 0.2)).astype(np.uint8),
        region=region.astype(np.uint8),
    )


def bus2017(folder, *, numbers=(1, 2, 4, 10, 11, 25, 96, 100, 310)):
    """Write BUS2017: numbers with gaps, sizes that vary, images grey, colour or palette.

    Args:
      folder: where `original/` and `GT/` go.
      numbers: of the images.

    Returns:
      `Written` by the case's name, such as "000001".
    """
    written = {}
    for place, number in enumerate(numbers):
        case = _blob(number, (20 + number % 7, 24 + number % 5), grey=place % 3 > 0)
        name = f"{number:06d}"
        picture = Image.fromarray(case.image if place % 3 == 0 else case.image[..., 0])
        path = folder / "original" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        (picture.convert("P") if place % 3 == 2 else picture).save(path)
        write_mask(folder / "GT" / f"{name}.png", case.label)
        written[name] = case
    return written


SIZES_2018DSB = (
    *((16, 16), (16, 20), (33, 43), (22, 22), (32, 32)),
    *((32, 40), (16, 22), (38, 79), (65, 87)),
)
"""The nine sizes of 2018DSB, a sixteenth of them."""


def dsb2018(folder, *, top="stage1_train", sizes=SIZES_2018DSB):
    """Write 2018DSB: RGBA images, a PNG for each nucleus, and a test image without masks.

    Args:
      folder: where `top` and `stage1_test` go.
      top: folder of the cases; empty for none, as in the archive of another distributor.
      sizes: height and width of each image.

    Returns:
      `Written` by the case's name, such as "00071198d059...".
    """
    written = {}
    for index, size in enumerate(sizes):
        name = dsb2018_id(index)
        case = _blob(index, size)
        _write_rgba(folder / top / name / "images" / f"{name}.png", case.image)
        # Cut into four, whose nuclei touch each other.
        for half, rows in enumerate(np.array_split(np.arange(size[0]), 2)):
            for side, columns in enumerate(np.array_split(np.arange(size[1]), 2)):
                nucleus = np.zeros_like(case.label)
                nucleus[np.ix_(rows, columns)] = case.label[np.ix_(rows, columns)]
                mask = hashlib.sha256(bytes([index, half, side])).hexdigest()
                write_mask(folder / top / name / "masks" / f"{mask}.png", nucleus)
        written[name] = case
    name = hashlib.sha256(b"test").hexdigest()
    _write_rgba(folder / "stage1_test" / name / "images" / f"{name}.png", case.image)
    return written


def dsb2018_id(index):
    """Name of a case of `dsb2018`."""
    return hashlib.sha256(bytes([index])).hexdigest()


def isic2018(folder, *, numbers=(0, 1, 3, 4, 6, 10, 11, 12, 13, 16072)):
    """Write ISIC2018: JPEGs whose sizes vary, masks, superpixels and texts beside.

    Args:
      folder: where the folders of images and of masks go.
      numbers: of the images.

    Returns:
      `Written` by the case's name, such as "ISIC_0000000".
    """
    written = {}
    images = folder / "ISIC2018_Task1-2_Training_Input"
    masks = folder / "ISIC2018_Task1_Training_GroundTruth"
    for number in numbers:
        name = f"ISIC_{number:07d}"
        case = _blob(number, (32 + 8 * (number % 3), 48))
        # JPEG keeps grey that is constant on its blocks of 8 x 8 pixels.
        grey = case.image[::8, ::8, :1].repeat(8, 0).repeat(8, 1).repeat(3, 2)
        images.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey).save(images / f"{name}.jpg", quality=100)
        write_rgb(images / f"{name}_superpixels.png", case.image)
        write_mask(masks / f"{name}_segmentation.png", case.label)
        written[name] = Written(grey, case.label)
    for part in images, masks:
        (part / "LICENSE.txt").write_text("As the makers say.")
    return written


def cvc_clinicdb(folder, *, numbers=(1, 2, 9, 10, 25, 26, 50, 51, 100, 612), suffix="tif"):
    """Write CVC-ClinicDB: TIFFs that Pillow refuses, the masks noisy.

    Args:
      folder: where `Original/` and `Ground Truth/` go.
      numbers: of the frames.
      suffix: "tif", or "png" as in copies of the set.

    Returns:
      `Written` by the case's name, such as "1".
    """
    written = {}
    write = write_odd_tiff if suffix == "tif" else write_rgb
    for number in numbers:
        case = _blob(number, (18, 24))
        noisy = np.asarray(_noisy(case.label))[..., None].repeat(3, -1)
        write(folder / "Original" / f"{number}.{suffix}", case.image)
        write(folder / "Ground Truth" / f"{number}.{suffix}", noisy)
        written[str(number)] = case
    return written


def _write_rgba(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    opaque = np.full((*image.shape[:2], 1), 255, np.uint8)
    Image.fromarray(np.concatenate([image, opaque], -1)).save(path)


def _blob(number, size, grey=False):
    """Noise, and a disc for a label."""
    rng = np.random.default_rng([6, number])
    row, column = np.indices(size)
    centre = rng.uniform(0.4, 0.6, 2) * size
    disc = np.hypot(row - centre[0], column - centre[1]) < 0.3 * min(size)
    image = rng.integers(0, 256, (*size, 1 if grey else 3), np.uint8)
    return Written(image.repeat(3, -1) if grey else image, disc.astype(np.uint8))


def ultrasound(folder, *, flat=False, each=3):
    """Write images beside their masks, with brackets and spaces in names and one mask a lesion.

    Args:
      folder: where `benign/`, `malignant/` and `normal/` go.
      flat: whether all files are in `folder` itself.
      each: number of images of each kind; the nth has n lesions, which overlap, and the normal
        ones have one mask without foreground.

    Returns:
      `Written` by the case's name, such as "benign (1)", whose label is the union of its masks.
    """
    written = {}
    for offset, kind in enumerate(("benign", "malignant", "normal")):
        for number in range(1, each + 1):
            case = _blob(100 * offset + number, (24, 30))
            masks = [case.label * (kind != "normal")]
            while kind != "normal" and len(masks) < number:
                masks.append(np.roll(masks[-1], 5, axis=1))
            name, place = f"{kind} ({number})", folder if flat else folder / kind
            write_rgb(place / f"{name}.png", case.image)
            for index, mask in enumerate(masks):
                write_mask(place / f"{name}_mask{f'_{index}' if index else ''}.png", mask)
            written[name] = Written(case.image, np.bitwise_or.reduce(masks))
    return written
