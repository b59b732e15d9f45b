"""What the values in masks mean: one table of values and classes for all masks of a set.

The values of every mask are known from `survey`; what they mean is decided by `infer`, never file
by file, and is reported with the option that overrides it.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence

from dicepp_jax.data import formats, readers
from dicepp_jax.data.formats import CaseFiles, LabelEncoding
from dicepp_jax.data.survey import MOST, CaseSummary, Options
from dicepp_jax.wording import listed

FEW = 8
"""More classes than this may be numbered objects, which the notes mention."""

JPEG = (".jpg", ".jpeg")

FULL = (1, 255, 65535)
"""Values of the foreground in binary masks of 1, 8 and 16 bits."""

BLACK, WHITE = 0, 255


def infer(
    cases: Sequence[CaseFiles], summaries: Sequence[CaseSummary], options: Options
) -> LabelEncoding:
    """Determine what the values in masks mean, for all masks of the set alike.

    Two values are binary masks, and 0, 1, ..., K are K + 1 classes; fewer values than `MOST` that
    begin with 0 are classes in their order, unless some of them may mean something else. In some
    files the foreground may be 1 and in others 255. Masks with many grey values concentrated near 0
    and 255 are binary if they are JPEG or two classes are declared: in other files such values may
    number objects.

    Palette images have the values of their palettes if these are grey; else their indices, if an
    index has the same colour in all files; else their colours. Black is the background, or white if
    there is no black; other colours are classes in the order of their red, green and blue.

    Args:
      cases: the files of each case.
      summaries: the values in its masks.
      options: classes and values, if they are declared.

    Returns:
      Classes and their values.

    Raises:
      ValueError: if this cannot be determined, the declared values or classes do not match, or a
        file is not a mask.
    """
    _check_are_masks(cases, summaries, options)
    palettes = _palettes(summaries, options)
    found = [_resolved(summary, palettes) for summary in summaries]
    counts: collections.Counter[int] = collections.Counter()
    for values_of in found:
        counts.update(values_of)
    present, classes = sorted(counts), options.classes
    if present == [0]:
        raise ValueError(
            "all masks are 0 everywhere, expected some foreground; check --config.folder.masks"
        )
    if not options.mask_values and len(classes) in (0, 2):
        origin = _binary_origin(cases, found, bool(classes))
        if origin:
            return encoding(classes or default_names(2), (), origin, palettes=palettes)
    values = tuple(map(readers.code_of, options.mask_values))
    values = values or _values(cases, found, counts, len(classes))
    classes = classes or default_names(len(values))
    if len(set(values)) != len(classes):
        raise ValueError(
            f"folder.mask_values has {listed(map(readers.shown, values))} and folder.classes "
            f"{listed(classes)}; expected one distinct value for each class, the background's first"
        )
    for case, values_of in zip(cases, found, strict=True):
        unknown = [value for value in values_of if value not in values]
        if unknown:
            where = " or ".join(map(str, case.masks))
            raise ValueError(formats.unknown_values(where, unknown, classes, values))
    many = "; if these number objects, convert them to binary masks" if len(values) > FEW else ""
    kinds = listed(map(readers.shown, present))
    origin = f"masks with the {'colours' if _has_colours(present) else 'values'} {kinds}{many}"
    colours = _colours(summaries) if palettes == formats.INDEX else {}
    return encoding(classes, values, origin, palettes, _meaning(classes, values, colours))


def _check_are_masks(
    cases: Sequence[CaseFiles], summaries: Sequence[CaseSummary], options: Options
) -> None:
    """Refuse photographs, and masks with more values than images of two values have."""
    alike = list(zip(cases, summaries, strict=True))
    photos = [(case, s) for case, s in alike if s.distinct and not s.values]
    swapped = [(case, s) for case, s in alike if s.levels == 2]
    if not photos and not swapped:
        return
    case, summary = (swapped or photos)[0]
    total = len(photos or swapped)
    what = f"{summary.distinct} different {'values' if summary.values else 'colours'}"
    raise ValueError(
        f"{case.masks[0]} is not a mask: it has {what}, expected one value for each class "
        f"({total} of {len(cases)} masks are like this){_swap_hint(case, summary, options)}"
    )


def _swap_hint(case: CaseFiles, summary: CaseSummary, options: Options) -> str:
    """What to do about a file that is not a mask."""
    exchanged = f"--config.folder.images='{options.masks}' --config.folder.masks='{options.images}'"
    if 0 < summary.levels <= MOST:
        return (
            f"; {case.images[0]} has only {summary.levels} values, so images and masks are "
            f"swapped: {exchanged}"
        )
    return (
        f"; are images and masks swapped ({exchanged})? If it is a mask with colours that "
        "compression has changed, save the original as PNG; else set --config.folder.masks to "
        "other files"
    )


def _palettes(summaries: Sequence[CaseSummary], options: Options) -> str:
    """What the values of palette images are, see `infer`."""
    used = [{i: s.palette[i] for i in s.values} for s in summaries if s.palette]
    if all(readers.grey_of(s.palette, s.values) for s in summaries if s.palette):
        return formats.GREY
    pairs = {pair for palette in used for pair in palette.items()}
    indices, colours = ({pair[n] for pair in pairs} for n in (0, 1))
    coloured = any(_has_colours(s.values) for s in summaries if not s.palette)
    declared = any(isinstance(value, str) for value in options.mask_values)
    # Indices of the same colour in one file can only mean something as indices.
    coincide = any(len(set(palette.values())) < len(palette) for palette in used)
    one_to_one = len(indices) == len(pairs) and (coincide or len(colours) == len(pairs))
    return formats.INDEX if one_to_one and not coloured and not declared else formats.COLOUR


def _resolved(summary: CaseSummary, palettes: str) -> Mapping[int, int]:
    """The number of voxels with each value, after the palette has been applied."""
    if not summary.palette or palettes == formats.INDEX:
        return summary.values
    grey = readers.grey_of(summary.palette, summary.values) if palettes == formats.GREY else None
    counts: collections.Counter[int] = collections.Counter()
    for index, count in summary.values.items():
        counts[(grey or summary.palette)[index]] += count
    return counts


def _colours(summaries: Sequence[CaseSummary]) -> dict[int, int]:
    """The colour of each index."""
    return {index: s.palette[index] for s in summaries if s.palette for index in s.values}


def _has_colours(values: Iterable[int]) -> bool:
    return any(value >= readers.COLOUR for value in values)


def _binary_origin(
    cases: Sequence[CaseFiles], found: Sequence[Mapping[int, int]], declared: bool
) -> str:
    """How masks are known to be binary file by file; empty if they are not.

    Args:
      cases: the files of each case.
      found: the values in each mask.
      declared: whether two classes are.
    """
    kinds = {value for values in found for value in values if value}
    if 1 < len(kinds) and kinds <= set(FULL) and all(len(set(v) - {0}) <= 1 for v in found):
        files = {full: sum(full in values for values in found) for full in sorted(kinds)}
        shares = ", ".join(f"0 and {full} ({count})" for full, count in files.items())
        return f"binary masks of several encodings, {shares}, foreground above 0"
    counts: collections.Counter[int] = collections.Counter()
    for values in found:
        counts.update(values)
    jpeg = all(m.name.lower().endswith(JPEG) for case in cases for m in case.masks)
    if not (jpeg or declared) or not _may_be_lossy(counts):
        return ""
    for case, values in zip(cases, found, strict=True):
        if max(values) == 1:
            raise ValueError(
                f"{case.masks[0]} has the values 0 and 1, but other masks have "
                f"{len(counts)} grey values from 0 to 255, so 1 may be foreground or noise; save "
                "all masks with the values 0 and 255"
            )
    return f"masks with {len(counts)} grey values near 0 and 255, foreground above 127"


def _may_be_lossy(counts: Mapping[int, int]) -> bool:
    """Whether these may be two values and noise of lossy compression.

    A single value near 255 may be the ignore index beside a few classes.
    """
    bright = sum(value > WHITE - readers.NEAR for value in counts)
    return formats.is_lossy(counts) or (bright > 1 and formats.are_extremes(list(counts)))


def _values(
    cases: Sequence[CaseFiles],
    found: Sequence[Mapping[int, int]],
    counts: Mapping[int, int],
    declared: int,
) -> tuple[int, ...]:
    """The values of the classes, the background's first.

    Args:
      cases: the files of each case.
      found: the values in each mask.
      counts: the number of voxels with each value in all of them.
      declared: how many classes are; 0 if they are to be detected.

    Raises:
      ValueError: if they cannot be determined.
    """
    present = sorted(counts)
    if _has_colours(present):
        return _colour_values(cases, found, present, declared)
    in_order = list(range(declared or len(present)))
    if set(present) <= set(in_order) and len(in_order) <= max(MOST, declared):
        return tuple(in_order)
    starts = present[0] == 0
    two = len(present) == 2 and declared in (0, 2) and (starts or formats.are_extremes(present))
    if two or (starts and len(present) == declared):
        return tuple(present)
    if not declared and not _is_doubtful(present):
        return tuple(present)
    if declared:
        return tuple(in_order)
    raise ValueError(_undeclared(cases, found, counts))


def _is_doubtful(present: Sequence[int]) -> bool:
    """Whether values may be something else than classes in their order."""
    special = bool({255, 65535} & set(present))  # These often mark pixels to ignore.
    return present[0] != 0 or len(present) > MOST or special or formats.are_extremes(present)


def _colour_values(
    cases: Sequence[CaseFiles],
    found: Sequence[Mapping[int, int]],
    present: Sequence[int],
    declared: int,
) -> tuple[int, ...]:
    """The colours of the classes, the background's first."""
    option = (
        "declare the colour of each class, the background's first: --config.folder.mask_values="
        f'"({",".join(map(_quoted, present))})" --config.folder.classes=background,NAME,...'
    )
    what = f"the masks contain the colours {listed(map(readers.shown, present))}"
    if len(present) > MOST:
        raise ValueError(
            f"{what}, expected at most {MOST}; if these number objects, convert them to binary "
            "masks; save masks without lossy compression; are images and masks swapped "
            "(--config.folder.images, --config.folder.masks)?"
        )
    background = next((grey for grey in (BLACK, WHITE) if grey in present), None)
    if background is None:
        raise ValueError(f"{what}, of which none is black or white, the background; {option}")
    beside = {value for values in found if _has_colours(values) for value in values}
    for case, values in zip(cases, found, strict=True):
        if background == BLACK not in values and WHITE in values:
            raise ValueError(
                f"{case.masks[0]} has white but no black, and other masks have black, so its "
                f"background is unknown; save it as the others, or {option}"
            )
        grey = [value for value in values if value not in beside and value != background]
        if grey and not _has_colours(values):
            raise ValueError(
                f"{case.masks[0]} has the grey values {listed(sorted(values))}, and other masks "
                f"have colours, in none of which is {grey[0]}; save it as the others, or {option}"
            )
    if declared > 2 or (declared and declared != len(present)):
        raise ValueError(f"{what}, and folder.classes does not say which is which; {option}")
    return (background, *(colour for colour in present if colour != background))


def encoding(
    classes: tuple[str, ...],
    values: tuple[int, ...],
    origin: str,
    palettes: str = "",
    meaning: str = "",
) -> LabelEncoding:
    """A `LabelEncoding`, whose origin names the options that declare it."""
    option = f"--config.folder.classes={','.join(classes)}"
    if values:
        given = f"({','.join(map(_quoted, values))})"
        quote = '"' if "'" in given else "'"
        option += f" --config.folder.mask_values={quote}{given}{quote}"
    return LabelEncoding(classes, values, f"{origin} ({option})", palettes, meaning)


def _quoted(value: int) -> str:
    """A value in command-line syntax."""
    return f"'{readers.shown(value)}'" if value >= readers.COLOUR else str(value)


def _meaning(classes: Sequence[str], values: Sequence[int], colours: Mapping[int, int]) -> str:
    """The table of values and classes.

    Args:
      classes: names.
      values: of the classes.
      colours: of the values that are indices into palettes.
    """
    rows = []
    for name, value in zip(classes, values, strict=True):
        colour = f" ({readers.shown(colours[value])})" if value in colours else ""
        rows.append(f"{readers.shown(value)}{colour} = {name}")
    return ", ".join(rows)


def default_names(count: int) -> tuple[str, ...]:
    """The names of classes to which the files give none, the background first."""
    if count == 2:
        return "background", "foreground"
    return ("background", *(f"class_{index}" for index in range(1, count)))


def _undeclared(
    cases: Sequence[CaseFiles], found: Sequence[Mapping[int, int]], counts: Mapping[int, int]
) -> str:
    present = sorted(counts)
    text = (
        f"the masks contain the values {listed(present)}, expected 0, 1, 2, ... for at most {MOST} "
        "classes. "
    )
    if _may_be_lossy(counts):
        return (
            f"{text}If these are binary masks after lossy compression, declare two classes by "
            "--config.folder.classes=background,NAME; if the values number objects, convert "
            "them to binary masks; if they are classes, declare all by --config.folder.mask_values"
        )
    if len(present) > MOST:
        case, most = max(zip(cases, found, strict=True), key=lambda pair: len(pair[1]))
        return (
            f"{text}So many values ({len(most)} in {case.masks[0]}) indicate an image, a map of "
            "probabilities, or numbered objects: are images and masks swapped "
            "(--config.folder.images, --config.folder.masks)? Convert probabilities and objects to "
            "binary masks"
        )
    hint = ""
    if all(len(set(values) - {0}) <= 1 for values in found):
        hint = (
            "Each mask has at most one value besides 0: if they mean the same, save all masks with "
            "0 and 255. "
        )
    elif present[-1] == 255:
        hint = (
            "255 often marks pixels to ignore, and values near 127 uncertain ones; they must be "
            "one of the classes here. "
        )
    return (
        f"{text}{hint}Declare the value of each class, the background's first: "
        f"--config.folder.mask_values='({','.join(map(str, present))})' "
        "--config.folder.classes=background,NAME,..."
    )
