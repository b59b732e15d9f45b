"""Your own data set: a folder of images and masks, or nnU-Net's raw layout; no code needed.

Two templates such as `images/{case}.*` and `masks/{case}_{class}.png` describe the names of images
and masks; without them, those of `LAYOUTS` are tried. In a template `{case}` is the name of a case
and `{class}` that of a class, if each class has a separate mask file; neither contains a "/". `*`
matches anything and, at the end, any of `ENDINGS`. Templates are matched case-insensitively against
the end of a file's path, so the files may be at any depth in the folder or archive.

Everything that can be detected is detected and reported, with the option that overrides it.
"""

import collections
import functools
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path

from dicepp_jax.data import formats, nnunet, survey
from dicepp_jax.data.builder import DataSet
from dicepp_jax.data.files import File, Tree, match, natural
from dicepp_jax.data.formats import ENDINGS, CaseFiles, LabelEncoding
from dicepp_jax.data.survey import CaseListing, CaseSummary, Options
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
"""Templates of images and masks to try: in each group, the first that matches the most cases."""

MOST = 32
"""The largest number of classes that is accepted without being declared."""

FEW = 8
"""More classes than this may be numbered objects, which the notes mention."""

JPEG = (".jpg", ".jpeg")

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
    summaries = survey.survey(root.name, listing, cache)
    encoding = listing.encoding or infer(listing.cases, summaries, options)
    return survey.propose(root, find, listing, summaries, encoding, options)


def choose(files: Tree) -> tuple[str, str]:
    """The templates of the known layout that matches.

    Raises:
      FileNotFoundError: if none does, with a summary of the files.
    """
    for group in LAYOUTS:
        pairs = {layout: _count_pairs(files, *layout) for layout in group}
        best = max(pairs, key=lambda layout: pairs[layout])
        if pairs[best]:
            return best
    raise FileNotFoundError(
        f"no images with masks were recognised; {_contents(files)}. Known layouts are images/ with "
        f"{', '.join(f'{folder}/' for folder in FOLDERS)}, and CASE.png next to CASE_mask.png; "
        f"describe yours by templates, as in {_EXAMPLE}"
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
      ValueError: if a template is invalid, or two files match the same image or mask.
    """
    _check_templates(options.images, options.masks)
    files = formats.gather(files)
    images, masks = _split(files, options.images, options.masks)
    image_of = match(images, _pattern(options.images))
    masks_of = _masks(masks, options.masks, image_of)
    for template, found in ((options.images, image_of), (options.masks, masks_of)):
        if not found:
            raise FileNotFoundError(
                f"no file matches the template {template}; {_contents(files)}. Set templates as in "
                f"{_EXAMPLE}"
            )
    _check_pairs("images without mask", image_of, masks_of, options.masks)
    _check_pairs("masks without image", masks_of, image_of, options.images)
    encoding = _one_per_class(masks_of, options) if "{class}" in options.masks else None
    names = encoding.classes[1:] if encoding else ("",)
    absent = [
        f"{case} ({name})" for case in image_of for name in names if name not in masks_of[case]
    ]
    if absent:
        raise FileNotFoundError(
            f"missing masks of a class ({len(absent)}): {listed(absent)}; if a class does not "
            "occur in a case, add a mask that is 0 everywhere"
        )
    return CaseListing(
        cases=tuple(
            CaseFiles(case, (image,), tuple(masks_of[case][name] for name in names))
            for case, image in image_of.items()
        ),
        layout=f"images and masks by name (--config.folder.images='{options.images}' "
        f"--config.folder.masks='{options.masks}')",
        encoding=encoding,
    )


def infer(
    cases: Sequence[CaseFiles], summaries: Sequence[CaseSummary], options: Options
) -> LabelEncoding:
    """Determine what the values in masks mean.

    Masks of 0 and 1 or of 0 and 255 are binary; 0, 1, ..., K are K + 1 classes. Masks with many
    grey values concentrated near 0 and 255 are binary if they are JPEG or two classes are declared:
    in other files such values may number objects.

    Args:
      cases: the files of each case.
      summaries: the values in its masks.
      options: classes and values, if they are declared.

    Returns:
      Classes and their values.

    Raises:
      ValueError: if this cannot be determined, or the declared values or classes do not match.
    """
    counts: collections.Counter[int] = collections.Counter()
    for summary in summaries:
        counts.update(summary.values)
    present, classes, values = sorted(counts), options.classes, options.mask_values
    if present == [0]:
        raise ValueError(
            "all masks are 0 everywhere, expected some foreground; check --config.folder.masks"
        )
    if not values and len(classes) in (0, 2):
        jpeg = all(m.name.lower().endswith(JPEG) for case in cases for m in case.masks)
        if (jpeg or classes) and formats.is_lossy(counts):
            origin = f"masks with {len(present)} grey values near 0 and 255, foreground above 127"
            return _encoding(classes or _names(2), (), origin)
        if present == [0, 255]:
            values = (0, 255)
    if not values and classes:
        values = tuple(range(len(classes)))
    if not values:
        if present != list(range(len(present))) or len(present) > MOST:
            raise ValueError(_undeclared(counts))
        values = tuple(present)
    classes = classes or _names(len(values))
    if len(set(values)) != len(classes):
        raise ValueError(
            f"folder.mask_values has {listed(values)} and folder.classes {listed(classes)}; "
            "expected one distinct value for each class, the background's first"
        )
    for case, summary in zip(cases, summaries, strict=True):
        unknown = [value for value in summary.values if value not in values]
        if unknown:
            raise ValueError(formats.unknown_values(case.masks[0], unknown, classes, values))
    many = "; if these number objects, convert them to binary masks" if len(values) > FEW else ""
    return _encoding(classes, values, f"masks with the values {listed(present)}{many}")


def _encoding(classes: tuple[str, ...], values: tuple[int, ...], origin: str) -> LabelEncoding:
    option = f"--config.folder.classes={','.join(classes)}"
    if values:
        option += f" --config.folder.mask_values='({','.join(map(str, values))})'"
    return LabelEncoding(classes, values, f"{origin} ({option})")


def _names(count: int) -> tuple[str, ...]:
    if count == 2:
        return "background", "foreground"
    return ("background", *(f"class_{index}" for index in range(1, count)))


def _undeclared(counts: Mapping[int, int]) -> str:
    present = sorted(counts)
    found = (
        f"the masks contain the values {listed(present)}, expected 0, 1, 2, ... for at most {MOST} "
        "classes. "
    )
    if formats.is_lossy(counts):
        return (
            f"{found}If these are binary masks after lossy compression, declare two classes by "
            "--config.folder.classes=background,NAME; if the values number objects, convert "
            "them to binary masks"
        )
    if len(present) > MOST:
        return (
            f"{found}So many values indicate an image or numbered objects: convert them to binary "
            "masks, or set --config.folder.masks to other files"
        )
    hint = ""
    if present[-1] == 255:
        hint = "255 often marks pixels to ignore, which must be one of the classes here. "
    return (
        f"{found}{hint}Declare the value of each class, the background's first: "
        f"--config.folder.mask_values='({','.join(map(str, present))})' "
        "--config.folder.classes=background,NAME,..."
    )


def _one_per_class(masks_of: Mapping[str, Mapping[str, File]], options: Options) -> LabelEncoding:
    """The classes, if each has a mask file of its own."""
    found = sorted({name for masks in masks_of.values() for name in masks}, key=natural)
    found = [name for name in found if name.lower() != "background"]
    if options.mask_values:
        raise ValueError(
            f"folder.mask_values is {listed(options.mask_values)}, but applies only to masks with "
            "several classes in one file; here each class has a separate file, so omit it"
        )
    classes = options.classes or ("background", *found)
    unknown = [name for name in classes[1:] if name not in found]
    if unknown or len(set(classes)) < max(len(classes), 2) or classes[0] in found:
        raise ValueError(
            f"folder.classes is {listed(classes)}, but there are masks for {listed(found)}; list "
            "the background first, then classes that have masks, each once"
        )
    return _encoding(classes, (), "one mask per class")


def _check_pairs(what: str, one: Mapping, other: Mapping, template: str) -> None:
    missing = [case for case in one if case not in other]
    if missing:
        raise FileNotFoundError(
            f"{what} ({len(missing)} of {len(one)}): {listed(missing)} ({template}); add the "
            f"missing files, remove their counterparts, or set other templates, as in {_EXAMPLE}"
        )


def _check_templates(images: str, masks: str) -> None:
    for name, template, allowed in (
        ("images", images, {"{case}"}),
        ("masks", masks, {"{case}", "{class}"}),
    ):
        fields = set(re.findall(r"\{[^}]*\}?", template))
        if "{case}" not in fields or not fields <= allowed:
            raise ValueError(
                f"folder.{name} is {template!r}, expected {{case}} in place of the case's name"
                f"{', and {class} if each class has a separate file' if name == 'masks' else ''}, "
                f"as in {_EXAMPLE}"
            )


def _contents(files: Tree) -> str:
    """A summary of the files by folder and ending."""
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    for name in files:
        folder, _, base = name.rpartition("/")
        ending = re.search(r"(\.nii)?\.\w+$", base)
        alike = re.sub(r"\d+", "*", folder) or "."
        counts[alike, ending[0].lower() if ending else "no ending"] += 1
    if not counts:
        return "there are no files"
    return "the files are " + listed(f"{n} {e} in {folder}" for (folder, e), n in counts.items())


def _count_pairs(files: Tree, images: str, masks: str) -> int:
    image_files, mask_files = _split(files, images, masks)
    pattern = _compile(images)
    cases = {hit["case"] for name in image_files if (hit := pattern.search(name))}
    return len(cases & {case for case, _, _ in _parse_masks(mask_files, masks, cases)})


def _split(files: Tree, images: str, masks: str) -> tuple[Tree, Tree]:
    """The files that are images, and those that are masks.

    A file that matches both templates belongs to the more specific one: `a_mask.png` to
    `{case}_mask.*`, not to `{case}.*`, and `images/a.png` to `images/*`, not to `{class}/{case}.*`.
    """
    patterns = _compile(images), _compile(masks)
    image_files, mask_files = ({n: f for n, f in files.items() if p.search(n)} for p in patterns)
    if _specificity(images) > _specificity(masks):
        mask_files = {name: file for name, file in mask_files.items() if name not in image_files}
    else:
        image_files = {name: file for name, file in image_files.items() if name not in mask_files}
    return image_files, mask_files


def _specificity(template: str) -> int:
    return len(re.sub(r"\{\w+\}|\*", "", template))


def _parse_masks(
    files: Tree, template: str, cases: Container[str]
) -> Iterator[tuple[str, str, File]]:
    """Case, class and file of every mask.

    In `a_left_kidney` the class may be `left_kidney`: of all ways to divide a name, the one with
    the longest known case is used.
    """
    words = range(5 if "{class}" in template else 1)
    patterns = [_compile(template, rf"[^/_]+(?:_[^/_]+){{{more}}}") for more in words]
    for file in files.values():
        hits = [hit for pattern in patterns if (hit := pattern.search(file.name))]
        if hits:
            hit = next((hit for hit in hits if hit["case"] in cases), hits[0])
            yield hit["case"], hit.groupdict().get("class", ""), file


def _masks(files: Tree, template: str, cases: Container[str]) -> dict[str, dict[str, File]]:
    """Masks by case, then by class; the class is "" if a case has only one mask."""
    by_class: dict[str, dict[str, File]] = collections.defaultdict(dict)
    for _, name, file in _parse_masks(files, template, cases):
        by_class[name][file.name] = file
    masks: dict[str, dict[str, File]] = collections.defaultdict(dict)
    for name, of_class in by_class.items():
        for case, file in match(of_class, _pattern(template, re.escape(name))).items():
            masks[case][name] = file
    return {case: masks[case] for case in sorted(masks, key=natural)}


def _compile(template: str, name: str = "[^/]+") -> re.Pattern[str]:
    return re.compile(rf"(?:^|/){_pattern(template, name)}$", re.IGNORECASE)


def _pattern(template: str, name: str = "[^/]+") -> str:
    """The regular expression of a template; `name` is that of a class's name."""
    stem, pattern = template.removesuffix(".*"), ""
    for part in re.split(r"(\{case\}|\{class\}|\*)", stem):
        if part in ("{case}", "{class}"):
            group = part.strip("{}")
            again = f"(?P<{group}>" in pattern
            inside = "[^/]+" if group == "case" else name
            pattern += f"(?P={group})" if again else f"(?P<{group}>{inside})"
        else:
            pattern += "[^/]*" if part == "*" else re.escape(part)
    endings = "|".join(map(re.escape, ENDINGS))
    return pattern if stem == template else rf"{pattern}\.(?:{endings})"
