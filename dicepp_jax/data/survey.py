"""What the files of a user's own set are like, and the `Spec` that is proposed for them.

Files are looked at once: of images size, spacing and type, of masks whose values nobody declared
the values too. What was seen is kept in a JSON file for as long as the files stay as they are.
"""

import contextlib
import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dicepp_jax import preprocess
from dicepp_jax.data import formats, nifti
from dicepp_jax.data.builder import READERS, Case, DataSet, bad_cases
from dicepp_jax.data.files import File, Tree
from dicepp_jax.data.formats import Labels, Source
from dicepp_jax.progress import track
from dicepp_jax.spec import Spec
from dicepp_jax.wording import by, listed, span

LARGEST = {2: 512 * 512, 3: 80 * 160 * 160}
"""Pixels that the network is given at once, by the number of spatial axes: the paper's most."""

STEP = 16
"""The network's sizes are multiples: four poolings halve each evenly."""

FORMAT = 1
"""Of the file that the survey is kept in."""


class Options(NamedTuple):
    """What a user says of a set; what is left empty is found out.

    Attributes:
      images: template of the images' names, see `folder`.
      masks: template of the masks' names.
      classes: names, the background first.
      mask_values: of the classes in the masks, in their order.
      spacing: mm that volumes are resampled to, along the canonical axes.
      intensity_range: intensities are clipped to it before the z-score.
    """

    images: str = ""
    masks: str = ""
    classes: tuple[str, ...] = ()
    mask_values: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    intensity_range: tuple[float, ...] = ()


class Listing(NamedTuple):
    """What the names of files say.

    Attributes:
      sources: the cases, in their order.
      told: how they were recognised.
      labels: how classes are drawn; None if the masks must be looked at.
      channels: their names; none if nobody named them.
    """

    sources: tuple[Source, ...]
    told: str
    labels: Labels | None = None
    channels: tuple[str, ...] = ()


class Found(NamedTuple):
    """What a case's files were seen to be like.

    Attributes:
      shape: of the image, 2 or 3 spatial axes, canonical.
      spacing: mm between voxels, None if the files do not say.
      channels: how many.
      dtype: that holds all channels as they are stored.
      values: how many voxels of the mask have each value; none if it was not looked at.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None
    channels: int
    dtype: str
    values: Mapping[int, int]


Find = Callable[[Tree], Listing]
"""From the files there are to the cases."""


def survey(title: str, listing: Listing, cache: Path) -> list[Found]:
    """Look at the files of all cases, unless they were looked at before and are as they were.

    Args:
      title: the set's, for the progress that is shown.
      listing: the cases.
      cache: a JSON file where what is seen is kept.

    Returns:
      What was seen of each case.

    Raises:
      ValueError: if files cannot be read, naming all of them up to a number.
    """
    digest = hashlib.blake2b(repr((FORMAT, listing.labels is None)).encode(), digest_size=16)
    for source in listing.sources:
        files = [(file.name, file.stamp) for file in (*source.images, *source.masks)]
        digest.update(repr((source.id, files)).encode())
    stamp = digest.hexdigest()
    known = _recall(cache, stamp)
    if known is None:
        known = _look_at_all(title, listing)
        _keep(cache, stamp, known)
    return known


def _recall(cache: Path, stamp: str) -> list[Found] | None:
    try:
        kept = json.loads(cache.read_text())
    except (OSError, ValueError):  # Not there, or left by something else.
        return None
    if not isinstance(kept, dict) or kept.get("fingerprint") != stamp:
        return None
    return [
        Found(
            tuple(shape),
            tuple(spacing) if spacing else None,
            channels,
            dtype,
            {int(value): count for value, count in values.items()},
        )
        for shape, spacing, channels, dtype, values in kept["cases"]
    ]


def _keep(cache: Path, stamp: str, found: Sequence[Found]) -> None:
    new = cache.with_name(f"{cache.name}.{os.getpid()}")
    with contextlib.suppress(PermissionError):  # Then it is looked at anew the next time.
        cache.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(json.dumps({"fingerprint": stamp, "cases": found}))
        new.replace(cache)


def _look_at_all(title: str, listing: Listing) -> list[Found]:
    look = functools.partial(_look, with_values=listing.labels is None)
    total = len(listing.sources)
    with ThreadPoolExecutor(READERS) as pool:
        seen = list(track(pool.map(look, listing.sources), f"{title}: looking", total, "case"))
    wrong = [one for one in seen if isinstance(one, str)]
    if wrong:
        raise ValueError(bad_cases(title, wrong, total))
    return [one for one in seen if isinstance(one, Found)]


def _look(source: Source, with_values: bool) -> Found | str:
    try:
        seen = [_look_at(file) for file in source.images]
        masks = source.masks if with_values else ()
        values = [formats.count_values(formats.read_mask(file).array) for file in masks]
    except (ValueError, FileNotFoundError, PermissionError) as error:
        return f"case {source.id}: {error}"
    return seen[0]._replace(
        channels=sum(one.channels for one in seen),
        dtype=np.result_type(*(one.dtype for one in seen)).name,
        values=values[0] if values else {},
    )


def _look_at(file: File) -> Found:
    if not formats.is_nifti(file):
        array = formats.read_image(file).array
        is_image = array.ndim == 3  # height, width, channels
        dtype = array.dtype if is_image else _narrow(array)
        return Found(array.shape[:-1], None, array.shape[-1], dtype.name, {})
    grid, header = nifti.read_grid(file), nifti.read_header(file)
    stored = header.get_data_dtype()
    if stored.kind not in "iu" or header.get_slope_inter() not in ((None, None), (1, 0)):
        dtype = np.dtype(np.float32)
    elif np.can_cast(stored, np.int16):
        dtype = np.dtype(np.int16)
    else:
        dtype = _narrow(nifti.read(file).array)
    return Found(grid.canonical_shape, grid.spacing, 1, dtype.name, {})


def _narrow(array: np.ndarray) -> np.dtype:
    """The type that volumes with these values are stored as."""
    limits = np.iinfo(np.int16)
    fits = limits.min <= array.min() and array.max() <= limits.max
    return np.dtype(np.int16 if fits and (array == np.rint(array)).all() else np.float32)


def propose(
    root: Path,
    find: Find,
    listing: Listing,
    found: Sequence[Found],
    labels: Labels,
    options: Options,
) -> tuple[DataSet, tuple[str, ...]]:
    """The set that was found, with a network size that fits it.

    Args:
      root: where it lies.
      find: finds its cases.
      listing: what it found.
      found: what the cases are like.
      labels: how classes are drawn.
      options: what the user says.

    Returns:
      The set, and lines to tell.

    Raises:
      ValueError: if cases are of different kinds, or an option cannot be had.
    """
    ndim = _axes(listing.sources, found)
    _check_options(options, ndim)
    shapes = [_flat(one.shape) if ndim == 2 else one.shape for one in found]
    sizes, spacing = shapes, None
    if ndim == 3:
        spacings = [one.spacing or (1.0,) * 3 for one in found]
        spacing = options.spacing or _median_spacing(spacings)
        sizes = [
            preprocess.resampled_shape(shape, native, spacing)
            for shape, native in zip(shapes, spacings, strict=True)
        ]
    channels = _channels(listing, found)
    files = len(listing.sources[0].images)
    low_high = options.intensity_range
    spec = Spec(
        name=_name(root),
        title=root.name,
        classes=labels.classes,
        channels=channels,
        dtype=_dtype(ndim, found),
        size=propose_size(tuple(np.median(sizes, axis=0))),
        counts=(),
        homepage="",
        licence="The user's own data.",
        citation="",
        spacing=spacing,
        intensity_range=(low_high[0], low_high[1]) if low_high else None,
        per_channel=channels > 1 and not _is_colour(listing.channels, channels, files),
        patches=ndim == 3,
    )
    lines = _told(spec, listing, found, shapes, labels)
    return DataSet(spec, functools.partial(_cases, find, spec, labels)), tuple(lines)


def _cases(find: Find, spec: Spec, labels: Labels, files: Tree) -> list[Case]:
    def case(source: Source) -> Case:
        read = functools.partial(formats.read_case, spec, labels, source)
        files = (*source.images, *source.masks)
        return Case(source.id, read, files, source.part, how=labels.values)

    return [case(source) for source in find(files).sources]


def _name(root: Path) -> str:
    slug = re.sub("[^a-z0-9]+", "_", root.name.lower()).strip("_")
    digest = hashlib.blake2b(str(root.resolve()).encode(), digest_size=4).hexdigest()
    return "_".join(filter(None, ("folder", slug, digest)))


def _flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The size of an image that is a volume of one slice; other sizes as they are."""
    if len(shape) == 3 and shape.count(1) == 1:
        return tuple(n for n in shape if n > 1)
    return shape


def _axes(sources: Sequence[Source], found: Sequence[Found]) -> int:
    """Number of spatial axes."""
    kinds = {len(_flat(one.shape)): index for index, one in enumerate(found)}
    if len(kinds) == 1:
        return next(iter(kinds))
    if all(len(one.shape) == 3 for one in found):
        return 3
    flat, deep = (sources[kinds[ndim]].images[0] for ndim in (2, 3))
    raise ValueError(
        f"{flat} is an image and {deep} a volume; a set has one of them, so take the others away "
        "or describe those that are meant by --config.folder.images"
    )


def _check_options(options: Options, ndim: int) -> None:
    if options.spacing and ndim == 2:
        raise ValueError(
            f"folder.spacing is {options.spacing}, but these are images, which are resized to "
            "data.size; leave it out"
        )
    if options.spacing and (len(options.spacing) != 3 or min(options.spacing) <= 0):
        raise ValueError(
            f"folder.spacing is {options.spacing}; give three numbers of mm, superior to inferior, "
            "anterior to posterior and right to left: --config.folder.spacing='(3,0.8,0.8)'"
        )
    limits = options.intensity_range
    if limits and (len(limits) != 2 or not limits[0] < limits[1]):
        raise ValueError(
            f"folder.intensity_range is {limits}; give the lowest and the highest intensity: "
            "--config.folder.intensity_range='(-79,304)'"
        )


def _median_spacing(spacings: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """The median spacing to 2 decimals, or 2 digits if it is tiny.

    A spacing that all have is kept, so that nothing need be interpolated.

    Example:
      >>> _median_spacing([(3.0, 0.703125, 0.0123456), (5.0, 0.703125, 0.0123)])
      (4.0, 0.703125, 0.012)
    """

    def middle(axis: np.ndarray) -> float:
        median = float(np.median(axis))
        if np.allclose(axis, median, rtol=1e-6, atol=0):
            return float(f"{median:.7g}")  # All that a header's float32 has.
        return round(median, max(2, 1 - math.floor(math.log10(median))))

    return tuple(middle(axis) for axis in np.array(spacings).T)


def _channels(listing: Listing, found: Sequence[Found]) -> int:
    names = listing.channels
    cases = {one.channels: source for one, source in zip(found, listing.sources, strict=True)}
    expected = {len(names)} if names else set(cases) if len(cases) == 1 else {1, 3}
    for number, source in cases.items():
        if number not in expected:
            counts = f"{len(names)}, {listed(names)}" if names else listed(cases)
            raise ValueError(
                f"{source.images[0]} has {number} channels, expected {counts}; all images of a set "
                "need the same channels"
            )
    return max(expected)


def _is_colour(names: Sequence[str], channels: int, files: int) -> bool:
    """Whether channels are red, green and blue: three of one file, or so named."""
    named = tuple(name.lower() for name in names) in (("r", "g", "b"), ("red", "green", "blue"))
    return channels == 3 and (files == 1 or named)


def _dtype(ndim: int, found: Sequence[Found]) -> str:
    """The smallest of the types that sets are stored as which holds all images."""
    for dtype in ("uint8", "uint16") if ndim == 2 else ("int16",):
        if all(np.can_cast(one.dtype, dtype) for one in found):
            return dtype
    return "float32"


def propose_size(median: tuple[float, ...]) -> tuple[int, ...]:
    """The network's size for images of a median size.

    Args:
      median: in pixels, axis by axis.

    Returns:
      Multiples of 16 nearest to the median, or to the largest share of it that has no more pixels
      than the paper's largest: 512 x 512, or 80 x 160 x 160.

    Example:
      >>> propose_size((100.0, 130.0)), propose_size((584.0, 565.0))
      ((96, 128), (512, 496))
      >>> propose_size((10.0, 512.0, 512.0))
      (16, 352, 352)
    """
    share = 1.0
    while True:
        size = tuple(max(STEP, STEP * round(share * n / STEP)) for n in median)
        if math.prod(size) <= LARGEST[len(size)]:
            return size
        share *= 0.99


def _told(
    spec: Spec,
    listing: Listing,
    found: Sequence[Found],
    shapes: Sequence[tuple[int, ...]],
    labels: Labels,
) -> Iterator[str]:
    """What was found and is proposed, with the options that override it."""
    test = sum(source.part == "test" for source in listing.sources)
    yield f"layout: {listing.told}"
    yield f"cases: {len(found)}" + (f", {test} of them for testing" if test else "")
    yield f"classes: {', '.join(spec.classes)}, {labels.told}"
    names = f" ({', '.join(listing.channels)})" if listing.channels else ""
    each = ", each with a z-score of its own" if spec.per_channel else ""
    yield f"channels: {spec.channels}{names}, stored as {spec.dtype}{each}"
    yield f"native sizes: {span(shapes)}"
    if spec.spacing:
        known = [one.spacing for one in found if one.spacing]
        native = f"{span(known)} mm" if known else "not known, taken as 1 x 1 x 1 mm"
        yield (
            f"spacing: {native}, resampled to {by(spec.spacing)} mm "
            f"(--config.folder.spacing={_tuple(spec.spacing)})"
        )
    if spec.intensity_range:
        low, high = spec.intensity_range
        option = f"--config.folder.intensity_range={_tuple(spec.intensity_range)}"
        yield f"intensities: clipped to {low:g} to {high:g} ({option})"
    elif "ct" in map(str.lower, listing.channels):
        yield (
            "intensities: not clipped; in CT they better are, to those of the tissue, as for "
            "kidneys (--config.folder.intensity_range='(-79,304)')"
        )
    given = f"patches of {by(spec.size)}" if spec.patches else by(spec.size)
    yield (
        f"proposed network input: {given}, the median in multiples of {STEP}, up to the "
        f"paper's largest (--config.data.size={_tuple(spec.size)})"
    )
    yield (
        "proposed split: 64, 16 and 20 % in a fixed permutation "
        "(--config.data.split_file=FILE.json, such as a run's split.json)"
    )


def _tuple(values: Sequence[float]) -> str:
    """A tuple as it is given on the command line."""
    return f"'({','.join(f'{value:g}' for value in values)})'"
