"""Synthetic phantoms: miniature fundus photographs, lesions in tissue and abdominal CTs.

Every image is a pure function of (seed, index, size). The label is not the drawn truth but one
annotator's reading of it: faint vessels are missed or drawn too thick, the outline of a lesion
wanders, and the border between kidney and tumour is misplaced, each as stated below. No model can
predict these random errors, so a calibrated one must predict probabilities strictly between 0 and
1. `scan` draws a CT around a given label.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy  # Loads its slow parts when they are first used.
from numpy.typing import ArrayLike
from scipy.ndimage import distance_transform_edt, gaussian_filter

# Vessel lengths are in pixels of an image whose short side is FRAME; other sizes scale them.
FRAME = 96
ROOT_RADIUS = (1.1, 1.7)  # of the vessels leaving the optic disc
MIN_RADIUS = 0.3  # thinner branches do not grow
FAINT_RADIUS = 1.0  # thinner branches are faint: the annotator errs on them
VESSEL_AREA = (0.11, 0.14)  # fraction of the image over which trees grow, crossings counted twice
STEP = 2.5  # length of a straight piece of centreline
DISC_RADIUS = 8.0
COLOUR = np.array([196.0, 112.0, 62.0])  # mean reflectance of the fundus: red, green, blue
ABSORPTION = np.array([0.05, 0.2, 0.12])  # of blood per unit length, strongest in green
PHOTONS_PER_GREY_LEVEL = 3.0

# Probabilities are per branch; the pixels here are those of the image, whatever its size.
ANNOTATOR_PEN = 0.71  # least half-width of a line: over half a pixel's diagonal, hence no gaps
ANNOTATOR_MISS = 0.4  # of missing a branch of faintness 1; proportional to faintness
ANNOTATOR_THICKEN = 0.3  # of drawing a faint branch one pixel too thick

# Of `lesion`, in pixels and grey levels.
LESION_AREA = (0.5, 1.5)  # of a case, as a multiple of the share of the set
LESION_SHAPE = 0.25  # standard deviation of an outline's wave of 1 turn; of k turns, divided by k
LESION_CONTRAST = (2.0, 5.0)  # in standard deviations of the noise
LESION_NOISE = 10.0  # standard deviation
ANNOTATOR_WANDER = 0.05, 0.3  # of the label's waves: fraction of the radius, and pixels

# CT lengths are in millimetres, axes in the order depth (cranio-caudal), height, width.
FIELD_OF_VIEW = np.array([160.0, 240.0, 240.0])
KIDNEY_AXES = np.array([50.0, 32.0, 28.0])  # mean semi-axes
TUMOUR_RADIUS = (0.2, 0.6)  # as a fraction of the kidney's mean radius
KIDNEY_HU = (155, 185)  # mean enhancement of a case
TUMOUR_HU = (70, 100)
TUMOUR_HU_OF_SCANS = (50, 140)  # more alike to the viscera, the liver and the kidney
PERIRENAL_FAT = 8.0
CT_NOISE = 25.0  # standard deviation in HU

ANNOTATOR_SLIP = 0.5  # probability that the kidney-tumour border of a case is misplaced
ANNOTATOR_SHIFT = 5.0  # root mean square displacement in mm; at most half the tumour's radius


class Branch(NamedTuple):
    """A vessel between two bifurcations, and how the annotator draws it."""

    points: np.ndarray  # (n, 2) centreline in pixels, row and column
    radius: float  # pixels
    faintness: float  # 0 for a clear vessel, 1 for the thinnest
    missed: bool
    thickened: bool


class Scene(NamedTuple):
    """A CT with the true label, the annotator's label, and whether the annotator slipped."""

    image: np.ndarray
    truth: np.ndarray
    label: np.ndarray
    slipped: bool


def vessels(
    seed: int, index: int, size: tuple[int, int] = (96, 96)
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a fundus-like photograph and one annotator's label of its vessels.

    Light crossing a vessel of radius r is dimmed to exp(-2 r ABSORPTION) (Beer-Lambert), so that
    thin vessels are faint. About 8 to 14 % of the label's pixels are vessel, never none.

    Args:
      seed: Number of the data set, at least 0.
      index: Number of the image within the data set, at least 0.
      size: Height and width in pixels, at least 32 each.

    Returns:
      Image, uint8 (height, width, 3), and label, uint8 (height, width), 1 on vessels.

    Raises:
      ValueError: If an argument is out of range.

    Example:
      >>> image, label = vessels(seed=0, index=3)
      >>> image.shape, image.dtype.name, label.shape, np.unique(label).tolist()
      ((96, 96, 3), 'uint8', (96, 96), [0, 1])
    """
    branches = _branches(seed, index, size)
    landmarks, _, _, noise = _streams(seed, index)
    scale = min(size) / FRAME
    label = np.zeros(size, np.uint8)
    blood = np.zeros(size)  # length of the light's path through vessels
    for branch in branches:
        pen = max(branch.radius + 0.5 * branch.thickened, ANNOTATOR_PEN)
        window, distance = _distance(branch.points, size, reach=pen + 1)
        if not branch.missed:
            label[window] |= distance <= pen
        # The part of a pixel-wide interval inside the vessel: an anti-aliased line of any width.
        inner = np.maximum(distance - 0.5, -branch.radius)
        overlap = np.clip(np.minimum(distance + 0.5, branch.radius) - inner, 0, 1)
        blood[window] = np.maximum(blood[window], 2 * branch.radius / scale * overlap)
    blood = gaussian_filter(blood, 0.5 * scale)  # point spread of the camera

    disc, macula = _landmarks(landmarks, size)
    position = np.moveaxis(np.indices(size), 0, -1) / scale
    light = 1 + 0.1 * _smooth(noise, size, cells=(3, 3))
    light += 0.03 * _smooth(noise, size, cells=[round(n / scale / 4) for n in size])
    light *= 1 - 0.3 * np.exp(-((position - macula) ** 2).sum(axis=-1) / (2 * 9.0**2))
    glow = 1 / (1 + np.exp(np.linalg.norm(position - disc, axis=-1) - DISC_RADIUS))
    mean = COLOUR * (light[..., None] + glow[..., None] * np.array([0.2, 0.6, 0.8]))
    mean = np.maximum(mean, 0) * np.exp(-ABSORPTION * blood[..., None])
    image = noise.poisson(mean * PHOTONS_PER_GREY_LEVEL) / PHOTONS_PER_GREY_LEVEL
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), label


def lesion(
    seed: int, index: int, share: float, size: tuple[int, int] = (256, 256)
) -> tuple[np.ndarray, np.ndarray]:
    """Draw tissue with one bright lesion that covers a given share, and an annotator's label of it.

    The label has as many pixels as the lesion, a share of the image that varies from case to case
    between LESION_AREA times the share, with mean `share`; its outline differs from the lesion's.

    Args:
      seed: Number of the data set, at least 0.
      index: Number of the image within the data set, at least 0.
      share: Mean share of the image that is lesion, at most 0.2, and at least 2 pixels.
      size: Height and width in pixels, at least 32 each.

    Returns:
      Image, uint8 (height, width), and label, uint8 (height, width), 1 on the lesion.

    Raises:
      ValueError: If an argument is out of range.

    Example:
      >>> image, label = lesion(seed=0, index=0, share=0.01)
      >>> image.shape, image.dtype.name, bool(0.005 <= label.mean() <= 0.015)
      ((256, 256), 'uint8', True)
    """
    _check(seed, index, size, least=(32, 32))
    if not 2 / np.prod(size) <= share <= 0.2:
        raise ValueError(f"share must be at least 2 pixels and at most 0.2, got {share} of {size}")
    layout, texture, annotator, noise = _streams(seed, index)
    area = round(share * np.prod(size) * layout.uniform(*LESION_AREA))
    radius = np.sqrt(area / np.pi)
    reach = np.minimum(1.5 * radius, np.divide(size, 2))
    centre = layout.uniform(reach, size - reach)
    row, column = (np.arange(n) - middle for n, middle in zip(size, centre, strict=True))
    offset = column[None] + 1j * row[:, None]
    distance = np.abs(offset)
    outline = np.exp(_waves(layout, offset / distance, LESION_SHAPE))
    relative, pixels = ANNOTATOR_WANDER
    drawn = outline * np.exp(_waves(annotator, offset / distance, relative + pixels / radius))

    contrast = LESION_NOISE * layout.uniform(*LESION_CONTRAST)
    tissue = 100 + 12 * _smooth(texture, size, cells=(5, 5))
    tissue += 6 * _smooth(texture, size, cells=[round(n / 8) for n in size])
    scene = gaussian_filter(tissue + contrast * _nearest(distance / outline, area), 0.5)
    image = scene + noise.normal(0, LESION_NOISE, size)
    label = _nearest(distance / drawn, area).astype(np.uint8)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), label


def kidney(
    seed: int, index: int, size: tuple[int, int, int] = (32, 64, 64)
) -> tuple[np.ndarray, np.ndarray]:
    """Draw an arterial abdominal CT and one annotator's label of both kidneys and a tumour.

    Args:
      seed: Number of the data set, at least 0.
      index: Number of the case within the data set, at least 0.
      size: Depth, height and width, at least 16, 32 and 32 voxels spread over FIELD_OF_VIEW.

    Returns:
      Image in Hounsfield units, int16 (depth, height, width), and label of the same shape,
      uint8: 0 background, 1 kidney, 2 tumour.

    Raises:
      ValueError: If an argument is out of range.

    Example:
      >>> image, label = kidney(seed=0, index=1)
      >>> image.shape, image.dtype.name, np.unique(label).tolist()
      ((32, 64, 64), 'int16', [0, 1, 2])
    """
    scene = _scene(seed, index, size)
    return scene.image, scene.label


def scan(
    seed: int, index: int, label: np.ndarray, spacing: tuple[float, float, float]
) -> np.ndarray:
    """Draw an arterial abdominal CT around kidneys and tumours of a given shape.

    Fat, wall, viscera, liver, psoas, spine and aorta are those of `kidney`, placed and scaled by
    where the kidneys are; the label is taken as the truth.

    Args:
      seed: Number of the data set, at least 0.
      index: Number of the case within the data set, at least 0.
      label: Depth, height and width, running down, backwards and to the left: 0 background,
        1 kidney, 2 tumour, with some foreground.
      spacing: Between voxels, in millimetres.

    Returns:
      Image in Hounsfield units, int16, of the label's shape.

    Raises:
      ValueError: If an argument is out of range.

    Example:
      >>> label = np.zeros((20, 60, 80), np.uint8)
      >>> label[5:15, 35:45, 15:25] = 1
      >>> image = scan(0, 0, label, (3.0, 3.0, 3.0))
      >>> image.dtype.name, bool(image[label == 1].mean() > 120)
      ('int16', True)
    """
    size = label.shape
    _check(seed, index, size, least=(1, 1, 1))
    if not label.any():
        raise ValueError(
            "label has no foreground, but the CT is drawn around kidneys; label some voxels 1"
        )
    rng, texture, _, noise = _streams(seed, index)
    extent = np.multiply(size, spacing)
    cells = [max(1, round(length / 20)) for length in extent]
    centre = np.multiply([axis.mean() for axis in np.nonzero(label)], spacing)
    midline = extent[2] / 2
    aside = np.abs(np.nonzero(label)[2] * spacing[2] - midline).mean()
    build = np.clip(aside / 62, 0.8, 1.6)  # 62 mm to a side is where `kidney` puts them
    patient = np.array([centre[0], centre[1] - 28 * build, midline])
    grid = np.moveaxis(np.indices(size), 0, -1) * np.asarray(spacing)
    image = _abdomen(grid - patient, build, _smooth(texture, size, cells))
    image[distance_transform_edt(label == 0, spacing) < PERIRENAL_FAT] = -100
    return _imaged(image, label, rng, texture, noise, cells, TUMOUR_HU_OF_SCANS)


def _branches(seed: int, index: int, size: tuple[int, int]) -> list[Branch]:
    """The branches that `vessels` draws; the first is a root, hence never faint."""
    _check(seed, index, size, least=(32, 32))
    landmarks, growth, annotator, _ = _streams(seed, index)
    scale = min(size) / FRAME
    disc, macula = _landmarks(landmarks, size)
    branches = []
    grown = _grow(growth, np.divide(size, scale), disc, macula, pen=ANNOTATOR_PEN / scale)
    for points, radius in grown:
        faintness = float(np.clip((FAINT_RADIUS - radius) / (FAINT_RADIUS - MIN_RADIUS), 0, 1))
        miss, thicken = annotator.random(2)
        missed = bool(miss < ANNOTATOR_MISS * faintness)
        thickened = bool(faintness > 0 and thicken < ANNOTATOR_THICKEN)
        branches.append(Branch(points * scale, radius * scale, faintness, missed, thickened))
    return branches


def _grow(
    rng: np.random.Generator, field: np.ndarray, disc: np.ndarray, macula: np.ndarray, pen: float
) -> list[tuple[np.ndarray, float]]:
    """Grow trees from the disc, then from the edges, until they cover VESSEL_AREA of the field.

    At a bifurcation r^3 = r1^3 + r2^3 (Murray, Proc. Natl. Acad. Sci. 12:207, 1926). Lines thinner
    than the pen count as they will be drawn.
    """
    towards = np.arctan2(*(macula - disc))
    pending = [
        (disc, towards + angle + rng.normal(0, 0.15), rng.uniform(*ROOT_RADIUS))
        for angle in (-1.3, 1.3, -0.5, 0.5)
    ]
    wanted = rng.uniform(*VESSEL_AREA) * np.prod(field)
    grown: list[tuple[np.ndarray, float]] = []
    while wanted > 0:
        if not pending:
            start, side = rng.uniform(0, field), rng.integers(2)
            start[side] = rng.integers(2) * field[side]
            inwards = np.arctan2(*(field / 2 - start)) + rng.normal(0, 0.5)
            pending.append((start, inwards, rng.uniform(0.9, 1.4)))
        # Trunks first, so that none ends in a stump; twigs in random order.
        clear = [i for i, (_, _, radius) in enumerate(pending) if radius > FAINT_RADIUS]
        start, heading, radius = pending.pop(clear[0] if clear else rng.integers(len(pending)))
        headings = heading + np.cumsum(rng.normal(0, 0.13, rng.integers(3, 11)))
        moves = STEP * np.stack([np.sin(headings), np.cos(headings)], axis=-1)
        points = np.cumsum(np.vstack([start, moves]), axis=0)
        outside = np.any((points < 0) | (points > field), axis=-1)
        outside[0] = False
        if outside.any():
            points = points[: np.argmax(outside) + 1]
        grown.append((points, radius))
        wanted -= 2 * max(radius, pen) * STEP * (len(points) - 1)
        if not outside.any():
            ratio, turn = rng.uniform(0.3, 1), rng.choice([-1, 1])
            major = radius / (1 + ratio**3) ** (1 / 3)
            for child, angle in (major, -0.35 * ratio), (ratio * major, 1.0 - 0.5 * ratio):
                if child >= MIN_RADIUS:
                    pending.append((points[-1], headings[-1] + turn * angle, child))
    return grown


def _landmarks(rng: np.random.Generator, size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Put the optic disc near the left or right edge and the macula on its inner side."""
    height, width = np.asarray(size) * FRAME / min(size)
    row, across, inward = height * rng.uniform(0.35, 0.65), rng.uniform(8, 24), rng.choice([-1, 1])
    column = across if inward > 0 else width - across
    return np.array([row, column]), np.array([row + rng.uniform(-6, 6), column + 42 * inward])


def _distance(
    points: np.ndarray, size: Sequence[int], reach: float
) -> tuple[tuple[slice, ...], np.ndarray]:
    """Distance to a polyline over a window that holds every pixel within reach of it."""
    low = np.clip(np.floor(points.min(axis=0) - reach), 0, size).astype(int)
    high = np.clip(np.ceil(points.max(axis=0) + reach) + 1, 0, size).astype(int)
    window = tuple(map(slice, low, high))
    row, column = np.ogrid[window]
    y, x = points[:-1].T[..., None, None]
    dy, dx = np.diff(points, axis=0).T[..., None, None]
    along = np.clip(((row - y) * dy + (column - x) * dx) / (dy**2 + dx**2), 0, 1)
    squared = (row - y - along * dy) ** 2 + (column - x - along * dx) ** 2
    return window, np.sqrt(squared.min(axis=0))


def _waves(rng: np.random.Generator, direction: np.ndarray, spread: float) -> np.ndarray:
    """A random function of the angle of unit complex numbers: waves of 1 to 5 turns."""
    turns = np.arange(1, 6)
    heights, phases = rng.normal(0, spread / turns), rng.uniform(0, 2 * np.pi, turns.size)
    return np.polyval([*(heights * np.exp(1j * phases))[::-1], 0], direction).real


def _nearest(distance: np.ndarray, count: int) -> np.ndarray:
    """True for the pixels of the least distance, that many of them."""
    return distance <= np.partition(distance, count - 1, axis=None)[count - 1]


def _scene(seed: int, index: int, size: tuple[int, int, int]) -> Scene:
    """The CT behind `kidney`; truth and label differ only between kidney and tumour."""
    _check(seed, index, size, least=(16, 32, 32))
    rng, texture, annotator, noise = _streams(seed, index)
    spacing = FIELD_OF_VIEW / size
    grid = np.moveaxis(np.indices(size), 0, -1) * spacing + (spacing - FIELD_OF_VIEW) / 2
    patient = np.array([0.0, *rng.normal(0, 4, 2)])
    build = rng.uniform(0.92, 1.04)
    cells = [round(extent / 20) for extent in FIELD_OF_VIEW]
    image = _abdomen(grid - patient, build, _smooth(texture, size, cells))
    truth = np.zeros(size, np.uint8)
    diseased = rng.choice([-1, 1])
    for side in (-1, 1):
        axes = build * KIDNEY_AXES * rng.uniform(0.88, 1.08, 3)
        centre = patient + build * np.array([0, 28, 62 * side]) + rng.normal(0, (5, 3, 3))
        # The upper pole, at negative depth, leans towards the spine.
        angles = rng.normal(0, 0.12, 3) + [0, -0.2 * side, 0]
        turn = scipy.spatial.transform.Rotation.from_rotvec(angles).as_matrix()
        local = (grid - centre) @ turn / axes
        # Bending the ellipsoid turns its poles inwards: a bean, whose hilum is then hollowed out.
        local[..., 2] = side * local[..., 2] + 0.3 * local[..., 0] ** 2 - 0.1
        hilum = ((local - [0, 0, -0.9]) ** 2).sum(axis=-1) < 0.45**2
        body = ((local**2).sum(axis=-1) < 1) & ~hilum
        truth[body] = 1
        if side == diseased:
            direction = rng.normal(0, 1, 3)
            direction[2] = abs(direction[2])  # away from the hilum
            z, y, x = direction / np.linalg.norm(direction) * rng.uniform(0.75, 1)
            target = centre + turn @ (axes * [z, y, side * (x - 0.3 * z**2 + 0.1)])
            radius = rng.uniform(*TUMOUR_RADIUS) * np.prod(axes) ** (1 / 3)
            host = body
    # Centred on a voxel, the smallest tumour still owns that one.
    distance = np.linalg.norm(grid - target, axis=-1)
    distance = np.linalg.norm(grid - grid[np.unravel_index(distance.argmin(), size)], axis=-1)
    depth = distance - radius * (1 + 0.12 * np.clip(_smooth(texture, size, cells), -3, 3))
    truth[depth < 0] = 2
    label = truth.copy()
    slipped = bool(annotator.random() < ANNOTATOR_SLIP)
    if slipped:
        shift = ANNOTATOR_SHIFT * _smooth(annotator, size, cells)
        label[host] = np.where(depth < np.clip(shift, -radius / 2, radius / 2), 2, 1)[host]

    image = _imaged(image, truth, rng, texture, noise, cells, TUMOUR_HU)
    return Scene(image, truth, label, slipped)


def _imaged(
    image: np.ndarray,
    truth: np.ndarray,
    rng: np.random.Generator,
    texture: np.random.Generator,
    noise: np.random.Generator,
    cells: Sequence[int],
    tumour: tuple[float, float],
) -> np.ndarray:
    """The abdomen with kidneys and tumours painted in, blurred and noisy, int16."""
    mottle = _smooth(texture, image.shape, [2 * n for n in cells])
    image = np.where(truth == 1, rng.uniform(*KIDNEY_HU) + 10 * mottle, image)
    image = np.where(truth == 2, rng.uniform(*tumour) + 25 * mottle, image)
    grain = gaussian_filter(noise.normal(size=image.shape), 0.5)
    image = gaussian_filter(image, 0.5) + CT_NOISE * grain / grain.std()
    return np.rint(image).astype(np.int16)


def _abdomen(grid: np.ndarray, build: float, bowel: np.ndarray) -> np.ndarray:
    """Hounsfield units of all but the kidneys, which lie in fat; bowel texture divides the gut."""
    image = np.full(bowel.shape, -1000.0)

    def paint(value: ArrayLike, offset: ArrayLike, axes: ArrayLike) -> None:
        local = (grid - build * np.asarray(offset)) / (build * np.asarray(axes))
        np.copyto(image, value, where=(local**2).sum(axis=-1) < 1)

    viscera = np.where(bowel > 0.5, -100.0, 40.0)
    paint(-100, (0, 0, 0), (np.inf, 92, 115))  # subcutaneous fat
    paint(50, (0, 0, 0), (np.inf, 84, 106))  # abdominal wall
    paint(viscera, (0, -6, 0), (np.inf, 72, 98))
    paint(90, (-60, -18, -48), (90, 52, 50))  # liver
    for side in (-1, 1):
        paint(-100, (0, 28, 62 * side), 1.25 * KIDNEY_AXES)  # perirenal fat
        paint(55, (0, 42, 32 * side), (np.inf, 16, 12))  # psoas
    paint(400, (0, 40, 0), (np.inf, 19, 21))  # vertebra
    paint(30, (0, 66, 0), (np.inf, 9, 9))  # spinal canal
    paint(280, (0, 12, 8), (np.inf, 9, 9))  # aorta
    return image


def _streams(seed: int, index: int) -> list[np.random.Generator]:
    """Independent generators: layout, growth or texture, annotator, noise."""
    return np.random.default_rng([seed, index]).spawn(4)


def _smooth(rng: np.random.Generator, size: Sequence[int], cells: Sequence[int]) -> np.ndarray:
    """Smooth Gaussian field of zero mean and unit variance, varying from cell to cell."""
    field = rng.normal(size=[n + 3 for n in cells])
    for axis, (n, length) in enumerate(zip(cells, size, strict=True)):
        spline = scipy.interpolate.BSpline(np.arange(-3, n + 4), field, k=3, axis=axis)
        field = spline(np.linspace(0, n, length)) / np.sqrt(151 / 315)  # its mean sum of squares
    return field


def _check(seed: int, index: int, size: tuple[int, ...], least: tuple[int, ...]) -> None:
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must be at least 0, got {seed} and {index}")
    if len(size) != len(least) or any(n < m for n, m in zip(size, least, strict=True)):
        raise ValueError(f"size must be {len(least)} numbers of at least {least}, got {size}")
