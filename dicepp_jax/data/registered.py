"""The sets in tfds: `tfds.builder("drive")`, `tfds.data_source("drive")`, `tfds.load("drive")`.

tfds finds a builder by name once its class exists, so `sets` makes one for each row of `SETS`, and
importing `dicepp_jax.data` is all a user has to do, before or after importing tfds. Doing so on
first use instead would need a hook into the import of tfds; the price of doing it at once is that
`dicepp_jax.data` loads tfds.

What these builders store is what `data.load` stores, in the same place, so that each reads the
copy that the other has prepared.
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
"""What tfds's users get who ask for no split in particular."""


class NamedBuilder(SegmentationBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A set as users of tfds expect it.

    Stored is one split, "cases"; "train", "validation" and "test" are those that `data.load` draws
    by default. Parts of "cases" are asked for as usual, "cases[:50%]"; the three others are whole.
    """

    dataset: ClassVar[DataSet]

    def __init__(self, *, file_format: Any = None, **kwargs: Any):
        super().__init__(file_format=file_format or FILE_FORMAT, **kwargs)

    def cases(self, dl_manager: tfds.download.DownloadManager) -> Sequence[Case]:
        """The cases of the files in the manual directory; drawn sets need none."""
        if not self.spec.obtain:
            return self.dataset.list_cases({})
        return self.dataset.cases_in(Path(dl_manager.manual_dir))

    def download_and_prepare(self, **kwargs: Any) -> None:
        """As tfds's, one process at a time."""
        prepared = Path(self.data_path).exists()
        with contextlib.nullcontext() if prepared else locked(self):
            super().download_and_prepare(**kwargs)
        # Another process may have prepared the set while this one waited.
        self.info.read_from_directory(self.data_dir)

    def as_data_source(self, split: Any = None, **kwargs: Any) -> Any:
        """As tfds's; needs no TensorFlow."""
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
        """As tfds's; needs TensorFlow."""
        return super().as_dataset(EVERY if split is None else split, **kwargs)

    def _as_dataset(
        self,
        split: Any,
        decoders: Any = None,
        read_config: tfds.ReadConfig | None = None,
        shuffle_files: bool = False,
    ) -> Any:
        # tfds itself makes no tf.data.Dataset of array_record files.
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
        return False  # tfds decides by the stored splits, of which "train" is none.


def register(dataset: DataSet) -> None:
    """Let tfds find a set by its name."""
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
    # As of any subclass, tfds takes note of it; the module's attribute is for pickle.
    globals()[class_name(spec)] = type(class_name(spec), (NamedBuilder,), attributes)
