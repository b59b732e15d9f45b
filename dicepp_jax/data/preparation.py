"""Prepares a set once: by one process at a time, completely or not at all, anew if files change."""

import contextlib
import io
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from dicepp_jax.atomic import NO_ROOM
from dicepp_jax.data.builder import (
    FORMAT,
    Case,
    Origin,
    SegmentationBuilder,
    fingerprint,
    make_builder,
)
from dicepp_jax.spec import Spec


def prepare(
    spec: Spec,
    list_cases: Callable[[], Sequence[Case]] | None,
    data_dir: str | None,
    folder: Path | None = None,
) -> SegmentationBuilder:
    """Prepare a set, unless that has been done and its files have not changed since.

    Where no folder is given, a prepared copy is used, and one line says where it came from.

    Args:
      spec: describes the set.
      list_cases: lists its cases; None if its files are not available.
      data_dir: where prepared sets are stored, None for tfds's default.
      folder: the folder or archive given for its files, None if none is.

    Returns:
      The builder of the prepared set.

    Raises:
      FileNotFoundError: if the folder does not exist, or none is given and the set has not been
        prepared.
      ValueError: if cases cannot be used, naming all of them.
      OSError: if the disk is full; an older prepared set is left untouched.
    """
    cases = None if list_cases is None else list_cases()
    stamp = None if cases is None else fingerprint(spec, cases)

    def open_builder() -> SegmentationBuilder:
        return make_builder(spec, lambda: cases or (), data_dir, folder)

    builder = open_builder()
    current = _is_current(builder, stamp)
    if cases is None and folder:
        raise FileNotFoundError(_missing(spec, folder, builder.origin() if current else None))
    if cases is None and current:
        copy = f"the copy {_provenance(builder.origin())}"
        print(f"{spec.title}: data.manual_dir is not set, so {copy} is used")
    if current:
        return builder
    if cases is None:
        raise FileNotFoundError(f"{spec.title} needs --config.data.manual_dir. {spec.obtain}")
    target = Path(builder.data_path)
    with locked(builder):
        if _is_current(builder := open_builder(), stamp):
            return builder
        if target.exists():
            print(f"{spec.title}: its files or options have changed; preparing it again")
        with _replacing(target), _explaining_full_disk(spec.title, target.parent):
            builder = open_builder()
            # The builder reports its progress; what tfds prints is about sets that it downloads.
            with contextlib.redirect_stdout(io.StringIO()):
                builder.download_and_prepare()
    print(f"{spec.title}: {len(cases)} cases prepared in {target}")
    return builder


def _missing(spec: Spec, folder: Path, prepared: Origin | None) -> str:
    """What to say of a folder that does not exist."""
    if prepared is None:
        found = f"{folder} does not exist"
        return f"{spec.title} needs --config.data.manual_dir; {found}. {spec.obtain}"
    return (
        f"--config.data.manual_dir={folder} does not exist; correct it, or omit it to use the copy "
        f"of {spec.title} {_provenance(prepared)}"
    )


def _provenance(origin: Origin) -> str:
    date, folder = origin.date or "an unknown date", origin.folder or "an unknown folder"
    return f"prepared on {date} from {folder}"


def _is_current(builder: SegmentationBuilder, stamp: str | None) -> bool:
    # Only a complete set is renamed to that path.
    if not Path(builder.data_path).exists():
        return False
    known = builder.info.metadata
    return known.get("format") == FORMAT and stamp in (None, known.get("fingerprint"))


@contextlib.contextmanager
def locked(builder: SegmentationBuilder) -> Iterator[None]:
    """Keep other processes from preparing the same set in the same place."""
    folder = Path(builder.data_path).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"{builder.spec.title} is being prepared by another process; waiting for it")
            lock.acquire()
    except PermissionError as error:
        raise PermissionError(
            f"{folder} is not writable ({error.strerror}); choose another --config.data.data_dir"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[None]:
    """Move a prepared set aside until a new one has taken its place, or back if that fails."""
    old = target.with_name(f"{target.name}.old")
    # Left by a process that was killed: no other is working here, as this one holds the lock.
    for left in (old, *target.parent.glob("incomplete.*")):
        shutil.rmtree(left, ignore_errors=True)
    if target.exists():
        target.rename(old)
    try:
        yield
    finally:
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        elif old.exists():
            old.rename(target)


@contextlib.contextmanager
def _explaining_full_disk(title: str, folder: Path) -> Iterator[None]:
    """Reword the error about a full disk, which array_record reports as a RuntimeError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        code = getattr(error, "errno", None)
        full = [c for c in NO_ROOM if c == code or (code is None and os.strerror(c) in str(error))]
        if not full:
            raise
        raise OSError(
            full[0],
            f"{os.strerror(full[0])} while preparing {title}, of which nothing is left there; "
            "another --config.data.data_dir may have room",
            str(folder),
        ) from error
