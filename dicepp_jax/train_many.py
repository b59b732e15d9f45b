"""Hyper-parameter grids: many training runs of one network as lanes of one compiled program.

A member is an independent training run with its own hyper-parameters, seed, schedule and early
stopping. The members that are still training are arranged in groups of lanes. A group takes a step
in parallel, with `jax.vmap` and over devices, and the groups take turns on every batch, which is
read and augmented once for all members of a seed. With one lane per group, members are trained
sequentially. A member that has stopped is in no group, so its state no longer changes; when half of
the lanes are empty, the program is recompiled with half as many.

The arrangement depends only on which members are still training, so an interrupted grid resumes
with bit-identical results.
"""

import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dicepp_jax import parallel, schedule, train
from dicepp_jax.data.pipeline import Batch
from dicepp_jax.train import ApplyFn, AugmentFn, Epoch, TrainState

Stream = Callable[[int], Iterable[Batch]]
"""From the number of an epoch to its batches."""

HyperLoss = Callable[..., jax.Array]
"""`(logits, labels, **hyper) -> (B,)`, where hyper-parameters may be traced."""

OnStep = Callable[[int, int, Mapping[int, float]], None]
"""Called with the epoch, the step in the epoch, and the losses by member."""

MARGIN = 0.9
"""Fraction of the memory of a device that lanes may use."""


class Member(NamedTuple):
    """One training run of a grid.

    Attributes:
      hyper: hyper-parameters of the loss, the same names for all members.
      settings: settings of its schedule.
      key: random key of its seed, as in `train.fit`.
      stream: index of its stream of batches; members with the same seed share a stream.
    """

    hyper: Mapping[str, float]
    settings: schedule.Settings
    key: jax.Array
    stream: int = 0


class Strategy(NamedTuple):
    """How members are arranged for a training step.

    Attributes:
      lanes: number of members trained at once on a device; 1 to train them one after another.
      devices: number of devices to distribute members over.
    """

    lanes: int = 1
    devices: int = 1


class Cost(NamedTuple):
    """The cost of a step on each device.

    Attributes:
      bytes: memory in bytes, None if XLA does not report it.
      seconds: time in seconds.
    """

    bytes: int | None
    seconds: float


class Round(NamedTuple):
    """What `fit` yields after each epoch.

    Attributes:
      epochs: the `Epoch` of each member that trained, by its index, with a copy of its state.
      diverged: members whose loss became NaN or infinite, with the reason; they stop training.
    """

    epochs: Mapping[int, Epoch]
    diverged: Mapping[int, str]


class Own(NamedTuple):
    """What differs between members besides their state, stacked on a leading axis of lanes.

    Attributes:
      hyper: hyper-parameters of the loss.
      rate: learning rates.
      stream: index of the stream of batches.
    """

    hyper: Mapping[str, jax.Array]
    rate: jax.Array
    stream: jax.Array


class Programs(NamedTuple):
    """The programs of a grid, each compiled for a number of lanes when first called.

    Attributes:
      augment: `(images (S, B, ...), labels (S, B, ...), keys (S,), step) -> (images, labels)`.
      train: `devices -> (state, own, images, labels, keys (S,)) -> (state, losses (L,))`, which
        donates the state.
      evaluate: `devices -> (params, own, images, labels) -> losses (L, B)`.
    """

    augment: Callable[..., tuple[jax.Array, jax.Array]]
    train: Callable[[int], Any]
    evaluate: Callable[[int], Any]


def make_programs(
    apply: ApplyFn, loss: HyperLoss, augment: AugmentFn | None, *, dropout: bool = False
) -> Programs:
    """Make the programs that train the members of a grid.

    Args:
      apply: `(params, images) -> logits`.
      loss: `(logits, labels, **hyper) -> (B,)`.
      augment: `(key, image, label) -> (image, label)` for one example, or None.
      dropout: whether training calls `apply(params, images, keys)`, as in `train.make_train_step`.

    Returns:
      The `Programs`.
    """

    def step(
        state: TrainState, own: Own, images: jax.Array, labels: jax.Array, keys: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        image, label, key = _of_stream(own, images, labels, keys)
        places = jnp.arange(len(image), dtype=jnp.int32)
        drawn = (train.dropout_keys(key, state.step, places, len(image)),) if dropout else ()

        def mean_loss(params: Any) -> jax.Array:
            return loss(apply(params, image, *drawn), label, **own.hyper).mean()

        value, gradient = jax.value_and_grad(mean_loss)(state.params)
        return train.update(state, gradient, own.rate), value

    def evaluate(params: Any, own: Own, images: jax.Array, labels: jax.Array) -> jax.Array:
        image, label = _of_stream(own, images, labels)
        return loss(apply(params, image), label, **own.hyper)

    return Programs(
        jax.jit(functools.partial(_augmented, augment)),
        functools.cache(lambda devices: parallel.over_devices(_lanes(step), devices, donate=True)),
        functools.cache(lambda devices: parallel.over_devices(_lanes(evaluate), devices)),
    )


def _lanes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a function of one lane into a function of stacked lanes."""

    def of_lanes(state: Any, own: Own, *shared: jax.Array) -> Any:
        if len(own.rate) > 1:
            return jax.vmap(function, in_axes=(0, 0, *(None,) * len(shared)))(state, own, *shared)
        # The same program as for a single training run.
        one = jax.tree.map(lambda x: x[0], (state, own))
        return jax.tree.map(lambda x: x[None], function(*one, *shared))

    return of_lanes


def _of_stream(own: Own, *shared: jax.Array) -> Iterator[jax.Array]:
    # Arrays shared by all lanes must not be copied for each of them.
    return (of_all[own.stream if len(of_all) > 1 else 0] for of_all in shared)


def _augmented(
    augment: AugmentFn | None,
    images: jax.Array,
    labels: jax.Array,
    keys: jax.Array,
    step: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    if augment is None:
        return images, labels

    def of_stream(stream: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        key, image, label = stream
        places = jnp.arange(len(image), dtype=jnp.int32)
        return train.augmented(augment, key, step, image, label, places, len(image))

    return jax.lax.map(of_stream, (keys, images, labels))


def layout(active: Sequence[int], strategy: Strategy) -> tuple[int, list[tuple[int, ...]]]:
    """Arrange the members that are still training in groups.

    Args:
      active: indices of these members, ascending.
      strategy: the lanes and devices at the start.

    Returns:
      The number of lanes per device, halved as long as half of them suffice, and the groups, the
      last of which may have fewer members than lanes.

    Example:
      >>> layout(range(5), Strategy(lanes=4))
      (4, [(0, 1, 2, 3), (4,)])
      >>> layout([0, 3, 4], Strategy(lanes=6)), layout([0, 3, 4], Strategy(lanes=2, devices=4))
      ((3, [(0, 3, 4)]), (1, [(0, 3, 4)]))
    """
    lanes = strategy.lanes
    while lanes > 1 and len(active) <= (half := -(-lanes // 2)) * strategy.devices:
        lanes = half
    width = lanes * strategy.devices
    return lanes, [tuple(active[i : i + width]) for i in range(0, len(active), width)]


class _Group:
    """Members that take a step in parallel, and their state.

    If there are more lanes than members, the remaining lanes repeat the first member and their
    results are discarded.
    """

    def __init__(
        self,
        numbers: tuple[int, ...],
        width: int,
        devices: int,
        members: Sequence[Member],
        states: Mapping[int, TrainState],
        rates: Mapping[int, float],
    ):
        self.members = numbers
        filled = (*numbers, *(numbers[:1] * (width - len(numbers))))
        self._filled, self._devices = filled, devices
        hyper = {
            name: jnp.array([members[n].hyper[name] for n in filled], float)
            for name in members[numbers[0]].hyper
        }
        stream = jnp.array([members[n].stream for n in filled], jnp.int32)
        state = _stack([states[n] for n in filled])
        own = Own(hyper, jnp.zeros(width, jnp.float32), stream)
        self.state, self.own = parallel.on_devices((state, own), devices)
        self.set_rates(rates)

    def set_rates(self, rates: Mapping[int, float]) -> None:
        """Set the learning rates, by member."""
        rate = jnp.array([rates[n] for n in self._filled], jnp.float32)
        self.own = self.own._replace(rate=parallel.on_devices(rate, self._devices))

    def states(self) -> list[TrainState]:
        """A copy of the state of each lane."""
        return _unstack(self.state)


@jax.jit
def _stack(states: list[TrainState]) -> TrainState:
    return jax.tree.map(lambda *x: jnp.stack(x), *states)


@jax.jit
def _unstack(state: TrainState) -> list[TrainState]:
    leaves, structure = jax.tree.flatten(state)
    return [jax.tree.unflatten(structure, lane) for lane in zip(*leaves, strict=True)]


def fit(
    members: Sequence[Member],
    states: Mapping[int, TrainState],
    programs: Programs,
    training: Sequence[Stream],
    validation: Sequence[Stream],
    strategy: Strategy,
    *,
    epochs: int,
    first_epoch: int = 0,
    schedules: Mapping[int, schedule.State] | None = None,
    taken: Mapping[int, Sequence[float]] | None = None,
    on_step: OnStep = lambda epoch, step, losses: None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Round]:
    """Train the members of a grid together, each until its own schedule stops it.

    Args:
      members: all members of the grid.
      states: initial states by index; a member without one is not trained.
      programs: the result of `make_programs`.
      training: one stream of batches per seed.
      validation: likewise, or a single stream shared by all.
      strategy: how members are arranged for a step.
      epochs: maximum number of epochs, including those before first_epoch.
      first_epoch: the first epoch to run, for a grid that is resumed.
      schedules: states of the schedules before that epoch, by index; None for a new grid.
      taken: losses of the steps taken before in that epoch, by index, as in `train.fit`.
      on_step: called with the losses, one step late, as in `train.fit`.
      stop: asked after each step whether to stop there.

    Yields:
      A `Round` after each epoch.

    Raises:
      train.StoppedError: if it was stopped, with what training goes on from.
    """
    plans = dict(schedules or {n: schedule.init(members[n].settings) for n in states})
    keys = _keys(members, len(training))
    left = dict(states)
    groups: list[_Group] = []
    for epoch in range(first_epoch, epochs):
        active = sorted(n for n in left if not plans[n].stopped)
        if not active:
            return
        start = time.perf_counter()
        rates = {n: plans[n].learning_rate for n in active}
        groups = _regrouped(groups, active, rates, members, left, strategy)
        waits: list[float] = []
        before = (taken or {}) if epoch == first_epoch else {}
        history = [
            dict(zip(before, losses, strict=True)) for losses in zip(*before.values(), strict=True)
        ]
        batches = train.timed(_stacked(training, epoch), waits)
        _train_epoch(groups, programs, batches, keys, epoch, strategy, history, on_step, stop)
        batches = train.stoppable(
            train.timed(_stacked(validation, epoch), waits),
            stop,
            functools.partial(_stopped, groups, epoch, history),
        )
        val_losses = _evaluate(groups, programs, batches, strategy)
        losses = {n: float(np.mean([step[n] for step in history])) for n in active}
        diverged = _diverged(history, epoch, rates)
        seconds, wait = time.perf_counter() - start, sum(waits)
        done = {}
        for group in groups:
            for n, state in zip(group.members, group.states(), strict=False):
                if n in diverged:
                    del left[n]
                    continue
                left[n] = state
                plans[n] = schedule.update(members[n].settings, plans[n], val_losses[n])
                done[n] = Epoch(
                    epoch, rates[n], losses[n], val_losses[n], seconds, wait, left[n], plans[n]
                )
        yield Round(done, diverged)


def _keys(members: Sequence[Member], streams: int) -> jax.Array:
    of_stream = {member.stream: member.key for member in members}
    return jnp.stack([of_stream[stream] for stream in range(streams)])


def _regrouped(
    groups: list[_Group],
    active: list[int],
    rates: Mapping[int, float],
    members: Sequence[Member],
    states: Mapping[int, TrainState],
    strategy: Strategy,
) -> list[_Group]:
    """The groups of an epoch: the existing ones with new rates if their members are the same."""
    lanes, numbers = layout(active, strategy)
    width = lanes * strategy.devices
    if [group.members for group in groups] == numbers:
        for group in groups:
            group.set_rates(rates)
        return groups
    return [_Group(n, width, strategy.devices, members, states, rates) for n in numbers]


def _stacked(streams: Sequence[Stream], epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and labels of all streams, batch by batch, stacked on a leading axis."""
    for batches in zip(*(stream(epoch) for stream in streams), strict=True):
        yield np.stack([b["image"] for b in batches]), np.stack([b["label"] for b in batches])


def _train_epoch(
    groups: Sequence[_Group],
    programs: Programs,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    keys: jax.Array,
    epoch: int,
    strategy: Strategy,
    history: list[dict[int, float]],
    on_step: OnStep,
    stop: Callable[[], bool],
) -> None:
    """Run the steps of an epoch, and append the losses of each, by member, to the history."""
    step = programs.train(strategy.devices)

    def finish(values: list[jax.Array]) -> None:
        losses = _by_member(groups, values)
        history.append(losses)
        on_step(epoch, len(history) - 1, losses)

    running = None
    for images, labels in batches:
        # All members that are training have taken the same number of steps.
        taken = groups[0].state.step[0]
        shared = programs.augment(images, labels, keys, taken)
        values = []
        for group in groups:
            group.state, value = step(group.state, group.own, *shared, keys)
            values.append(value)
        if running is not None:
            finish(running)
        running = values
        if stop():
            finish(running)
            raise _stopped(groups, epoch, history)
    if running is not None:
        finish(running)
    if not history:
        raise ValueError("the training split has no cases, so there is nothing to train on")


def _stopped(
    groups: Sequence[_Group], epoch: int, history: Sequence[Mapping[int, float]]
) -> train.StoppedError:
    states = {
        n: state
        for group in groups
        for n, state in zip(group.members, group.states(), strict=False)
    }
    losses = {n: [of_step[n] for of_step in history] for n in states}
    return train.StoppedError(epoch, len(history), losses, states)


def _diverged(
    history: Sequence[Mapping[int, float]], epoch: int, rates: Mapping[int, float]
) -> dict[int, str]:
    """Why members diverged in an epoch, by index."""
    reasons: dict[int, str] = {}
    for number, losses in enumerate(history, 1):
        for n, loss in losses.items():
            if not math.isfinite(loss):
                place = f"step {number} of epoch {epoch + 1}, learning rate {rates[n]:g}"
                reasons.setdefault(n, f"loss {loss} at {place}")
    return reasons


def _evaluate(
    groups: Sequence[_Group],
    programs: Programs,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    strategy: Strategy,
) -> dict[int, float]:
    """The mean validation loss by member."""
    evaluate = programs.evaluate(strategy.devices)
    values: dict[int, list[np.ndarray]] = {n: [] for group in groups for n in group.members}
    for images, labels in batches:
        for group in groups:
            losses = np.asarray(evaluate(group.state.params, group.own, images, labels))
            for n, loss in zip(group.members, losses, strict=False):
                values[n].append(loss)
    return {n: float(np.concatenate(v).astype(np.float64).mean()) for n, v in values.items()}


def _by_member(groups: Sequence[_Group], values: Sequence[jax.Array]) -> dict[int, float]:
    # Lanes beyond the members are ignored.
    return {
        n: float(value)
        for group, lanes in zip(groups, values, strict=True)
        for n, value in zip(group.members, np.asarray(lanes), strict=False)
    }


def most_lanes(members: int, devices: int, one: Cost, limit: int) -> int:
    """The number of members that a device can train at once, in groups as even as possible.

    Args:
      members: number of members.
      devices: number of devices to distribute them over.
      one: the cost of one lane.
      limit: memory of a device in bytes.

    Returns:
      The number of lanes; at least 1, even if the memory may not suffice.

    Example:
      >>> most_lanes(10, 1, Cost(100, 0.1), limit=900), most_lanes(10, 4, Cost(100, 0.1), limit=900)
      (5, 3)
    """
    most = -(-members // devices)
    if one.bytes:
        most = min(most, max(1, int(MARGIN * limit // one.bytes)))
    groups = -(-members // (most * devices))
    return -(-members // (groups * devices))


def choose(
    members: int, devices: int, cost: Callable[[Strategy], Cost], limit: int
) -> tuple[Strategy, str]:
    """Train one member at a time or as many as fit into memory, whichever is measured to be faster.

    Args:
      members: number of members.
      devices: number of devices to distribute them over.
      cost: function that measures a step.
      limit: memory of a device in bytes.

    Returns:
      The strategy, and a description of the times it is based on.

    Example:
      >>> choose(10, 1, lambda strategy: Cost(100, seconds=2 + strategy.lanes), limit=900)
      (Strategy(lanes=5, devices=1), '1.4 s per member and step with 5 at once, 3 s with one at ...
    """
    devices = min(devices, members)
    alone = Strategy(1, devices)
    one = cost(alone)
    together = Strategy(most_lanes(members, devices, one, limit), devices)
    if together == alone:
        return alone, f"{one.seconds:.3g} s per step"
    many = cost(together)
    times = (
        f"{many.seconds / together.lanes:.3g} s per member and step with {together.lanes} at once, "
        f"{one.seconds:.3g} s with one at a time"
    )
    fits = many.bytes is None or many.bytes <= limit
    return (together if fits and many.seconds < together.lanes * one.seconds else alone), times


class Stepper:
    """The compiled training step of a grid, for measurements.

    Args:
      programs: programs of the grid.
      members: members of the grid.
      state: state of any member, which is not changed.
      images: `(S, B, *spatial, channels)`, a batch of each stream.
      labels: `(S, B, *spatial)`.
      strategy: the lanes and devices; there are as many groups as the members need.

    Attributes:
      bytes: memory that a group uses on each device, None if XLA does not report it.
      seconds: compilation time.
    """

    def __init__(
        self,
        programs: Programs,
        members: Sequence[Member],
        state: TrainState,
        images: np.ndarray,
        labels: np.ndarray,
        strategy: Strategy,
    ):
        numbers = range(len(members))
        rates, states = dict.fromkeys(numbers, 0.0), dict.fromkeys(numbers, state)
        self._groups = _regrouped([], list(numbers), rates, members, states, strategy)
        keys = jnp.stack([members[0].key] * len(images))
        self._shared = (jnp.asarray(images), jnp.asarray(labels), keys)
        self._step = programs.train(strategy.devices)
        first = self._groups[0]
        start = time.perf_counter()
        compiled = self._step.lower(first.state, first.own, *self._shared).compile()
        self.seconds = time.perf_counter() - start
        sizes = compiled.memory_analysis()
        self.bytes = None
        if sizes is not None:
            new = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
            self.bytes = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes + new

    def step(self) -> None:
        """Take one step of every group, with learning rate 0."""
        for group in self._groups:
            group.state, _ = self._step(group.state, group.own, *self._shared)
        jax.block_until_ready([group.state for group in self._groups])


def measure(
    programs: Programs,
    members: Sequence[Member],
    state: TrainState,
    images: np.ndarray,
    labels: np.ndarray,
    strategy: Strategy,
    steps: int = 3,
) -> Cost:
    """Measure a step in which all lanes are filled; `fit` does not compile it again.

    Args:
      programs: programs of the grid.
      members: members of the grid.
      state: state of any member, which is not changed.
      images: `(S, B, *spatial, channels)`, a batch of each stream.
      labels: `(S, B, *spatial)`.
      strategy: the lanes and devices.
      steps: number of timed steps, after one that is not timed.

    Returns:
      The `Cost`, with the time of the fastest step.
    """
    full = members[: strategy.lanes * strategy.devices]
    stepper = Stepper(programs, full, state, images, labels, strategy)
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        stepper.step()
        seconds.append(time.perf_counter() - start)
    return Cost(stepper.bytes, min(seconds[1:]))
