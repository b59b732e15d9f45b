"""What a run's directory remembers: the source of its data and the machine."""

import json
from pathlib import Path

import pytest

from configs import base
from dicepp_jax.data import Loaded, Origin
from dicepp_jax.data.specs import PHANTOM
from experiments.workdirs import directory, log, trained

FIRST = Origin("/data/one", "2024-01-02T03:04:05+00:00", "a" * 32)
SECOND = Origin("/data/two", "2025-01-02T03:04:05+00:00", "b" * 32)


def open_workdir(folder, origin=FIRST, **fields):
    config = base.get_config()
    config.update_from_flattened_dict(fields)
    directory.open_workdir(folder, config, Loaded(PHANTOM, {}, [], folder, origin))
    return json.loads((folder / directory.RUN).read_text())


def test_a_run_keeps_the_source_that_it_began_with_and_resumes_with_another(tmp_path):
    first = open_workdir(tmp_path)
    assert first["source"] == {
        "folder": "/data/one",
        "date": "2024-01-02T03:04:05+00:00",
        "fingerprint": "a" * 32,
    }
    assert open_workdir(tmp_path, SECOND) == first
    # Older versions did not record it.
    del first["source"], first["cpu"]
    (tmp_path / directory.RUN).write_text(json.dumps(first))
    again = open_workdir(tmp_path, SECOND)
    assert again["source"] == SECOND._asdict() and "continued" not in again


def test_a_run_from_before_a_field_existed_is_the_same_run(tmp_path):
    first = open_workdir(tmp_path)
    del first["config"]["loss"]["margin"], first["config"]["sweep"]["margin"]
    (tmp_path / directory.RUN).write_text(json.dumps(first))
    (tmp_path / directory.REPORT).touch()
    assert directory.is_finished(tmp_path, base.get_config(), first["data"])
    assert open_workdir(tmp_path)["config"]["sweep"]["margin"] == []
    config = base.get_config()
    config.sweep.margin = (1.0, 2.0)
    assert not directory.is_finished(tmp_path, config, first["data"])


def test_the_processor_is_recorded_and_another_one_is_noted(tmp_path, monkeypatch):
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(directory, "CPU_INFO", info)
    run = tmp_path / "run"
    info.write_text("processor\t: 0\nmodel name\t: Abacus 2: the fast one\nmodel name\t: other\n")
    assert open_workdir(run)["cpu"] == "Abacus 2: the fast one"
    info.write_text("processor\t: 0\nmodel name\t: Abacus 3\n")
    resumed = open_workdir(run)
    assert resumed["cpu"] == "Abacus 2: the fast one"
    assert [later["cpu"] for later in resumed["continued"]] == ["Abacus 3"]
    monkeypatch.setattr(directory, "CPU_INFO", tmp_path / "none")
    monkeypatch.setattr(directory.platform, "processor", lambda: "arm")
    assert open_workdir(tmp_path / "other")["cpu"] == "arm"


@pytest.mark.parametrize(
    ("name", "expected"), [("drive", ""), ("folder", "nowhere"), ("phantom", "")]
)
def test_a_recorded_folder_that_is_gone_is_not_asked_for(tmp_path, name, expected):
    open_workdir(tmp_path, **{"data.name": name, "data.manual_dir": "nowhere"})
    assert trained.read_config(tmp_path).data.manual_dir == expected
    open_workdir(tmp_path, **{"data.name": name, "data.manual_dir": str(tmp_path)})
    kept = json.loads((tmp_path / directory.RUN).read_text())["config"]["data"]["manual_dir"]
    assert kept == trained.read_config(tmp_path).data.manual_dir == str(tmp_path)


def test_a_directory_that_cannot_be_is_not_said_to_be_in_use(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "run", Path("/proc/run")):
        with (
            pytest.raises(ValueError, match=f"{path} (is not writable|cannot be created)"),
            directory.lock(path),
        ):
            pass


def test_a_log_that_lacks_epochs_is_reported(tmp_path, capsys):
    (tmp_path / log.LOG).write_text('{"epoch": 0, "val_loss": 1.0}\n')
    log.trim(tmp_path, 3)
    assert "log.jsonl has 1 of 3 epochs: curves lack the others" in capsys.readouterr().out
