"""Inspects the files of your own data set, and proposes a `Spec` for it.

Each file is inspected once: images for size, spacing and type, and masks for their values unless
these are declared. The results are cached in a JSON file until the files change.
"""

import collections
import contextlib
import functools
import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dicepp_jax import preprocess
from dicepp_jax.data import formats, geometry, nifti, readers
from dicepp_jax.data.builder import READERS, Case, DataSet, invalid_cases
from dicepp_jax.data.files import File, Tree
from dicepp_jax.data.formats import CaseFiles, LabelEncoding
from dicepp_jax.data.geometry import Remark
from dicepp_jax.progress import track
from dicepp_jax.spec import Spec
from dicepp_jax.wording import by, listed, span

LARGEST = {2: 512 * 512, 3: 80 * 160 * 160}
"""The largest network input in the paper, in pixels, by the number of spatial axes."""

STEP = 16
"""Network sizes are multiples of this, so that each of four poolings halves them exactly."""

CACHE_FORMAT = 3
"""Version of the file in which the results are cached."""

MOST = 32
"""The largest number of classes that is accepted without being declared."""

MOST_COLOURS = 256
"""More colours than labels have classes: those of a photograph."""


class Options(NamedTuple):
    """What the user declares about a set; empty fields are detected.

    Attributes:
      images: template of the images' names, see `folder`.
      masks: template of the masks' names.
      classes: names, the background first.
      mask_values: values of the classes in the masks, in the same order; colours as "#rrggbb".
      spacing: mm that volumes are resampled to, along the canonical axes.
      intensity_range: intensities are clipped to it before the z-score.
    """

    images: str = ""
    masks: str = ""
    classes: tuple[str, ...] = ()
    mask_values: tuple[int | str, ...] = ()
    spacing: tuple[float, ...] = ()
    intensity_range: tuple[float, ...] = ()


class CaseListing(NamedTuple):
    """What is known from the names of the files alone.

    Attributes:
      cases: the files of each case, in order.
      layout: a description of the layout.
      encoding: how masks represent classes; None if the masks must be inspected.
      channels: names of the channels; empty if they have none.
      notes: what else to tell about the names.
    """

    cases: tuple[CaseFiles, ...]
    layout: str
    encoding: LabelEncoding | None = None
    channels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class CaseSummary(NamedTuple):
    """What is known from inspecting a case's files.

    Attributes:
      shape: of the image, 2 or 3 spatial axes in canonical order.
      spacing: mm between voxels, None if unknown.
      channels: number of channels.
      dtype: type that can hold all channels as they are stored.
      values: number of voxels with each value of the masks, as in `readers.Codes`; empty if it was
        not inspected, or has more than `MOST_COLOURS`.
      palette: of the mask, as in `readers.Codes`.
      distinct: number of different values of the mask.
      levels: number of different values of the image, if the mask may be one; else 0.
      turned: how many of the files that were read were turned upright.
      remarks: names of files and what is unusual about the positions of their voxels.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None
    channels: int
    dtype: str
    values: Mapping[int, int]
    palette: Mapping[int, int]
    distinct: int = 0
    levels: int = 0
    turned: int = 0
    remarks: tuple[tuple[str, Remark], ...] = ()


FindCases = Callable[[Tree], CaseListing]
"""From the available files to the cases."""


def survey(title: str, listing: CaseListing, cache: Path) -> list[CaseSummary]:
    """Inspect the files of all cases, unless the results are cached and the files unchanged.

    Args:
      title: of the set, shown with the progress.
      listing: the cases.
      cache: a JSON file for the results.

    Returns:
      A summary of each case.

    Raises:
      ValueError: if files cannot be read, naming the first of them.
    """
    digest = hashlib.blake2b(
        repr((CACHE_FORMAT, listing.encoding is None)).encode(), digest_size=16
    )
    for case in listing.cases:
        files = [(file.name, file.stamp) for file in (*case.images, *case.masks)]
        digest.update(repr((case.id, files)).encode())
    stamp = digest.hexdigest()
    summaries = _read_cache(cache, stamp)
    if summaries is None:
        summaries = _inspect_all(title, listing)
        _write_cache(cache, stamp, summaries)
    return summaries


def _read_cache(cache: Path, stamp: str) -> list[CaseSummary] | None:
    try:
        cached = json.loads(cache.read_text())
    except (OSError, ValueError):  # Missing, or not such a file.
        return None
    if not isinstance(cached, dict) or cached.get("fingerprint") != stamp:
        return None
    return [_from_json(*fields) for fields in cached["cases"]]


def _from_json(
    shape: list[int],
    spacing: list[float] | None,
    channels: int,
    dtype: str,
    values: dict[str, int],
    palette: dict[str, int],
    distinct: int,
    levels: int,
    turned: int,
    remarks: list[tuple[str, list[Any]]],
) -> CaseSummary:
    """A summary from its fields as JSON has them."""
    return CaseSummary(
        tuple(shape),
        tuple(spacing) if spacing else None,
        channels,
        dtype,
        {int(value): count for value, count in values.items()},
        {int(index): code for index, code in palette.items()},
        distinct,
        levels,
        turned,
        tuple((name, Remark(*remark)) for name, remark in remarks),
    )


def _write_cache(cache: Path, stamp: str, summaries: Sequence[CaseSummary]) -> None:
    new = cache.with_name(f"{cache.name}.{os.getpid()}")
    with contextlib.suppress(PermissionError):  # Then the files are inspected again next time.
        cache.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(json.dumps({"fingerprint": stamp, "cases": summaries}))
        new.replace(cache)


def _inspect_all(title: str, listing: CaseListing) -> list[CaseSummary]:
    inspect = functools.partial(_inspect, with_values=listing.encoding is None)
    total = len(listing.cases)
    with ThreadPoolExecutor(READERS) as pool:
        results = list(
            track(pool.map(inspect, listing.cases), f"inspecting {title}", total, "case")
        )
    errors = [result for result in results if isinstance(result, str)]
    if errors:
        raise ValueError(invalid_cases(title, errors, total))
    return [result for result in results if isinstance(result, CaseSummary)]


def _inspect(case: CaseFiles, with_values: bool) -> CaseSummary | str:
    """The summary of a case, or an error message."""
    try:
        images = [_inspect_image(file) for file in case.images]
        masks = [formats.inspect_mask(file) for file in (case.masks if with_values else ())]
        every = (*case.images, *case.masks)
        remarks = [(file.name, remark) for file in every for remark in formats.remarks(file)]
        summary = images[0]._replace(
            channels=sum(image.channels for image in images),
            dtype=np.result_type(*(image.dtype for image in images)).name,
            turned=sum(image.turned for image in images)
            + sum(mask.turned > 1 for mask, _ in masks),
            remarks=tuple(remarks),
        )
        if not masks:
            return summary
        values, palette = _mask_values(masks)
        if len(values) <= readers.LOSSY:
            return summary._replace(values=values, palette=palette, distinct=len(values))
        volume = formats.is_nifti(case.images[0])
        levels = 0 if volume else len(np.unique(formats.read_image(case.images[0]).array))
    except (ValueError, FileNotFoundError, PermissionError) as error:
        return f"case {case.id}: {error}"
    photo = len(values) > MOST_COLOURS and max(values) >= readers.COLOUR
    return summary._replace(
        values={} if photo else values, palette=palette, distinct=len(values), levels=levels
    )


def _mask_values(
    masks: Sequence[tuple[formats.Pixels, Mapping[int, int]]],
) -> tuple[dict[int, int], Mapping[int, int]]:
    """Number of voxels with each value of all masks of a case, and the palette that they share."""
    _, palette = masks[0]
    shared = all(other == palette for _, other in masks)
    counts: collections.Counter[int] = collections.Counter()
    for mask, own in masks:
        # Indices of different palettes cannot be counted together, so colours are.
        array = mask.array if shared or not own else readers.recoded(mask.array, own)
        counts.update(readers.count_values(array))
    return dict(counts), palette if shared else {}


def _inspect_image(file: File) -> CaseSummary:
    if not formats.is_nifti(file):
        array, size, known, turned = formats.read_image(file)
        dtype = array.dtype if len(size) == 2 else _volume_dtype(array)
        spacing = known and known.spacing
        turns = int(turned > 1)
        return CaseSummary(size, spacing, array.shape[-1], dtype.name, {}, {}, turned=turns)
    grid, header = nifti.read_grid(file), nifti.read_header(file)
    stored = header.get_data_dtype()
    if stored.kind not in "iu" or header.get_slope_inter() not in ((None, None), (1, 0)):
        dtype = np.dtype(np.float32)
    elif np.can_cast(stored, np.int16):
        dtype = np.dtype(np.int16)
    else:
        dtype = _volume_dtype(nifti.read(file).array)
    return CaseSummary(grid.canonical_shape, grid.spacing, 1, dtype.name, {}, {})


def _volume_dtype(array: np.ndarray) -> np.dtype:
    """The type in which a volume with these values is stored."""
    limits = np.iinfo(np.int16)
    fits = limits.min <= array.min() and array.max() <= limits.max
    return np.dtype(np.int16 if fits and (array == np.rint(array)).all() else np.float32)


def propose(
    root: Path,
    find: FindCases,
    listing: CaseListing,
    summaries: Sequence[CaseSummary],
    encoding: LabelEncoding,
    options: Options,
) -> tuple[DataSet, tuple[str, ...]]:
    """The data set that was found, with a suitable network size.

    Args:
      root: its folder or archive.
      find: finds its cases.
      listing: the cases found.
      summaries: of the cases.
      encoding: how masks represent classes.
      options: what the user declares.

    Returns:
      The set, and notes on what was detected.

    Raises:
      ValueError: if the cases are not alike, or an option is invalid.
    """
    ndim = _spatial_axes(listing.cases, summaries)
    _check_options(options, ndim)
    shapes = [_squeezed(s.shape) if ndim == 2 else s.shape for s in summaries]
    sizes, spacing = shapes, None
    if ndim == 3:
        spacings = [summary.spacing or (1.0,) * 3 for summary in summaries]
        spacing = options.spacing or _median_spacing(spacings)
        sizes = [
            preprocess.resampled_shape(shape, native, spacing)
            for shape, native in zip(shapes, spacings, strict=True)
        ]
    channels = _channels(listing, summaries)
    files = len(listing.cases[0].images)
    low_high = options.intensity_range
    spec = Spec(
        name=_name(root),
        title=root.name,
        classes=encoding.classes,
        channels=channels,
        dtype=_dtype(ndim, summaries),
        size=propose_size(tuple(np.median(sizes, axis=0))),
        counts=(),
        homepage="",
        licence="The user's own data.",
        citation="",
        spacing=spacing,
        intensity_range=(low_high[0], low_high[1]) if low_high else None,
        per_channel=channels > 1 and not _is_colour(listing.channels, channels, files),
        patches=ndim == 3,
        raters=any(case.raters for case in listing.cases),
    )
    notes = _notes(spec, listing, summaries, shapes, encoding)
    return DataSet(spec, functools.partial(_list_cases, find, spec, encoding)), tuple(notes)


def _list_cases(find: FindCases, spec: Spec, encoding: LabelEncoding, files: Tree) -> list[Case]:
    return [
        Case(
            case.id,
            functools.partial(formats.read_case, spec, encoding, case),
            (*case.images, *case.every_mask),
            case.part,
            how=(
                *(encoding.values, case.classes, encoding.palettes),
                *(len(masks) for masks in case.raters),
            ),
        )
        for case in find(files).cases
    ]


def _name(root: Path) -> str:
    slug = re.sub("[^a-z0-9]+", "_", root.name.lower()).strip("_")
    digest = hashlib.blake2b(str(root.resolve()).encode(), digest_size=4).hexdigest()
    return "_".join(filter(None, ("folder", slug, digest)))


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The size of the image in a volume of one slice; other sizes unchanged."""
    if len(shape) == 3 and shape.count(1) == 1:
        return tuple(n for n in shape if n > 1)
    return shape


def _spatial_axes(cases: Sequence[CaseFiles], summaries: Sequence[CaseSummary]) -> int:
    """The number of spatial axes."""
    by_ndim = {len(_squeezed(s.shape)): index for index, s in enumerate(summaries)}
    if len(by_ndim) == 1:
        return next(iter(by_ndim))
    if all(len(summary.shape) == 3 for summary in summaries):
        return 3
    image, volume = (cases[by_ndim[ndim]].images[0] for ndim in (2, 3))
    raise ValueError(
        f"{image} is 2-D and {volume} is 3-D, expected either images or volumes; remove one kind, "
        "or select the other by --config.folder.images"
    )


def _check_options(options: Options, ndim: int) -> None:
    if options.spacing and ndim == 2:
        raise ValueError(
            f"folder.spacing is {options.spacing}, but applies only to volumes; these are 2-D "
            "images, which are resized to data.size, so omit it"
        )
    if options.spacing and (len(options.spacing) != 3 or min(options.spacing) <= 0):
        raise ValueError(
            f"folder.spacing is {options.spacing}, expected three numbers in mm, from superior to "
            "inferior, anterior to posterior and right to left: "
            "--config.folder.spacing='(3,0.8,0.8)'"
        )
    limits = options.intensity_range
    if limits and (len(limits) != 2 or not limits[0] < limits[1]):
        raise ValueError(
            f"folder.intensity_range is {limits}, expected the lowest and the highest intensity: "
            "--config.folder.intensity_range='(-79,304)'"
        )


def _median_spacing(spacings: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """The median spacing, rounded to 2 decimals, or to 2 digits if it is very small.

    A spacing that all cases share is not rounded, so that nothing has to be interpolated.

    Example:
      >>> _median_spacing([(3.0, 0.703125, 0.0123456), (5.0, 0.703125, 0.0123)])
      (4.0, 0.703125, 0.012)
    """

    def middle(axis: np.ndarray) -> float:
        median = float(np.median(axis))
        if np.allclose(axis, median, rtol=1e-6, atol=0):
            return float(f"{median:.7g}")  # The precision of the header's float32.
        return round(median, max(2, 1 - math.floor(math.log10(median))))

    return tuple(middle(axis) for axis in np.array(spacings).T)


def _channels(listing: CaseListing, summaries: Sequence[CaseSummary]) -> int:
    names = listing.channels
    counts = {s.channels: case for s, case in zip(summaries, listing.cases, strict=True)}
    expected = {len(names)} if names else set(counts) if len(counts) == 1 else {1, 3}
    for count, case in counts.items():
        if count not in expected:
            others = [other for other in counts if other != count]
            wanted = f"{len(names)}, {listed(names)}" if names else f"{listed(others)} as in others"
            raise ValueError(
                f"{case.images[0]} has {count} channel{'s' * (count != 1)}, expected {wanted}; all "
                "images of a set must have the same channels, so convert or remove it"
            )
    return max(expected)


def _is_colour(names: Sequence[str], channels: int, files: int) -> bool:
    """Whether the channels are red, green and blue: three in one file, or named so."""
    named = tuple(name.lower() for name in names) in (("r", "g", "b"), ("red", "green", "blue"))
    return channels == 3 and (files == 1 or named)


def _dtype(ndim: int, summaries: Sequence[CaseSummary]) -> str:
    """The smallest type for stored sets that can hold all images."""
    for dtype in ("uint8", "uint16") if ndim == 2 else ("int16",):
        if all(np.can_cast(summary.dtype, dtype) for summary in summaries):
            return dtype
    return "float32"


def propose_size(median: tuple[float, ...]) -> tuple[int, ...]:
    """The network size for images with the given median size.

    Args:
      median: in pixels, axis by axis.

    Returns:
      The multiples of 16 nearest to the median, or to the largest fraction of it that has no more
      pixels than the largest input in the paper: 512 x 512, or 80 x 160 x 160.

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


def _notes(
    spec: Spec,
    listing: CaseListing,
    summaries: Sequence[CaseSummary],
    shapes: Sequence[tuple[int, ...]],
    encoding: LabelEncoding,
) -> Iterator[str]:
    """What was detected and is proposed, with the options that override it."""
    test = sum(case.part == "test" for case in listing.cases)
    yield f"layout: {listing.layout}"
    yield from listing.notes
    yield f"cases: {len(summaries)}" + (f", {test} of them for testing" if test else "")
    yield f"classes: {', '.join(spec.classes)}, {encoding.origin}"
    if encoding.meaning:
        yield f"values of all masks: {encoding.meaning}"
    names = f" ({', '.join(listing.channels)})" if listing.channels else ""
    each = ", normalised separately" if spec.per_channel else ""
    yield f"channels: {spec.channels}{names}, stored as {spec.dtype}{each}"
    grey = [c.id for c, s in zip(listing.cases, summaries, strict=True) if s.channels == 1]
    if grey and spec.channels > 1:
        yield (
            f"grey images among colour images ({len(grey)}): {listed(grey)}; they get three equal "
            "channels"
        )
    turned = [c.id for c, s in zip(listing.cases, summaries, strict=True) if s.turned]
    if turned:
        count = sum(summary.turned for summary in summaries)
        yield (
            f"EXIF orientation: {count} file{'s were' if count > 1 else ' was'} turned upright, of "
            f"the cases {listed(turned)}; a mask without EXIF data must fit the upright image"
        )
    yield f"native sizes: {span(shapes)}"
    if spec.spacing:
        known = [summary.spacing for summary in summaries if summary.spacing]
        native = f"{span(known)} mm" if known else "unknown, assumed to be 1 x 1 x 1 mm"
        yield (
            f"spacing: {native}, resampled to {by(spec.spacing)} mm "
            f"(--config.folder.spacing={_tuple(spec.spacing)})"
        )
    for line in geometry.summary(itertools.chain(*(summary.remarks for summary in summaries))):
        yield f"geometry: {line}"
    if spec.intensity_range:
        low, high = spec.intensity_range
        option = f"--config.folder.intensity_range={_tuple(spec.intensity_range)}"
        yield f"intensities: clipped to {low:g} to {high:g} ({option})"
    elif "ct" in map(str.lower, listing.channels):
        yield (
            "intensities: not clipped; for CT, clipping to the range of the tissue is recommended, "
            "for kidneys --config.folder.intensity_range='(-79,304)'"
        )
    proposed = f"patches of {by(spec.size)}" if spec.patches else by(spec.size)
    yield (
        f"proposed network input: {proposed}, the median size in multiples of {STEP}, up to the "
        f"paper's largest (--config.data.size={_tuple(spec.size)})"
    )
    yield (
        "proposed split: 64, 16 and 20 % in a fixed permutation "
        "(--config.data.split_file=FILE.json, for example a run's split.json)"
    )


def _tuple(values: Sequence[float]) -> str:
    """A tuple in command-line syntax."""
    return f"'({','.join(f'{value:g}' for value in values)})'"
