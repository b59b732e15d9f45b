"""The table of data sets, and how a set is found, prepared, opened and split.

A new set is a `Spec` in `specs.py`, a function that lists its cases in a module of its own, and one
row of `SETS`. The name "folder" stands for your own data set.
"""

import difflib
import functools
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
from dicepp_jax.data import folds as folds_lib
from dicepp_jax.data.builder import ALL, Case, DataSet, Facts, Origin
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
    **{
        spec.name: DataSet(spec, functools.partial(phantom_cases.lesions, share))
        for share, spec in specs.RARE.items()
    },
}

# Lets `tfds.builder`, `tfds.data_source` and `tfds.load` find the sets by name, too.
for _dataset in SETS.values():
    registered.register(_dataset)

FOLDER = "folder"
"""The name for your own data set."""


class Source(NamedTuple):
    """A set that has been found but not yet prepared.

    Attributes:
      spec: describes the set.
      list_cases: lists its cases; None if its files are not available.
      data_dir: where prepared sets are stored, None for tfds's default.
      notes: what was detected in your own data set, line by line.
      folder: the folder or archive given for its files, None if none is; if it does not exist,
        `list_cases` is None.
      folds: the folder's `splits_final.json`, None if it has none; of your own data set alone.
    """

    spec: Spec
    list_cases: Callable[[], Sequence[Case]] | None
    data_dir: str | None
    notes: tuple[str, ...] = ()
    folder: Path | None = None
    folds: files_lib.File | None = None


class Loaded(NamedTuple):
    """A prepared set, opened.

    Attributes:
      spec: describes the set.
      splits: "train", "validation" and "test".
      facts: what is known about every stored case, in the set's order.
      path: where it is stored.
      origin: where and when it was prepared.
      notes: as in `Source`.
    """

    spec: Spec
    splits: Mapping[str, Subset]
    facts: list[Facts]
    path: Path
    origin: Origin = Origin()
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """A digest of the cases and their split, which changes with images, labels and parts."""
        return self._digest([(part, subset.ids) for part, subset in self.splits.items()])

    @property
    def test_digest(self) -> str:
        """A digest of the cases and of which are for testing: the same for all folds."""
        return self._digest(self.splits["test"].ids if self.splits else ())

    def _digest(self, split: Sequence[object]) -> str:
        cases = sorted((case.id, case.digest, case.label_digest) for case in self.facts)
        return hashlib.blake2b(repr((cases, split)).encode(), digest_size=16).hexdigest()


def find(
    name: str,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    *,
    options: Options | None = None,
    download: bool = False,
) -> Source:
    """Find a set; the files of your own data set are inspected.

    Args:
      name: a key of `SETS`, or "folder" for your own data set.
      data_dir: where prepared sets are stored, None for tfds's default, `~/tensorflow_datasets`.
      manual_dir: the folder or zip archive with the set's files.
      options: how to read your own data set.
      download: download the files that need no registration, into `manual_dir` or, by default, a
        folder in `data_dir`.

    Returns:
      A `Source`. Nothing has been prepared.

    Raises:
      ValueError: if the set is unknown, with the nearest name, or cannot be downloaded.
      FileNotFoundError: if its folder does not exist.
    """
    # tfds would create a folder named `~`.
    prepared = Path(data_dir or constants.DATA_DIR).expanduser()
    root = Path(manual_dir).expanduser() if manual_dir else None
    if name == FOLDER:
        if root is None:
            raise ValueError(
                "data.name is folder, your own data set: set --config.data.manual_dir=FOLDER to "
                "the folder with its images and masks, or with nnU-Net's dataset.json"
            )
        tree = files_lib.tree(root)
        dataset, notes = folder.describe(root, tree, options or Options(), prepared / "surveys")
        listing = folds_lib.find(tree)
        if listing:
            notes = (*notes, f"folds: {listing}, used with --config.data.fold=NUMBER")
        return Source(
            dataset.spec, lambda: dataset.list_cases(tree), str(prepared), notes, root, listing
        )
    if name not in SETS:
        known = (*SETS, FOLDER)
        close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
        guess = f", did you mean {close[0]!r}?" if close else "."
        raise ValueError(f"unknown data set {name!r}{guess} Known: {', '.join(sorted(known))}")
    dataset = SETS[name]
    spec = dataset.spec
    if download:
        if not spec.downloads:
            raise ValueError(f"{spec.title} cannot be downloaded automatically. {spec.obtain}")
        root = root or prepared / "manual" / name
        fetch(spec.downloads, root)
    if not spec.obtain:
        return Source(spec, lambda: dataset.list_cases({}), str(prepared))
    # The files may have been deleted after the set was prepared.
    if root is None or not root.exists():
        return Source(spec, None, str(prepared), folder=root)

    return Source(spec, lambda: dataset.cases_in(root), str(prepared), folder=root)


def open_set(
    source: Source,
    *,
    split: str = "random",
    split_file: str | None = None,
    fold: int | None = None,
) -> Loaded:
    """Prepare a set, unless that has been done, and open it.

    Args:
      source: returned by `find`.
      split: "random", Table 1's counts in a fixed permutation unless the publisher fixes the split;
        or "group", which keeps near-duplicates such as the frames of a video in one part.
      split_file: a JSON file that lists the cases of each part, used instead of `split`; or those
        of each fold in nnU-Net's form.
      fold: the number of the fold that validates, see `folds`; None for no folds.

    Returns:
      A `Loaded` set.

    Raises:
      ValueError: if a case or the split is invalid.
      FileNotFoundError: if files are missing.
    """
    # Errors in these are reported before an hour is spent preparing the set.
    return _opened(source, _chooser(source, split, split_file, fold))


def open_for_testing(source: Source) -> Loaded:
    """Prepare a set, unless that has been done, and open it with all its cases for testing.

    Args:
      source: returned by `find`.

    Returns:
      A `Loaded` set.

    Raises:
      ValueError: if a case is invalid.
      FileNotFoundError: if files are missing.
    """
    return _opened(source, lambda cases: {"test": [case.id for case in cases]})


def _opened(source: Source, choose: Callable[[Sequence[Facts]], splits.Split]) -> Loaded:
    builder = prepare(source.spec, source.list_cases, source.data_dir, source.folder)
    known = builder.stored_facts()
    subsets = splits.subsets(builder.as_data_source(ALL), known, choose(known))
    origin = builder.origin()
    return Loaded(source.spec, subsets, known, Path(builder.data_path), origin, source.notes)


def _chooser(
    source: Source, split: str, split_file: str | None, fold: int | None
) -> Callable[[Sequence[Facts]], splits.Split]:
    """From the cases to their split, as the options say; these have been checked."""
    path = Path(split_file).expanduser() if split_file else None
    splits.check_rule(split)
    spec, listing = source.spec, source.folds
    if path:
        # A list holds folds, an object the three parts.
        listing = files_lib.from_path(path) if _is_listing(path) else None
    if listing and fold is not None:
        folds = folds_lib.read(listing)
        folds_lib.check(fold, len(folds))
        return lambda cases: folds_lib.split_by_file(listing, folds, cases, spec, fold)
    if path and listing:
        raise ValueError(f"{path} lists folds; choose one by --config.data.fold=0")
    if path:
        splits.read_lists(path)
    if fold is not None:
        folds_lib.check(fold)

    def choose(cases: Sequence[Facts]) -> splits.Split:
        if path:
            parts = splits.read_split(path, cases, spec)
        else:
            parts = splits.RULES[split](cases, spec.counts)
        if fold is None:
            return parts
        return folds_lib.split_by_rule(cases, parts, fold, grouped=split == "group")

    return choose


def _is_listing(path: Path) -> bool:
    content = splits.read_json(path)
    return isinstance(content, list) and all(isinstance(fold, dict) for fold in content)


def load(
    name: str,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    *,
    split: str = "random",
    split_file: str | None = None,
    fold: int | None = None,
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
    return open_set(source, split=split, split_file=split_file, fold=fold)
