"""Templates of file names, such as `images/{case}.*` and `masks/{class}/{case}_mask{number}.png`.

`{case}` is the name of a case, `{class}` that of a class and `{rater}` that of a rater; none
contains a "/". `{number}` stands for a number with what separates it from the name, as in `_1`,
`-02` or ` (3)`, or for nothing. `*` matches anything and, at the end, any of `ENDINGS`. Templates
are matched case-insensitively against the end of a file's path, from the start of one of its parts.
"""

import re
from collections.abc import Container, Iterator
from typing import NamedTuple

from dicepp_jax.data.files import File, Tree
from dicepp_jax.data.formats import ENDINGS

NUMBER = r"(?:[ _.-]*\(\d+\)|[ _.-]+\d+)"
"""A number after a name, which may itself end in digits."""
SUFFIX = r"(?:[ _.-]*\(\d+\)|[ _.-]*\d+)"
"""A number after the text of a template, as in `_mask1`."""
OPTIONAL, REQUIRED, ABSENT = "?", "{1}", "{0}"
"""How often `{number}` occurs, as quantifiers of regular expressions."""

LABELS = ("{class}", "{rater}")
"""The fields for the label of a mask, of which a template has at most one."""

OPENING = {")": "(", "]": "["}


class Mask(NamedTuple):
    """A file that matches the template of masks.

    Attributes:
      case: the case that it belongs to.
      label: the name of its class or rater, "" if the template has no `{class}` or `{rater}`.
      name: the part of the file's name that the template describes.
      file: the file.
    """

    case: str
    label: str
    name: str
    file: File


def regex(template: str, label: str = "[^/]+", number: str = OPTIONAL) -> str:
    """The regular expression of a template, with the groups `case` and `class` or `rater`.

    A bracket that closes after `{case}` belongs to the case's name if it does not open before it:
    of `a (1).png` the template `{case}).png` makes the case `a (1)`.

    Args:
      template: the template.
      label: the regular expression of a class's or rater's name.
      number: how often `{number}` occurs.
    """
    stem, pattern, before = template.removesuffix(".*"), "", ""
    for part in re.split(r"(\{case\}[)\]]?|\{class\}|\{rater\}|\{number\}|\*)", stem):
        field = part.rstrip(")]")
        if field in ("{case}", *LABELS):
            group, bracket = field.strip("{}"), part[len(field) :]
            inside = "[^/]+" if group == "case" else label
            if bracket and OPENING[bracket] not in before.rpartition("/")[2]:
                inside, bracket = inside + re.escape(bracket), ""
            again = f"(?P<{group}>" in pattern
            pattern += f"(?P={group})" if again else f"(?P<{group}>{inside})"
            pattern += re.escape(bracket)
        elif part == "{number}":
            pattern += (NUMBER if before.endswith("}") else SUFFIX) + number
        else:
            pattern += "[^/]*" if part == "*" else re.escape(part)
        before += part
    endings = "|".join(map(re.escape, ENDINGS))
    return pattern if stem == template else rf"{pattern}\.(?:{endings})"


def compiled(template: str, label: str = "[^/]+", number: str = OPTIONAL) -> re.Pattern[str]:
    """`regex`, compiled to be searched for in a file's name."""
    return re.compile(rf"(?:^|/)(?P<name>{regex(template, label, number)})$", re.IGNORECASE)


def split(files: Tree, images: str, masks: str) -> tuple[Tree, Tree]:
    """The files that are images, and those that are masks.

    A file that matches both templates belongs to the more specific one: `a_mask.png` to
    `{case}_mask.*`, not to `{case}.*`, and `images/a.png` to `images/*`, not to `{class}/{case}.*`.
    """
    patterns = compiled(images), compiled(masks)
    image_files, mask_files = ({n: f for n, f in files.items() if p.search(n)} for p in patterns)
    if _specificity(images) > _specificity(masks):
        mask_files = {name: file for name, file in mask_files.items() if name not in image_files}
    else:
        image_files = {name: file for name, file in image_files.items() if name not in mask_files}
    return image_files, mask_files


def _specificity(template: str) -> int:
    return len(re.sub(r"\{\w+\}|\*", "", template))


def image_cases(files: Tree, template: str) -> set[str]:
    """The names of the cases of image files."""
    pattern = compiled(template)
    return {hit["case"].strip() for name in files if (hit := pattern.search(name))}


def parse_masks(files: Tree, template: str, cases: Container[str]) -> Iterator[Mask]:
    """What every mask file belongs to.

    In `a_left_kidney` the class may be `left_kidney`, and `a_1` may be the mask of the case `a_1`
    or one of several of the case `a`: of all ways to divide a name, the one with the longest known
    case is used. In `a_cyst_1` the number counts masks if the template says `{class}{number}`.

    Args:
      files: the files that match the template.
      template: of the masks.
      cases: the cases that have an image.
    """
    numbers: tuple[str, ...] = (ABSENT,)
    if "{number}" in template:
        after_label = any(f"{label}{{number}}" in template for label in LABELS)
        numbers = (REQUIRED, ABSENT) if after_label else (ABSENT, REQUIRED)
    words = range(5 if any(label in template for label in LABELS) else 1)
    patterns = [
        compiled(template, rf"[^/_]+(?:_[^/_]+){{{more}}}", number)
        for more in words
        for number in numbers
    ]
    for file in files.values():
        hits = [hit for pattern in patterns if (hit := pattern.search(file.name))]
        if hits:
            hit = next((hit for hit in hits if hit["case"].strip() in cases), hits[0])
            groups = hit.groupdict()
            case = groups["case"].strip()
            if "{case}*" in template:
                case = _known_beginning(case, cases)
            label = groups.get("class") or groups.get("rater") or ""
            yield Mask(case, label, groups["name"], file)


def _known_beginning(name: str, cases: Container[str]) -> str:
    """The longest known case that a name begins with, up to the end of a word; else the name."""
    ends = [len(name), *(hit.start() for hit in reversed([*re.finditer(r"[\W_]", name)]))]
    known = (name[:end].strip() for end in ends if name[:end].strip() in cases)
    return next(known, name)


def unites(template: str) -> bool:
    """Whether several files may match for one case, whose masks are then united."""
    return "{number}" in template or "*" in template.removesuffix(".*")


def numbered(template: str) -> str:
    """The template that also matches masks whose names end in a number.

    Example:
      >>> numbered("masks/{case}.*"), numbered("{case}_mask.nii.gz")
      ('masks/{case}{number}.*', '{case}_mask{number}.nii.gz')
    """
    return re.sub(r"(\.nii\.gz|\.[^./{}]*|)$", r"{number}\1", template, count=1)
