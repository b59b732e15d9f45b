"""The remaining time, by a fake clock."""

import io
import re

import pytest
import tqdm.std

from dicepp_jax import progress, schedule, train


class Clock:
    """Seconds that pass when an item is worked on."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(tqdm.std, "time", lambda: self.now)


def run(clock, seconds):
    for _, spent in zip(
        progress.track(iter(seconds), "evaluating", len(seconds), "case"), seconds, strict=True
    ):
        clock.now += spent


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        # The first case takes 60 s to compile, the others 8 s each.
        (
            [60, *[8] * 9],
            ["1 of 10 cases", "3 of 10 cases, 0.9 min left", "5 of 10 cases, 0.7 min left"]
            + ["7 of 10 cases, 0.4 min left", "9 of 10 cases, 0.1 min left"]
            + ["10 of 10 cases, done"],
        ),
        ([60, 20, 40], ["1 of 3 cases", "2 of 3 cases, 0.3 min left", "3 of 3 cases, done"]),
        ([20], ["1 of 1 cases, done"]),
        ([1] * 10, []),
    ],
)
def test_the_first_case_does_not_count(monkeypatch, capsys, seconds, expected):
    run(Clock(monkeypatch), seconds)
    assert capsys.readouterr().err.splitlines() == [f"evaluating: {line}" for line in expected]


class Terminal(io.StringIO):
    """Standard error that is a terminal."""

    def isatty(self):
        return True


def test_the_first_case_does_not_count_in_a_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    run(Clock(monkeypatch), [60, *[8] * 9])
    shown = re.findall(r"(\d+)/10 \[[\d:]+<([\d:?]+)", terminal.getvalue())
    lefts = {int(done): left for done, left in shown}
    assert lefts[0] == lefts[1] == "?"
    assert [lefts[done] for done in (2, 5, 9, 10)] == ["01:04", "00:40", "00:08", "00:00"]


def test_the_first_epoch_does_not_count(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    plan = schedule.init(schedule.Settings())
    with progress.TrainingProgress("dsc", 32, 1, first_epoch=2) as bar:
        for number, seconds in ((2, 120.0), (3, 20.0), (4, 40.0)):
            clock.now += seconds
            bar.epoch(train.Epoch(number, 0.1, 0.5, 0.25, seconds, seconds / 4, None, plan))
    assert capsys.readouterr().err.splitlines() == [
        "dsc epoch 3/32 loss 0.5000 val 0.2500 lr 0.1, 120.00 s an epoch, 25.0% of it waiting for "
        "data, at most 58.0 min left",
        "dsc epoch 4/32 loss 0.5000 val 0.2500 lr 0.1, 20.00 s an epoch, 25.0% of it waiting for "
        "data, at most 9.3 min left",
        "dsc epoch 5/32 loss 0.5000 val 0.2500 lr 0.1, 30.00 s an epoch, 25.0% of it waiting for "
        "data, at most 13.5 min left",
    ]
