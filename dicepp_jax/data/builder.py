"""The tfds builder of every data set: a `Spec` describes the set, a function lists its cases.

TensorFlow is not needed: features are tensors stored as bytes, files are array_record (which
compresses them), and sets are read through `as_data_source`. Cases are written in order, shard by
shard, because tfds's shuffling builder holds at most 1 GB in memory and needs TensorFlow beyond
that. All cases form one tfds split; train, validation and test are chosen when they are read, so a
different split needs no second copy.
"""

import collections
import datetime
import hashlib
import itertools
import json
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from dicepp_jax.data import files as files_lib
from dicepp_jax.data.files import File, Tree
from dicepp_jax.progress import track
from dicepp_jax.spec import Spec
from dicepp_jax.wording import by, listed

ALL = "cases"
"""The name of the one tfds split."""

FILE_FORMAT = "array_record"

FORMAT = 3
"""Version of the metadata stored with the cases; sets stored with another are prepared again."""

READERS = 4
SHARD = {2: 16, 3: 1}
"""Cases per file, by the number of spatial axes: as many as may be in memory at once."""

ARRAYS = ("image", "label", "region", "native_label", "raters")
"""The fields of an `Example` that are stored."""

SHOWN = 10
"""How many invalid cases an error message lists; the others are only counted."""


class Example(NamedTuple):
    """A case in memory.

    Attributes:
      image: `(*spatial, channels)`.
      label: `(*spatial)` classes, uint8.
      region: `(*spatial)` 0 or 1, uint8, for sets with a `Spec.region`; else None.
      native_label: for sets with a `Spec.spacing`, whose image and label are resampled: the
        `(*native)` classes, uint8, on the grid that predictions are scored on; else None.
      spacing: mm between the voxels of the native grid, None if unknown.
      notes: anything unusual that was found when it was read.
      raters: for sets with `Spec.raters`: the `(raters, *native)` classes of each rater, uint8, the
        first of which are the truth; else None.
    """

    image: np.ndarray
    label: np.ndarray
    region: np.ndarray | None = None
    native_label: np.ndarray | None = None
    spacing: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()
    raters: np.ndarray | None = None


class Case(NamedTuple):
    """A case not yet read.

    Attributes:
      id: its name.
      read: reads it.
      files: the files it is read from; empty if it is synthetic.
      part: train, validation or test, if the publisher of the set fixes it; else None.
      group: cases of one group, such as the frames of a video, are near-duplicates; None for a
        case without near-duplicates.
      how: what the result depends on besides the files and the set's `Spec`; None for nothing.
    """

    id: str
    read: Callable[[], Example]
    files: tuple[File, ...] = ()
    part: str | None = None
    group: str | None = None
    how: Hashable = None


ListCases = Callable[[Tree], Sequence[Case]]
"""From the available files to the cases, in order; synthetic sets ignore the files."""


class DataSet(NamedTuple):
    """A set's `Spec` and the function that lists its cases."""

    spec: Spec
    list_cases: ListCases

    def cases_in(self, root: Path) -> Sequence[Case]:
        """List the cases found in a folder or archive.

        Raises:
          FileNotFoundError: if files are missing.
          ValueError: if files cannot be used.
        """
        tree = files_lib.tree(root)
        try:
            return self.list_cases(tree)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"In {root}: {error}") from error


class Facts(NamedTuple):
    """What is known about a stored case without reading it.

    Attributes:
      id: its name.
      part: as in `Case`.
      group: as in `Case`.
      shape: native spatial size.
      spacing: mm between native voxels, or None.
      voxels: native voxels of each class.
      digest: of the stored image, equal for equal images.
      label_digest: of the native label.
      notes: anything unusual about it that does not prevent its use.
      raters: how many raters labelled it.
    """

    id: str
    part: str | None
    group: str | None
    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None
    voxels: tuple[int, ...]
    digest: str
    label_digest: str
    notes: tuple[str, ...]
    raters: int = 1


class Origin(NamedTuple):
    """Where and when a set was prepared.

    Attributes:
      folder: the folder or archive of its files; None for a drawn set, or one that was prepared
        before this was recorded.
      date: when, in UTC; None if it was not recorded.
      fingerprint: of its files and the way they were read.
    """

    folder: str | None = None
    date: str | None = None
    fingerprint: str | None = None


class SegmentationBuilder(  # type: ignore[call-arg]
    tfds.core.ShardBasedBuilder, skip_registration=True
):
    """Stores the cases of a set; subclasses define which set, and where its cases come from."""

    spec: Spec

    def cases(self, dl_manager: tfds.download.DownloadManager) -> Sequence[Case]:
        """The cases to store, in their order."""
        raise NotImplementedError

    def source_folder(self, dl_manager: tfds.download.DownloadManager) -> Path | None:
        """The folder or archive of its files, None for a drawn set."""
        raise NotImplementedError

    def origin(self) -> Origin:
        """Where and when the stored cases were prepared."""
        known = self.info.metadata
        return Origin(*(known.get(name) for name in Origin._fields))

    def stored_facts(self) -> list[Facts]:
        """What is known about the stored cases, in their order."""
        known = [Facts(**case) for case in self.info.metadata["cases"]]
        return [
            case._replace(
                shape=tuple(case.shape),
                spacing=case.spacing and tuple(case.spacing),
                voxels=tuple(case.voxels),
                notes=tuple(case.notes),
            )
            for case in known
        ]

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
        if spec.spacing:
            features["native_label"] = _tensor(spatial, "uint8")
        if spec.raters and not self._lacks_raters():
            features["raters"] = _tensor((None, *spatial), "uint8")
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{spec.title}: {', '.join(spec.classes)}.",
            features=tfds.features.FeaturesDict(features),
            homepage=spec.homepage,
            license=spec.licence,
            citation=spec.citation,
            supervised_keys=("image", "label"),
            metadata=tfds.core.MetadataDict(),
        )

    def _lacks_raters(self) -> bool:
        """Whether there is a copy, prepared by a version that stored no raters."""
        stored = Path(self.data_path) / "features.json"
        return (
            stored.exists()
            and "raters" not in json.loads(stored.read_text())["featuresDict"]["features"]
        )

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> Any:
        cases = self.cases(dl_manager)
        folder = self.source_folder(dl_manager)
        origin = Origin(
            folder=None if folder is None else str(folder.absolute()),
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            fingerprint=fingerprint(self.spec, cases),
        )
        self.info.metadata.update(format=FORMAT, **origin._asdict())
        facts: list[Facts] = []
        examples = self._examples(cases, facts)
        size = SHARD[self.spec.ndim]
        # tfds writes one shard after another, so each continues where the previous one stopped;
        # the last one exhausts the examples, which raises the error about invalid cases.
        shards = [lambda: itertools.islice(examples, size)] * ((len(cases) - 1) // size)
        return {ALL: [*shards, lambda: examples]}

    def _examples(
        self, cases: Sequence[Case], facts: list[Facts]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every case; if some cannot be used, a single error names them all."""
        invalid: list[str] = []
        title = f"preparing {self.spec.title}"
        for case, future in track(_read_ahead(self.spec, cases), title, len(cases), "case"):
            try:
                example, known = future.result()
            except (ValueError, FileNotFoundError, PermissionError) as error:
                invalid.append(f"case {case.id}: {error}")
                continue
            if not invalid:
                facts.append(known)
                stored = {name: getattr(example, name) for name in ARRAYS}
                # A set without a region has no such feature; its examples have None there.
                arrays = {k: v for k, v in stored.items() if v is not None}
                yield case.id, {"id": case.id, **arrays}
        if invalid:
            raise ValueError(invalid_cases(self.spec.title, invalid, len(cases)))
        self.info.metadata["cases"] = [known._asdict() for known in facts]


def fingerprint(spec: Spec, cases: Sequence[Case]) -> str:
    """A digest that changes when the files of a case change, or the way they are read."""
    digest = hashlib.blake2b(repr(spec).encode(), digest_size=16)
    for case in cases:
        digest.update(repr((case.id, case.part, case.group, case.how)).encode())
        digest.update(repr([(file.name, file.stamp) for file in case.files]).encode())
    return digest.hexdigest()


def invalid_cases(title: str, invalid: Sequence[str], total: int) -> str:
    """The error message about cases of a set that cannot be used."""
    if len(invalid) == 1:
        return f"{title} {invalid[0]}"
    lines = listed(invalid, SHOWN, "\n  ")
    return f"{len(invalid)} of the {total} cases of {title} cannot be used:\n  {lines}"


def _read_ahead(spec: Spec, cases: Sequence[Case]) -> Iterator[tuple[Case, Future]]:
    """Cases in order, while the next ones are read and checked in the background."""
    window = 2 * READERS if spec.ndim == 2 else 2
    pending: collections.deque[tuple[Case, Future]] = collections.deque()
    pool = ThreadPoolExecutor(min(READERS, window))
    try:
        for case in cases:
            pending.append((case, pool.submit(_examine, spec, case)))
            if len(pending) == window:
                yield pending.popleft()
        while pending:
            yield pending.popleft()
    finally:
        pool.shutdown(cancel_futures=True)


def _examine(spec: Spec, case: Case) -> tuple[Example, Facts]:
    example = case.read()
    check_example(spec, example)
    native = example.label if example.native_label is None else example.native_label
    voxels = np.bincount(native.ravel(), minlength=len(spec.classes))
    return example, Facts(
        id=case.id,
        part=case.part,
        group=case.group,
        shape=native.shape,
        spacing=example.spacing,
        voxels=tuple(map(int, voxels)),
        digest=_digest(example.image),
        label_digest=_digest(native),
        notes=(*example.notes, *_notes(spec, native.shape, voxels)),
        raters=1 if example.raters is None else len(example.raters),
    )


def _digest(array: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).hexdigest()


def _notes(spec: Spec, shape: tuple[int, ...], voxels: np.ndarray) -> Iterator[str]:
    """Anything unusual about a case that does not prevent its use."""
    if not voxels[1:].any():
        yield "the mask has no foreground"
    if not voxels[0]:
        yield "the mask is all foreground"
    if spec.native_size and shape != spec.native_size:
        yield f"it is {by(shape)}, where the set's images are {by(spec.native_size)}"


def _tensor(shape: tuple[int | None, ...], dtype: str) -> tfds.features.Tensor:
    return tfds.features.Tensor(shape=shape, dtype=np.dtype(dtype), encoding="bytes")


def check_example(spec: Spec, example: Example) -> None:
    """Check that the arrays of a case match and can be trained on.

    Raises:
      ValueError: if they do not, with what was found and what was expected.
    """
    image, label, region, native_label, raters = (getattr(example, name) for name in ARRAYS)
    native = label if native_label is None else native_label
    if image.ndim != spec.ndim + 1 or image.shape[-1] != spec.channels:
        raise ValueError(
            f"image has shape {image.shape}, expected {spec.ndim} spatial axes and "
            f"{spec.channels} channels"
        )
    for name, array in (("label", label), ("region", region)):
        if array is not None and array.shape != image.shape[:-1]:
            raise ValueError(
                f"{name} has shape {array.shape} and the image {image.shape[:-1]}; "
                "they must have the same size"
            )
    if raters is not None and raters.shape[1:] != native.shape:
        raise ValueError(
            f"labels of raters have shape {raters.shape[1:]} and the label {native.shape}; they "
            "must have the same size"
        )
    highest = max(array.max() for array in (native, raters) if array is not None)
    if highest >= len(spec.classes):
        raise ValueError(
            f"label value {highest} is not one of the {len(spec.classes)} classes, 0 to "
            f"{len(spec.classes) - 1}: {', '.join(spec.classes)}"
        )
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        unusable = image.size - np.count_nonzero(np.isfinite(image))
        raise ValueError(
            f"{unusable} of the image's {image.size} values are NaN or infinite; replace them by a "
            "finite number, such as the background intensity"
        )
    if image.min() == image.max():
        raise ValueError(
            f"the image is {image.min()} everywhere, so its z-score is undefined; replace "
            "the image, or remove the case"
        )


def make_builder(
    spec: Spec,
    list_cases: Callable[[], Sequence[Case]],
    data_dir: str | None,
    folder: Path | None = None,
) -> SegmentationBuilder:
    """The tfds builder of a set.

    Args:
      spec: describes the set.
      list_cases: lists its cases; called only if they are to be prepared.
      data_dir: where tfds stores prepared sets, None for its default.
      folder: the folder or archive of its files, None for a drawn set.

    Returns:
      A builder; `download_and_prepare` has not been called.
    """
    attributes = {
        **class_attributes(spec),
        "cases": lambda self, dl_manager: list_cases(),
        "source_folder": lambda self, dl_manager: folder,
    }
    builder = type(class_name(spec), (SegmentationBuilder,), attributes, skip_registration=True)
    return builder(data_dir=data_dir, file_format=FILE_FORMAT)


def class_name(spec: Spec) -> str:
    """The name of a set's builder class, such as Kits19Synthetic."""
    return "".join(part.capitalize() for part in spec.name.split("_"))


def class_attributes(spec: Spec) -> dict[str, Any]:
    """The attributes of a set's builder class that tfds and `SegmentationBuilder` use."""
    return {
        "name": spec.name,
        "VERSION": tfds.core.Version(spec.version),
        "spec": spec,
        "__module__": __name__,
    }
