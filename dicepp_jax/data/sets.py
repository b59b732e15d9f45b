"""The table of data sets, and how one is found, prepared, opened and split.

`SETS` is the table of sets. A new one is a `Spec` in `specs.py`, a function that lists its cases
in a file of its own, and one row here. "folder" is a set of the user's own.
"""

import difflib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tensorflow_datasets.core import constants

from dicepp_jax.data import (
    bus2017,
    cvc_clinicdb,
    drive,
    dsb2018,
    folder,
    isic2018,
    kits19,
    kits19_synthetic,
    phantom_cases,
    registered,
    specs,
    splits,
)
from dicepp_jax.data import files as files_lib
from dicepp_jax.data.builder import ALL, Case, DataSet, Facts
from dicepp_jax.data.download import download as fetch
from dicepp_jax.data.folder import Options
from dicepp_jax.data.preparation import prepare
from dicepp_jax.data.splits import Subset
from dicepp_jax.spec import Spec

SETS: dict[str, DataSet] = {
    "drive": DataSet(specs.DRIVE, drive.list_cases),
    "bus2017": DataSet(specs.BUS2017, bus2017.list_cases),
    "dsb2018": DataSet(specs.DSB2018, dsb2018.list_cases),
    "isic2018": DataSet(specs.ISIC2018, isic2018.list_cases),
    "cvc_clinicdb": DataSet(specs.CVC_CLINICDB, cvc_clinicdb.list_cases),
    "kits19": DataSet(specs.KITS19, kits19.list_cases),
    "kits19_synthetic": DataSet(specs.KITS19_SYNTHETIC, kits19_synthetic.list_cases),
    "phantom": DataSet(specs.PHANTOM, phantom_cases.vessels),
    "phantom_3d": DataSet(specs.PHANTOM_3D, phantom_cases.kidney),
}

# From here on `tfds.builder` and `tfds.data_source` find these sets by name, too.
for _dataset in SETS.values():
    registered.register(_dataset)

FOLDER = "folder"
"""The name of a set of the user's own."""


class Source(NamedTuple):
    """A set that has been found: what it is, and where its cases are.

    Attributes:
      spec: its facts.
      list_cases: lists its cases; None if its files are not at hand.
      data_dir: where prepared sets are kept, None for tfds's default.
      told: what was found out about a set of the user's own, line by line.
      missing: the folder that was to hold its files and does not exist.
    """

    spec: Spec
    list_cases: Callable[[], Sequence[Case]] | None
    data_dir: str | None
    told: tuple[str, ...] = ()
    missing: Path | None = None


class Loaded(NamedTuple):
    """A prepared set, opened.

    Attributes:
      spec: its facts.
      splits: "train", "validation" and "test".
      facts: what is known of every stored case, in the set's order.
      path: where it is stored.
    """

    spec: Spec
    splits: Mapping[str, Subset]
    facts: list[Facts]
    path: Path

    @property
    def digest(self) -> str:
        """Of the cases and their split: another for other images, labels or parts."""
        cases = sorted((case.id, case.digest, case.label_digest) for case in self.facts)
        split = [(part, subset.ids) for part, subset in self.splits.items()]
        return hashlib.blake2b(repr((cases, split)).encode(), digest_size=16).hexdigest()


def find(
    name: str,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    *,
    options: Options | None = None,
    download: bool = False,
) -> Source:
    """Find a set; one of the user's own is looked through.

    Args:
      name: a key of `SETS`, or "folder".
      data_dir: where prepared sets are kept, None for tfds's default, `~/tensorflow_datasets`.
      manual_dir: the folder or zip archive that holds the set's files.
      options: how to read a set of the user's own.
      download: fetch what can be fetched into `manual_dir`, by default a folder in `data_dir`.

    Returns:
      A `Source`. Nothing has been prepared.

    Raises:
      ValueError: if the set is unknown, with the nearest name, or cannot be downloaded.
      FileNotFoundError: if its folder does not exist.
    """
    # tfds takes a `~` for a folder of that name.
    kept = Path(data_dir or constants.DATA_DIR).expanduser()
    root = Path(manual_dir).expanduser() if manual_dir else None
    if name == FOLDER:
        if root is None:
            raise ValueError(
                "data.name is folder, a set of your own: give --config.data.manual_dir=FOLDER, "
                "which holds its images and masks, or nnU-Net's dataset.json"
            )
        tree = files_lib.tree(root)
        dataset, told = folder.describe(root, tree, options or Options(), kept / "surveys")
        return Source(dataset.spec, lambda: dataset.list_cases(tree), str(kept), told)
    if name not in SETS:
        known = (*SETS, FOLDER)
        close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
        guess = f", did you mean {close[0]!r}?" if close else "."
        raise ValueError(f"unknown data set {name!r}{guess} Known: {', '.join(sorted(known))}")
    dataset = SETS[name]
    spec = dataset.spec
    if download:
        if not spec.downloads:
            raise ValueError(f"{spec.title} cannot be downloaded by a program. {spec.obtain}")
        root = root or kept / "manual" / name
        fetch(spec.downloads, root)
    if not spec.obtain:
        return Source(spec, lambda: dataset.list_cases({}), str(kept))
    # Files may be deleted once a set is prepared.
    if root is None or not root.exists():
        return Source(spec, None, str(kept), missing=root)

    return Source(spec, lambda: dataset.cases_in(root), str(kept))


def open_set(source: Source, *, split: str = "random", split_file: str | None = None) -> Loaded:
    """Prepare a set, if it has not been, and open it.

    Args:
      source: of `find`.
      split: "random", Table 1's counts in a fixed permutation where the makers give no split; or
        "group", which keeps near-duplicates such as the frames of a video in one part.
      split_file: a JSON file of lists, which decides instead.

    Returns:
      A `Loaded` set.

    Raises:
      ValueError: if a case or the split is not what it should be.
      FileNotFoundError: if files are missing.
    """
    listed = Path(split_file).expanduser() if split_file else None
    # What is wrong with these is told before a set is prepared for an hour.
    splits.check_rule(split)
    if listed:
        splits.read_lists(listed)
    builder = prepare(source.spec, source.list_cases, source.data_dir, source.missing)
    known = builder.stored_facts()
    if listed:
        parts = splits.read_split(listed, known, source.spec)
    else:
        parts = splits.RULES[split](known, source.spec.counts)
    subsets = splits.subsets(builder.as_data_source(ALL), known, parts)
    return Loaded(source.spec, subsets, known, Path(builder.data_path))


def load(
    name: str,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    *,
    split: str = "random",
    split_file: str | None = None,
    options: Options | None = None,
    download: bool = False,
) -> Loaded:
    """Find, prepare and open a set: `find` and `open_set` in one.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     phantom = load("phantom", data_dir=folder)
      ...     {part: len(cases) for part, cases in phantom.splits.items()}
      ...     phantom.splits["test"][0]["image"].shape
      Vessel phantom: 60 cases prepared in ...
      {'train': 32, 'validation': 8, 'test': 20}
      (96, 96, 3)
    """
    source = find(name, data_dir, manual_dir, options=options, download=download)
    return open_set(source, split=split, split_file=split_file)
