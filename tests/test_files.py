"""Files in folders and archives: what is found, in which order, and what is refused."""

import io
import os
import re
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicepp_jax.data.files import from_path, match, natural, tree


def write(root, *names):
    """Write files that hold their own names."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def pack(target, *names, **members):
    """Write an archive of files that hold their own names, or what is given."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, name)
        for name, content in members.items():
            archive.writestr(f"{name}.zip", content)


def packed(*names, **members):
    """The bytes of an archive."""
    stream = io.BytesIO()
    pack(stream, *names, **members)
    return stream.getvalue()


# What is found


def test_a_folder_is_gone_through_in_natural_order(tmp_path):
    write(tmp_path, "b/img10.png", "b/img2.png", "a/deep/er/x.png", "B.txt", "img2.png", "b/02.png")
    files = tree(tmp_path)
    assert list(files) == [
        *("B.txt", "a/deep/er/x.png", "b/02.png", "b/img2.png", "b/img10.png", "img2.png")
    ]
    for name, file in files.items():
        assert file.name == name and not file.archived
        assert str(file) == file.where == str(tmp_path / name)
        assert file.read().decode() == name


def test_hidden_files_are_passed_over(tmp_path):
    hidden = ("__MACOSX/a.png", "x/._a.png", ".git/a.png", "x/.DS_Store", "Thumbs.db", "THUMBS.DB")
    hidden += ("x/@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "x/ehthumbs.db", "x/Desktop.ini")
    write(tmp_path / "folder", "x/a.png", "desktop.ini", *hidden)
    (tmp_path / "folder/dangling.png").symlink_to(tmp_path / "nowhere")
    pack(tmp_path / "folder/x.zip", "b.png", *hidden)
    pack(tmp_path / "folder/._x.zip", "c.png")
    assert list(tree(tmp_path / "folder")) == ["x.zip/b.png", "x/a.png"]
    assert list(tree(tmp_path / "folder/x.zip")) == ["x.zip/b.png"]


@pytest.mark.parametrize("archived", [False, True])
def test_names_are_spelt_in_one_way_and_files_are_where_they_were(tmp_path, archived):
    decomposed = "E\u0301tude /No\u0308el .png"
    write(tmp_path, "x/" + decomposed)
    if archived:
        pack(tmp_path / "x.zip", decomposed)
        (tmp_path / "x" / decomposed).unlink()
    root = tmp_path / ("x.zip" if archived else "x")
    [(name, file)] = tree(root).items()
    assert name == file.name == ("x.zip/" if archived else "") + "\u00c9tude/N\u00f6el .png"
    assert file.where == f"{root}/{decomposed}" and file.read().decode().endswith(decomposed)


@pytest.mark.parametrize("archived", [False, True])
def test_two_spellings_of_one_name_are_refused(tmp_path, archived):
    names = "\u00e9.png", "e\u0301.png"
    write(tmp_path, *(f"x/{name}" for name in names))
    if archived:
        pack(tmp_path / "x.zip", *names)
    with pytest.raises(ValueError, match=r"have one name, apart from how its accents and spaces"):
        tree(tmp_path / ("x.zip" if archived else "x"))


def test_names_in_an_archive_that_are_not_utf8_are_kept(tmp_path):
    """As from a program of DOS, whose letters are those of code page 437."""
    pack(tmp_path / "a.zip", "xx.png")
    content = (tmp_path / "a.zip").read_bytes().replace(b"xx.png", b"\x82x.png")
    (tmp_path / "a.zip").write_bytes(content)
    assert list(tree(tmp_path)) == ["a.zip/\u00e9x.png"]


def test_a_folder_may_lie_below_a_hidden_one_and_behind_a_link(tmp_path):
    write(tmp_path / ".cache/set", "a.png")
    (tmp_path / "link").symlink_to(tmp_path / ".cache", target_is_directory=True)
    assert list(tree(tmp_path / ".cache/set")) == ["a.png"]
    assert list(tree(tmp_path / "link")) == ["set/a.png"]


def test_archives_in_archives_are_folders(tmp_path):
    inner = packed("test/images/01_test.tif")
    content = packed("readme.txt", training=packed("training/2.gif", "training/10.gif"), test=inner)
    (tmp_path / "datasets.ZIP").write_bytes(content)
    names = [
        "datasets.ZIP/readme.txt",
        "datasets.ZIP/test.zip/test/images/01_test.tif",
        "datasets.ZIP/training.zip/training/2.gif",
        "datasets.ZIP/training.zip/training/10.gif",
    ]
    for root in (tmp_path, tmp_path / "datasets.ZIP"):
        files = tree(root)
        assert list(files) == names
        for name, file in files.items():
            assert file.archived and str(file) == f"{tmp_path}/{name}"
            assert name.endswith(file.read().decode())


def test_an_archive_is_known_by_what_it_holds_if_not_by_its_name(tmp_path):
    pack(tmp_path / "download", "a.png")
    assert list(tree(tmp_path / "download")) == ["download/a.png"]


def test_an_archive_s_folders_are_no_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.mkdir("masks")
    assert tree(tmp_path) == {}


def test_files_can_be_read_at_once_and_again(tmp_path):
    pack(tmp_path / "a.zip", "x", "y")
    x, y = tree(tmp_path).values()
    with x.open() as first, y.open() as second:
        assert [second.read(), first.read(), x.read()] == [b"y", b"x", b"x"]


@pytest.mark.parametrize("archived", [False, True])
def test_the_stamp_tells_whether_a_file_has_changed(tmp_path, archived):
    def stamps(content, time):
        path = tmp_path / "a.png"
        if archived:
            with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
                archive.writestr("a.png", content)
        else:
            path.write_text(content)
            os.utime(path, ns=(0, time))
        return [file.stamp for file in tree(tmp_path).values()]

    first = stamps("abc", 1)
    assert stamps("abc", 1) == first
    assert stamps("abcd", 1) != first
    assert (stamps("abd", 1) != first) == archived  # of the same size: by its checksum,
    assert (stamps("abc", 2) != first) == (not archived)  # or else by its time


def test_a_file_of_its_own_has_its_name(tmp_path):
    write(tmp_path, "a.png")
    file = from_path(tmp_path / "a.png")
    assert (file.name, file.read(), file) == ("a.png", b"a.png", file)


@given(st.text("ab²٣/. ", max_size=4), st.integers(0, 10**6), st.integers(0, 10**6))
def test_natural_order_is_by_the_number_in_a_name(text, i, j):
    name, other = (f"{text}x{number}{text}" for number in (i, j))
    assert (natural(name) < natural(other)) == (i < j)
    assert (natural(name) == natural(other)) == (i == j)


# Cases

PATTERN = r"images/(?P<case>[^/]+)\.png"


def test_cases_are_matched_by_the_end_of_a_name(tmp_path):
    write(tmp_path, "set/Images/b10.PNG", "set/images/b2.png", "images/a.png", "other-images/c.png")
    write(tmp_path, "images/d.png.txt", "images/deeper/e.png")
    found = match(tree(tmp_path), PATTERN)
    assert list(found) == ["a", "b2", "b10"]
    assert found["b10"].name == "set/Images/b10.PNG"


def test_the_archive_is_taken_rather_than_what_was_unpacked(tmp_path):
    write(tmp_path, "images/1.png", "images/2.png", "x/images/3.png")
    pack(tmp_path / "s.zip", "images/1.png", "s/images/3.png")
    names = [file.name for file in match(tree(tmp_path), PATTERN).values()]
    assert names == ["s.zip/images/1.png", "images/2.png", "s.zip/s/images/3.png"]


def test_equal_files_of_two_archives_are_one(tmp_path):
    inner = packed("images/1.png")
    pack(tmp_path / "datasets.zip", training=inner)
    (tmp_path / "training.zip").write_bytes(inner)
    [file] = match(tree(tmp_path), PATTERN).values()
    assert file.read() == b"images/1.png"


def test_two_copies_are_refused(tmp_path):
    write(tmp_path, "copy/images/1.png", "images/1.png")
    message = (
        f"{tmp_path}/copy/images/1.png and {tmp_path}/images/1.png both match case 1; remove one "
        "of them, or give a folder that contains only one"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        match(tree(tmp_path), PATTERN)
    pack(tmp_path / "s.zip", "images/1.png")  # settles it
    assert match(tree(tmp_path), PATTERN)["1"].archived
    pack(tmp_path / "t.zip", "t/images/1.png")
    message = f"{tmp_path}/s.zip/images/1.png and {tmp_path}/t.zip/t/images/1.png both match case 1"
    with pytest.raises(ValueError, match=re.escape(message)):
        match(tree(tmp_path), PATTERN)


# What is refused


def test_a_missing_folder_is_named(tmp_path):
    message = f"{tmp_path}/nowhere does not exist; give the folder that contains the set's files"
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        tree(tmp_path / "nowhere")


def test_a_file_that_is_no_archive_is_named(tmp_path):
    write(tmp_path, "set.rar")
    message = f"{tmp_path}/set.rar is neither a folder nor a zip archive; if it is"
    with pytest.raises(ValueError, match=re.escape(message)):
        tree(tmp_path / "set.rar")


@pytest.mark.parametrize("keep", [0, 0.5, 0.99])
def test_a_truncated_archive_is_named(tmp_path, keep):
    content = packed(*(f"{number}.png" for number in range(9)))
    content = content[: int(keep * len(content))]
    (tmp_path / "set.zip").write_bytes(content)
    pack(tmp_path / "outer.zip", set=content)
    message = f"{tmp_path}/set.zip cannot be read as a zip archive"
    for root in (tmp_path / "set.zip", tmp_path):
        if root == tmp_path:
            (tmp_path / "outer.zip").unlink()
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            tree(root)
        assert "incomplete, so download it again" in str(caught.value)


def test_a_broken_archive_in_an_archive_is_named(tmp_path):
    content = bytearray(packed(inner=packed("a.png")))
    content[len("inner.zip") + 40] ^= 255  # within the inner archive, whose checksum is then wrong
    (tmp_path / "outer.zip").write_bytes(content)
    message = f"{tmp_path}/outer.zip/inner.zip cannot be read as a zip archive"
    with pytest.raises(ValueError, match=re.escape(message)):
        tree(tmp_path)


def denied(path):
    return PermissionError(13, "Permission denied", str(path))


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def walk(root, onerror, followlinks):
        onerror(denied(root / "images"))
        yield from ()

    # Not by its mode: who runs the tests may be allowed everything.
    monkeypatch.setattr(os, "walk", walk)
    message = f"{tmp_path}/images cannot be read (Permission denied); get read permission"
    with pytest.raises(PermissionError, match=re.escape(message)):
        tree(tmp_path)


def test_an_archive_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    pack(tmp_path / "set.zip", "a.png")

    def refuse(file, *arguments, **options):
        raise denied(file)

    monkeypatch.setattr(io, "open", refuse)
    for root in (tmp_path, tmp_path / "set.zip"):
        with pytest.raises(PermissionError, match=f"{re.escape(str(tmp_path))}/set.zip cannot be"):
            tree(root)


def test_a_file_that_may_not_be_read_is_listed_and_refuses_itself(tmp_path, monkeypatch):
    write(tmp_path, "a.png")
    [file] = tree(tmp_path).values()

    def refuse(self, mode):
        raise denied(self)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError, match=re.escape(str(tmp_path / "a.png"))):
        file.read()
