"""On any number of devices, a step computes what it does with the whole batch on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict
from test_memory import compilations
from test_run import tiny

from dicepp_jax import parallel, train
from dicepp_jax.augment import augment
from dicepp_jax.data import pipeline
from dicepp_jax.data.pipeline import Share
from dicepp_jax.losses import get_loss
from dicepp_jax.models import UNet
from dicepp_jax.rows import Summary, read_csv
from experiments.setup import components
from experiments.training import single, step_memory
from experiments.workdirs import log

LOSS = get_loss("dscpp")
MODEL = UNet(2, filters=2, depth=1)
WARPED = functools.partial(augment, p_mirror=0.5, p_brightness=0.5, p_elastic=0.5, p_rotate=0.5)
RATES = (0.1, 0.05)
KEY = 7


def shifted(key, image, label):
    """A cheap augmentation, which depends on the example's key."""
    return image + jax.random.normal(key, image.shape, image.dtype), label


def two_layers(params, image):
    """A network that computes in the precision of its parameters."""
    return jnp.tanh(image @ params["hidden"]) @ params["logits"]


def examples(number, dtype=np.float32):
    """A batch of this many examples."""
    image = np.random.default_rng([1, number]).normal(size=(number, 8, 8, 1)).astype(dtype)
    return {"image": image, "label": (image[..., 0] > 0.5).astype(np.int32)}


@functools.cache
def unet_params():
    return jax.tree.map(np.asarray, MODEL.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1))))


def two_layers_params(dtype):
    rng = np.random.default_rng(2)
    return {"hidden": rng.normal(size=(1, 5)).astype(dtype), "logits": rng.normal(size=(5, 2))}


def first_state(weights):
    return train.TrainState(jnp.int32(0), weights, train.sgd(0.0).init(weights))


def by_hand(apply, augment, params, batch):
    """Two steps on the whole batch, by `jax.grad` and the formula of Nesterov's momentum."""

    @jax.jit
    def step(weights, velocity, number, rate):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(KEY), number), 0)
        keys = jax.random.split(key, len(batch["image"]))
        image, label = jax.lax.map(lambda x: augment(*x), (keys, batch["image"], batch["label"]))
        value, gradient = jax.value_and_grad(lambda w: LOSS(apply(w, image), label).mean())(weights)
        velocity = jax.tree.map(lambda v, g: 0.9 * v - rate * g, velocity, gradient)
        weights = jax.tree.map(lambda w, v, g: w + 0.9 * v - rate * g, weights, velocity, gradient)
        return weights, velocity, value

    weights, velocity, values = params, jax.tree.map(np.zeros_like, params), []
    for number, rate in enumerate(RATES):
        weights, velocity, value = step(weights, velocity, number, jnp.float32(rate))
        values.append(value)
    return weights, values


def shared(apply, augment, params, batch, count):
    """The same steps by `make_train_step` on this many devices."""
    step = train.make_train_step(apply, LOSS, augment, parallel.devices(count))
    weights = jax.tree.map(jnp.array, params)
    state = first_state(weights)
    values = []
    for rate in RATES:
        state, value = step(state, batch, jax.random.key(KEY), rate)
        values.append(value)
    return state.params, values


def assert_close(found, expected, tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
        found,
        expected,
    )


@functools.cache
def unet_by_hand():
    return by_hand(MODEL.apply, WARPED, unet_params(), examples(8))


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_steps_are_those_of_the_whole_batch_augmentation_and_all(count):
    found = shared(MODEL.apply, WARPED, unet_params(), examples(8), count)
    assert_close(found, unet_by_hand(), 2e-6)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_in_double_precision_they_agree_to_its_rounding(count):
    with jax.enable_x64(True):
        args = two_layers, shifted, two_layers_params(np.float64), examples(8, np.float64)
        weights, values = shared(*args, count)
        assert {x.dtype for x in jax.tree.leaves((weights, values))} == {np.dtype(np.float64)}
        assert_close((weights, values), by_hand(*args), 1e-12)


def test_pmap_over_8_devices_takes_the_step_of_one_and_donates_the_state():
    with jax.enable_x64(True):
        batch, weights = examples(8, np.float64), two_layers_params(np.float64)
        after = {}
        for count in (1, 8):
            step = train.make_train_step(two_layers, LOSS, shifted, parallel.devices(count))
            state, _ = step(first_state(weights), batch, jax.random.key(KEY), 0.1)
            after[count] = step(state, batch, jax.random.key(KEY), 0.1)
            assert all(x.is_deleted() for x in jax.tree.leaves(state))
        assert_close(after[8], after[1], 1e-12)
    for found, alone in zip(*(jax.tree.leaves(after[count]) for count in (8, 1)), strict=True):
        assert found.shape == alone.shape and len(found.sharding.device_set) == 8
        for replica in found.addressable_shards:
            np.testing.assert_array_equal(replica.data, found)


class Listed:
    """The examples of a batch as cases."""

    def __init__(self, batch):
        self._batch = batch

    def __len__(self):
        return len(self._batch["label"])

    def __getitem__(self, index):
        return {name: array[index] for name, array in self._batch.items()}

    def at(self, epoch):
        del epoch
        return self


# After a batch of eight, three of the eleven are left: two parts of two, four or eight of one.
@pytest.mark.parametrize("count", [2, 4, 8])
def test_examples_repeated_to_fill_the_last_batch_do_not_count(count):
    devices, whole = parallel.devices(count), examples(11)
    _, last = pipeline.batches(Listed(whole), 8, share=devices.share)
    left = {name: array[8:] for name, array in whole.items()}
    assert len(last["image"]) > 3
    params = two_layers_params(np.float32)
    found = shared(two_layers, shifted, params, last, count)
    assert_close(found, by_hand(two_layers, shifted, params, left), 2e-6)
    losses = train.make_eval_step(two_layers, LOSS, devices)(params, last)
    expected = LOSS(two_layers(params, left["image"]), left["label"])
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@given(st.data())
def test_the_shares_of_a_batch_are_the_batch(data):
    hosts, each = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    size = hosts * each * data.draw(st.integers(1, 3))
    cases = Listed({"label": np.arange(data.draw(st.integers(1, 20)))})
    seed, epoch = data.draw(st.sampled_from([None, 3])), data.draw(st.integers(0, 2))
    order = {"shuffle_seed": seed, "epoch": epoch}
    whole = [list(b["label"]) for b in pipeline.batches(cases, size, **order)]
    shares = [
        list(
            pipeline.batches(
                cases, size, **order, share=Share(h * each, (h + 1) * each, hosts * each)
            )
        )
        for h in range(hosts)
    ]
    for number, expected in enumerate(whole):
        here = [share[number] for share in shares]
        together = np.concatenate([b["label"] for b in here])
        assert list(together[: len(expected)]) == expected
        assert set(together[len(expected) :]) <= {expected[-1]}
        if hosts * each > 1:
            assert {len(b["label"]) % each for b in here} == {0}
            assert {b["total"] for b in here} == {len(expected)}
    assert {len(share) for share in shares} == {len(whole)}


@pytest.mark.parametrize(
    ("devices", "batch_size", "message"),
    [
        (9, 9, r"devices is 9, but this machine has 8 \(cpu\); give --config.devices=8"),
        (4, 1, r"is 1, and devices is 4, .*data.batch_size=4, or --config.devices=1$"),
        (4, 6, r"is 6, and devices is 4, .*data.batch_size=4 or 8, or --config.devices=3$"),
        (0, 1, r"devices is 0; it must be a whole number from 1 to 1024"),
    ],
)  # fmt: skip
def test_impossible_numbers_of_devices_are_refused(data_dir, devices, batch_size, message):
    config = tiny(data_dir, **{"devices": devices, "data.batch_size": batch_size})
    with pytest.raises(ValueError, match=message):
        components.build_without_data(config)


def trained(config: ConfigDict, workdir):
    """The losses of a run, and the names and means of its test metrics."""
    single.train_and_evaluate(config, workdir)
    losses = [(entry["train_loss"], entry["val_loss"]) for entry in log.read(workdir)]
    summary = read_csv(workdir / "test" / "summary.csv", Summary)
    return np.array(losses), [row[:3] for row in summary], np.array([row.mean for row in summary])


def test_a_run_on_two_devices_ends_as_on_one_and_resumes_on_another_number(
    data_dir, tmp_path, capsys
):
    # Steps at a rate of 0.1 amplify differences of rounding.
    fields = {"data.batch_size": 4, "evaluation.figures": 0, "train.learning_rate": 0.01}
    one = trained(tiny(data_dir, **fields), tmp_path / "one")
    capsys.readouterr()
    two = trained(tiny(data_dir, **fields, devices=2), tmp_path / "two")
    printed = capsys.readouterr().out
    assert "on 2 x cpu" in printed and "on each of 2 devices (parameters" in printed
    single.train_and_evaluate(
        tiny(data_dir, **fields, devices=2, **{"train.epochs": 1}), tmp_path / "both"
    )
    both = trained(tiny(data_dir, **fields), tmp_path / "both")
    assert len(one[0]) == 2 and one[0][0, 0] != one[0][1, 0]
    for found in (two, both):
        np.testing.assert_allclose(found[0], one[0], rtol=1e-5)
        assert found[1] == one[1]
        # Rounding may change the class of a pixel, or its bin: there are few in the band.
        np.testing.assert_allclose(found[2], one[2], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("count", [2, 8])
def test_memory_is_that_of_one_device_and_the_pmapped_step_is_compiled_once(data_dir, count):
    config = tiny(data_dir, **{"devices": count, "data.batch_size": 8})
    made = components.build_without_data(config)
    step = train.make_train_step(made.apply, made.loss, None, made.devices)
    state, key = components.init_state(made, 0), components.step_key(0)
    image = np.ones((8, 16, 16, 3), np.float32)
    with compilations() as compiled:
        taken = step_memory.measure(step, state, step_memory.batch_shapes(made, 8), key)
        assert len(compiled) == 1
        for _ in range(2):
            state, _ = step(state, {"image": image, "label": image[..., 0].astype(int)}, key, 0.1)
    assert len(compiled) == 1
    assert taken.batch == 4 * (8 // count) * 16 * 16 * (3 + 1)
    assert taken.parameters == 4 * sum(x.size for x in jax.tree.leaves(state.params))
