"""Which image goes with which mask; what is missing is told in one way for all sets."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

from dicepp_jax.data import readers
from dicepp_jax.data.builder import Case, Example
from dicepp_jax.data.files import File, Tree
from dicepp_jax.spec import Spec
from dicepp_jax.wording import listed

PACKED = (".rar", ".7z", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
"""Archives that are not looked into."""


class Kind(NamedTuple):
    """One of the files that every case has.

    Attributes:
      name: what it is: "image", "mask".
      path: what it is called, with {} for the case: "GT/{}.png".
      found: those there are, by case.
    """

    name: str
    path: str
    found: Mapping[str, File]


def check(spec: Spec, files: Tree, first: Kind, *others: Kind) -> list[str]:
    """The cases, after making sure that each has a file of every kind.

    Args:
      spec: the set.
      files: what was looked through.
      first: the kind that says which cases there are and in which order, the images.
      *others: what goes with it.

    Returns:
      The cases of `first`.

    Raises:
      FileNotFoundError: if nothing was found or a case lacks a file.
    """
    if not any(kind.found for kind in (first, *others)):
        packed = next((f for f in files.values() if f.name.lower().endswith(PACKED)), None)
        if packed is not None:
            raise FileNotFoundError(
                f"{spec.title}: {packed} must be unpacked first, with `unar` or 7-Zip. "
                f"{spec.obtain}"
            )
        names = " and ".join(kind.path.format("*") for kind in (first, *others))
        raise FileNotFoundError(
            f"{spec.title}: of {len(files)} files none is named as {names}. {spec.obtain}"
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
            f"{listed(map(other.path.format, without))}. The set looks half unpacked: unpack "
            f"or download it again. {spec.obtain}"
        )


def cases(spec: Spec, files: Tree, images: Kind, masks: Kind) -> list[Case]:
    """The cases of a set that has one colour image and one binary mask for each.

    Args:
      spec: the set.
      files: what was looked through.
      images: the images, in the set's order.
      masks: the masks.

    Returns:
      Cases in the order of the images.

    Raises:
      FileNotFoundError: as `check`.
    """
    return [
        Case(case, functools.partial(_read, *pair), pair)
        for case in check(spec, files, images, masks)
        for pair in [(images.found[case], masks.found[case])]
    ]


def _read(image: File, mask: File) -> Example:
    return Example(readers.read_rgb(image), readers.read_mask(mask))
