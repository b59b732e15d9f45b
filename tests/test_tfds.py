"""The sets by name in tfds: the same cases as `data.load`, whichever prepares them."""

import contextlib
import pickle
import re
import subprocess
import sys
import types
from pathlib import Path

import layouts_3d
import numpy as np
import pytest
import tensorflow_datasets as tfds
from test_data import WRITERS

from dicepp_jax import data
from dicepp_jax.data import SETS, registered
from dicepp_jax.data.preparation import locked

ROOT = Path(__file__).parents[1]
FILES = {**WRITERS, "kits19": layouts_3d.kits19, "kits19_synthetic": layouts_3d.kits19}
PAPER = ("drive", "bus2017", "dsb2018", "isic2018", "cvc_clinicdb", "kits19")


def prepared(name, tmp_path):
    """A set prepared by tfds, its files in the official layout where it has any."""
    builder = tfds.builder(name, data_dir=tmp_path / "tfds")
    if name in FILES:
        FILES[name](tmp_path / "files")
    config = tfds.download.DownloadConfig(manual_dir=tmp_path / "files")
    builder.download_and_prepare(download_config=config)
    return builder


def assert_same_cases(found, expected):
    assert len(found) == len(expected) > 0
    for case, other in zip(found, expected, strict=True):
        assert set(case) == set(other) and case["id"] == other["id"]
        for key in set(case) - {"id"}:
            assert case[key].dtype == other[key].dtype
            np.testing.assert_array_equal(case[key], other[key])


def test_every_set_is_registered_under_its_name():
    listed = tfds.list_builders(with_community_datasets=False)
    assert {*PAPER} < set(SETS) <= set(listed)
    for name, dataset in SETS.items():
        builder = tfds.builder_cls(name)
        assert issubclass(builder, registered.NamedBuilder)
        assert builder.name == name and builder.spec is dataset.spec
        assert str(builder.VERSION) == dataset.spec.version


@pytest.mark.parametrize("name", SETS)
def test_tfds_and_load_give_the_same_cases(name, tmp_path, capsys):
    builder = prepared(name, tmp_path)
    loaded = data.load(name, str(tmp_path / "load"), str(tmp_path / "files"))
    found = builder.as_data_source()
    assert set(found) == {"cases", *loaded.splits}
    for part, subset in loaded.splits.items():
        assert_same_cases(found[part], subset)
        assert_same_cases(builder.as_data_source(part), subset)
    assert [case["id"].decode() for case in found["cases"]] == [case.id for case in loaded.facts]
    assert builder.stored_facts() == loaded.facts
    # Each reads what the other has prepared.
    capsys.readouterr()
    other = data.load(name, str(tmp_path / "tfds"), str(tmp_path / "files"))
    assert other.digest == loaded.digest
    assert other.path == Path(builder.data_path) == tmp_path / "tfds" / name / loaded.spec.version
    source = tfds.data_source(name, split="train", data_dir=tmp_path / "load")
    assert_same_cases(source, loaded.splits["train"])
    assert capsys.readouterr().out == ""


def test_what_tfds_says_of_a_set(tmp_path):
    builder = tfds.builder("drive", data_dir=tmp_path)
    info, spec = builder.info, SETS["drive"].spec
    assert set(info.features) == {"id", "image", "label", "region", "raters"}
    assert info.features["image"].shape == (None, None, 3)
    assert info.features["image"].np_dtype == np.uint8
    assert (info.homepage, info.citation) == (spec.homepage, spec.citation)
    assert info.supervised_keys == ("image", "label")
    assert set(tfds.builder("kits19", data_dir=tmp_path).info.features) == {
        "id", "image", "label", "native_label",
    }  # fmt: skip


def test_without_files_it_says_where_they_go(tmp_path):
    with pytest.raises(AssertionError, match="does not exist or is empty") as caught:
        tfds.data_source("drive", data_dir=tmp_path)
    for expected in (
        str(tmp_path / "downloads" / "manual"),
        SETS["drive"].spec.obtain,
        "tfds.download.DownloadConfig(manual_dir=FOLDER)",
    ):
        assert expected in str(caught.value)
    other = tmp_path / "files"
    other.mkdir()
    (other / "notes.txt").touch()
    config = tfds.download.DownloadConfig(manual_dir=other)
    with pytest.raises(FileNotFoundError, match=f"In {other}: DRIVE: .*1. Register at"):
        tfds.builder("drive", data_dir=tmp_path).download_and_prepare(download_config=config)
    assert tfds.builder_cls("phantom").MANUAL_DOWNLOAD_INSTRUCTIONS is None


def test_splits_are_asked_for_as_usual(tmp_path):
    builder = prepared("bus2017", tmp_path)
    everything = builder.as_data_source("all")
    first = [everything[index] for index in range(3)]
    assert_same_cases(builder.as_data_source("cases[:3]"), first)
    train, test = builder.as_data_source(["train", "test"])
    validation = builder.as_data_source("validation")
    ids = [case["id"] for part in (train, validation, test) for case in part]
    assert sorted(ids) == sorted(case["id"] for case in everything)
    nested = builder.as_data_source({"a": "test"})
    assert_same_cases(nested["a"], test)
    with pytest.raises(ValueError, match="Unknown split 'tran'"):
        builder.as_data_source("tran")
    assert_same_cases(pickle.loads(pickle.dumps(test)), test)


def test_a_prepared_set_is_read_without_its_files_and_without_writing(tmp_path, monkeypatch):
    builder = prepared("drive", tmp_path)
    monkeypatch.setattr(registered, "locked", lambda builder: pytest.fail("wrote a lock"))
    source = tfds.data_source("drive", split="test", data_dir=tmp_path / "tfds")
    assert_same_cases(source, builder.as_data_source("test"))


def test_two_at_once_prepare_it_once(tmp_path, monkeypatch):
    first, second = (tfds.builder("phantom", data_dir=tmp_path) for _ in range(2))

    @contextlib.contextmanager
    def late(builder):
        first.download_and_prepare()
        with locked(builder):
            yield

    with monkeypatch.context() as patched:
        patched.setattr(
            registered,
            "locked",
            lambda builder: late(builder) if builder is second else locked(builder),
        )
        second.download_and_prepare()
    assert_same_cases(second.as_data_source("test"), first.as_data_source("test"))


class Dataset(list):
    """As much of `tf.data.Dataset` as is used."""

    @classmethod
    def from_generator(cls, generator, output_signature):
        assert output_signature == "signature"
        return cls(generator())

    def apply(self, transformation):
        assert transformation == len(self)
        return self


def test_a_tf_dataset_has_the_same_examples(tmp_path, monkeypatch):
    builder = prepared("drive", tmp_path)
    source = list(builder.as_data_source("train"))
    monkeypatch.setattr(builder, "as_data_source", lambda split, decoders: source)
    experimental = types.SimpleNamespace(assert_cardinality=int)
    tensorflow = types.ModuleType("tensorflow")
    tensorflow.data = types.SimpleNamespace(Dataset=Dataset, experimental=experimental)
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)
    monkeypatch.setattr(type(builder.info.features), "get_tensor_spec", lambda self: "signature")
    assert_same_cases(builder._as_dataset("train"), source)
    config = types.SimpleNamespace(shuffle_seed=1)
    shuffled = builder._as_dataset("train", read_config=config, shuffle_files=True)
    assert [case["id"] for case in shuffled] != [case["id"] for case in source]
    assert_same_cases(sorted(shuffled, key=lambda case: case["id"]), source)


def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    FILES["drive"](tmp_path / "DRIVE")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), re.DOTALL
    )
    namespace = {}
    exec(compile(block, "docs/data.md", "exec"), namespace)
    assert (len(namespace["train"]), len(namespace["test"])) == (16, 20)
    drive = data.load("drive", "prepared", "DRIVE")
    assert_same_cases(namespace["train"], drive.splits["train"])


@pytest.mark.parametrize(
    "imports",
    [
        "import dicepp_jax.data; import tensorflow_datasets as tfds",
        "import tensorflow_datasets as tfds; import dicepp_jax.data",
        "import tensorflow_datasets as tfds; tfds.builder_cls('mnist'); import dicepp_jax.data",
    ],
)
def test_either_may_be_imported_first(imports, tmp_path):
    code = (
        f"import sys; {imports}\n"
        f"for name in {PAPER!r}: print(tfds.builder(name, data_dir=sys.argv[1]).info.name)\n"
        "assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(PAPER)
