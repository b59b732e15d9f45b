"""Grids of hyper-parameters: many trainings of one network as lanes of one compiled program.

A member is a training of its own, with its hyper-parameters, seed, schedule and early stop. Those
that still train are laid out in groups of lanes: a group goes through a step at once, by `jax.vmap`
and over devices, and the groups take turns on every batch, which is read and augmented once for
all members of a seed. One lane a group is the sequential way. A member that has stopped is in no
group, so nothing moves it; when half of the lanes are empty the program is compiled anew with half
as many.

Where a member is depends on who still trains and on nothing else, so that a grid which is broken
off goes on bit for bit.
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
"""The batches of an epoch, by its number."""

HyperLoss = Callable[..., jax.Array]
"""`(logits, labels, **hyper) -> (B,)`, where hyper-parameters may be traced."""

OnStep = Callable[[int, int, Mapping[int, float]], None]
"""Told the epoch, the step in it and the losses by member."""

MARGIN = 0.9
"""The share of a device's memory that lanes may take."""


class Member(NamedTuple):
    """One training of a grid.

    Attributes:
      hyper: of the loss; all members set the same ones.
      settings: of its schedule.
      key: its seed's, as in `train.fit`.
      stream: which of the streams of batches is its; those of one seed share one.
    """

    hyper: Mapping[str, float]
    settings: schedule.Settings
    key: jax.Array
    stream: int = 0


class Strategy(NamedTuple):
    """How members go through a step.

    Attributes:
      lanes: members at once on a device; with 1 they go one after another.
      devices: that members are spread over.
    """

    lanes: int = 1
    devices: int = 1


class Cost(NamedTuple):
    """What a step of some lanes takes of each device.

    Attributes:
      bytes: of memory, None where XLA does not say.
      seconds: of time.
    """

    bytes: int | None
    seconds: float


class Round(NamedTuple):
    """What `fit` yields after each epoch.

    Attributes:
      epochs: of the members that trained, by number; each has a copy of its state.
      diverged: those whose loss became NaN or infinite, and why; they train no more.
    """

    epochs: Mapping[int, Epoch]
    diverged: Mapping[int, str]


class Own(NamedTuple):
    """What differs between members beside their state, stacked on a leading axis of lanes.

    Attributes:
      hyper: of the loss.
      rate: of learning.
      stream: which images are theirs.
    """

    hyper: Mapping[str, jax.Array]
    rate: jax.Array
    stream: jax.Array


class Programs(NamedTuple):
    """The programs of a grid, compiled for a number of lanes when they are first called.

    Attributes:
      augment: `(images (S, B, ...), labels (S, B, ...), keys (S,), step) -> (images, labels)`.
      train: `devices -> (state, own, images, labels) -> (state, losses (L,))`, which gives the
        state up.
      evaluate: `devices -> (params, own, images, labels) -> losses (L, B)`.
    """

    augment: Callable[..., tuple[jax.Array, jax.Array]]
    train: Callable[[int], Any]
    evaluate: Callable[[int], Any]


def make_programs(apply: ApplyFn, loss: HyperLoss, augment: AugmentFn | None) -> Programs:
    """The programs that train members of a grid.

    Args:
      apply: `(params, images) -> logits`.
      loss: `(logits, labels, **hyper) -> (B,)`.
      augment: `(key, image, label) -> (image, label)` for one example, or None.

    Returns:
      `Programs`.
    """

    def step(
        state: TrainState, own: Own, images: jax.Array, labels: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        image, label = _of_stream(own, images, labels)

        def mean_loss(params: Any) -> jax.Array:
            return loss(apply(params, image), label, **own.hyper).mean()

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
    """From a function of one lane to one of stacked lanes."""

    def of_lanes(state: Any, own: Own, images: jax.Array, labels: jax.Array) -> Any:
        if len(own.rate) > 1:
            return jax.vmap(function, in_axes=(0, 0, None, None))(state, own, images, labels)
        # The program of a training alone.
        one = jax.tree.map(lambda x: x[0], (state, own))
        return jax.tree.map(lambda x: x[None], function(*one, images, labels))

    return of_lanes


def _of_stream(own: Own, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    # What is shared by all lanes is not to be copied for each.
    stream = own.stream if len(images) > 1 else 0
    return images[stream], labels[stream]


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
    """How those who still train are laid out.

    Args:
      active: numbers of the members, ascending.
      strategy: how many lanes there were at the start.

    Returns:
      The number of lanes on a device, halved as often as half are enough, and the groups, the last
      of which may be smaller than the lanes.

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
    """Members that go through a step at once, and their state.

    Where there are more lanes than members, the others repeat the first member and what they
    compute is dropped.
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
    on_step: OnStep = lambda epoch, step, losses: None,
) -> Iterator[Round]:
    """Train the members of a grid side by side, each until its own schedule stops.

    Args:
      members: of the grid.
      states: where to start, by number; who is not in it does not train.
      programs: of `make_programs`.
      training: a stream of batches for each seed.
      validation: likewise, or one that all share.
      strategy: how members go through a step.
      epochs: number of epochs at most, counted from 0.
      first_epoch: the first to run, for a grid that starts again.
      schedules: before it, by number; None for a new grid.
      on_step: told the losses, one step late, as by `train.fit`.

    Yields:
      A `Round` after each epoch.
    """
    plans = dict(schedules or {n: schedule.init(members[n].settings) for n in states})
    keys = jnp.stack([_key(members, stream) for stream in range(len(training))])
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
        batches = train.timed(_stacked(training, epoch), waits)
        losses, diverged = _train_epoch(groups, programs, batches, keys, epoch, strategy, on_step)
        val_losses = _evaluate(
            groups, programs, train.timed(_stacked(validation, epoch), waits), strategy
        )
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


def _key(members: Sequence[Member], stream: int) -> jax.Array:
    return next(member.key for member in members if member.stream == stream)


def _regrouped(
    groups: list[_Group],
    active: list[int],
    rates: Mapping[int, float],
    members: Sequence[Member],
    states: Mapping[int, TrainState],
    strategy: Strategy,
) -> list[_Group]:
    """The groups of an epoch: those there are, at its rates, if their members all train on."""
    lanes, numbers = layout(active, strategy)
    width = lanes * strategy.devices
    if [group.members for group in groups] == numbers:
        for group in groups:
            group.set_rates(rates)
        return groups
    return [_Group(n, width, strategy.devices, members, states, rates) for n in numbers]


def _stacked(streams: Sequence[Stream], epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and labels of all streams, batch by batch, on a leading axis."""
    for batches in zip(*(stream(epoch) for stream in streams), strict=True):
        yield np.stack([b["image"] for b in batches]), np.stack([b["label"] for b in batches])


def _train_epoch(
    groups: Sequence[_Group],
    programs: Programs,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    keys: jax.Array,
    epoch: int,
    strategy: Strategy,
    on_step: OnStep,
) -> tuple[dict[int, float], dict[int, str]]:
    """Run the steps of an epoch.

    Returns:
      The mean loss by member, and why members diverged.
    """
    step = programs.train(strategy.devices)
    history: list[dict[int, float]] = []
    diverged: dict[int, str] = {}

    def finish(values: list[jax.Array]) -> None:
        losses = _by_member(groups, values)
        for n, loss in losses.items():
            if not math.isfinite(loss):
                diverged.setdefault(n, f"loss {loss} at step {len(history)} of epoch {epoch}")
        history.append(losses)
        on_step(epoch, len(history) - 1, losses)

    running = None
    for images, labels in batches:
        # All who train have taken as many steps.
        taken = groups[0].state.step[0]
        shared = programs.augment(images, labels, keys, taken)
        values = []
        for group in groups:
            group.state, value = step(group.state, group.own, *shared)
            values.append(value)
        if running is not None:
            finish(running)
        running = values
    if running is None:
        raise ValueError("the training split has no cases, so there is nothing to train on")
    finish(running)
    return {n: float(np.mean([losses[n] for losses in history])) for n in history[0]}, diverged


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
    # Lanes beyond the members are not looked at.
    return {
        n: float(value)
        for group, lanes in zip(groups, values, strict=True)
        for n, value in zip(group.members, np.asarray(lanes), strict=False)
    }


def most_lanes(members: int, devices: int, one: Cost, limit: int) -> int:
    """How many members may go at once on a device, in groups as even as can be.

    Args:
      members: how many there are.
      devices: that they are spread over.
      one: what one lane takes.
      limit: bytes of memory of a device.

    Returns:
      The number of lanes; 1 if there is room for no more.

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
    """One member at a time, or as many as fit into memory: what takes less time by measurement.

    Args:
      members: how many there are.
      devices: that they are spread over.
      cost: measures a step.
      limit: bytes of memory of a device.

    Returns:
      The strategy, and the times that it was chosen by.

    Example:
      >>> choose(10, 1, lambda strategy: Cost(100, seconds=2 + strategy.lanes), limit=900)
      (Strategy(lanes=5, devices=1), '1.4 s a member and step with 5 at once, 3 s with one at ...
    """
    devices = min(devices, members)
    alone = Strategy(1, devices)
    one = cost(alone)
    together = Strategy(most_lanes(members, devices, one, limit), devices)
    if together == alone:
        return alone, f"{one.seconds:.3g} s a step"
    many = cost(together)
    told = (
        f"{many.seconds / together.lanes:.3g} s a member and step with {together.lanes} at once, "
        f"{one.seconds:.3g} s with one at a time"
    )
    fits = many.bytes is None or many.bytes <= limit
    return (together if fits and many.seconds < together.lanes * one.seconds else alone), told


class Stepper:
    """Full lanes of a grid, compiled and ready to be stepped for a measurement.

    Args:
      programs: of the grid.
      members: of the grid.
      state: of any of them; it is not changed.
      images: `(S, B, *spatial, channels)`.
      labels: `(S, B, *spatial)`.
      strategy: how many lanes; as many groups are stepped as the members need.

    Attributes:
      bytes: of memory that a group takes of each device, None where XLA does not say.
      seconds: that compiling took.
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
        self._shared = (jnp.asarray(images), jnp.asarray(labels))
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
        """One step of every group, at a rate of 0."""
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
    """What a step of full lanes takes; `fit` does not compile it again.

    Args:
      programs: of the grid.
      members: of the grid.
      state: of any of them; it is not changed.
      images: `(S, B, *spatial, channels)`.
      labels: `(S, B, *spatial)`.
      strategy: how many lanes.
      steps: that are timed, after one that is not.

    Returns:
      The `Cost`; the seconds are the least of any step.
    """
    full = members[: strategy.lanes * strategy.devices]
    stepper = Stepper(programs, full, state, images, labels, strategy)
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        stepper.step()
        seconds.append(time.perf_counter() - start)
    return Cost(stepper.bytes, min(seconds[1:]))
