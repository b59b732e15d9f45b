"""Reduction of the learning rate on a plateau and early stopping, matching Keras epoch by epoch.

A `State` consists of Python floats and integers on the host (float32 would lose a min_delta of
1e-7), and `update` is a pure function of it and the validation loss of an epoch. `replay` applies
it to a list of losses; training applies it to one loss after another.

As in Keras 3, an epoch is an improvement if its loss is below the best by more than min_delta, so a
NaN never is; after a reduction there is a cooldown of one epoch; early stopping counts separately.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

COOLDOWN = 1


class Settings(NamedTuple):
    """When to reduce the learning rate and when to stop.

    Attributes:
      learning_rate: rate of the first epoch.
      factor: factor by which the rate is multiplied at a reduction.
      patience: epochs without improvement before a reduction.
      min_delta: amount by which a loss must be lower to be an improvement.
      min_learning_rate: lower bound of the rate.
      stop_patience: epochs without improvement before training stops.
    """

    learning_rate: float = 0.1
    factor: float = 0.1
    patience: int = 25
    min_delta: float = 1e-7
    min_learning_rate: float = 1e-4
    stop_patience: int = 50


class State(NamedTuple):
    """The state of the schedule between epochs.

    Attributes:
      learning_rate: rate for the next epoch.
      plateau_best: lowest loss so far, as counted for the plateau.
      plateau_wait: epochs since that loss or since the last reduction.
      cooldown: epochs until the plateau counts again.
      stop_best: lowest loss so far, as counted for early stopping.
      stop_wait: epochs since that loss.
      stopped: whether training has stopped.
    """

    learning_rate: float
    plateau_best: float = math.inf
    plateau_wait: int = 0
    cooldown: int = 0
    stop_best: float = math.inf
    stop_wait: int = 0
    stopped: bool = False


def init(settings: Settings) -> State:
    """The state before the first epoch."""
    return State(settings.learning_rate)


def update(settings: Settings, state: State, val_loss: float) -> State:
    """The state after an epoch with the given validation loss.

    Args:
      settings: the `Settings`.
      state: the state before the epoch.
      val_loss: validation loss of the epoch; NaN is not an improvement.

    Returns:
      The state for the next epoch.

    Example:
      >>> settings = Settings(patience=1)
      >>> state = update(settings, init(settings), 0.5)
      >>> update(settings, state, 0.5).learning_rate
      0.01

    Reference:
      DSC++ paper, section 2.7; Keras' ReduceLROnPlateau and EarlyStopping.
    """
    rate, best, wait, cooldown = state[:4]
    if cooldown > 0:
        cooldown, wait = cooldown - 1, 0
    if val_loss < best - settings.min_delta:
        best, wait = val_loss, 0
    elif cooldown == 0:
        wait += 1
        if wait >= settings.patience and rate > settings.min_learning_rate:
            # 0.1 * 0.1 is slightly above 0.01; without rounding, the last rate would be slightly
            # above the minimum and be reduced once more.
            rate = max(float(f"{rate * settings.factor:.12g}"), settings.min_learning_rate)
            cooldown, wait = COOLDOWN, 0

    if val_loss < state.stop_best - settings.min_delta:
        stop_best, stop_wait = val_loss, 0
    else:
        stop_best, stop_wait = state.stop_best, state.stop_wait + 1
    stopped = stop_wait >= settings.stop_patience
    return State(rate, best, wait, cooldown, stop_best, stop_wait, stopped)


def replay(
    val_losses: Iterable[float],
    learning_rate: float = 0.1,
    factor: float = 0.1,
    patience: int = 25,
    min_delta: float = 1e-7,
    min_learning_rate: float = 1e-4,
    stop_patience: int = 50,
) -> tuple[list[float], int | None]:
    """Apply the schedule to a list of validation losses.

    Args:
      val_losses: the loss after each epoch.
      learning_rate: rate of the first epoch.
      factor: factor by which the rate is multiplied at a reduction.
      patience: epochs without improvement before a reduction.
      min_delta: amount by which a loss must be lower to be an improvement.
      min_learning_rate: lower bound of the rate.
      stop_patience: epochs without improvement before training stops.

    Returns:
      The learning rate after each epoch, and the zero-based epoch at which training stops, or
      None; the list ends with that epoch.

    Example:
      >>> rates, stop = replay([0.7] * 20, patience=5, stop_patience=10)
      >>> rates, stop
      ([0.1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01, 0.01, 0.001], 10)
    """
    settings = Settings(
        learning_rate, factor, patience, min_delta, min_learning_rate, stop_patience
    )
    state, rates = init(settings), []
    for epoch, val_loss in enumerate(val_losses):
        state = update(settings, state, val_loss)
        rates.append(state.learning_rate)
        if state.stopped:
            return rates, epoch
    return rates, None
