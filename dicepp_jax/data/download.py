"""Downloads that survive interruption: by the network, by a full disk, by Ctrl-C.

Data goes to a file with the suffix `.part`, from which the next attempt resumes. The file gets its
final name once it is complete and its checksum, if there is one, is correct; a file with its final
name is therefore complete and is not downloaded again.

Addresses are https, also those that a server redirects to, so that nobody on the way can exchange a
file; http is for servers on this machine.
"""

import hashlib
import http.client
import math
import re
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from tqdm import tqdm

from dicepp_jax.progress import LINE_EVERY
from dicepp_jax.spec import Download

WAITS = (1.0, 3.0, 10.0, 30.0)
"""Seconds before each new attempt, counted from the last attempt that received any data."""

TIMEOUT = 60.0
"""Seconds without data after which a connection counts as lost."""

MOST = 1 << 35
"""Bytes of the largest file that is downloaded; the largest of the sets has a third of it."""

CHUNK = 2**20
HEADERS = {"User-Agent": "dicepp_jax"}
BUSY = {408, 429, *range(500, 600)}
"""HTTP status codes that may be temporary."""

CONTENT_RANGE = re.compile(r"bytes (?:([0-9]+)-[0-9]+|\*)/([0-9]+)")
LINE = "{desc}: {n_fmt}{unit} of {total_fmt}{unit}, {remaining} left"


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server only to addresses that are allowed, and from https only to https."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        _check_address(newurl, ("https",) if req.type == "https" else ("https", "http"))
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Interrupted(Exception):
    """The file is incomplete, but another attempt may get the rest."""


def download(downloads: Sequence[Download], folder: Path) -> None:
    """Download files, resuming downloads that were interrupted.

    Args:
      downloads: what to download; existing files are skipped.
      folder: where the files go.

    Raises:
      ConnectionError: if a file cannot be downloaded, with how to get it manually.
      OSError: if it cannot be written, as on a full disk; the part received so far is kept.
      ValueError: if its checksum is wrong or it is larger than `MOST`; the file is deleted. Also if
        an address is neither https nor on this machine.

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


def _check_address(url: str, schemes: Sequence[str] = ("https", "http", "data")) -> None:
    """Refuse other protocols; http must stay on this machine, data is in the address itself."""
    found = urllib.parse.urlsplit(url)
    local = found.hostname in ("127.0.0.1", "::1", "localhost")
    if found.scheme not in schemes or (found.scheme == "http" and not local):
        raise ValueError(
            f"{url!r} is not an https address, so what it leads to may be exchanged on the way; "
            "download the file manually"
        )


def _fetch(url: str, part: Path, target: Path, title: str) -> None:
    """Try until a file is complete."""
    _check_address(url)
    most, waits = _size(part), iter(WAITS)
    manually = f"download it manually to {target}"
    while True:
        try:
            _try(url, part, title)
            return
        except HTTPError as error:
            raise ConnectionError(
                f"{url}: the server responded {error.code} {error.reason}, so the file may have "
                f"moved; look for it on the set's homepage and {manually}"
            ) from error
        except _Interrupted as error:
            if _size(part) > most:
                most, waits = _size(part), iter(WAITS)
            wait = next(waits, None)
            if wait is None:
                raise ConnectionError(
                    f"{url} cannot be downloaded: {error}. Check the network and run this again, "
                    f"which resumes after the {_size(part)} bytes received so far; or {manually}"
                ) from error
            print(f"{title}: {error}; trying again in {wait:g} s", file=sys.stderr, flush=True)
            time.sleep(wait)


def _try(url: str, part: Path, title: str) -> None:
    """Request the missing part of a file once."""
    start = _size(part)
    headers = HEADERS | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.build_opener(_Redirects).open(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT
        )
    except HTTPError as error:
        with error:
            if error.code in BUSY:
                raise _Interrupted(f"the server responded {error.code} {error.reason}") from error
            if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            # The server has no more bytes: this is the complete file, or part of a different one.
            if _range(error.headers)[1] == start:
                return
            part.unlink()
            raise _Interrupted(
                f"the {start} bytes received earlier are not from this file"
            ) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(_reason(error)) from error
    with response:
        if response.status == http.client.PARTIAL_CONTENT:
            first, total = _range(response.headers)
            if first != start:
                part.unlink(missing_ok=True)
                raise _Interrupted(f"the server sent other bytes than those from {start} on")
        else:
            start, length = 0, response.headers["Content-Length"]
            total = int(length) if length else None
        _check_size(url, part, total or 0)
        try:
            with part.open("ab" if start else "wb") as file:
                for chunk in _track(_chunks(response), title, start, total):
                    file.write(chunk)
                    _check_size(url, part, file.tell())
        except OSError as error:
            raise OSError(
                error.errno,
                f"{part} cannot be written beyond {_size(part)} bytes ({error.strerror}); free "
                "disk space, or get write permission, and run this again, which resumes from there",
            ) from error
    size = _size(part)
    if total is not None and size != total:
        if size > total:
            part.unlink()
        raise _Interrupted(f"received {size} of {total} bytes")


def _check_size(url: str, part: Path, size: int) -> None:
    if size > MOST:
        part.unlink(missing_ok=True)
        raise ValueError(
            f"{url} has {size} bytes or more, expected at most {MOST}, and was deleted; look for "
            "it on the set's homepage"
        )


def _chunks(response: Any) -> Iterator[bytes]:
    # Any error here comes from the network, even if it is an OSError like those of the disk.
    try:
        while chunk := response.read1(CHUNK):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(_reason(error)) from error


def _range(headers: Any) -> tuple[int | None, int | None]:
    """The first byte of a response and the size of the whole file, where the server states them."""
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
            f"{wanted.url} has sha256 {found}, expected {wanted.sha256}; the file was deleted, so "
            "download it again. If the error persists, the publisher has changed the file"
        )


def _track(chunks: Iterable[bytes], title: str, start: int, total: int | None) -> Iterator[bytes]:
    """Yield the chunks and report the progress, as `progress.track` does, in bytes."""
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
