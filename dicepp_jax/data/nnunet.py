"""nnU-Net's raw layout, of its first and second version.

`dataset.json` names channels and labels; `imagesTr/CASE_0000.nii.gz` is the first channel of a
case, `labelsTr/CASE.nii.gz` its label map. Two more forms are read: a picture whose one file
`CASE_0000.png` has red, green and blue, and, where there is one channel, `imagesTr/CASE.nii.gz`, as
the Medical Segmentation Decathlon has it. Cases of `imagesTs` that have labels in `labelsTs` are
for testing; others are passed over. `file_ending` is .nii.gz unless it is given.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dicepp_jax.data.files import File, Tree, match, natural
from dicepp_jax.data.formats import ENDINGS, Labels, Source
from dicepp_jax.data.survey import Listing, Options
from dicepp_jax.wording import listed

DESCRIPTION = "dataset.json"
TRAINING, TEST = ("imagesTr", "labelsTr"), ("imagesTs", "labelsTs")


def is_here(files: Tree) -> bool:
    """Whether there is a `dataset.json`, and labels in it or an `imagesTr` beside it.

    Raises:
      ValueError: if there is one that is broken.
    """
    return any(
        "labels" in _load(files[name]) or _below(files, _folder(name) + TRAINING[0] + "/")
        for name in _descriptions(files)
    )


def find(files: Tree, options: Options) -> Listing:
    """The cases of a set in nnU-Net's raw layout.

    Args:
      files: where to look.
      options: of which classes and values cannot be set, as `dataset.json` says them.

    Returns:
      Training cases, then test cases, in natural order of their names.

    Raises:
      FileNotFoundError: if an image, a channel or a label map is missing.
      ValueError: if `dataset.json` cannot be used.
    """
    descriptions = _descriptions(files)
    if len(descriptions) > 1:
        raise ValueError(
            f"there are {len(descriptions)} {DESCRIPTION}: {listed(descriptions)}; give the folder "
            "that holds only one as --config.data.manual_dir"
        )
    file = files[descriptions[0]]
    if options.classes or options.mask_values:
        raise ValueError(
            f"folder.classes and folder.mask_values cannot be set, as {file} has the labels; leave "
            "them out, or change that file"
        )
    about = _load(file)
    labels, channels = _labels(file, about), _channels(file, about)
    ending = str(about.get("file_ending", ".nii.gz"))
    if ending.lower().removeprefix(".") not in ENDINGS:
        raise ValueError(
            f"{file} has file_ending {ending!r}, and what can be read is {', '.join(ENDINGS)}; "
            "convert the files, such as to .nii.gz"
        )
    below = _folder(file.name)
    sources = _sources(files, below, TRAINING, ending, channels, None)
    if _below(files, f"{below}{TEST[1]}/"):
        test = _sources(files, below, TEST, ending, channels, "test")
        names = {source.id for source in sources}
        both = [source.id for source in test if source.id in names]
        if both:
            raise ValueError(
                f"{len(both)} cases are in {TRAINING[0]} and in {TEST[0]}: {listed(both)}; leave "
                "each in one of them"
            )
        sources += test
    return Listing(tuple(sources), f"nnU-Net's, of {file}", labels, channels)


def _descriptions(files: Tree) -> list[str]:
    return [name for name in files if name.rpartition("/")[2] == DESCRIPTION]


def _folder(name: str) -> str:
    return name.removesuffix(DESCRIPTION)


def _below(files: Tree, folder: str) -> bool:
    return any(name.startswith(folder) for name in files)


def _load(file: File) -> Mapping[str, Any]:
    try:
        about = json.loads(file.read())
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}); correct it") from error
    if not isinstance(about, dict):
        raise ValueError(f"{file} holds a {type(about).__name__}, expected names and values")
    return about


def _labels(file: File, about: Mapping[str, Any]) -> Labels:
    given = about.get("labels")
    remedy = 'expected "labels": {"background": 0, "NAME": 1, ...}'
    if not isinstance(given, dict) or not given:
        raise ValueError(f"{file} has no labels, {remedy}")
    if all(str(key).isdigit() for key in given):  # The first version has it the other way round.
        given = {str(name): value for value, name in given.items()}
    regions = [name for name, value in given.items() if isinstance(value, list)]
    if regions:
        raise ValueError(
            f"{file} has regions, labels of several values: {listed(regions)}; classes of a "
            f"softmax do not overlap, so name each value of the label maps once, {remedy}"
        )
    if "ignore" in given:
        raise ValueError(
            f"{file} has an ignore label, {given['ignore']}; every voxel is trained on, so give "
            "those voxels a class in the label maps, such as the background's, and take the label "
            "out"
        )
    try:
        classes = {int(value): name for name, value in given.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} has labels that are no numbers, {given}; {remedy}") from error
    values = tuple(sorted(classes))
    if values[0] != 0 or len(values) != len(given) or len(values) < 2:
        raise ValueError(
            f"{file} has the labels {given}, which need 0 for the background, one more, and each "
            f"value once; {remedy}"
        )
    return Labels(tuple(classes[value] for value in values), values, f"as {file} says")


def _channels(file: File, about: Mapping[str, Any]) -> tuple[str, ...]:
    given = about.get("channel_names", about.get("modality"))
    if (
        not isinstance(given, dict)
        or set(given) != {str(n) for n in range(len(given))}
        or not given
    ):
        raise ValueError(
            f"{file} has {'no' if given is None else 'unusable'} channel_names (modality in the "
            'first version), expected "channel_names": {"0": "CT"} or {"0": "T1", "1": "T2", ...}'
        )
    return tuple(str(given[str(number)]) for number in range(len(given)))


def _sources(
    files: Tree,
    below: str,
    folders: tuple[str, str],
    ending: str,
    channels: Sequence[str],
    part: str | None,
) -> list[Source]:
    """The cases of a pair of folders."""
    images, labels = folders

    def named(folder: str, number: str = "") -> dict[str, File]:
        start = re.escape(f"{below}{folder}/")
        return match(files, rf"{start}(?P<case>[^/]+){number}{re.escape(ending)}")

    maps = named(labels)
    found = [named(images, f"_{number:04d}") for number in range(len(channels))]
    if len(channels) == 3 and found[0] and not (found[1] or found[2]) and ".nii" not in ending:
        found = found[:1]  # A picture in colour.
    if len(channels) == 1 and not found[0]:
        found = [named(images)]
    cases = sorted({case for channel in found for case in channel}, key=natural)
    if not cases or not maps:
        empty = f"{images}/CASE_0000{ending}" if not cases else f"{labels}/CASE{ending}"
        raise FileNotFoundError(
            f"there is no {below}{empty} among the {len(files)} files; file_ending in "
            f"{below}{DESCRIPTION} says how they end"
        )
    missing = [
        f"{images}/{case}_{number:04d}{ending} ({channels[number]})"
        for case in cases
        for number, channel in enumerate(found)
        if case not in channel
    ]
    missing += [f"{labels}/{case}{ending}" for case in cases if case not in maps]
    missing += [f"{images}/{case}_0000{ending}" for case in maps if case not in cases]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} missing: {listed(missing)}; add them, or take the other "
            "files of these cases away"
        )
    return [
        Source(case, tuple(channel[case] for channel in found), (maps[case],), part)
        for case in cases
    ]
