"""nnU-Net's raw layout, versions 1 and 2.

`dataset.json` names channels and labels; `imagesTr/CASE_0000.nii.gz` is the first channel of a
case, `labelsTr/CASE.nii.gz` its label map. Two variants are supported: colour images whose single
file `CASE_0000.png` has red, green and blue, and single-channel images `imagesTr/CASE.nii.gz`, as
in the Medical Segmentation Decathlon. Cases of `imagesTs` with labels in `labelsTs` are for
testing; others are ignored. `file_ending` defaults to .nii.gz.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dicepp_jax import names
from dicepp_jax.data.files import File, Tree, match, natural
from dicepp_jax.data.formats import ENDINGS, CaseFiles, LabelEncoding
from dicepp_jax.data.survey import CaseListing, Options
from dicepp_jax.wording import listed

DESCRIPTION = "dataset.json"
TRAINING, TEST = ("imagesTr", "labelsTr"), ("imagesTs", "labelsTs")


def is_present(files: Tree) -> bool:
    """Whether there is a `dataset.json` with labels in it or a folder `imagesTr` next to it.

    Raises:
      ValueError: if one is not valid JSON.
    """
    return any(
        "labels" in _load(files[name]) or _below(files, _folder(name) + TRAINING[0] + "/")
        for name in _descriptions(files)
    )


def find_cases(files: Tree, options: Options) -> CaseListing:
    """The cases of a set in nnU-Net's raw layout.

    Args:
      files: all files.
      options: classes and mask values must be empty, since `dataset.json` defines them.

    Returns:
      Training cases, then test cases, in natural order of their names.

    Raises:
      FileNotFoundError: if an image, a channel or a label map is missing.
      ValueError: if `dataset.json` is invalid or cannot be used.
    """
    descriptions = _descriptions(files)
    if len(descriptions) > 1:
        raise ValueError(
            f"there are {len(descriptions)} {DESCRIPTION} files: {listed(descriptions)}; set "
            "--config.data.manual_dir to a folder that contains only one"
        )
    file = files[descriptions[0]]
    if options.classes or options.mask_values:
        raise ValueError(
            f"folder.classes and folder.mask_values must be empty, because {file} defines the "
            "labels; omit them, or edit that file"
        )
    content = _load(file)
    encoding, channels = _label_encoding(file, content), _channels(file, content)
    ending = str(content.get("file_ending", ".nii.gz"))
    if ending.lower().removeprefix(".") not in ENDINGS:
        raise ValueError(
            f"{file} has file_ending {ending!r}, expected one of {', '.join(ENDINGS)}; convert the "
            "files, for example to .nii.gz"
        )
    below = _folder(file.name)
    cases = _cases(files, below, TRAINING, ending, channels, None)
    if _below(files, f"{below}{TEST[1]}/"):
        test = _cases(files, below, TEST, ending, channels, "test")
        known = {case.id for case in cases}
        both = [case.id for case in test if case.id in known]
        if both:
            raise ValueError(
                f"cases in both {TRAINING[0]} and {TEST[0]} ({len(both)}): {listed(both)}; remove "
                "each from one of them"
            )
        cases += test
    return CaseListing(tuple(cases), f"nnU-Net, described by {file}", encoding, channels)


def _descriptions(files: Tree) -> list[str]:
    return [name for name in files if name.rpartition("/")[2] == DESCRIPTION]


def _folder(name: str) -> str:
    return name.removesuffix(DESCRIPTION)


def _below(files: Tree, folder: str) -> bool:
    return any(name.startswith(folder) for name in files)


def _load(file: File) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON ({error}); correct it") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{file} contains a {type(content).__name__}, expected an object such as "
            '{"channel_names": ..., "labels": ...}; correct it'
        )
    return content


def _label_encoding(file: File, content: Mapping[str, Any]) -> LabelEncoding:
    given = content.get("labels")
    remedy = 'expected "labels": {"background": 0, "NAME": 1, ...}'
    if not isinstance(given, dict) or not given:
        raise ValueError(f"{file} has no labels, {remedy}")
    if all(str(key).isdigit() for key in given):  # Version 1 maps values to names.
        given = {str(name): value for value, name in given.items()}
    regions = [name for name, value in given.items() if isinstance(value, list)]
    if regions:
        raise ValueError(
            f"{file} has regions, which are labels with several values: {listed(regions)}; softmax "
            f"classes cannot overlap, so list each value of the label maps once, {remedy}"
        )
    if "ignore" in given:
        raise ValueError(
            f"{file} has an ignore label, {given['ignore']}, but all voxels are used in training; "
            "assign a class such as the background to these voxels in the label maps, and remove "
            "the label"
        )
    try:
        classes = {int(value): name for name, value in given.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} has labels that are not numbers, {given}; {remedy}") from error
    for name in classes.values():
        names.check(name, f"{file}: the label")
    values = tuple(sorted(classes))
    if values[0] != 0 or len(values) != len(given) or len(values) < 2:
        raise ValueError(
            f"{file} has the labels {given}; they need 0 for the background, at least one more "
            f"value, and no value twice, {remedy}"
        )
    return LabelEncoding(tuple(classes[value] for value in values), values, f"as in {file}")


def _channels(file: File, content: Mapping[str, Any]) -> tuple[str, ...]:
    given = content.get("channel_names", content.get("modality"))
    if (
        not isinstance(given, dict)
        or set(given) != {str(n) for n in range(len(given))}
        or not given
    ):
        raise ValueError(
            f"{file} has {'no' if given is None else 'invalid'} channel_names (modality in version "
            '1), expected "channel_names": {"0": "CT"} or {"0": "T1", "1": "T2", ...}'
        )
    channels = tuple(str(given[str(number)]) for number in range(len(given)))
    for channel in channels:
        names.check(channel, f"{file}: the channel")
    return channels


def _cases(
    files: Tree,
    below: str,
    folders: tuple[str, str],
    ending: str,
    channels: Sequence[str],
    part: str | None,
) -> list[CaseFiles]:
    """The cases in a pair of folders."""
    images, labels = folders

    def named(folder: str, number: str = "") -> dict[str, File]:
        start = re.escape(f"{below}{folder}/")
        return match(files, rf"{start}(?P<case>[^/]+){number}{re.escape(ending)}")

    maps = named(labels)
    found = [named(images, f"_{number:04d}") for number in range(len(channels))]
    if len(channels) == 3 and found[0] and not (found[1] or found[2]) and ".nii" not in ending:
        found = found[:1]  # A colour image.
    if len(channels) == 1 and not found[0]:
        found = [named(images)]
    cases = sorted({case for channel in found for case in channel}, key=natural)
    if not cases or not maps:
        empty = f"{images}/CASE_0000{ending}" if not cases else f"{labels}/CASE{ending}"
        raise FileNotFoundError(
            f"none of the {len(files)} files matches {below}{empty}; check file_ending in "
            f"{below}{DESCRIPTION}"
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
            f"missing files ({len(missing)}): {listed(missing)}; add them, or remove the other "
            "files of these cases"
        )
    return [
        CaseFiles(case, tuple(channel[case] for channel in found), (maps[case],), part)
        for case in cases
    ]
