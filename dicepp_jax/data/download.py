"""Downloads that can be interrupted: by the network, by a full disk, by Ctrl-C.

What has come lies in a file of the same name with `.part` behind, which the next try goes on from.
A file gets its own name once all of it is there and its checksum, if it has one, is right; so a
file that is there is whole and is not downloaded again.
"""

import hashlib
import http.client
import math
import re
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from tqdm import tqdm

from dicepp_jax.progress import LINE_EVERY
from dicepp_jax.spec import Download

WAITS = (1.0, 3.0, 10.0, 30.0)
"""Seconds before each new try; they start over whenever a try has brought more of the file."""

TIMEOUT = 60.0
"""Seconds without a byte until a connection counts as lost."""

CHUNK = 2**20
HEADERS = {"User-Agent": "dicepp_jax"}
BUSY = {408, 429, *range(500, 600)}
"""HTTP states that may pass."""

CONTENT_RANGE = re.compile(r"bytes (?:([0-9]+)-[0-9]+|\*)/([0-9]+)")
LINE = "{desc}: {n_fmt}{unit} of {total_fmt}{unit}, {remaining} left"


class _Interrupted(Exception):
    """Not all of a file came, but another try may bring the rest."""


def download(downloads: Sequence[Download], folder: Path) -> None:
    """Download files, going on from where an earlier download was interrupted.

    Args:
      downloads: what to download; files that are there are passed over.
      folder: below which the files go.

    Raises:
      ConnectionError: if a file cannot be had, with how to get it by hand.
      OSError: if it cannot be written, as on a full disk; what has come is kept.
      ValueError: if its checksum is wrong; it is deleted.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     download([Download("data:,1,2,3", "numbers.csv")], Path(folder))
      ...     (Path(folder) / "numbers.csv").read_text()
      '1,2,3'
    """
    for number, wanted in enumerate(downloads, 1):
        target = folder / wanted.path
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f"{target.name}.part")
            _fetch(wanted.url, part, target, f"{wanted.path} ({number} of {len(downloads)})")
            _verify(wanted, part)
            part.replace(target)


def _fetch(url: str, part: Path, target: Path, title: str) -> None:
    """Try until all of a file is there."""
    most, waits = _size(part), iter(WAITS)
    by_hand = f"download it by hand and put it at {target}"
    while True:
        try:
            _try(url, part, title)
            return
        except HTTPError as error:
            raise ConnectionError(
                f"{url}: the server answers {error.code} {error.reason}, so the file may have "
                f"moved; find it from the set's homepage, {by_hand}"
            ) from error
        except _Interrupted as error:
            if _size(part) > most:
                most, waits = _size(part), iter(WAITS)
            wait = next(waits, None)
            if wait is None:
                raise ConnectionError(
                    f"{url} cannot be downloaded: {error}. Check the network and run this again, "
                    f"which goes on from the {_size(part)} bytes that are there; or {by_hand}"
                ) from error
            print(f"{title}: {error}; next try in {wait:g} s", file=sys.stderr, flush=True)
            time.sleep(wait)


def _try(url: str, part: Path, title: str) -> None:
    """Ask once for what is missing of a file."""
    start = _size(part)
    headers = HEADERS | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT
        )
    except HTTPError as error:
        with error:
            if error.code in BUSY:
                raise _Interrupted(f"the server answers {error.code} {error.reason}") from error
            if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            # Nothing lies beyond what is there: it is the whole file, or was another's.
            if _range(error.headers)[1] == start:
                return
            part.unlink()
            raise _Interrupted(f"the {start} bytes that were there are not of this file") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(_reason(error)) from error
    with response:
        if response.status == http.client.PARTIAL_CONTENT:
            first, total = _range(response.headers)
            if first != start:
                part.unlink(missing_ok=True)
                raise _Interrupted(f"bytes from {start} on were asked for, others came")
        else:
            start, length = 0, response.headers["Content-Length"]
            total = int(length) if length else None
        try:
            with part.open("ab" if start else "wb") as file:
                for chunk in _track(_chunks(response), title, start, total):
                    file.write(chunk)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{part} cannot be written beyond {_size(part)} bytes ({error.strerror}); make "
                "room on the disk, or give yourself the right to write, and run this again, which "
                "goes on from there",
            ) from error
    size = _size(part)
    if total is not None and size != total:
        if size > total:
            part.unlink()
        raise _Interrupted(f"{size} of {total} bytes came")


def _chunks(response: Any) -> Iterator[bytes]:
    # What goes wrong here is the network's doing, also if it is an OSError like the disk's.
    try:
        while chunk := response.read1(CHUNK):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(_reason(error)) from error


def _range(headers: Any) -> tuple[int | None, int | None]:
    """The first byte of an answer and the size of the whole file, where they are told."""
    found = CONTENT_RANGE.fullmatch(headers["Content-Range"] or "")
    if found is None:
        return None, None
    return (int(found[1]) if found[1] else None), int(found[2])


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", error)) or type(error).__name__


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _verify(wanted: Download, part: Path) -> None:
    if wanted.sha256 is None:
        return
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted.sha256:
        part.unlink()
        raise ValueError(
            f"{wanted.url} has sha256 {found}, expected {wanted.sha256}; what came is deleted, "
            "download it again. If that does not help, its makers have changed the file"
        )


def _track(chunks: Iterable[bytes], title: str, start: int, total: int | None) -> Iterator[bytes]:
    """Pass chunks on, telling how far the download is: `progress.track` for bytes."""
    if sys.stderr.isatty():
        with tqdm(
            desc=title, total=total, initial=start, unit="B", unit_scale=True, dynamic_ncols=True
        ) as bar:
            for chunk in chunks:
                yield chunk
                bar.update(len(chunk))
        return
    began, last, done = time.monotonic(), -math.inf, start
    for chunk in chunks:
        now = time.monotonic()
        if now - last > LINE_EVERY:
            last = now
            line = tqdm.format_meter(
                done, total or 0, now - began, initial=start, prefix=title, unit="B",
                unit_scale=True, bar_format=LINE,
            )  # fmt: skip
            print(line, file=sys.stderr, flush=True)
        yield chunk
        done += len(chunk)
