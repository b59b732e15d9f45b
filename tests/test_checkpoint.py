"""Checkpoints whose files were damaged: noticed, named, and never read as something else."""

import json
import shutil

import jax
import numpy as np
import pytest
from runs import tiny

from dicepp_jax import checkpoint, schedule, score_files, train
from dicepp_jax.checkpoint import Checkpoints, DamagedError
from dicepp_jax.rows import Row, read_csv
from experiments.setup import components
from experiments.training import single
from experiments.workdirs import directory, log, stored

VAL_LOSSES = (0.5, 0.3, 0.4, 0.35)
LAST, BEST = 3, 1


def network(number):
    """A state whose arrays are its own."""
    rng = np.random.default_rng(number)
    params = {"conv": {"kernel": rng.normal(size=(3, 3, 2, 4)).astype(np.float32)}}
    return train.TrainState(np.int32(number), params, train.sgd(0.0).init(params))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A directory of checkpoints: the best and the last two of four epochs."""
    folder, settings = tmp_path_factory.mktemp("kept"), schedule.Settings()
    plan = schedule.init(settings)
    with Checkpoints(folder) as checkpoints:
        for number, loss in enumerate(VAL_LOSSES):
            plan = schedule.update(settings, plan, loss)
            checkpoints.save(train.Epoch(number, 0.1, 0.5, loss, 1.0, 0.0, network(number), plan))
    return folder


def damaged(path, damage, place=0.5):
    content = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
    elif damage == "bit" and content:
        content[int(place * len(content))] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "half" else b"")


def assert_read_as_saved(restored):
    jax.tree.map(np.testing.assert_array_equal, restored.state, network(restored.epoch))
    assert restored.val_loss == VAL_LOSSES[restored.epoch]


def files_of(folder):
    return [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]


def test_the_best_and_the_last_two_are_kept(kept):
    with Checkpoints(kept, read_only=True) as checkpoints:
        assert (checkpoints.epochs, checkpoints.best_epoch) == ([1, 2, 3], BEST)
        for epoch in checkpoints.epochs:
            assert_read_as_saved(checkpoints.restore(epoch, network(0)))


@pytest.mark.parametrize("damage", ["half", "empty", "bit", "delete"])
def test_each_file_of_the_last_that_is_damaged_is_noticed_or_not_needed(
    kept, tmp_path, capfd, damage
):
    noticed = []
    for name in files_of(kept / str(LAST)):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(kept, copy)
        damaged(copy / str(LAST) / name, damage)
        with Checkpoints(copy) as checkpoints:
            restored = checkpoints.resume(network(0))
            assert_read_as_saved(restored)
            assert checkpoints.best_epoch == BEST
            assert (LAST in checkpoints.epochs) == (restored.epoch == LAST)
        printed = capfd.readouterr()
        assert printed.err == ""  # Threads of libraries print nothing.
        if restored.epoch != LAST:
            (line,) = printed.out.splitlines()
            assert line.startswith(f"{copy / str(LAST)} is damaged (")
            assert line.endswith("it is removed, and the checkpoint before is used")
            noticed.append(name.parts[0] if len(name.parts) == 2 else "arrays")
    assert {"metrics", "schedule", "state", "arrays"} <= set(noticed)


def test_no_bit_that_flips_goes_unnoticed(kept, tmp_path):
    """A restored checkpoint is the saved one, or an error, wherever a bit flips."""
    folder = kept / str(LAST)
    needed = [name for name in files_of(folder) if "ocdbt.process_0" not in str(name)]
    outcomes = set()
    for number, place in enumerate(np.linspace(0, 0.999, 60)):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(kept, copy)
        damaged(copy / str(LAST) / needed[number % len(needed)], "bit", place)
        try:
            with Checkpoints(copy, read_only=True) as checkpoints:
                assert checkpoints.best_epoch == BEST
                assert_read_as_saved(checkpoints.restore(LAST, network(0)))
            outcomes.add("restored")
        except DamagedError as error:
            assert str(copy / str(LAST)) in str(error)
            outcomes.add("damaged")
    assert outcomes == {"restored", "damaged"}


def test_older_checkpoints_without_digests_are_read(kept, tmp_path):
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    for epoch in (1, 2, 3):
        path = tmp_path / str(epoch) / "metrics" / "metrics"
        metrics = json.loads(path.read_text())
        path.write_text(json.dumps({name: metrics[name] for name in ("val_loss", "epoch")}))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best_epoch == BEST
        assert_read_as_saved(checkpoints.resume(network(0)))


@pytest.mark.parametrize("part", ["state/manifest.ocdbt", "metrics/metrics"])
def test_if_all_are_damaged_there_is_one_line(kept, tmp_path, part):
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    for epoch in (1, 2, 3):
        damaged(tmp_path / str(epoch) / part, "half")
    with (
        pytest.raises(DamagedError, match="no checkpoint in .* is intact: .*resume=False") as error,
        Checkpoints(tmp_path) as checkpoints,
    ):
        checkpoints.resume(network(0))
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3"]


@pytest.mark.parametrize("part", ["state/manifest.ocdbt", "metrics/metrics"])
def test_another_epoch_is_not_evaluated_in_place_of_a_damaged_best(kept, tmp_path, part):
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    damaged(tmp_path / str(BEST) / part, "half")
    with (
        pytest.raises(DamagedError, match=rf"{BEST} is damaged .*best.*Restore the folder"),
        Checkpoints(tmp_path, read_only=True) as checkpoints,
    ):
        checkpoints.restore_best(network(0))


def test_the_checkpoint_of_another_epoch_is_not_taken_for_the_last(kept, tmp_path, capsys):
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "3")
    shutil.copytree(tmp_path / "2", tmp_path / "3")
    (tmp_path / "9").touch()  # A file, which is no checkpoint.
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.resume(network(0))
    assert restored.epoch == 2
    assert_read_as_saved(restored)
    assert f"{tmp_path / '3'} is damaged (metrics: " in capsys.readouterr().out


def test_what_says_nothing_of_files_removes_none(kept, tmp_path, monkeypatch):
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)

    def exhausted(*_):
        raise MemoryError

    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(checkpoint, "_check_stored_arrays", exhausted)
        with pytest.raises(MemoryError):
            checkpoints.resume(network(0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3"]


def test_another_network_is_refused_with_what_differs(kept, tmp_path):
    params = {"conv": {"kernel": np.zeros((3, 3, 2, 5), np.float32), "bias": np.zeros(5)}}
    other = train.TrainState(np.int32(0), params, train.sgd(0.0).init(params))
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    expected = (
        r"3 is of another network: .*params.conv.bias is absent there, float64\[5\] here; "
        r"params.conv.kernel is float32\[3, 3, 2, 4\] there, float32\[3, 3, 2, 5\] here; .*more"
        r".* --workdir"
    )
    with pytest.raises(ValueError, match=expected), Checkpoints(tmp_path) as checkpoints:
        checkpoints.resume(other)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3"]


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(data_dir, tmp_path, capsys):
    fields = {"data.batch_size": 8, "evaluation.figures": 0}
    longer = tiny(data_dir, **fields, **{"train.epochs": 4})
    single.train_and_evaluate(longer, tmp_path / "whole")
    single.train_and_evaluate(tiny(data_dir, **fields, **{"train.epochs": 3}), tmp_path / "broken")
    damaged(tmp_path / "broken" / "checkpoints" / "2" / "state" / "manifest.ocdbt", "empty")
    with (tmp_path / "broken" / log.LOG).open("a") as file:
        file.write('{"epoch": 3, "train_lo')
    capsys.readouterr()
    single.train_and_evaluate(longer, tmp_path / "broken")
    assert "resuming after 2 epochs" in capsys.readouterr().out
    logs = [log.read(tmp_path / name) for name in ("whole", "broken")]
    assert [entry["epoch"] for entry in logs[1]] == [0, 1, 2, 3]
    assert [e["val_loss"] for e in logs[0]] == [e["val_loss"] for e in logs[1]]
    built = components.build(longer)
    states = []
    for name in ("whole", "broken"):
        with Checkpoints(tmp_path / name / "checkpoints", read_only=True) as checkpoints:
            states.append(checkpoints.restore(3, components.state_shapes(built)).state)
    jax.tree.map(np.testing.assert_array_equal, *states)
    # Repeated, it trains nothing; damaged scores are made again, a damaged record is named.
    scores = tmp_path / "broken" / "test" / "cases.csv"
    rows = scores.read_bytes()
    damaged(scores, "half")
    single.train_and_evaluate(longer, tmp_path / "broken")
    assert "already trained, 4 epochs" in capsys.readouterr().out
    assert scores.read_bytes() == rows
    damaged(tmp_path / "broken" / directory.RUN, "half")
    with pytest.raises(ValueError, match=r"run.json is damaged \(.*restore it from a backup"):
        single.train_and_evaluate(longer, tmp_path / "broken")


def test_a_line_in_the_middle_of_a_log_is_named(tmp_path):
    path = tmp_path / log.LOG
    path.write_text('{"epoch": 0, "val_loss": 1.0}\n{"epo\n{"epoch": 2, "val_loss": 1.0}\n')
    with pytest.raises(ValueError, match=r"log.jsonl, line 2 is no record .*'\{\"epo'"):
        log.read(tmp_path)
    path.write_text('{"epoch": 0, "val_loss": 1.0}\n{"epoch": 1, "val_loss": 0.12')
    assert log.read(tmp_path) == [{"epoch": 0, "val_loss": 1.0}]
    log.trim(tmp_path, 5)
    assert path.read_text() == '{"epoch": 0, "val_loss": 1.0}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "Expecting value"),
        ("[1]", "it is no object"),
        ("{}", "lacks data"),
        ('{"data": 3}', "lacks data"),
        ("\xff", "utf-8|value"),
    ],
)
def test_a_damaged_record_is_named(tmp_path, content, message):
    path = tmp_path / "run.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=f"run.json is damaged .*({message})"):
        stored.read(path, {"data": str})


def test_a_table_that_was_cut_off_is_noticed(tmp_path):
    path = tmp_path / "cases.csv"
    path.write_text("case,label,region,metric,value\np,vessel,image,dice,0.91")
    with pytest.raises(ValueError, match="ends in the middle of line 2: it was cut off"):
        read_csv(path, Row)


@pytest.mark.parametrize("lines", [1, 2, 4])
def test_scores_that_were_cut_off_between_lines_are_noticed(data_dir, tmp_path, lines):
    config = tiny(data_dir, **{"train.epochs": 1, "evaluation.figures": 0})
    built = components.build(config)
    predict = lambda image, size: np.full((*size, 2), 0.5, np.float32)  # noqa: E731
    cases = [built.splits["test"][n] for n in range(2)]
    score_files.score_split(predict, cases, built.spec, tmp_path, size=built.size)
    score_files.read(tmp_path, built.spec.classes)
    for name in ("cases.csv", "reliability.csv", "thresholds.csv"):
        path = tmp_path / "test" / name
        content = path.read_text()
        path.write_text("".join(content.splitlines(keepends=True)[:-lines]))
        with pytest.raises(ValueError, match=f"(?s){tmp_path}.*repeat the command of that run"):
            score_files.read(tmp_path, built.spec.classes)
        path.write_text(content)
