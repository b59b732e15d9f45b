"""Training: pure steps, and `fit`, which runs epochs and writes nothing.

All randomness in a step comes from the seed's key by `fold_in` of the step number, and then from
the example's place in the batch, so a run that resumes at an epoch repeats nothing and skips
nothing, on any number of devices.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dicepp_jax import parallel, schedule
from dicepp_jax.data.pipeline import Batch

MOMENTUM = 0.9
AUGMENTATION, DROPOUT = 0, 1
"""What the keys of a step are for."""

Data = TypeVar("Data")

ApplyFn = Callable[..., jax.Array]
"""`(params, images) -> logits`; with dropout also `(params, images, keys) -> logits`, where keys
`(B,)` are random keys of the images."""
LossFn = Callable[[jax.Array, jax.Array], jax.Array]
AugmentFn = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
OnStep = Callable[[int, int, float], None]


class TrainState(NamedTuple):
    """What a step changes.

    Attributes:
      step: number of steps taken, int32.
      params: the network's parameters.
      opt_state: the optimiser's state.
    """

    step: jax.Array
    params: Any
    opt_state: optax.OptState


TrainStep = Callable[[TrainState, Batch, jax.Array, float], tuple[TrainState, jax.Array]]


@dataclasses.dataclass(frozen=True)
class JittedStep:
    """A `TrainStep` whose compiled program can be inspected before it runs.

    Attributes:
      function: `(state, image, label, key, learning_rate, total) -> (state, loss)`, pmapped.
      devices: those that it runs on.
    """

    function: Any
    devices: parallel.Devices

    def __call__(
        self, state: TrainState, batch: Batch, key: jax.Array, learning_rate: float
    ) -> tuple[TrainState, jax.Array]:
        # `pmap` would compile for a state placed elsewhere, and again for the one that it returns.
        state = self.devices.replicate(state)
        image, label = self.devices.shard(batch["image"]), self.devices.shard(batch["label"])
        return self.function(state, image, label, key, np.float32(learning_rate), _total(batch))

    def compile(self, state: TrainState, batch: Batch, key: jax.Array) -> jax.stages.Compiled:
        """The program for arguments of these shapes.

        JAX caches it: the first step with such arguments does not compile again.

        Args:
          state: before the step; `jax.ShapeDtypeStruct`s are enough on a single host.
          batch: that of all hosts; `jax.ShapeDtypeStruct`s are enough.
          key: the seed's.

        Returns:
          The compiled program, to be inspected.
        """
        count, here = self.devices.count, self.devices.here
        # Zeros, since `pmap` on several hosts lowers only for arrays, not for shapes.
        image, label = (
            np.zeros((here, x.shape[0] // count, *x.shape[1:]), x.dtype)
            for x in (batch["image"], batch["label"])
        )
        arguments = self.devices.replicate(state), image, label, key, np.float32(0), _total(batch)
        return self.function.lower(*arguments).compile()


def _total(batch: Batch) -> int:
    """The number of examples in the batch of all hosts, not counting those that are repeated."""
    return batch.get("total", len(batch["image"]))


EvalStep = Callable[[Any, Batch], np.ndarray]


class Epoch(NamedTuple):
    """What `fit` yields after each epoch.

    Attributes:
      epoch: zero-based number.
      learning_rate: the rate it was trained at.
      train_loss: mean over its steps.
      val_loss: mean over the validation cases, without augmentation.
      seconds: how long it took.
      data_wait: how many of these seconds were spent waiting for batches. The device computes
        meanwhile, so it was idle for no longer than that.
      state: the state after it.
      schedule: the schedule after it; `schedule.stopped` if it was the last.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    val_loss: float
    seconds: float
    data_wait: float
    state: TrainState
    schedule: schedule.State


class StoppedError(Exception):
    """Training was stopped after a step, as requested.

    Attributes:
      epoch: zero-based number of the epoch.
      losses: of the steps taken in it; of a grid, by index of the member.
      state: after them; of a grid likewise.
    """

    def __init__(self, epoch: int, steps: int, losses: Any, state: Any):
        super().__init__(f"stopped after step {steps} of epoch {epoch + 1}")
        self.epoch, self.losses, self.state = epoch, losses, state


class NonFiniteLossError(ArithmeticError):
    """The training loss became NaN or infinite; the last checkpoint is unchanged."""


def sgd(learning_rate: float | jax.Array) -> optax.GradientTransformation:
    """SGD with Nesterov momentum in Keras' form: the rate enters before the momentum.

    v <- 0.9 v - lr g, w <- w + 0.9 v - lr g

    `optax.sgd` applies the rate after the momentum, which differs as soon as the rate changes.

    Args:
      learning_rate: the rate, which may differ from step to step and may be traced.

    Returns:
      A gradient transformation, whose state does not depend on the rate.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> weights, velocity = jnp.zeros(1), sgd(0.1).init(jnp.zeros(1))
      >>> for rate in (0.1, 0.01):
      ...     updates, velocity = sgd(rate).update(jnp.ones(1), velocity)
      ...     weights = optax.apply_updates(weights, updates)
      >>> print(weights.round(4))
      [-0.29]

    Reference:
      DSC++ paper, section 2.7; tf.keras.optimizers.SGD(momentum=0.9, nesterov=True).
    """
    return optax.chain(
        optax.scale_by_learning_rate(learning_rate), optax.trace(MOMENTUM, nesterov=True)
    )


def init_state(model: nn.Module, key: jax.Array, image_shape: tuple[int, ...]) -> TrainState:
    """The state before the first step.

    Args:
      model: a network of `dicepp_jax.models`.
      key: determines the initial parameters.
      image_shape: `(B, *spatial, channels)` of a batch.

    Returns:
      A `TrainState`.
    """
    return begin(model.init(key, jnp.zeros(image_shape)))


def begin(params: Any) -> TrainState:
    """The state before the first step from given parameters."""
    return TrainState(jnp.zeros((), jnp.int32), params, sgd(0.0).init(params))


def augmented(
    augment: AugmentFn,
    key: jax.Array,
    step: jax.Array,
    image: jax.Array,
    label: jax.Array,
    places: jax.Array,
    total: int,
) -> tuple[jax.Array, jax.Array]:
    """Examples of a batch, each augmented with a key of its place in the batch.

    Args:
      augment: `(key, image, label) -> (image, label)` for one example.
      key: the seed's.
      step: the number of the step.
      image: `(b, *spatial, channels)`.
      label: `(b, *spatial)`.
      places: int32 `(b,)`, their places in the batch; those past its end get the last one's key.
      total: the number of examples in the batch.

    Returns:
      image and label of the same shapes.
    """
    keys = _keys(key, step, AUGMENTATION, places, total)
    # `map` and not `vmap`, so that an example without a warp does not cost as much as one with it.
    return jax.lax.map(lambda example: augment(*example), (keys, image, label))


def dropout_keys(key: jax.Array, step: jax.Array, places: jax.Array, total: int) -> jax.Array:
    """The keys of dropout in a step, `(b,)`; arguments as of `augmented`."""
    return _keys(key, step, DROPOUT, places, total)


def _keys(key: jax.Array, step: jax.Array, use: int, places: jax.Array, total: int) -> jax.Array:
    step_key = jax.random.fold_in(jax.random.fold_in(key, step), use)
    return jax.random.split(step_key, total)[jnp.minimum(places, total - 1)]


def update(state: TrainState, gradient: Any, learning_rate: float | jax.Array) -> TrainState:
    """The state after a step down a gradient."""
    updates, opt_state = sgd(learning_rate).update(gradient, state.opt_state)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, opt_state)


def make_train_step(
    apply: ApplyFn,
    loss: LossFn,
    augment: AugmentFn | None,
    devices: parallel.Devices | None = None,
    *,
    dropout: bool = False,
) -> JittedStep:
    """The compiled step `(state, batch, key, learning_rate) -> (state, loss)`.

    Args:
      apply: `(params, images) -> logits`, such as a flax module's.
      loss: `(logits, labels) -> (B,)`.
      augment: `(key, image, label) -> (image, label)` for one example, or None.
      devices: those that share the batch; None for one device.
      dropout: whether to call `apply(params, images, keys)`, with keys `(B,)` for dropout.

    Returns:
      A pure function. The key is the seed's; the step number is folded in inside. The state
      passed in is donated. On several hosts, each passes its own share of the batch.
    """
    devices = devices or parallel.devices()

    def step(
        state: TrainState,
        image: jax.Array,
        label: jax.Array,
        key: jax.Array,
        rate: jax.Array,
        total: int,
    ) -> tuple[TrainState, jax.Array]:
        places = parallel.places(len(image))
        if augment is not None:
            image, label = augmented(augment, key, state.step, image, label, places, total)

        keys = (dropout_keys(key, state.step, places, total),) if dropout else ()

        def share_of_mean(params: Any) -> jax.Array:
            losses = loss(apply(params, image, *keys), label)
            if total < len(image) * devices.count:
                losses = jnp.where(places < total, losses, 0)
            return losses.sum() / total

        # The loss of the batch is the sum of the devices' shares of its mean, so its gradient is
        # the sum of theirs; `pmean` would divide by the number of devices once more.
        value, gradient = devices.sum(jax.value_and_grad(share_of_mean)(state.params))
        return update(state, gradient, rate), value

    axes = (None, 0, 0, None, None, None)
    pmapped = devices.pmap(step, axes, donate_argnums=0, static_broadcasted_argnums=5)
    return JittedStep(pmapped, devices)


def make_eval_step(
    apply: ApplyFn, loss: LossFn, devices: parallel.Devices | None = None
) -> EvalStep:
    """The compiled loss of a batch, `(params, batch) -> (B,)`, without augmentation."""
    devices = devices or parallel.devices()

    def on_device(params: Any, image: jax.Array, label: jax.Array) -> jax.Array:
        return jax.lax.all_gather(loss(apply(params, image), label), parallel.AXIS, tiled=True)

    evaluate = devices.pmap(on_device, (None, 0, 0))

    def losses(params: Any, batch: Batch) -> np.ndarray:
        image, label = devices.shard(batch["image"]), devices.shard(batch["label"])
        return np.asarray(evaluate(devices.replicate(params), image, label))[: _total(batch)]

    return losses


def fit(
    state: TrainState,
    key: jax.Array,
    train_step: TrainStep,
    eval_step: EvalStep,
    train_batches: Callable[[int], Iterable[Batch]],
    val_batches: Callable[[int], Iterable[Batch]],
    settings: schedule.Settings,
    *,
    epochs: int,
    first_epoch: int = 0,
    schedule_state: schedule.State | None = None,
    taken: Sequence[float] = (),
    on_step: OnStep = lambda epoch, step, loss: None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Epoch]:
    """Train epoch by epoch, cutting the rate on a plateau, until the schedule stops.

    Args:
      state: where to start.
      key: the seed's key.
      train_step: of `make_train_step`.
      eval_step: of `make_eval_step`.
      train_batches: the batches of an epoch, by its number.
      val_batches: the validation batches of an epoch, by its number.
      settings: when to cut the rate and to stop.
      epochs: number of epochs at most, counted from 0.
      first_epoch: the first to run, for a run that resumes.
      schedule_state: the schedule before it, None for a new run.
      taken: losses of the steps taken before in that epoch, for a run that resumes in the middle of
        it; its batches are then those after them.
      on_step: called with the epoch, the step in it and its loss, one step late, so that the host
        prepares a step while the device computes one.
      stop: asked after each step whether to stop there.

    Yields:
      An `Epoch` after each. Its state is donated to the next epoch: copy what has to outlive it.

    Raises:
      NonFiniteLossError: if a training loss is NaN or infinite, naming step and learning rate.
      StoppedError: if it was stopped, with what training goes on from.
    """
    plan = schedule_state or schedule.init(settings)
    for epoch in range(first_epoch, epochs):
        if plan.stopped:
            return
        start, rate = time.perf_counter(), plan.learning_rate
        waits: list[float] = []
        before = taken if epoch == first_epoch else ()
        batches = timed(train_batches(epoch), waits)
        state, losses = _train_epoch(
            state, key, train_step, batches, epoch, rate, before, on_step, stop
        )
        stopped = functools.partial(StoppedError, epoch, len(losses), losses, state)
        validation = stoppable(timed(val_batches(epoch), waits), stop, stopped)
        values = [eval_step(state.params, batch) for batch in validation]
        val_loss = float(np.concatenate(values).astype(np.float64).mean())
        plan = schedule.update(settings, plan, val_loss)
        seconds = time.perf_counter() - start
        train_loss = float(np.mean(losses))
        yield Epoch(epoch, rate, train_loss, val_loss, seconds, sum(waits), state, plan)


def _non_finite(params: Any) -> str:
    """Which parameters are not finite."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in leaves
        if not np.isfinite(np.asarray(leaf, np.float32)).all()
    ]
    if not names:
        return "all parameters are finite"
    return f"{len(names)} of {len(leaves)} parameters are not finite, the first is {names[0]}"


def timed(batches: Iterable[Data], waits: list[float]) -> Iterator[Data]:
    """The same batches; appends to `waits` the seconds spent waiting for each."""
    start = time.perf_counter()
    for batch in batches:
        waits.append(time.perf_counter() - start)
        yield batch
        start = time.perf_counter()


def stoppable(
    batches: Iterable[Data], stop: Callable[[], bool], error: Callable[[], Exception]
) -> Iterator[Data]:
    """The same batches, until asked to stop, when an error is raised."""
    for batch in batches:
        if stop():
            raise error()
        yield batch


def _train_epoch(
    state: TrainState,
    key: jax.Array,
    train_step: TrainStep,
    batches: Iterable[Batch],
    epoch: int,
    rate: float,
    taken: Sequence[float],
    on_step: OnStep,
    stop: Callable[[], bool],
) -> tuple[TrainState, list[float]]:
    """Run the steps of an epoch, reading the loss of each only after the next is dispatched."""
    losses = list(taken)

    def finish(value: jax.Array) -> None:
        loss, step = float(value), len(losses)
        if not math.isfinite(loss):
            kept = f"; the state after epoch {epoch} is kept" if epoch else ""
            raise NonFiniteLossError(
                f"the training loss is {loss} at step {step + 1} of epoch {epoch + 1}, learning "
                f"rate {rate:g}; {_non_finite(state.params)}{kept}. Try a lower "
                "train.learning_rate, a loss with cross entropy in it (loss.name dscpp_ce), or "
                "model.dtype float32 if it is bfloat16"
            )
        losses.append(loss)
        on_step(epoch, step, loss)

    running = None
    for batch in batches:
        state, value = train_step(state, batch, key, rate)
        if running is not None:
            finish(running)
        running = value
        if stop():
            finish(running)
            raise StoppedError(epoch, len(losses), losses, state)
    if running is not None:
        finish(running)
    if not losses:
        raise ValueError("the training split has no cases, so there is nothing to train on")
    return state, losses
