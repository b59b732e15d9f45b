"""Preparing a set: once, whole or not at all, by one process, and again when its files change."""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import toy

from dicepp_jax.data.builder import ALL, Case, Example
from dicepp_jax.data.files import tree
from dicepp_jax.data.preparation import prepare

ROOT = Path(__file__).parent.parent


@pytest.fixture
def place(tmp_path):
    """Where the files are, and where the prepared set goes."""
    return tmp_path / "files", str(tmp_path / "prepared")


def prepare_toy(place, spec=toy.SPEC):
    files, prepared = place
    return prepare(spec, lambda: toy.cases(tree(files)), prepared)


def assert_holds(builder, written):
    known, stored = builder.stored_facts(), builder.as_data_source(ALL)
    assert [case.id for case in known] == list(written)
    for index, (name, (image, label)) in enumerate(written.items()):
        case = stored[index]
        assert case["id"].decode() == name
        np.testing.assert_array_equal(case["image"], image)
        np.testing.assert_array_equal(case["label"], label)


def test_cases_are_stored_in_order_with_what_is_known_of_them(place):
    written = toy.write(place[0], 35)  # more than two shards
    builder = prepare_toy(place)
    assert_holds(builder, written)
    for case, (image, label) in zip(builder.stored_facts(), written.values(), strict=True):
        assert case.shape == label.shape == image.shape[:2]
        assert case.voxels == ((label == 0).sum(), (label == 1).sum())
        assert case[1:3] == (None, None) and case.spacing is None and case.notes == ()
    assert len({case.digest for case in builder.stored_facts()}) == 35


def test_what_is_odd_is_noted_and_equal_images_have_equal_digests(place):
    toy.write(place[0], 4)
    for number, value in ((1, 0), (2, 1)):
        label = np.full((16, 16 + number), value, np.uint8)
        np.save(place[0] / f"{number}.label.npy", label)
    for kind in ("image", "label"):
        copy = (place[0] / f"0.{kind}.npy").read_bytes()
        (place[0] / f"3.{kind}.npy").write_bytes(copy)
    spec = dataclasses.replace(toy.SPEC, native_size=(16, 16))
    known = prepare_toy(place, spec).stored_facts()
    size = "where the set's images are 16 x 16"
    assert [case.notes for case in known] == [
        (),
        ("the mask has no foreground", f"it is 16 x 17, {size}"),
        ("the mask is all foreground", f"it is 16 x 18, {size}"),
        (),
    ]
    assert known[0].digest == known[3].digest != known[1].digest


def test_a_resampled_case_keeps_its_native_label(tmp_path):
    spec = dataclasses.replace(
        toy.SPEC, size=(8, 8, 8), dtype="int16", spacing=(3.0, 2.0, 2.0), name="toy_3d"
    )
    rng = np.random.default_rng(0)
    example = Example(
        rng.integers(-1000, 1000, (4, 5, 6, 1)).astype(np.int16),
        rng.integers(0, 2, (4, 5, 6)).astype(np.uint8),
        native_label=rng.integers(0, 2, (9, 11, 13)).astype(np.uint8),
        spacing=(1.5, 0.9, 0.9),
    )
    builder = prepare(spec, lambda: [Case("a", lambda: example)], str(tmp_path))
    (known,) = builder.stored_facts()
    assert known.shape == (9, 11, 13) and known.spacing == (1.5, 0.9, 0.9)
    assert known.voxels == tuple(np.bincount(example.native_label.ravel()))
    stored = builder.as_data_source(ALL)[0]
    assert set(stored) == {"id", "image", "label", "native_label"}
    for name in ("image", "label", "native_label"):
        np.testing.assert_array_equal(stored[name], getattr(example, name))


def test_what_has_not_changed_is_not_read_again(place, monkeypatch, capsys):
    written = toy.write(place[0], 5)
    prepare_toy(place)
    assert f"Toy: 5 cases prepared in {place[1]}" in capsys.readouterr().out
    monkeypatch.setattr(toy, "_read", lambda *files: pytest.fail("read again"))
    assert_holds(prepare_toy(place), written)
    assert capsys.readouterr().out == ""
    assert_holds(prepare(toy.SPEC, None, place[1]), written)


@pytest.mark.parametrize("change", ["content", "added", "removed", "classes"])
def test_what_has_changed_is_read_anew(place, change, capsys):
    files, spec = place[0], toy.SPEC
    written = toy.write(files, 5)
    prepare_toy(place)
    if change == "content":
        label = 1 - written["2"][1]
        np.save(files / "2.label.npy", label)
        # A file system's clock may be coarse.
        os.utime(files / "2.label.npy", (1, 1))
        written["2"] = written["2"][0], label
    elif change == "added":
        written |= toy.write(files, 2, first=5)
    elif change == "removed":
        for kind in ("image", "label"):
            (files / f"4.{kind}.npy").unlink()
        del written["4"]
    else:
        spec = dataclasses.replace(spec, classes=("background", "thing", "other"))
    assert_holds(prepare_toy(place, spec), written)
    assert "Toy: its files or options have changed; preparing it again" in capsys.readouterr().out
    assert sorted(p.name for p in (Path(place[1]) / "toy").iterdir()) == [".lock", spec.version]


def test_what_another_version_of_the_package_remembered_is_prepared_anew(place, monkeypatch):
    written = toy.write(place[0], 3)
    with monkeypatch.context() as older:
        older.setattr(sys.modules["dicepp_jax.data.builder"], "FORMAT", 1)
        prepare_toy(place)
    with pytest.raises(FileNotFoundError, match="Toy needs --config.data.manual_dir"):
        prepare(toy.SPEC, None, place[1])
    assert_holds(prepare_toy(place), written)


def test_files_that_have_become_bad_leave_the_prepared_set_as_it_was(place):
    written = toy.write(place[0], 5)
    prepare_toy(place)
    (place[0] / "3.image.npy").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="Toy case 3: .*3.image.npy cannot be read"):
        prepare_toy(place)
    assert_holds(prepare(toy.SPEC, None, place[1]), written)


def test_all_bad_cases_are_named_in_one_error(place):
    toy.write(place[0], 20)
    for number in (0, 7, 19):
        np.save(place[0] / f"{number}.image.npy", np.zeros((16, 16 + number, 1), np.uint8))
    with pytest.raises(ValueError) as caught:
        prepare_toy(place)
    first, *lines = str(caught.value).splitlines()
    assert first == "3 of the 20 cases of Toy cannot be used:"
    assert [line.split(":")[0].strip() for line in lines] == ["case 0", "case 7", "case 19"]
    assert all("the image is 0 everywhere" in line for line in lines)
    for number in range(20):
        np.save(place[0] / f"{number}.label.npy", np.zeros((3, 3), np.uint8))
    with pytest.raises(ValueError, match="20 of the 20 cases") as caught:
        prepare_toy(place)
    lines = str(caught.value).splitlines()
    assert len(lines) == 12 and lines[-1] == "  and 10 more"
    with pytest.raises(FileNotFoundError, match=r"Toy needs --config.data.manual_dir\. Draw it\."):
        prepare(toy.SPEC, None, place[1])


PROGRAM = f"""
import os, resource, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import toy
from pathlib import Path
from dicepp_jax.data.files import tree
from dicepp_jax.data.preparation import prepare
files, prepared, log = map(Path, sys.argv[1:4])
read = toy._read
def slow(*arguments):
    with log.open("a") as out:
        print(os.getpid(), file=out)
    time.sleep(0.05)
    return read(*arguments)
toy._read = slow
exec(sys.argv[4])
prepare(toy.SPEC, lambda: toy.cases(tree(files)), str(prepared))
print("prepared")
"""


def start(place, tmp_path, setup=""):
    command = [sys.executable, "-c", PROGRAM, *map(str, place), str(tmp_path / "log"), setup]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_full_disk_is_reported_and_leaves_nothing_half_made(place, tmp_path):
    written = toy.write(place[0], 40)
    # Files may grow to a few kB only: what a write says then is what it says of a full disk.
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))"
    output, error = start(place, tmp_path, limit).communicate(timeout=120)
    assert "prepared" not in output
    assert "while preparing Toy, of which nothing is left" in error
    assert f"{Path(place[1]) / 'toy'}" in error and "--config.data.data_dir" in error
    assert os.listdir(Path(place[1]) / "toy") == [".lock"]
    assert_holds(prepare_toy(place), written)


def test_two_at_once_prepare_it_once(place, tmp_path):
    written = toy.write(place[0], 30)
    processes = [start(place, tmp_path) for _ in range(2)]
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    readers = (tmp_path / "log").read_text().split()
    assert len(readers) == 30 and len(set(readers)) == 1
    assert_holds(prepare(toy.SPEC, None, place[1]), written)


def test_one_waits_for_another_and_says_so(place, tmp_path):
    toy.write(place[0], 40)
    first = start(place, tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "log").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second = start(place, tmp_path)
    output, _ = second.communicate(timeout=120)
    first.communicate(timeout=120)
    assert first.returncode == second.returncode == 0
    # It starts while the first is at work, or when that has finished, if the machine is busy.
    assert output in (
        "Toy is being prepared by another process; waiting for it\nprepared\n",
        "prepared\n",
    )


def test_killed_in_the_middle_and_prepared_the_second_time(place, tmp_path):
    written = toy.write(place[0], 40)
    process = start(place, tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "log").exists() or len((tmp_path / "log").read_text().split()) < 20:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    left = os.listdir(Path(place[1]) / "toy")
    assert toy.SPEC.version not in left and len(left) == 2
    assert_holds(prepare_toy(place), written)
    assert sorted(os.listdir(Path(place[1]) / "toy")) == [".lock", toy.SPEC.version]


def test_a_place_that_may_not_be_written_to_is_named(place, monkeypatch):
    toy.write(place[0], 3)

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(PermissionError, match="prepared/toy is not writable .*data_dir"):
        prepare_toy(place)
