"""Registers the sets with tfds: `tfds.builder("drive")`, `tfds.data_source("drive")`.

tfds knows a builder by name once its class has been defined, so `sets` defines one for each row of
`SETS` when `dicepp_jax.data` is imported, before or after tfds. Registering on first use instead
would need a hook into the import of tfds; the price of registering at once is that importing
`dicepp_jax.data` imports tfds.

These builders store the same as `data.load`, in the same place, so each reads the copy that the
other has prepared.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from dicepp_jax.data.builder import (
    ALL,
    FILE_FORMAT,
    Case,
    DataSet,
    SegmentationBuilder,
    class_attributes,
    class_name,
)
from dicepp_jax.data.preparation import locked
from dicepp_jax.data.splits import SPLITS, random_split, subsets

EVERY = {name: name for name in (ALL, *SPLITS)}
"""The splits returned if none is named."""


class NamedBuilder(SegmentationBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The builder of a set for users of tfds.

    It stores one split, "cases", which can be sliced as in "cases[:50%]". "train", "validation" and
    "test" are the default split of `data.load`, and cannot be sliced.
    """

    dataset: ClassVar[DataSet]

    def __init__(self, *, file_format: Any = None, **kwargs: Any):
        super().__init__(file_format=file_format or FILE_FORMAT, **kwargs)

    def cases(self, dl_manager: tfds.download.DownloadManager) -> Sequence[Case]:
        """The cases found in the manual directory, which synthetic sets do not need."""
        if not self.spec.obtain:
            return self.dataset.list_cases({})
        return self.dataset.cases_in(Path(dl_manager.manual_dir))

    def source_folder(self, dl_manager: tfds.download.DownloadManager) -> Path | None:
        """The manual directory, None for a synthetic set."""
        return Path(dl_manager.manual_dir) if self.spec.obtain else None

    def download_and_prepare(self, **kwargs: Any) -> None:
        """As in tfds, but by one process at a time."""
        prepared = Path(self.data_path).exists()
        with contextlib.nullcontext() if prepared else locked(self):
            super().download_and_prepare(**kwargs)
        # Another process may have prepared the set while this one waited.
        self.info.read_from_directory(self.data_dir)

    def as_data_source(self, split: Any = None, **kwargs: Any) -> Any:
        """As in tfds; does not need TensorFlow."""
        if split is None:
            split = EVERY
        if isinstance(split, Mapping):
            return {key: self.as_data_source(one, **kwargs) for key, one in split.items()}
        if isinstance(split, list | tuple):
            return [self.as_data_source(one, **kwargs) for one in split]
        if split not in SPLITS:
            return super().as_data_source(split, **kwargs)
        cases = self.stored_facts()
        parts = random_split(cases, self.spec.counts)
        return subsets(super().as_data_source(ALL, **kwargs), cases, parts)[split]

    def as_dataset(self, split: Any = None, **kwargs: Any) -> Any:
        """As in tfds; needs TensorFlow."""
        return super().as_dataset(EVERY if split is None else split, **kwargs)

    def _as_dataset(
        self,
        split: Any,
        decoders: Any = None,
        read_config: tfds.ReadConfig | None = None,
        shuffle_files: bool = False,
    ) -> Any:
        # tfds cannot make a tf.data.Dataset from array_record files.
        import tensorflow as tf

        source = self.as_data_source(split, decoders=decoders)
        seed = read_config.shuffle_seed if read_config else None

        def examples() -> Iterator[dict[str, Any]]:
            order = np.arange(len(source))
            if shuffle_files:
                np.random.default_rng(seed).shuffle(order)
            for index in order:
                yield source[int(index)]

        signature = self.info.features.get_tensor_spec()
        dataset = tf.data.Dataset.from_generator(examples, output_signature=signature)
        return dataset.apply(tf.data.experimental.assert_cardinality(len(source)))

    def _should_cache_ds(self, *args: Any, **kwargs: Any) -> bool:
        return False  # tfds looks this up in the stored splits, and "train" is not one of them.


def register(dataset: DataSet) -> None:
    """Define the builder class of a set, so that tfds finds the set by its name."""
    spec = dataset.spec
    instructions = (
        f"{spec.obtain}\n\n--config.data... are options of dicepp_jax's commands. With tfds, pass "
        "the folder to builder.download_and_prepare("
        "download_config=tfds.download.DownloadConfig(manual_dir=FOLDER))."
    )
    attributes = {
        **class_attributes(spec),
        "dataset": dataset,
        "MANUAL_DOWNLOAD_INSTRUCTIONS": instructions if spec.obtain else None,
        "__module__": __name__,
    }
    # tfds registers every subclass by itself; the module attribute is there for pickle.
    globals()[class_name(spec)] = type(class_name(spec), (NamedBuilder,), attributes)
