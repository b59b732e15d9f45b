"""A set of the user's own: a folder of images and masks, or nnU-Net's raw layout; no code needed.

Where the images and masks lie is said by two templates, such as `images/{case}.*` and
`masks/{case}_{class}.png`, or found out by trying `LAYOUTS`: in a template `{case}` is the name of
a case and `{class}` that of a class, where every class has a mask file of its own; neither reaches
over a "/". `*` is anything, at the end any ending of `ENDINGS`. A template describes the end of a
file's name, so that it does not matter how deep in the folder or archive the files lie. Upper and
lower case are one.

What can be found out is found out and told, with the option that overrides it.
"""

import collections
import functools
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path

from dicepp_jax.data import formats, nnunet, survey
from dicepp_jax.data.builder import DataSet
from dicepp_jax.data.files import File, Tree, match, natural
from dicepp_jax.data.formats import ENDINGS, Labels, Source
from dicepp_jax.data.survey import Found, Listing, Options
from dicepp_jax.wording import listed

FOLDERS = ("masks", "labels", "annotations", "gt")
SUFFIXES = ("_mask", "_seg", "_segmentation", "_label", "_gt")

LAYOUTS = (
    # One mask a case, in a folder of its own or beside the image.
    (
        *(("images/{case}.*", f"{folder}/{{case}}.*") for folder in FOLDERS),
        *(("images/{case}.*", f"{f}/{{case}}{suffix}.*") for suffix in SUFFIXES for f in FOLDERS),
        *(("{case}.*", f"{{case}}{suffix}.*") for suffix in SUFFIXES),
    ),
    # One mask a class; looked for last, since any name can be a class.
    (
        *(("images/{case}.*", f"{folder}/{{case}}_{{class}}.*") for folder in FOLDERS),
        *(("images/{case}.*", f"{folder}/{{class}}/{{case}}.*") for folder in FOLDERS),
    ),
)
"""Templates of images and masks that are tried: of each group the first that pairs most cases."""

MOST = 32
"""Classes that are believed without having been declared."""

FEW = 8
"""More may be numbered objects, which is told."""

JPEG = (".jpg", ".jpeg")

_EXAMPLE = "--config.folder.images='images/{case}.*' --config.folder.masks='masks/{case}_mask.png'"


def describe(
    root: Path, files: Tree, options: Options, cache: Path
) -> tuple[DataSet, tuple[str, ...]]:
    """The data set that a folder or archive holds.

    Args:
      root: the folder or archive.
      files: what is in it.
      options: what the user says of it.
      cache: a JSON file where what was found out by reading is kept; while the files stay as they
        are they are not read for it again.

    Returns:
      The set, and lines to tell: what was found, what is proposed, and how to override it.

    Raises:
      FileNotFoundError: if an image has no mask or a mask no image, or nothing is found.
      ValueError: if what is found makes no set, with what to do.
    """
    if not (options.images or options.masks) and nnunet.is_here(files):
        find = functools.partial(nnunet.find, options=options)
    else:
        if not (options.images or options.masks):
            images, masks = choose(files)
            options = options._replace(images=images, masks=masks)
        find = functools.partial(find_pairs, options=options)
    listing = find(files)
    found = survey.survey(root.name, listing, cache)
    labels = listing.labels or infer(listing.sources, found, options)
    return survey.propose(root, find, listing, found, labels, options)


def choose(files: Tree) -> tuple[str, str]:
    """The templates of the known layout that fits.

    Raises:
      FileNotFoundError: if none does, with what there is.
    """
    for group in LAYOUTS:
        pairs = {layout: _count_pairs(files, *layout) for layout in group}
        best = max(pairs, key=lambda layout: pairs[layout])
        if pairs[best]:
            return best
    raise FileNotFoundError(
        f"no images with masks were recognised; {_holdings(files)}. Known layouts are images/ with "
        f"{', '.join(f'{folder}/' for folder in FOLDERS)}, and CASE.png beside CASE_mask.png; say "
        f"what yours is by templates, as in {_EXAMPLE}"
    )


def find_pairs(files: Tree, options: Options) -> Listing:
    """The cases of images and masks whose names templates describe.

    Args:
      files: where to look.
      options: templates, and for one mask a class perhaps the classes.

    Returns:
      Cases in natural order of their names.

    Raises:
      FileNotFoundError: if nothing fits or counterparts are missing.
      ValueError: if the templates cannot be used or two files are the same image or mask.
    """
    _check_templates(options.images, options.masks)
    pictures, drawn = _split(files, options.images, options.masks)
    image_of = match(pictures, _pattern(options.images))
    masks_of = _masks(drawn, options.masks, image_of)
    for template, there in ((options.images, image_of), (options.masks, masks_of)):
        if not there:
            raise FileNotFoundError(
                f"no file fits the template {template}; {_holdings(files)}. Set templates as in "
                f"{_EXAMPLE}"
            )
    _check_pairs("images have no mask", image_of, masks_of, options.masks)
    _check_pairs("masks have no image", masks_of, image_of, options.images)
    labels = _one_a_class(masks_of, options) if "{class}" in options.masks else None
    names = labels.classes[1:] if labels else ("",)
    absent = [
        f"{case} ({name})" for case in image_of for name in names if name not in masks_of[case]
    ]
    if absent:
        raise FileNotFoundError(
            f"{len(absent)} masks of a class are missing: {listed(absent)}; where a case has "
            "nothing of a class, add a mask that is 0 everywhere"
        )
    return Listing(
        sources=tuple(
            Source(case, (image,), tuple(masks_of[case][name] for name in names))
            for case, image in image_of.items()
        ),
        told=f"images and masks by name (--config.folder.images='{options.images}' "
        f"--config.folder.masks='{options.masks}')",
        labels=labels,
    )


def infer(sources: Sequence[Source], found: Sequence[Found], options: Options) -> Labels:
    """What the values in masks mean.

    Masks of 0 and 1 or of 0 and 255 are binary; 0, 1, ..., K are K + 1 classes. Grey ones with many
    values heaped near 0 and 255 are binary if they are JPEG or two classes are declared: in other
    files such values may number objects.

    Args:
      sources: the cases.
      found: what their masks hold.
      options: classes and values, if they are declared.

    Returns:
      Classes and their values.

    Raises:
      ValueError: if it cannot be told, or what is declared does not fit.
    """
    counts: collections.Counter[int] = collections.Counter()
    for one in found:
        counts.update(one.values)
    present, classes, values = sorted(counts), options.classes, options.mask_values
    if present == [0]:
        raise ValueError("no mask has any foreground: all are 0 everywhere")
    if not values and len(classes) in (0, 2):
        jpeg = all(m.name.lower().endswith(JPEG) for source in sources for m in source.masks)
        if (jpeg or classes) and formats.is_lossy(counts):
            told = f"masks of {len(present)} grey values near 0 and 255, foreground above 127"
            return _labels(classes or _names(2), (), told)
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
            "give each class one value of its own, the background's first"
        )
    for source, one in zip(sources, found, strict=True):
        strange = [value for value in one.values if value not in values]
        if strange:
            raise ValueError(formats.unexpected(source.masks[0], strange, classes, values))
    many = "; if these number objects, make binary masks of them" if len(values) > FEW else ""
    return _labels(classes, values, f"masks of the values {listed(present)}{many}")


def _labels(classes: tuple[str, ...], values: tuple[int, ...], told: str) -> Labels:
    option = f"--config.folder.classes={','.join(classes)}"
    if values:
        option += f" --config.folder.mask_values='({','.join(map(str, values))})'"
    return Labels(classes, values, f"{told} ({option})")


def _names(count: int) -> tuple[str, ...]:
    if count == 2:
        return "background", "foreground"
    return ("background", *(f"class_{index}" for index in range(1, count)))


def _undeclared(counts: Mapping[int, int]) -> str:
    present = sorted(counts)
    found = f"the masks hold the values {listed(present)}, not 0, 1, 2, ... of at most {MOST} "
    if formats.is_lossy(counts):
        return (
            f"{found}classes. If each is the mask of one class that lossy compression has left "
            "grey, say so by --config.folder.classes=background,NAME; if they number objects, make "
            "binary masks of them"
        )
    if len(present) > MOST:
        return (
            f"{found}classes. So many are rather those of a picture or of numbered objects than of "
            "classes: make binary masks of them, or point --config.folder.masks at others"
        )
    hint = ""
    if present[-1] == 255:
        hint = "255 often marks what is to be ignored, which here has to be one of the classes. "
    return (
        f"{found}classes. {hint}Say which value each class has, the background's first: "
        f"--config.folder.mask_values='({','.join(map(str, present))})' "
        "--config.folder.classes=background,NAME,..."
    )


def _one_a_class(masks_of: Mapping[str, Mapping[str, File]], options: Options) -> Labels:
    """The classes of masks that have a file each."""
    there = sorted({name for masks in masks_of.values() for name in masks}, key=natural)
    there = [name for name in there if name.lower() != "background"]
    if options.mask_values:
        raise ValueError(
            "folder.mask_values is for masks that hold several classes in one file; here each "
            "class has a file of its own, so leave it out"
        )
    classes = options.classes or ("background", *there)
    unknown = [name for name in classes[1:] if name not in there]
    if unknown or len(set(classes)) < max(len(classes), 2) or classes[0] in there:
        raise ValueError(
            f"folder.classes is {listed(classes)} and there are masks of {listed(there)}; name a "
            "background first, then classes that have masks, each once"
        )
    return _labels(classes, (), "one mask a class")


def _check_pairs(what: str, one: Mapping, other: Mapping, template: str) -> None:
    missing = [case for case in one if case not in other]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(one)} {what}: {listed(missing)} ({template}); add what is "
            f"missing, take the others away, or set other templates, as in {_EXAMPLE}"
        )


def _check_templates(images: str, masks: str) -> None:
    for name, template, allowed in (
        ("images", images, {"{case}"}),
        ("masks", masks, {"{case}", "{class}"}),
    ):
        fields = set(re.findall(r"\{[^}]*\}?", template))
        if "{case}" not in fields or not fields <= allowed:
            raise ValueError(
                f"folder.{name} is {template!r}; it must have {{case}} where the case's name is"
                f"{', and {class} only if each class has a mask file' if name == 'masks' else ''}, "
                f"as in {_EXAMPLE}"
            )


def _holdings(files: Tree) -> str:
    """What there is, by folder and ending."""
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    for name in files:
        folder, _, base = name.rpartition("/")
        ending = re.search(r"(\.nii)?\.\w+$", base)
        alike = re.sub(r"\d+", "*", folder) or "."
        counts[alike, ending[0].lower() if ending else "no ending"] += 1
    if not counts:
        return "there are no files"
    return "there are " + listed(f"{n} {e} in {folder}" for (folder, e), n in counts.items())


def _count_pairs(files: Tree, images: str, masks: str) -> int:
    pictures, drawn = _split(files, images, masks)
    pattern = _compile(images)
    cases = {hit["case"] for name in pictures if (hit := pattern.search(name))}
    return len(cases & {case for case, _, _ in _hits(drawn, masks, cases)})


def _split(files: Tree, images: str, masks: str) -> tuple[Tree, Tree]:
    """The files that are images, and those that are masks.

    Those that both templates describe go to the one that says more: `a_mask.png` is of
    `{case}_mask.*`, not of `{case}.*`, and `images/a.png` of `images/*`, not of `{class}/{case}.*`.
    """
    patterns = _compile(images), _compile(masks)
    pictures, drawn = ({n: f for n, f in files.items() if p.search(n)} for p in patterns)
    if _said(images) > _said(masks):
        drawn = {name: file for name, file in drawn.items() if name not in pictures}
    else:
        pictures = {name: file for name, file in pictures.items() if name not in drawn}
    return pictures, drawn


def _said(template: str) -> int:
    return len(re.sub(r"\{\w+\}|\*", "", template))


def _hits(files: Tree, template: str, cases: Container[str]) -> Iterator[tuple[str, str, File]]:
    """Case, class and file of every mask.

    In `a_left_kidney` the class may be `left_kidney`: of the ways to part a name, the one with the
    longest known case is taken.
    """
    words = range(5 if "{class}" in template else 1)
    patterns = [_compile(template, rf"[^/_]+(?:_[^/_]+){{{more}}}") for more in words]
    for file in files.values():
        hits = [hit for pattern in patterns if (hit := pattern.search(file.name))]
        if hits:
            hit = next((hit for hit in hits if hit["case"] in cases), hits[0])
            yield hit["case"], hit.groupdict().get("class", ""), file


def _masks(files: Tree, template: str, cases: Container[str]) -> dict[str, dict[str, File]]:
    """Masks by case, then by class; the one class is "" where a case has one mask."""
    by_class: dict[str, dict[str, File]] = collections.defaultdict(dict)
    for _, name, file in _hits(files, template, cases):
        by_class[name][file.name] = file
    masks: dict[str, dict[str, File]] = collections.defaultdict(dict)
    for name, drawn in by_class.items():
        for case, file in match(drawn, _pattern(template, re.escape(name))).items():
            masks[case][name] = file
    return {case: masks[case] for case in sorted(masks, key=natural)}


def _compile(template: str, name: str = "[^/]+") -> re.Pattern[str]:
    return re.compile(rf"(?:^|/){_pattern(template, name)}$", re.IGNORECASE)


def _pattern(template: str, name: str = "[^/]+") -> str:
    """The regular expression of a template, given that of a class's name."""
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
