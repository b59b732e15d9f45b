"""Which image belongs to which mask, with the same error messages for all sets."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

from dicepp_jax.data import readers
from dicepp_jax.data.builder import Case, Example
from dicepp_jax.data.files import File, Tree
from dicepp_jax.spec import Spec
from dicepp_jax.wording import listed

PACKED = (".rar", ".7z", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
"""Archives that cannot be read."""


class Kind(NamedTuple):
    """A kind of file of which every case has one.

    Attributes:
      name: what it is: "image", "mask".
      path: its path, with {} for the case: "GT/{}.png".
      found: the existing files, by case.
    """

    name: str
    path: str
    found: Mapping[str, File]


def check(spec: Spec, files: Tree, first: Kind, *others: Kind) -> list[str]:
    """List the cases, after checking that each has a file of every kind.

    Args:
      spec: of the set.
      files: all files.
      first: the kind that defines the cases and their order, the images.
      *others: the other kinds.

    Returns:
      The cases of `first`.

    Raises:
      FileNotFoundError: if nothing was found or a case lacks a file.
    """
    if not any(kind.found for kind in (first, *others)):
        packed = next((f for f in files.values() if f.name.lower().endswith(PACKED)), None)
        if packed is not None:
            raise FileNotFoundError(
                f"{spec.title}: {packed} cannot be read; unpack it first, with `unar` or 7-Zip. "
                f"{spec.obtain}"
            )
        names = " and ".join(kind.path.format("*") for kind in (first, *others))
        raise FileNotFoundError(
            f"{spec.title}: none of the {len(files)} files matches {names}. {spec.obtain}"
        )
    for other in others:
        _check_each_has(spec, first, other)
        _check_each_has(spec, other, first)
    return list(first.found)


def _check_each_has(spec: Spec, kind: Kind, other: Kind) -> None:
    without = [case for case in kind.found if case not in other.found]
    if without:
        raise FileNotFoundError(
            f"{spec.title}: {kind.name} without {other.name}: {len(without)} of "
            f"{len(kind.found)}, such as {kind.found[without[0]]}; missing: "
            f"{listed(map(other.path.format, without))}. The set seems to be incomplete: unpack "
            f"or download it again. {spec.obtain}"
        )


def cases(spec: Spec, files: Tree, images: Kind, masks: Kind) -> list[Case]:
    """The cases of a set that consist of one colour image and one binary mask.

    Args:
      spec: of the set.
      files: all files.
      images: the images, in the set's order.
      masks: the masks.

    Returns:
      Cases in the order of the images.

    Raises:
      FileNotFoundError: as for `check`.
    """
    return [
        Case(case, functools.partial(_read, *pair), pair)
        for case in check(spec, files, images, masks)
        for pair in [(images.found[case], masks.found[case])]
    ]


def _read(image: File, mask: File) -> Example:
    return Example(readers.read_rgb(image), readers.read_mask(mask))
