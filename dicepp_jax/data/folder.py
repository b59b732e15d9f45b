"""Your own data set: a folder of images and masks, or nnU-Net's raw layout; no code needed.

Two templates such as `images/{case}.*` and `masks/{case}_{class}.png` describe the names of images
and masks, see `templates`; without them, those of `LAYOUTS` are tried. The files may be at any
depth in the folder or archive. Several masks of a case, or of a class of a case, are united if the
template of masks has a `{number}` or a `*`. Several raters are told apart by a `{rater}`; the first
of them, in natural order of their names, is the truth.

Everything that can be detected is detected and reported, with the option that overrides it.
"""

import collections
import functools
import itertools
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

from dicepp_jax.data import formats, labels, leftovers, nnunet, survey, templates
from dicepp_jax.data.builder import DataSet
from dicepp_jax.data.files import File, Tree, match, natural, spelt, without_copies
from dicepp_jax.data.formats import CaseFiles, LabelEncoding
from dicepp_jax.data.survey import CaseListing, Options
from dicepp_jax.wording import listed

FOLDERS = ("masks", "labels", "annotations", "gt")
SUFFIXES = ("_mask", "_seg", "_segmentation", "_label", "_gt")

LAYOUTS = (
    # One mask per case, in a separate folder or next to the image.
    (
        *(("images/{case}.*", f"{folder}/{{case}}.*") for folder in FOLDERS),
        *(("images/{case}.*", f"{f}/{{case}}{suffix}.*") for suffix in SUFFIXES for f in FOLDERS),
        *(("{case}.*", f"{{case}}{suffix}.*") for suffix in SUFFIXES),
    ),
    # One mask per class; tried last, since a class may have any name.
    (
        *(("images/{case}.*", f"{folder}/{{case}}_{{class}}.*") for folder in FOLDERS),
        *(("images/{case}.*", f"{folder}/{{class}}/{{case}}.*") for folder in FOLDERS),
    ),
)
"""Templates of images and masks to try: in each group, the first that matches the most cases.

Masks may also be numbered or of raters, see `choose`.
"""

RATER = re.compile(
    r"(\d+(st|nd|rd|th)[ _-]?)?(rater|reader|observer|annotator|expert|grader|radiologist|manual)"
    r"[ _-]?(\d+|[a-z])?",
    re.IGNORECASE,
)
"""Names that are those of raters rather than of classes."""

Masks = Mapping[str, Mapping[str, tuple[File, ...]]]
"""The mask files of each class or rater of each case; "" if the template has neither."""

_EXAMPLE = "--config.folder.images='images/{case}.*' --config.folder.masks='masks/{case}_mask.png'"


def describe(
    root: Path, files: Tree, options: Options, cache: Path
) -> tuple[DataSet, tuple[str, ...]]:
    """The data set in a folder or archive.

    Args:
      root: the folder or archive.
      files: the files in it.
      options: what the user declares about it.
      cache: a JSON file for what was detected by reading the files, which are not read again for
        this purpose unless they change.

    Returns:
      The set, and notes: what was detected, what is proposed, and how to override it.

    Raises:
      FileNotFoundError: if an image has no mask or a mask no image, or nothing is found.
      ValueError: if the files do not form a valid set, with a remedy.
    """
    files = formats.gather(files)
    if not (options.images or options.masks) and nnunet.is_present(files):
        find = functools.partial(nnunet.find_cases, options=options)
    else:
        if not (options.images or options.masks):
            images, masks = choose(files)
            options = options._replace(images=images, masks=masks)
        find = functools.partial(find_pairs, options=options)
    listing = find(files)
    used = (file for case in listing.cases for file in (*case.images, *case.every_mask))
    warnings = [*leftovers.describe(leftovers.unused(files, used)), *_alike(listing.cases)]
    # Raters may have saved their masks in different ways, as different cases may be.
    rated = [
        case._replace(masks=masks, raters=())
        for case in listing.cases
        for masks in (case.masks, *case.raters)
    ]
    inspected = survey.survey(root.name, listing._replace(cases=tuple(rated)), cache)
    encoding = listing.encoding or labels.infer(rated, inspected, options)
    following = iter(inspected)
    summaries = [
        list(itertools.islice(following, 1 + len(case.raters)))[0] for case in listing.cases
    ]
    dataset, notes = survey.propose(root, find, listing, summaries, encoding, options)
    return dataset, (*warnings, *notes)


def _alike(cases: Sequence[CaseFiles]) -> list[str]:
    """A note on names that are one on some file systems."""
    same = collections.defaultdict(list)
    for case in cases:
        same[case.id.casefold()].append(case.id)
    alike = [" and ".join(names) for names in same.values() if len(names) > 1]
    return [
        f"names that differ in upper and lower case alone: {listed(alike)}; on macOS and Windows, "
        "files written for one of them would replace those for the other"
    ][: len(alike)]


def choose(files: Tree) -> tuple[str, str]:
    """The templates of the known layout that matches.

    If there are further masks with numbered names, such as `a_mask_1.png` beside `a_mask.png`, the
    template of masks has a `{number}`. If all classes are named like raters, it has a `{rater}`.

    Raises:
      FileNotFoundError: if none matches, with a summary of the files.
      ValueError: if numbers in the names of masks may be those of classes or of objects.
    """
    one_mask, one_per_class = LAYOUTS
    numbered = [(images, templates.numbered(masks)) for images, masks in one_mask]
    if best := _best(files, one_mask):
        return _with_numbers(files, *best)
    classes, objects = _best(files, one_per_class), _best(files, numbered)
    # The numbers are those of objects unless there are also masks with other names.
    if objects and len(_masks_of(files, *objects)) >= len(_masks_of(files, *(classes or objects))):
        _check_numbers(files, *objects)
        return objects
    if classes:
        found = classes[0], _of_raters(files, *classes)
        return _with_numbers(files, *found) if found[1].endswith("{case}.*") else found
    raise FileNotFoundError(
        f"no images with masks were recognised; {_contents(files)}. Known layouts are images/ with "
        f"{', '.join(f'{folder}/' for folder in FOLDERS)}, and CASE.png next to CASE_mask.png; "
        f"describe yours by templates, as in {_EXAMPLE}"
    )


def _of_raters(files: Tree, images: str, masks: str) -> str:
    """The template of masks, with raters in place of classes if all are named so."""
    names = {mask.label for mask in _masks_of(files, images, masks)}
    raters = len(names) > 1 and all(map(RATER.fullmatch, names))
    return masks.replace("{class}", "{rater}") if raters else masks


def _best(files: Tree, layouts: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    """The layout with the most cases that have a mask, None if there is no such case."""
    pairs = {layout: len({mask.case for mask in _masks_of(files, *layout)}) for layout in layouts}
    best = max(pairs, key=lambda layout: pairs[layout])
    return best if pairs[best] else None


def _masks_of(files: Tree, images: str, masks: str) -> list[templates.Mask]:
    """The masks whose cases have an image."""
    image_files, mask_files = templates.split(files, images, masks)
    cases = templates.image_cases(image_files, images)
    found = templates.parse_masks(mask_files, masks, cases)
    return [mask for mask in found if mask.case in cases]


def _with_numbers(files: Tree, images: str, masks: str) -> tuple[str, str]:
    """The templates, with a number in that of masks if it then matches further masks."""
    wide = templates.numbered(masks)
    more = len(_masks_of(files, images, wide)) > len(_masks_of(files, images, masks))
    return images, wide if more else masks


def _check_numbers(files: Tree, images: str, masks: str) -> None:
    """Refuse the same two numbers or more in all cases, which may be those of classes."""
    numbers = collections.defaultdict(set)
    for mask in _masks_of(files, images, masks):
        numbers[mask.case].add(_stem(mask.name).rsplit(mask.case.lower(), 1)[-1])
    first, *others = numbers.values()
    if len(first) > 1 and others and all(other == first for other in others):
        united, classes = masks, masks.replace("{number}", "_{class}")
        raise ValueError(
            f"every case has the masks {listed(sorted(first))}, so the numbers may be those of "
            "classes or of objects of one class; say which: "
            f"--config.folder.images='{images}' --config.folder.masks='{classes}' for classes, "
            f"or --config.folder.masks='{united}' to unite the masks of a case"
        )


def find_pairs(files: Tree, options: Options) -> CaseListing:
    """The cases of images and masks whose names match the templates.

    Args:
      files: all files.
      options: templates and, if there is one mask per class, optionally the classes.

    Returns:
      Cases in natural order of their names.

    Raises:
      FileNotFoundError: if nothing matches, or an image has no mask or a mask no image.
      ValueError: if a template is invalid, two files match the same image or mask, or a file looks
        like a further mask of a case.
    """
    _check_templates(options.images, options.masks)
    files = formats.gather(files)
    in_images, in_masks = spelt(options.images), spelt(options.masks)
    images, masks = templates.split(files, in_images, in_masks)
    image_of = match(images, templates.regex(in_images))
    masks_of = _masks(masks, in_masks, image_of)
    for template, found in ((options.images, image_of), (options.masks, masks_of)):
        if not found:
            raise FileNotFoundError(
                f"no file matches the template {template}; {_contents(files)}. Set templates as in "
                f"{_EXAMPLE}"
            )
    if not templates.unites(in_masks):
        _check_further(files, in_images, in_masks, image_of.keys() & masks_of.keys())
    _check_pairs("images without mask", image_of, masks_of, options.masks)
    _check_pairs("masks without image", masks_of, image_of, options.images)
    if "{rater}" in options.masks:
        return _rated(image_of, masks_of, options)
    encoding = _one_per_class(masks_of, options) if "{class}" in options.masks else None
    names = encoding.classes[1:] if encoding else ("",)
    absent = [
        f"{case} ({name})" for case in image_of for name in names if name not in masks_of[case]
    ]
    if absent:
        raise FileNotFoundError(
            f"missing masks of a class ({len(absent)}): {listed(absent)}; if a class does not "
            "occur in a case, add a mask that is 0 everywhere; if these are raters, not classes, "
            f"set --config.folder.masks='{options.masks.replace('{class}', '{rater}')}'"
        )
    return CaseListing(
        cases=tuple(_case(case, image, masks_of[case], names) for case, image in image_of.items()),
        layout=_layout(options),
        encoding=encoding,
        notes=_several(masks_of, names, options.masks),
    )


def _layout(options: Options) -> str:
    return (
        f"images and masks by name (--config.folder.images='{options.images}' "
        f"--config.folder.masks='{options.masks}')"
    )


def _rated(image_of: Mapping[str, File], masks_of: Masks, options: Options) -> CaseListing:
    """The cases if masks are those of raters, of whom a case may lack some."""
    names = sorted({name for masks in masks_of.values() for name in masks}, key=natural)
    cases = []
    for case, image in image_of.items():
        first, *others = (masks_of[case][name] for name in names if name in masks_of[case])
        cases.append(CaseFiles(case, (image,), first, raters=tuple(others)))
    counts = {name: sum(name in masks for masks in masks_of.values()) for name in names}
    several = sum(bool(case.raters) for case in cases)
    return CaseListing(
        cases=tuple(cases),
        layout=_layout(options),
        notes=(
            f"raters: {listed(f'{name} ({count} cases)' for name, count in counts.items())}; the "
            "first of them who marked a case is its truth in training and in every other metric, "
            f"and {several} of {len(cases)} cases are also scored against several "
            f"(--config.folder.masks='{options.masks}'; if they are classes, say {{class}})",
            *_several(masks_of, names, options.masks),
        ),
    )


def _case(
    name: str, image: File, masks: Mapping[str, tuple[File, ...]], classes: Sequence[str]
) -> CaseFiles:
    owned = [(file, owner) for owner, label in enumerate(classes, 1) for file in masks[label]]
    return CaseFiles(
        name,
        (image,),
        tuple(file for file, _ in owned),
        classes=tuple(owner for _, owner in owned),
    )


def _several(masks_of: Masks, classes: Sequence[str], template: str) -> tuple[str, ...]:
    """A note on cases whose masks are united."""
    most = {
        case: max(len(masks.get(name, ())) for name in classes) for case, masks in masks_of.items()
    }
    several = [case for case, count in most.items() if count > 1]
    of_each = " of a rater" if "{rater}" in template else " of a class" * (classes != ("",))
    return (
        f"several masks: {len(several)} of {len(most)} cases have up to {max(most.values())} mask "
        f"files{of_each}, which are united: {listed(several)}; the card "
        f"says how many voxels overlap (--config.folder.masks='{template}'; if they are outlines "
        "of one object by several raters, say {rater} in the template)",
    )[: len(several)]


def _one_per_class(masks_of: Masks, options: Options) -> LabelEncoding:
    """The classes, if each has a mask file of its own."""
    found = sorted({name for masks in masks_of.values() for name in masks}, key=natural)
    found = [name for name in found if name.lower() != "background"]
    if options.mask_values:
        raise ValueError(
            f"folder.mask_values is {listed(options.mask_values)}, but applies only to masks with "
            "several classes in one file; here each class has a separate file, so omit it"
        )
    classes = tuple(map(spelt, options.classes)) or ("background", *found)
    unknown = [name for name in classes[1:] if name not in found]
    if unknown or len(set(classes)) < max(len(classes), 2) or classes[0] in found:
        raise ValueError(
            f"folder.classes is {listed(classes)}, but there are masks for {listed(found)}; list "
            "the background first, then classes that have masks, each once"
        )
    return labels.encoding(classes, (), "one mask per class")


def _check_further(files: Tree, images: str, masks: str, paired: Container[str]) -> None:
    """Refuse to leave out files that are named like further masks of a case."""
    wide = templates.numbered(masks)
    narrow, candidates = (templates.split(files, images, one)[1] for one in (masks, wide))
    known = {
        mask.file.name
        for mask in templates.parse_masks(narrow, masks, paired)
        if mask.case in paired
    }
    further = [
        mask.file.name
        for mask in templates.parse_masks(candidates, wide, paired)
        if mask.case in paired and mask.file.name not in known
    ]
    if further:
        raise ValueError(
            f"files named like further masks of cases that have one ({len(further)}): "
            f"{listed(further)}; unite the masks of a case by "
            f"--config.folder.masks='{wide}', or move these files out of the folder"
        )


def _check_pairs(what: str, one: Mapping, other: Mapping, template: str) -> None:
    missing = [case for case in one if case not in other]
    if missing:
        folded = {case.casefold(): case for case in other}
        cases = [f"{c} and {folded[c.casefold()]}" for c in missing if c.casefold() in folded]
        hint = f"; these differ in upper and lower case: {listed(cases)}" if cases else ""
        raise FileNotFoundError(
            f"{what} ({len(missing)} of {len(one)}): {listed(missing)} ({template}){hint}; add the "
            f"missing files, remove their counterparts, or set other templates, as in {_EXAMPLE}"
        )


def _check_templates(images: str, masks: str) -> None:
    for name, template, allowed in (
        ("images", images, {"{case}"}),
        ("masks", masks, {"{case}", "{class}", "{rater}", "{number}"}),
    ):
        fields = set(re.findall(r"\{[^}]*\}?", template))
        if "{case}" not in fields or not fields <= allowed:
            raise ValueError(
                f"folder.{name} is {template!r}, expected {{case}} in place of the case's name"
                f"{', and {class} if each class has a separate file' if name == 'masks' else ''}, "
                f"as in {_EXAMPLE}"
            )
    if {"{class}", "{rater}"} <= set(re.findall(r"\{\w+\}", masks)):
        raise ValueError(
            f"folder.masks is {masks!r}, but separate files for the classes of several raters "
            "cannot be read; save one label map for each rater, with a value for each class, and "
            "set --config.folder.masks='masks/{rater}/{case}.*'"
        )


def _contents(files: Tree) -> str:
    """A summary of the files by folder and ending."""
    return f"the files are {listed(leftovers.kinds(files))}" if files else "there are no files"


def _masks(files: Tree, template: str, cases: Mapping[str, File]) -> Masks:
    """The masks in natural order of their cases and names."""
    several = templates.unites(template)
    found = without_copies(
        ((mask.case, mask.label, _stem(mask.name) if several else ""), mask.file)
        for mask in templates.parse_masks(files, template, cases)
    )
    masks: dict[str, dict[str, tuple[File, ...]]] = {}
    for key in sorted(found, key=lambda key: tuple(map(natural, key))):
        case, label, _ = key
        of_class = masks.setdefault(case, {})
        of_class[label] = (*of_class.get(label, ()), found[key])
    return masks


def _stem(name: str) -> str:
    """The name without its ending, so that one mask in two formats is refused."""
    return re.sub(r"(\.nii)?\.\w+$", "", name.lower())
