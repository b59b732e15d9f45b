"""The remaining time, told by a fake clock."""

import io
import re

import pytest
import tqdm.std

from dicepp_jax import progress


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
    told = {int(done): left for done, left in shown}
    assert told[0] == told[1] == "?"
    assert [told[done] for done in (2, 5, 9, 10)] == ["01:04", "00:40", "00:08", "00:00"]
