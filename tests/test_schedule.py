"""The schedule against the real Keras callbacks, and its properties."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicepp_jax import schedule

GOLDEN = json.loads((Path(__file__).parent / "golden" / "schedule.json").read_text())

losses = st.lists(st.floats(0, 1) | st.just(math.nan), min_size=1, max_size=80)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_matches_keras(case):
    rates, stop = schedule.replay(
        case["val_loss"], patience=case["patience_lr"], stop_patience=case["patience_stop"]
    )
    assert stop == case["stop_epoch"]
    assert rates == case["lr_after_epoch"]


def test_reductions_of_a_constant_loss():
    rates, stop = schedule.replay([0.7] * 40, patience=5, stop_patience=30)
    cuts = [e for e in range(1, len(rates)) if rates[e] < rates[e - 1]]
    assert cuts == [5, 10, 15]
    assert stop == 30


def test_nan_is_not_an_improvement():
    rates, stop = schedule.replay([math.nan] * 10, patience=2, stop_patience=5)
    assert stop == 4
    assert rates[1] == 0.01


def test_min_delta_is_kept_in_float64():
    # In float32, a step of 2e-7 at 0.5 with a min_delta of 1e-7 would be lost to rounding.
    falling = [0.5 - 2e-7 * epoch for epoch in range(60)]
    rates, stop = schedule.replay(falling, patience=5, stop_patience=10)
    assert stop is None
    assert set(rates) == {0.1}


def test_a_restored_state_continues_identically():
    values = GOLDEN[0]["val_loss"]
    settings = schedule.Settings(patience=5, stop_patience=100)
    state = schedule.init(settings)
    for value in values[:20]:
        state = schedule.update(settings, state, value)
    restored = schedule.State(**json.loads(json.dumps(state._asdict())))
    for value in values[20:40]:
        state = schedule.update(settings, state, value)
        restored = schedule.update(settings, restored, value)
    assert restored == state


@given(losses, st.integers(1, 6), st.integers(1, 12))
def test_rates_only_decrease_and_not_below_the_minimum(values, patience, stop_patience):
    rates, stop = schedule.replay(values, patience=patience, stop_patience=stop_patience)
    assert all(b <= a for a, b in zip([0.1, *rates], rates, strict=False))
    assert min(rates) >= 1e-4
    assert len(rates) == (len(values) if stop is None else stop + 1)


@given(losses, st.integers(1, 12))
def test_stops_at_the_first_epoch_with_patience_exhausted(values, patience):
    stop = schedule.replay(values, stop_patience=patience)[1]
    best, since, expected = math.inf, -1, None
    for epoch, value in enumerate(values):
        if value < best - 1e-7:
            best, since = value, epoch
        if epoch - since >= patience:
            expected = epoch
            break
    assert stop == expected
