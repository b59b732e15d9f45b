"""The optimiser against Keras, the steps and their keys, the loop, and checkpoints."""

import functools
import json
import re
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dicepp_jax import schedule, train
from dicepp_jax.augment import augment
from dicepp_jax.checkpoint import Checkpoints
from dicepp_jax.losses import get_loss
from dicepp_jax.models import UNet

SGD = json.loads((Path(__file__).parent / "golden" / "sgd.json").read_text())
MODEL = UNet(2, filters=2, depth=1)
SHAPE = (2, 8, 8, 1)


@pytest.fixture
def batch():
    image = jax.random.normal(jax.random.key(5), SHAPE)
    return {"image": image, "label": (image[..., 0] > 0.5).astype(jnp.int32)}


def init_state(model, seed, shape):
    return jax.jit(lambda key: train.init_state(model, key, shape))(jax.random.key(seed))


@functools.cache
def _first_state():
    return jax.tree.map(np.asarray, init_state(MODEL, 0, SHAPE))


def fresh_state():
    # A copy, since a step donates the state that it is given.
    return jax.tree.map(jnp.array, _first_state())


def assert_trees_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_sgd_matches_keras():
    weights = jnp.array(SGD["init"])
    state = train.sgd(0.1).init(weights)
    steps = zip(SGD["gradients"], SGD["learning_rates"], SGD["iterates"], strict=True)
    for gradient, rate, expected in steps:
        updates, state = train.sgd(rate).update(jnp.array(gradient), state)
        weights = optax.apply_updates(weights, updates)
        np.testing.assert_allclose(weights, expected, rtol=2e-6, atol=2e-7)


def test_first_step_is_1_9_times_the_rate_down_the_gradient(batch):
    loss = get_loss("dscpp")
    state = fresh_state()
    gradient = jax.jit(
        jax.grad(lambda params: loss(MODEL.apply(params, batch["image"]), batch["label"]).mean())
    )(state.params)
    expected = jax.tree.map(lambda w, g: w - 1.9 * 0.05 * g, state.params, gradient)
    step = train.make_train_step(MODEL.apply, loss, None)
    after, value = step(state, batch, jax.random.key(0), 0.05)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.params, expected)
    logits = jax.jit(MODEL.apply)(fresh_state().params, batch["image"])
    np.testing.assert_allclose(value, loss(logits, batch["label"]).mean(), rtol=1e-5)
    assert int(after.step) == 1


def test_keys_fold_in_step_and_place_in_the_batch(batch):
    def shift(key, image, label):
        return image + jax.random.uniform(key), label

    seed = jax.random.key(7)
    step = train.make_train_step(
        lambda params, image: jnp.stack([image[..., 0], params * image[..., 0]], -1),
        lambda logits, labels: logits[..., 0].mean((1, 2)),
        shift,
    )
    params = jnp.ones(())
    state = train.TrainState(jnp.int32(3), params, train.sgd(0.0).init(params))
    _, value = step(state, batch, seed, 0.0)
    keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(seed, 3), 0), 2)
    shifts = [float(jax.random.uniform(key)) for key in keys]
    np.testing.assert_allclose(value, batch["image"].mean() + np.mean(shifts), rtol=1e-5)
    assert shifts[0] != shifts[1]


def test_equal_runs_give_equal_numbers_and_other_seeds_do_not(batch):
    step = train.make_train_step(MODEL.apply, get_loss("dscpp"), augment)

    def run(seed):
        state = fresh_state()
        for _ in range(3):
            state, _ = step(state, batch, jax.random.key(seed), 0.1)
        return state.params

    first = run(0)
    assert_trees_equal(first, run(0))
    with pytest.raises(AssertionError):
        assert_trees_equal(first, run(1))


@pytest.mark.parametrize("spatial", [(16, 16), (8, 8, 8)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_loss_falls_in_2d_and_3d(spatial, dtype):
    image = jax.random.normal(jax.random.key(0), (1, *spatial, 1))
    batch = {"image": image, "label": (image[..., 0] > 0).astype(jnp.int32)}
    model = UNet(2, filters=4, depth=1, dtype=dtype)
    state = init_state(model, 1, image.shape)
    step = train.make_train_step(model.apply, get_loss("dscpp_ce"), None)
    values = []
    for _ in range(15):
        state, value = step(state, batch, jax.random.key(2), 0.1)
        values.append(float(value))
    assert values[-1] < 0.5 * values[0]
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.float32)}


def slowly(batches, seconds):
    for batch in batches:
        time.sleep(seconds)
        yield batch


def counting_fit(val_losses, train_values=lambda epoch, step: 1.0, wait=0.0, **kwargs):
    """`fit` on steps that compute nothing: the state counts, the losses are as given."""
    seen = []

    def step(state, batch, key, rate):
        del key
        seen.append((*batch, rate))
        value = jnp.asarray(train_values(*batch))
        return state._replace(step=state.step + 1), value

    epochs = train.fit(
        train.TrainState(jnp.int32(0), {}, ()),
        jax.random.key(0),
        step,
        lambda params, batch: np.array([val_losses[batch]]),
        lambda epoch: slowly([(epoch, 0), (epoch, 1)], wait),
        lambda epoch: slowly([epoch], wait),
        schedule.Settings(patience=2, stop_patience=4),
        epochs=kwargs.pop("epochs", len(val_losses)),
        **kwargs,
    )
    return epochs, seen


def test_fit_follows_the_schedule():
    losses = [1.0, 0.5, *[0.6] * 10]
    rates, stop = schedule.replay(losses, patience=2, stop_patience=4)
    epochs, seen = counting_fit(losses)
    epochs = list(epochs)
    assert [e.epoch for e in epochs] == list(range(stop + 1))
    assert [e.schedule.learning_rate for e in epochs] == rates
    assert [e.learning_rate for e in epochs] == [0.1, *rates[:-1]]
    assert [e.val_loss for e in epochs] == losses[: stop + 1]
    assert seen == [(e.epoch, s, e.learning_rate) for e in epochs for s in (0, 1)]
    assert int(epochs[-1].state.step) == 2 * (stop + 1)


def test_fit_resumes_where_it_was():
    losses = [1.0, 0.5, *[0.6] * 10]
    whole, _ = counting_fit(losses)
    whole = list(whole)
    rest, seen = counting_fit(losses, first_epoch=2, schedule_state=whole[1].schedule)
    rest = list(rest)
    assert [e.schedule for e in rest] == [e.schedule for e in whole[2:]]
    assert seen[0][0] == 2
    over, seen = counting_fit(losses, first_epoch=6, schedule_state=whole[-1].schedule)
    assert list(over) == []
    assert seen == []


def test_fit_reports_every_step():
    reported = []
    epochs, _ = counting_fit(
        [1.0, 1.0], lambda e, s: 10.0 * e + s, on_step=lambda *args: reported.append(args)
    )
    means = [e.train_loss for e in epochs]
    assert reported == [(0, 0, 0.0), (0, 1, 1.0), (1, 0, 10.0), (1, 1, 11.0)]
    assert means == [0.5, 10.5]


def test_an_epoch_reports_how_long_it_waited_for_data():
    (waiting,), (ready,) = (list(counting_fit([1.0], wait=wait)[0]) for wait in (0.05, 0.0))
    assert 3 * 0.05 <= waiting.data_wait <= waiting.seconds
    assert ready.data_wait < 0.05


def test_a_loss_that_is_not_finite_names_the_first_such_parameter(batch):
    state = fresh_state()
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    path, broken = leaves[3]
    name = "/".join(key.key for key in path)
    params = jax.tree_util.tree_map_with_path(
        lambda at, leaf: leaf.at[(0,) * leaf.ndim].set(jnp.inf) if at == path else leaf,
        state.params,
    )

    def step(state, batch, key, rate):
        return state, jnp.asarray(np.nan)

    epochs = train.fit(
        state._replace(params=params),
        jax.random.key(0),
        step,
        None,
        lambda epoch: [batch],
        lambda epoch: [batch],
        schedule.Settings(),
        epochs=1,
    )
    expected = f"1 of {len(leaves)} parameters are not finite, the first is {name}. Try"
    with pytest.raises(train.NonFiniteLossError, match=re.escape(expected)):
        next(epochs)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_the_run(bad):
    epochs, _ = counting_fit([1.0] * 3, lambda e, s: bad if (e, s) == (1, 0) else 1.0)
    assert next(epochs).epoch == 0
    with pytest.raises(
        train.NonFiniteLossError,
        match=r"step 1 of epoch 2, learning rate 0\.1; .*after epoch 1 is kept.*Try",
    ):
        next(epochs)


def test_an_empty_split_is_refused():
    with pytest.raises(ValueError, match="no cases"):
        next(
            train.fit(
                train.TrainState(jnp.int32(0), {}, ()),
                jax.random.key(0),
                lambda *args: args,
                lambda *args: args,
                lambda epoch: [],
                lambda epoch: [],
                schedule.Settings(),
                epochs=1,
            )
        )


def epochs_with(val_losses):
    state, settings = fresh_state(), schedule.Settings(patience=1)
    plan = schedule.init(settings)
    for number, value in enumerate(val_losses):
        plan = schedule.update(settings, plan, value)
        state = state._replace(step=state.step + 1)
        yield train.Epoch(number, 0.1, 0.5, value, 1.0, 0.0, state, plan)


@pytest.mark.parametrize(
    ("val_losses", "best"),
    [([3.0, 1.0, 2.0], 1), ([1.0, 1.0, 1.0], 0), ([2.0, np.nan, 1.5], 2), ([np.nan, 4.0, 5.0], 1)],
)
def test_checkpoints_keep_the_best_and_the_last_two(tmp_path, val_losses, best):
    epochs = list(epochs_with(val_losses))
    with Checkpoints(tmp_path) as checkpoints:
        for epoch in epochs:
            checkpoints.save(epoch)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.last_epoch == 2
        assert checkpoints.best_epoch == best
        kept = {int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()}
        assert kept == {best, 1, 2}
        for number in kept:
            restored = checkpoints.restore(number, fresh_state())
            assert restored.schedule == epochs[number].schedule
            np.testing.assert_equal(restored.val_loss, val_losses[number])
            assert_trees_equal(restored.state, epochs[number].state)


def test_a_checkpoint_outlives_the_donation_of_its_state(tmp_path, batch):
    step = train.make_train_step(MODEL.apply, get_loss("dscpp"), None)
    epochs = train.fit(
        fresh_state(),
        jax.random.key(0),
        step,
        train.make_eval_step(MODEL.apply, get_loss("dscpp")),
        lambda epoch: [batch] * 3,
        lambda epoch: [batch],
        schedule.Settings(),
        epochs=3,
    )
    kept = {}
    with Checkpoints(tmp_path) as checkpoints:
        for epoch in epochs:
            checkpoints.save(epoch)
            kept[epoch.epoch] = jax.tree.map(np.array, epoch.state)
        last = checkpoints.restore(2, fresh_state())
    assert_trees_equal(last.state, kept[2])
