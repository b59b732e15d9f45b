"""Downloads from a server of the test's own that misbehaves to order."""

import errno
import functools
import hashlib
import http.client
import re
import resource
import socket
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from dicepp_jax.data.download import _Redirects, download
from dicepp_jax.data.specs import Download

CONTENT = np.random.default_rng([4, 0]).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT as /file.

    Attributes:
      asked: the Range header of each request, None where there was none.
      codes: states that the next requests are answered with.
      cuts: so many bytes the next answers are cut off after.
      ranges: whether it knows ranges.
      content_range: what it says of a part, in place of the truth.
      length: whether it says how long an answer is.
      elsewhere: the address that it sends requests to, None for its own answer.
    """

    daemon_threads = True
    ranges = length = True
    content_range = elsewhere = None

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.codes, self.cuts = [], [], []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append(self.headers["Range"])
        if server.codes:
            self.send_error(server.codes.pop(0))
            return
        if server.elsewhere:
            self.send_response(302)
            self.send_header("Location", server.elsewhere)
            self.end_headers()
            server.elsewhere = None
            return
        start = 0
        if server.ranges and self.headers["Range"]:
            start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            told = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
            self.send_header("Content-Range", server.content_range or told)
        if server.length:
            self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start:][: server.cuts.pop(0) if server.cuts else None])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("dicepp_jax.data.download.WAITS", (0, 0, 0))
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(server, folder, sha256=SHA256):
    download([Download(server.url, "deep/file.zip", sha256)], folder)


def put(folder, content, name="file.zip.part"):
    path = folder / "deep" / name
    path.parent.mkdir()
    path.write_bytes(content)
    return path


def assert_whole(folder):
    assert [path.name for path in (folder / "deep").iterdir()] == ["file.zip"]
    assert (folder / "deep/file.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("sha256", [SHA256, None])
@pytest.mark.parametrize("length", [True, False])
def test_a_file_is_downloaded_once(server, tmp_path, sha256, length):
    server.length = length
    fetch(server, tmp_path, sha256)
    assert_whole(tmp_path)
    fetch(server, tmp_path, sha256)
    assert server.asked == [None]


def test_files_that_are_there_are_left_alone(server, tmp_path):
    put(tmp_path, b"by hand", "file.zip")
    other = Download(server.url, "other.zip")
    download([Download(server.url, "deep/file.zip", SHA256), other], tmp_path)
    assert (tmp_path / "deep/file.zip").read_bytes() == b"by hand"
    assert (tmp_path / "other.zip").read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_an_interrupted_download_goes_on(server, tmp_path):
    put(tmp_path, CONTENT[:123_456])
    fetch(server, tmp_path)
    assert server.asked == ["bytes=123456-"]
    assert_whole(tmp_path)


def test_a_server_without_ranges_is_asked_for_the_whole(server, tmp_path):
    put(tmp_path, b"of an older file")
    server.ranges = False
    fetch(server, tmp_path)
    assert server.asked == ["bytes=16-"]
    assert_whole(tmp_path)


def test_a_cut_connection_is_taken_up_again(server, tmp_path, capsys):
    # More cuts than tries in a row are allowed, but each brought something.
    server.cuts = [1000, 5000, 10, 1, 100_000]
    fetch(server, tmp_path)
    assert server.asked == [None, *(f"bytes={n}-" for n in (1000, 6000, 6010, 6011, 106_011))]
    assert_whole(tmp_path)
    assert "received 1000 of 300000 bytes; trying again in 0 s" in capsys.readouterr().err


def test_a_connection_that_brings_nothing_more_is_given_up(server, tmp_path):
    server.cuts = [1000, 0, 0, 0, 0]
    with pytest.raises(ConnectionError) as error:
        fetch(server, tmp_path)
    assert server.asked == [None] + ["bytes=1000-"] * 3
    for told in (
        server.url,
        "received 1000 of 300000 bytes",
        f"download it manually to {tmp_path}/deep/file.zip",
    ):
        assert told in str(error.value)
    assert (tmp_path / "deep/file.zip.part").read_bytes() == CONTENT[:1000]
    server.cuts = []
    fetch(server, tmp_path)
    assert server.asked[-1] == "bytes=1000-"
    assert_whole(tmp_path)


@pytest.mark.parametrize("code", [408, 429, 500, 503])
def test_a_busy_server_is_asked_again(server, tmp_path, code):
    server.codes = [code] * 3
    fetch(server, tmp_path)
    assert len(server.asked) == 4
    assert_whole(tmp_path)


def test_a_server_that_stays_busy_is_given_up(server, tmp_path):
    server.codes = [503] * 9
    with pytest.raises(ConnectionError, match="the server responded 503 Service Unavailable"):
        fetch(server, tmp_path)
    assert len(server.asked) == 4


def test_waits_grow(server, tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr("dicepp_jax.data.download.WAITS", (1, 3, 10))
    monkeypatch.setattr("dicepp_jax.data.download.time.sleep", waited.append)
    server.codes, server.cuts = [500, 500], [1000]
    fetch(server, tmp_path)
    # The third try brought bytes, so the waits start over.
    assert waited == [1, 3, 1]


@pytest.mark.parametrize("code", [403, 404, 410])
def test_a_file_that_is_not_there(server, tmp_path, code):
    server.codes = [code]
    with pytest.raises(ConnectionError) as error:
        fetch(server, tmp_path)
    assert len(server.asked) == 1
    for told in (
        server.url,
        f"responded {code}",
        f"download it manually to {tmp_path}/deep/file.zip",
    ):
        assert told in str(error.value)
    assert not list(tmp_path.glob("deep/*"))


def test_a_wrong_checksum(server, tmp_path):
    with pytest.raises(ValueError) as error:
        fetch(server, tmp_path, "0" * 64)
    for told in (server.url, SHA256, "0" * 64, "deleted, so download it again"):
        assert told in str(error.value)
    assert not list(tmp_path.glob("deep/*"))


def test_the_checksum_is_of_the_whole_file(server, tmp_path):
    put(tmp_path, bytes(1000))
    with pytest.raises(ValueError, match="sha256"):
        fetch(server, tmp_path)
    assert server.asked == ["bytes=1000-"]
    fetch(server, tmp_path)
    assert_whole(tmp_path)


def test_a_whole_part_needs_no_more(server, tmp_path):
    put(tmp_path, CONTENT)
    fetch(server, tmp_path)
    assert server.asked == ["bytes=300000-"]
    assert_whole(tmp_path)


def test_a_part_longer_than_the_file_is_of_another(server, tmp_path, capsys):
    put(tmp_path, CONTENT + b"more")
    fetch(server, tmp_path)
    assert server.asked == ["bytes=300004-", None]
    assert_whole(tmp_path)
    assert "the 300004 bytes received earlier are not from this file" in capsys.readouterr().err


@pytest.mark.parametrize("told", ["bytes 0-299999/300000", "pages 1-2/3", "bytes 9-19/2000"])
def test_other_bytes_than_were_asked_for(server, tmp_path, told):
    put(tmp_path, CONTENT[:10])
    server.content_range = told
    fetch(server, tmp_path)
    assert server.asked == ["bytes=10-", None]
    assert_whole(tmp_path)


def test_more_bytes_than_the_file_has(server, tmp_path, capsys):
    put(tmp_path, CONTENT[:10])
    server.content_range = "bytes 10-19/20"
    fetch(server, tmp_path)
    assert server.asked == ["bytes=10-", None]
    assert_whole(tmp_path)
    assert "received 300000 of 20 bytes" in capsys.readouterr().err


def test_no_network(server, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/file"
        with pytest.raises(ConnectionError) as error:
            download([Download(url, "file.zip")], tmp_path)
    for told in (
        url,
        "Connection refused",
        "Check the network",
        f"download it manually to {tmp_path}/file.zip",
    ):
        assert told in str(error.value)


@pytest.mark.parametrize("broken", [TimeoutError("timed out"), ConnectionResetError("reset")])
def test_a_lost_connection_is_opened_again(server, tmp_path, monkeypatch, broken):
    really, errors = urllib.request.OpenerDirector.open, [broken]

    def lose_once(*args, **kwargs):
        assert kwargs["timeout"] > 0
        if errors:
            raise errors.pop()
        return really(*args, **kwargs)

    monkeypatch.setattr("urllib.request.OpenerDirector.open", lose_once)
    fetch(server, tmp_path)
    assert server.asked == [None]
    assert_whole(tmp_path)


@pytest.mark.parametrize("broken", [TimeoutError("timed out"), http.client.IncompleteRead(b"")])
def test_a_connection_lost_on_the_way(server, tmp_path, monkeypatch, broken):
    read1, came = http.client.HTTPResponse.read1, []

    def lose_second(response, size):
        came.append(0)
        if len(came) == 2:
            raise broken
        chunk = read1(response, 50_000)
        came[-1] = len(chunk)
        return chunk

    monkeypatch.setattr("http.client.HTTPResponse.read1", lose_second)
    fetch(server, tmp_path)
    assert came[0] > 0 and server.asked == [None, f"bytes={came[0]}-"]
    assert_whole(tmp_path)


def test_a_full_disk_keeps_what_has_come(server, tmp_path):
    # A limit on the size of files stands for the disk's end.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(OSError, match="beyond 200000 bytes .*; free disk space") as error:
            fetch(server, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.errno == errno.EFBIG
    assert f"{tmp_path}/deep/file.zip.part" in str(error.value)
    fetch(server, tmp_path)
    assert server.asked == [None, "bytes=200000-"]
    assert_whole(tmp_path)


def test_an_interrupt_keeps_what_has_come(server, tmp_path, monkeypatch):
    def interrupt(chunks, *args):
        yield next(chunks)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("dicepp_jax.data.download._track", interrupt)
        fetch(server, tmp_path)
    kept = (tmp_path / "deep/file.zip.part").stat().st_size
    assert 0 < kept < len(CONTENT)
    fetch(server, tmp_path)
    assert server.asked == [None, f"bytes={kept}-"]
    assert_whole(tmp_path)


def test_progress_in_a_file(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("dicepp_jax.data.download.LINE_EVERY", -1)
    put(tmp_path, CONTENT[:100_000])
    fetch(server, tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "deep/file.zip (1 of 1): 100kB of 300kB, ? left"
    assert len(lines) > 1
    for line in lines[1:]:
        assert re.fullmatch(r"deep/file.zip \(1 of 1\): [12]\d\dkB of 300kB, \d\d:\d\d left", line)


def test_progress_on_a_terminal(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fetch(server, tmp_path)
    told = capsys.readouterr().err
    assert "deep/file.zip (1 of 1): 100%" in told and "300k/300k" in told


ELSEWHERE = ("http://example.invalid/file", "ftp://127.0.0.1/file", "file:///etc/passwd")


@pytest.mark.parametrize("url", ELSEWHERE)
def test_only_https_and_this_machine_are_asked(tmp_path, url):
    with pytest.raises(ValueError, match=r"is not an https address, so .*; download the file man"):
        download([Download(url, "file.zip", SHA256)], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ELSEWHERE)
def test_a_server_cannot_lead_elsewhere(server, tmp_path, url):
    server.elsewhere = url
    # Python itself does not follow to files.
    refused = f"'{url}' is not (an https address|allowed)"
    with pytest.raises((ValueError, ConnectionError), match=refused):
        fetch(server, tmp_path)
    assert not list((tmp_path / "deep").iterdir())
    server.elsewhere = server.url
    fetch(server, tmp_path)
    assert_whole(tmp_path)


def test_https_leads_to_https_alone(server):
    asked = urllib.request.Request("https://example.invalid/file")
    redirect = functools.partial(
        _Redirects().redirect_request, asked, None, 302, "Found", http.client.HTTPMessage()
    )
    assert redirect("https://other.invalid/file").full_url == "https://other.invalid/file"
    with pytest.raises(ValueError, match="is not an https address"):
        redirect(server.url)


@pytest.mark.parametrize("length", [True, False])
def test_a_file_without_end_is_not_kept(server, tmp_path, monkeypatch, length):
    server.length = length
    monkeypatch.setattr("dicepp_jax.data.download.MOST", len(CONTENT) - 1)
    with pytest.raises(ValueError, match=r"/file has 300000 bytes or more, .* 299999"):
        fetch(server, tmp_path)
    assert not list((tmp_path / "deep").iterdir())
