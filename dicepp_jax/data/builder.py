"""One tfds builder for every set: a `Spec` says what it is, a function lists its cases.

TensorFlow is not needed: features are zlib-compressed tensors, files are array_record, and sets
are read through `as_data_source`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from dicepp_jax.data.specs import Spec


class Example(NamedTuple):
    """A case in memory.

    Attributes:
      image: `(*spatial, channels)`.
      label: `(*spatial)` classes, uint8.
      region: `(*spatial)` 0 or 1, uint8, for sets with a `Spec.region`; else None.
    """

    image: np.ndarray
    label: np.ndarray
    region: np.ndarray | None = None


class Case(NamedTuple):
    """A case not yet read: its name and the function that reads it."""

    id: str
    read: Callable[[], Example]


ListCases = Callable[[Path | None], dict[str, list[Case]]]
"""From the manual directory to the cases of each split; sets that are drawn ignore it."""


class SegmentationBuilder(  # type: ignore[call-arg]
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """What the builders share; `make_builder` fills in the rest."""

    spec: Spec
    list_cases: Callable[[], dict[str, list[Case]]]

    def _info(self) -> tfds.core.DatasetInfo:
        spec = self.spec
        spatial = (None,) * spec.ndim
        features: dict[str, Any] = {
            "id": tfds.features.Text(),
            "image": _tensor((*spatial, spec.channels), spec.dtype),
            "label": _tensor(spatial, "uint8"),
        }
        if spec.region:
            features["region"] = _tensor(spatial, "uint8")
        return self.dataset_info_from_configs(
            description=f"{spec.title}: {', '.join(spec.classes)}.",
            features=tfds.features.FeaturesDict(features),
            homepage=spec.homepage,
            license=spec.licence,
            citation=spec.citation,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # Nothing is downloaded, and the manual directory is ours to explain.
        return {split: self._generate_examples(cases) for split, cases in self.list_cases().items()}

    def _generate_examples(self, cases: list[Case]) -> Iterator[tuple[str, dict[str, Any]]]:
        for case in cases:
            example = case.read()
            check_example(self.spec, case.id, example)
            # A set without a region has no such feature, and its examples hold None for it.
            arrays = {k: v for k, v in example._asdict().items() if v is not None}
            yield case.id, {"id": case.id, **arrays}


def _tensor(shape: tuple[int | None, ...], dtype: str) -> tfds.features.Tensor:
    return tfds.features.Tensor(shape=shape, dtype=np.dtype(dtype), encoding="zlib")


def check_example(spec: Spec, case: str, example: Example) -> None:
    """Refuse a case whose arrays do not fit together or cannot be trained on.

    Raises:
      ValueError: naming the case, what was found and what was expected.
    """
    image, label, region = example
    where = f"{spec.title} case {case}"
    if image.ndim != spec.ndim + 1 or image.shape[-1] != spec.channels:
        raise ValueError(
            f"{where}: image has shape {image.shape}, expected {spec.ndim} spatial axes and "
            f"{spec.channels} channels"
        )
    for name, array in (("label", label), ("region", region)):
        if array is not None and array.shape != image.shape[:-1]:
            raise ValueError(
                f"{where}: {name} has shape {array.shape} and the image {image.shape[:-1]}; "
                "they must be of one size"
            )
    if label.max() >= len(spec.classes):
        raise ValueError(
            f"{where}: label value {label.max()} is none of the {len(spec.classes)} classes "
            f"{', '.join(spec.classes)}"
        )
    if image.min() == image.max():
        raise ValueError(f"{where}: the image is {image.min()} everywhere, so it shows nothing")


def make_builder(
    spec: Spec, list_cases: ListCases, data_dir: str | None, manual_dir: Path | None
) -> SegmentationBuilder:
    """The tfds builder of a set.

    Args:
      spec: its facts.
      list_cases: lists its cases.
      data_dir: where tfds keeps prepared sets, None for its default.
      manual_dir: where the user put the set's files, None if there are none.

    Returns:
      A builder; `download_and_prepare` has not been called.
    """
    name = "".join(part.capitalize() for part in spec.name.split("_"))
    attributes = {
        "name": spec.name,
        "VERSION": tfds.core.Version(spec.version),
        "spec": spec,
        "list_cases": lambda self: list_cases(manual_dir),
        "__module__": __name__,
    }
    builder = type(name, (SegmentationBuilder,), attributes, skip_registration=True)
    return builder(data_dir=data_dir, file_format="array_record")
