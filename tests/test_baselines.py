"""Dropout in training, its samples in prediction, and a second loss after the first."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import final_state, tiny

from configs import base
from dicepp_jax import inference, parallel, schedule, train, train_many
from dicepp_jax.data.specs import PHANTOM, PHANTOM_3D
from dicepp_jax.losses import get_loss
from dicepp_jax.models import UNet
from dicepp_jax.models.layers import dropout
from dicepp_jax.rows import Row, read_csv
from experiments import calibrate
from experiments.report.groups import method_title
from experiments.setup import components
from experiments.training import grid_points, posthoc, single
from experiments.workdirs import directory, finished, log


def test_dropout_keeps_the_expectation_and_draws_each_image_by_its_key():
    keys = jax.random.split(jax.random.key(0), 2)
    x = jnp.full((2, 100, 100, 3), 2.0)
    y = np.asarray(dropout(x, keys, 0.25))
    assert set(np.unique(y)) == {0, np.float32(2 / 0.75)}
    # The mean of 30,000 draws each.
    error = np.sqrt(0.25 * 0.75 / 30000)
    np.testing.assert_allclose((y == 0).mean((1, 2, 3)), 0.25, atol=5 * error)
    assert y.mean() == pytest.approx(2, abs=5 * error * 2 / 0.75)
    assert (y[0] != y[1]).any()
    np.testing.assert_array_equal(dropout(x[1:], keys[1:], 0.25)[0], y[1])


def test_a_network_with_dropout():
    image = jax.random.normal(jax.random.key(0), (2, 9, 8, 1))
    plain, dropped, never = (UNet(2, filters=2, depth=1, dropout=rate) for rate in (0, 0.5, 0))
    params = jax.jit(plain.init)(jax.random.key(1), image)
    keys = jax.random.split(jax.random.key(2), 2)
    shapes = jax.eval_shape(dropped.init, jax.random.key(1), image)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda x: x.shape, shapes)
    expected = jax.jit(plain.apply)(params, image)
    np.testing.assert_array_equal(jax.jit(never.apply)(params, image, keys), expected)
    np.testing.assert_array_equal(jax.jit(dropped.apply)(params, image), expected)
    apply = jax.jit(dropped.apply)
    one, again, other = (apply(params, image, k) for k in (keys, keys, keys[::-1]))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any() and (one != expected).any()


RATE = 0.5


def noisy(params, images, *keys):
    """The smallest network with dropout."""
    images = dropout(images, *keys, RATE) if keys else images
    return images @ params["kernel"] + params["bias"].reshape(1, 1, 1, -1)


def first_state():
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)
    return train.begin({"kernel": kernel, "bias": jnp.zeros(2)})


def batches(seed, size=3):
    def stream(epoch):
        rng = np.random.default_rng([seed, epoch])
        for _ in range(size):
            label = (rng.random((4, 8, 8)) < 0.3).astype(np.int32)
            image = label[..., None] + rng.normal(size=(4, 8, 8, 3))
            yield {"image": image.astype(np.float32), "label": label}

    return stream


@pytest.mark.parametrize("count", [1, 2])
def test_keys_of_dropout_depend_on_seed_step_and_place_alone(count):
    batch, seed = next(batches(0)(0)), jax.random.key(7)
    state = first_state()._replace(step=jnp.int32(3))
    step_key = jax.random.fold_in(jax.random.fold_in(seed, 3), train.DROPOUT)
    keys = jax.random.split(step_key, 4)
    expected = get_loss("dsc")(noisy(state.params, batch["image"], keys), batch["label"]).mean()
    devices = parallel.devices(count)
    step = train.make_train_step(noisy, get_loss("dsc"), None, devices, dropout=True)
    _, value = step(state, batch, seed, 0.0)
    assert value == pytest.approx(float(expected), rel=1e-5)


@pytest.fixture(scope="module")
def members():
    """Two exponents of two seeds with dropout, and each trained alone."""
    members, expected, streams = [], [], [batches(1), batches(2)]
    settings = schedule.Settings()
    for gamma in (1.0, 3.0):
        loss = functools.partial(get_loss("dscpp"), gamma=gamma)
        step = train.make_train_step(noisy, loss, None, dropout=True)
        evaluate = train.make_eval_step(noisy, loss)
        for stream in (0, 1):
            key = jax.random.key(stream)
            members.append(train_many.Member({"gamma": gamma}, settings, key, stream))
            arguments = key, step, evaluate, streams[stream], batches(9, 1), settings
            *_, last = train.fit(first_state(), *arguments, epochs=2)
            expected.append(last)
    return members, expected, streams


@pytest.mark.parametrize("strategy", [(4, 1), (1, 2)])
def test_members_with_dropout_train_as_they_would_alone(members, strategy):
    members, expected, streams = members
    programs = train_many.make_programs(noisy, get_loss("dscpp"), None, dropout=True)
    states = {n: first_state() for n in range(4)}
    *_, found = train_many.fit(
        members, states, programs, streams, [batches(9, 1)],
        train_many.Strategy(*strategy), epochs=2,
    )  # fmt: skip
    for n, last in enumerate(expected):
        assert found.epochs[n].val_loss == pytest.approx(last.val_loss, abs=1e-5)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, atol=1e-4),
            found.epochs[n].state.params,
            last.state.params,
        )


@pytest.mark.parametrize("spec", [PHANTOM, dataclasses.replace(PHANTOM_3D, patches=True)])
def test_a_prediction_is_the_mean_of_samples_whatever_the_windows(spec):
    def apply(params, images, keys):
        one = images[..., :1]
        noise = jax.vmap(lambda key: jax.random.normal(key, one.shape[1:]))(keys)
        others = [jnp.zeros_like(one)] * (len(spec.classes) - 2)
        return jnp.concatenate([one, params * one + noise, *others], -1)

    spatial = (8,) * spec.ndim
    rng = np.random.default_rng(0)
    shape = tuple(12 if spec.patches else n for n in spatial)
    image = rng.integers(0, 256, (*shape, spec.channels), np.uint8)
    samples = inference.Samples(3, jax.random.key(5))
    found = [
        inference.make_predict(
            apply, 1.5, spec, spatial,
            windows=inference.Windows(batch_size=size, mirror=mirror), samples=samples,
        )(image, shape)
        for size, mirror in ((1, False), (3, False), (1, True))
    ]  # fmt: skip
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    assert abs(found[0] - found[2]).max() > 0.01
    each = [
        inference.make_predict(
            lambda params, images, n=n: apply(
                params, images,
                jnp.broadcast_to(jax.random.fold_in(samples.key, n), len(images)),
            ),
            1.5, spec, spatial,
        )(image, shape)
        for n in range(3)
    ]  # fmt: skip
    np.testing.assert_allclose(found[0], np.mean(each, 0), atol=1e-6)


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    """A run with dropout and a second loss: its config and directory."""
    fields = {"loss.name": "dsc", "train.then": "ce", "model.dropout": 0.5}
    config = tiny(data_dir, **fields, **{"data.batch_size": 8, "evaluation.figures": 0})
    workdir = tmp_path_factory.mktemp("baselines") / "run"
    single.train_and_evaluate(config, workdir)
    return config, workdir


def test_the_second_loss_begins_with_the_best_network_of_the_first(run, tmp_path, monkeypatch):
    config, workdir = run
    first, second = single.phases(config)
    assert (first.loss.name, second.loss.name, first.train.then) == ("dsc", "ce", "")
    there = json.loads((workdir / directory.FIRST / directory.RUN).read_text())["config"]
    assert there == json.loads(first.to_json())
    best = single.best_epoch(config, components.build(first), workdir / directory.FIRST)
    begun = train.begin(best.state.params)
    monkeypatch.setattr(components, "init_state", lambda built, seed: begun)
    single.fit(second, components.build(second), tmp_path)
    states = [final_state(path, second)[1].state for path in (workdir, tmp_path)]
    jax.tree.map(np.testing.assert_array_equal, *states)
    found = finished.read(workdir)
    assert method_title(found) == "DSC, dropout = 0.5, then CE"
    assert (found.epochs, found.evaluations) == (4, 1)
    entries = [*log.read(workdir / directory.FIRST), *log.read(workdir)]
    assert found.seconds == sum(entry["seconds"] for entry in entries)
    assert workdir / directory.FIRST not in [run.folder for run in finished.find([workdir])]


def test_mc_dropout_scores_the_mean_of_samples(run):
    config, workdir = run
    calibrate.main([str(workdir), "--method=mc_dropout", "--samples=3"])
    found = finished.read(workdir / "mc_dropout")
    assert method_title(found) == "DSC, dropout = 0.5, then CE, MC dropout"
    assert found.evaluations == 3
    made = components.build(config)
    params = single.best_epoch(config, made, workdir).state.params
    stored = made.splits["test"][0]
    key = jax.random.fold_in(jax.random.key(config.seed), 2)

    def apply(index, params, images):
        return made.apply(params, images, jax.random.fold_in(key, index)[None])

    p = np.mean(
        [
            inference.make_predict(functools.partial(apply, n), params, made.spec, made.size)(
                stored["image"], stored["label"].shape
            )
            for n in range(3)
        ],
        axis=0,
    )
    rows = {row[:4]: row.value for row in read_csv(workdir / "mc_dropout/test/cases.csv", Row)}
    place = (stored["id"].decode(), "vessel", "image", "brier")
    brier = np.mean((p[..., 1] - (stored["label"] == 1)) ** 2)
    assert rows[place] == pytest.approx(brier, rel=1e-4)
    before = (workdir / "mc_dropout/test/cases.csv").read_bytes()
    posthoc.calibrate(workdir, "mc_dropout", samples=3)
    assert (workdir / "mc_dropout/test/cases.csv").read_bytes() == before


def test_a_run_from_before_a_field_existed_resumes(run, tmp_path):
    config, _ = run
    config = single.phases(config)[0]
    config.model.dropout = 0.0
    loaded = components.build(config).loaded
    directory.open_workdir(tmp_path, config, loaded)
    path = tmp_path / directory.RUN
    about = json.loads(path.read_text())
    del about["config"]["model"]["dropout"], about["config"]["train"]["then"]
    path.write_text(json.dumps(about))
    directory.open_workdir(tmp_path, config, loaded)
    config.model.dropout = 0.5
    with pytest.raises(ValueError, match=r"model\.dropout: 0\.0 there, 0\.5 here"):
        directory.open_workdir(tmp_path, config, loaded)


def test_a_grid_has_one_loss():
    config = base.get_config()
    config.sweep.gamma, config.train.then = (1.0, 2.0), "ce"
    with pytest.raises(ValueError, match="train.then is 'ce', which applies to single runs; train"):
        grid_points.expand(config)
