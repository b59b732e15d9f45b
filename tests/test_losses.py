"""The losses against float64 NumPy, the authors' values, and by their properties.

Everything runs over the table of losses: a new row is tested by being there, once `oracles.LOSSES`
states its formula.
"""

import functools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dicepp_jax import losses
from dicepp_jax.losses import LOSSES

GOLDEN = json.loads((Path(__file__).parent / "golden" / "losses.json").read_text())
GOLDEN_ROWS = [(case, row) for case in GOLDEN for row in case["cases"]]

BATCH, SPATIAL, CLASSES = 2, (4, 3), 3
SHAPE = (BATCH, *SPATIAL)
ALL = np.ones(SHAPE, bool)

PLUSPLUS = [name for name, loss in LOSSES.items() if loss.plusplus]
WITH_HYPER = [name for name, loss in LOSSES.items() if loss.defaults]
REGION = [name for name in LOSSES if name.startswith("dsc") and "ce" not in name]
REGION += [name for name in LOSSES if "tversky" in name]
UNIFIED = ("asymmetric", "unified")


def values_of(name, hyper):
    """A few values of a hyper-parameter over its range, both ends among them."""
    if hyper in ("alpha", "beta", "delta", "weight"):
        return 0.0, 0.3, 1.0
    if hyper == "gamma" and name.startswith("focal_tversky"):
        return 1.0, 4 / 3, 5.0
    if hyper == "gamma" and name.startswith(UNIFIED):
        return 0.0, 0.5, 0.99
    return 0.5, 1.0, 2.0, 5.0


def settings_of(name):
    """The defaults, then each hyper-parameter at each of its values."""
    defaults = LOSSES[name].defaults
    return [defaults] + [defaults | {h: v} for h in defaults for v in values_of(name, h)]


SETTINGS = [
    pytest.param(name, hyper, id=name + "".join(f"-{h}={v:.3g}" for h, v in hyper.items()))
    for name in LOSSES
    for hyper in settings_of(name)
]


def example(seed, shape=SHAPE, classes=CLASSES, sharpness=2.0):
    """Logits that know a little of the labels, integer labels with every class, and a mask."""
    rng = np.random.default_rng(seed)
    voxels = np.arange(math.prod(shape[1:])) % classes
    labels = rng.permuted(np.tile(voxels, (shape[0], 1)), axis=1).reshape(shape)
    logits = sharpness * rng.normal(size=(*shape, classes)) + oracles.one_hot(labels, classes)
    return logits.astype(np.float32), labels, rng.random(shape) > 0.3


def soft_labels(seed, shape=SHAPE, classes=CLASSES):
    """Labels between 0 and 1 that sum to 1, a few of them certain."""
    rng = np.random.default_rng(seed)
    soft = rng.dirichlet(np.ones(classes), shape)
    hard = oracles.one_hot(rng.integers(0, classes, shape), classes)
    return np.where(rng.random(shape)[..., None] < 0.3, hard, soft).astype(np.float32)


@functools.cache
def jitted(name):
    """The losses of a batch, compiled once for every test and hyper-parameter."""
    return jax.jit(lambda z, y, where, hyper: LOSSES[name].function(z, y, where=where, **hyper))


@functools.cache
def jitted_gradients(name):
    """The batch's summed loss and its gradients in the logits and the hyper-parameters."""

    def total(logits, hyper, labels, where):
        return LOSSES[name].function(logits, labels, where=where, **hyper).sum()

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))


def assert_close(actual, expected, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=rtol, atol=atol)


def assert_all_finite(tree):
    assert all(np.isfinite(np.asarray(leaf, np.float64)).all() for leaf in jax.tree.leaves(tree))


def test_every_loss_has_an_oracle():
    assert set(LOSSES) == set(oracles.LOSSES)


@pytest.mark.parametrize(
    ("case", "row"),
    GOLDEN_ROWS,
    ids=[f"{case['seed']}-{row['loss']}-{i}" for i, (case, row) in enumerate(GOLDEN_ROWS)],
)
def test_values_and_gradients_of_the_authors_code(case, row):
    def mean(logits):
        labels = jnp.asarray(case["labels"])
        return LOSSES[row["loss"]].function(logits, labels, **row["args"]).mean()

    value, gradient = jax.value_and_grad(mean)(jnp.asarray(case["logits"]))
    gradient = np.asarray(gradient, np.float64)
    assert_close(value, row["value"], atol=0)
    assert_close(np.linalg.norm(gradient), row["grad_l2"], atol=0)
    assert_close(np.abs(gradient).sum(), row["grad_sum_abs"], atol=0)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("spatial", "classes"), [((6, 5), 2), ((4, 4, 4), 3), ((12,), 4)])
def test_value_in_any_rank_and_number_of_classes(name, spatial, classes):
    shape = (BATCH, *spatial)
    logits, integer, mask = example(0, shape, classes)
    one_hot = oracles.one_hot(integer, classes)
    for labels in (integer, one_hot.astype(np.int32), one_hot, soft_labels(1, shape, classes)):
        for where in (None, mask):
            value = LOSSES[name].function(logits, labels, where=where)
            assert value.shape == (BATCH,)
            assert value.dtype == jnp.float32
            assert_close(value, oracles.loss(name, logits, labels, where))


@pytest.mark.parametrize(("name", "hyper"), SETTINGS)
def test_value_over_the_hyper_parameters(name, hyper):
    logits, labels, where = example(2)
    loss = losses.get_loss(name, **hyper)
    assert_close(loss(logits, soft_labels(3)), oracles.loss(name, logits, soft_labels(3), **hyper))
    expected = oracles.loss(name, logits, labels, where, **hyper)
    assert_close(loss(logits, labels, where=where), expected)
    assert_close(jitted(name)(logits, labels, where, hyper), expected)


@pytest.mark.parametrize(("name", "hyper"), SETTINGS)
def test_gradient_in_the_logits(name, hyper):
    logits, integer, where = example(4)
    single, _ = jitted_gradients(name)(logits, hyper, integer, where)[1]
    with jax.enable_x64(True):
        for labels in (soft_labels(5), integer):
            gradient = jax.grad(
                lambda z, y=labels: LOSSES[name].function(z, y, where=where, **hyper).sum()
            )(jnp.asarray(logits, jnp.float64))
            assert gradient.dtype == jnp.float64
            expected = oracles.numerical_gradient(
                lambda z, y=labels: oracles.loss(name, z, y, where, **hyper).sum(), logits
            )
            assert_close(gradient, expected, rtol=1e-5, atol=1e-8)
    assert_close(single, gradient, rtol=1e-4)


@pytest.mark.parametrize(("name", "hyper"), SETTINGS)
def test_gradient_in_the_hyper_parameters(name, hyper):
    logits, labels, where = example(6)
    _, gradients = jitted_gradients(name)(logits, hyper, labels, where)[1]
    step = 1e-5
    for key, gradient in gradients.items():
        above, below = (
            oracles.loss(name, logits, labels, where, **hyper | {key: hyper[key] + shift}).sum()
            for shift in (step, -step)
        )
        assert_close(gradient, (above - below) / (2 * step), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_vmap_over_a_batch_of_batches(name):
    batches = [example(seed) for seed in range(3)]
    vmapped = jax.vmap(lambda z, y, where: LOSSES[name].function(z, y, where=where))
    value = vmapped(*(jnp.stack(x) for x in zip(*batches, strict=True)))
    assert_close(value, [oracles.loss(name, *batch) for batch in batches])


@pytest.mark.parametrize("name", WITH_HYPER)
def test_one_trace_serves_a_grid_of_hyper_parameters(name):
    logits, labels, where = example(7)
    traces = 0

    def loss(hyper):
        nonlocal traces
        traces += 1
        return LOSSES[name].function(logits, labels, where=where, **hyper)

    over_grid = jax.jit(jax.vmap(loss))
    grid = settings_of(name)
    for points in (grid, grid[::-1]):
        stacked = {key: jnp.array([hyper[key] for hyper in points]) for key in points[0]}
        one_by_one = [jitted(name)(logits, labels, where, hyper) for hyper in points]
        assert_close(over_grid(stacked), np.stack(one_by_one))
    assert traces == 1


def extreme_examples():
    """Confident networks, missing classes and missing voxels."""
    logits, labels, _ = example(8)
    signs = np.sign(logits) * np.float32(1e4)
    right = 1e4 * (2 * oracles.one_hot(labels, CLASSES) - 1).astype(np.float32)
    unpredicted = logits.copy()
    unpredicted[..., 2] = -1e4
    hidden = logits.copy()
    hidden[0] = np.nan
    two = np.minimum(labels, 1)
    return {
        "logits of 1e4 either way": (signs, labels, ALL),
        "certain and right": (right, labels, ALL),
        "certain and wrong": (-right, labels, ALL),
        "a class absent": (logits, two, ALL),
        "a class absent and not predicted": (unpredicted, two, ALL),
        "a class fading": (logits - np.float32([0, 0, 40]), two, ALL),
        "a class all but gone": (logits - np.float32([0, 0, 85]), two, ALL),
        "all background": (logits, np.zeros_like(labels), ALL),
        "all background and certain": (np.float32([1e4, 0, 0]) + 0 * logits, 0 * labels, ALL),
        "all foreground": (logits, np.ones_like(labels), ALL),
        "ties": (np.zeros_like(logits), labels, ALL),
        "no voxel": (logits, labels, ~ALL),
        "one example without a voxel, and NaN": (hidden, labels, ~np.isnan(hidden).any(-1)),
    }


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("logits", "labels", "where"), extreme_examples().values(), ids=extreme_examples()
)
def test_extremes_are_finite_and_exact(name, logits, labels, where):
    for hyper in settings_of(name):
        value, gradients = jitted_gradients(name)(logits, hyper, labels, where)
        assert_all_finite(gradients)
        assert_close(value, oracles.loss(name, logits, labels, where, **hyper).sum())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_logits(name, dtype):
    _, labels, where = example(9)
    for sharpness in (3.0, 1e4):
        logits = jnp.asarray(example(9, sharpness=sharpness)[0], dtype)
        value, pullback = jax.vjp(
            lambda z: LOSSES[name].function(z, labels, where=where).sum(), logits
        )
        (gradient,) = pullback(jnp.ones_like(value))
        assert gradient.dtype == dtype
        assert_all_finite(gradient)
        rounded = np.asarray(logits, np.float64)
        assert_close(value, oracles.loss(name, rounded, labels, where).sum())


@pytest.mark.parametrize("name", LOSSES)
def test_soft_labels_with_confident_logits(name):
    labels = soft_labels(10)
    logits = jnp.asarray(1e4 * np.sign(example(10)[0]), jnp.float32)
    value, gradient = jax.value_and_grad(
        lambda z: LOSSES[name].function(z, labels, where=ALL).sum()
    )(logits)
    assert_all_finite(gradient)
    assert_close(value, oracles.loss(name, logits, labels).sum())


@pytest.mark.parametrize("name", LOSSES)
def test_where_may_hold_0_and_255(name):
    logits, labels, where = example(11)
    value = LOSSES[name].function(logits, labels, where=(255 * where).astype(np.uint8))
    assert_close(value, oracles.loss(name, logits, labels, where))


@pytest.mark.parametrize("name", LOSSES)
def test_ignore_index(name):
    logits, labels, where = example(12)
    ignored = np.where(where, labels, 255).astype(np.uint8)
    value = LOSSES[name].function(logits, ignored, where=ignored != 255)
    assert_close(value, oracles.loss(name, logits, labels, where))


@pytest.mark.parametrize("name", LOSSES)
def test_forward_second_and_recomputed_derivatives(name):
    rng = np.random.default_rng(13)
    labels = example(13)[1][:1]
    with jax.enable_x64(True):
        logits, direction = jnp.asarray(rng.normal(size=(2, 1, *SPATIAL, CLASSES)))
        gradient_at = jax.grad(lambda z: LOSSES[name].function(z, labels).sum())
        gradient = gradient_at(logits)

        def loss(z):
            return LOSSES[name].function(z, labels).sum()

        _, slope = jax.jvp(loss, (logits,), (direction,))
        assert_close(slope, jnp.vdot(gradient, direction), rtol=1e-9)
        assert_close(jax.grad(jax.checkpoint(loss))(logits), gradient, rtol=1e-12, atol=0)

        size = logits.size
        hessian = np.asarray(jax.hessian(loss)(logits)).reshape(size, size)
        assert_close(hessian, hessian.T, rtol=1e-9, atol=1e-12)
        step = 1e-5
        above, below = (gradient_at(logits + shift * direction) for shift in (step, -step))
        bend = hessian @ np.ravel(direction)
        assert_close(bend, np.ravel(above - below) / (2 * step), rtol=1e-5, atol=1e-8)


logit_arrays = hnp.arrays(
    np.float32, (*SHAPE, CLASSES), elements=st.floats(-30, 30, width=32), fill=st.nothing()
)
label_arrays = hnp.arrays(np.int32, SHAPE, elements=st.integers(0, CLASSES - 1), fill=st.nothing())
mask_arrays = hnp.arrays(bool, SHAPE, fill=st.nothing())
orders = st.permutations(range(math.prod(SPATIAL)))
few = settings(max_examples=15, deadline=None)


def drawn_setting(data, name):
    return data.draw(st.sampled_from(settings_of(name)))


def lowest(name, hyper):
    return hyper["alpha"] - 1 if name.startswith("combo") else 0.0


def reordered(x, order):
    """`x` (B, *spatial, ...) with its voxels in another order."""
    flat = x.reshape(BATCH, math.prod(SPATIAL), *x.shape[3:])
    return flat[:, list(order)].reshape(x.shape)


@pytest.mark.parametrize("name", LOSSES)
@few
@given(data=st.data(), logits=logit_arrays, labels=label_arrays, where=mask_arrays)
def test_bounds(name, data, logits, labels, where):
    hyper = drawn_setting(data, name)
    value = np.asarray(jitted(name)(logits, labels, where, hyper))
    assert (value >= lowest(name, hyper) - 1e-6).all()
    if name in REGION:
        assert (value <= 1 + 1e-6).all()


@pytest.mark.parametrize("name", LOSSES)
@few
@given(data=st.data(), labels=label_arrays, where=mask_arrays)
def test_a_perfect_prediction_reaches_the_minimum(name, data, labels, where):
    hyper = drawn_setting(data, name)
    logits = 1e4 * oracles.one_hot(labels, CLASSES).astype(np.float32)
    value = jitted(name)(logits, labels, where, hyper)
    assert_close(value, np.full(BATCH, lowest(name, hyper)))


@pytest.mark.parametrize("name", LOSSES)
@few
@given(data=st.data(), logits=logit_arrays, labels=label_arrays, where=mask_arrays, order=orders)
def test_the_order_of_voxels_is_of_no_account(name, data, logits, labels, where, order):
    hyper = drawn_setting(data, name)
    shuffled = (reordered(x, order) for x in (logits, labels, where))
    assert_close(
        jitted(name)(*shuffled, hyper), jitted(name)(logits, labels, where, hyper), rtol=1e-4
    )


@pytest.mark.parametrize("name", LOSSES)
@few
@given(data=st.data(), logits=logit_arrays, labels=label_arrays, where=mask_arrays)
def test_the_order_of_foreground_classes_is_of_no_account(name, data, logits, labels, where):
    hyper = drawn_setting(data, name)
    swapped = np.array([0, 2, 1])
    assert_close(
        jitted(name)(logits[..., swapped], swapped[labels].astype(np.int32), where, hyper),
        jitted(name)(logits, labels, where, hyper),
        rtol=1e-4,
    )


@pytest.mark.parametrize("name", LOSSES)
@few
@given(logits=logit_arrays, labels=label_arrays, order=orders)
def test_where_is_removing_voxels(name, logits, labels, order):
    kept = list(order[: len(order) // 2])
    where = np.zeros((BATCH, math.prod(SPATIAL)), bool)
    where[:, kept] = True
    part = [x.reshape(BATCH, -1, *x.shape[3:])[:, kept] for x in (logits, labels)]
    whole = jitted(name)(logits, labels, where.reshape(SHAPE), LOSSES[name].defaults)
    assert_close(whole, LOSSES[name].function(*part), rtol=1e-4)


@pytest.mark.parametrize("name", PLUSPLUS)
@few
@given(data=st.data(), logits=logit_arrays, labels=label_arrays, where=mask_arrays)
def test_plusplus_at_1_is_the_original(name, data, logits, labels, where):
    original = name.replace("pp", "")
    hyper = drawn_setting(data, original)
    plusplus = hyper | {LOSSES[name].plusplus: 1.0}
    assert_close(
        jitted(name)(logits, labels, where, plusplus),
        jitted(original)(logits, labels, where, hyper),
        rtol=1e-6,
    )


@pytest.mark.parametrize("name", PLUSPLUS)
@few
@given(logits=logit_arrays, labels=label_arrays, where=mask_arrays)
def test_a_larger_plusplus_exponent_forgives_more(name, logits, labels, where):
    defaults, exponent = LOSSES[name].defaults, LOSSES[name].plusplus
    values = np.stack(
        [
            jitted(name)(logits, labels, where, defaults | {exponent: gamma})
            for gamma in np.arange(0.5, 5.5, 0.5)
        ]
    )
    assert (np.diff(values, axis=0) <= 1e-6).all()


@few
@given(logits=logit_arrays, labels=label_arrays, where=mask_arrays, gamma=st.floats(0.5, 5.0))
def test_counts_of_two_halves_add_up(logits, labels, where, gamma):
    def counts(z, y, keep):
        return losses.soft_counts(z, y, gamma=np.float32(gamma), where=keep)

    whole = counts(logits, labels, where)
    halves = [
        counts(logits[:, rows], labels[:, rows], where[:, rows])
        for rows in np.split(np.arange(SPATIAL[0]), 2)
    ]
    for total, first, second in zip(whole, *halves, strict=True):
        assert total.shape == (BATCH, CLASSES)
        assert_close(first + second, np.asarray(total), rtol=1e-4)


def test_counts_are_those_of_the_formula():
    logits, _, where = example(14)
    labels = soft_labels(14)
    for gamma in (0.5, 1.0, 2.0, 5.0):
        counts = losses.soft_counts(logits, labels, gamma=gamma, where=where)
        p = oracles.softmax(logits)
        y = labels.astype(np.float64)
        keep = where[..., None]
        for actual, voxels in zip(
            counts, (p * y, (p * (1 - y)) ** gamma, ((1 - p) * y) ** gamma), strict=True
        ):
            assert_close(actual, (keep * voxels).sum((1, 2)))


def test_dice_of_the_foreground_alone():
    logits, labels, _ = example(15)
    per_class = losses.dice_per_class(losses.soft_counts(logits, labels, gamma=2.0))
    p, y = oracles.softmax(logits), oracles.one_hot(labels, CLASSES)
    tp = (p * y).sum((1, 2))
    errors = ((p * (1 - y)) ** 2 + ((1 - p) * y) ** 2).sum((1, 2))
    assert_close(per_class[:, 1:].mean(-1), (errors / (2 * tp + errors))[:, 1:].mean(-1))
    assert_close(per_class.mean(-1), oracles.loss("dscpp", logits, labels))


def test_maps_average_to_their_losses():
    logits, labels, where = example(16)
    maps = {
        "ce": losses.ce_map,
        "focal": losses.focal_map,
        "asymmetric_focal": losses.asymmetric_focal_map,
    }
    for name, voxel_map in maps.items():
        of_voxels = voxel_map(logits, labels, where=where)
        assert of_voxels.shape == SHAPE
        assert not np.asarray(of_voxels)[~where].any()
        assert_close(
            of_voxels.sum((1, 2)) / where.sum((1, 2)), oracles.loss(name, logits, labels, where)
        )


def test_focal_tends_to_cross_entropy():
    logits, labels, _ = example(17)
    gammas = jnp.array([1e-3, 1e-6])
    value = jax.vmap(lambda g: losses.focal(logits, labels, alpha=1.0, gamma=g))(gammas)
    assert_close(value[1], oracles.loss("ce", logits, labels))
    assert (np.abs(np.diff(np.asarray(value), axis=0)) > 0).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_from_probabilities(name, dtype):
    logits, labels, _ = example(18, sharpness=1.0)
    probs = oracles.softmax(logits).astype(dtype)
    value = LOSSES[name].function(losses.from_probabilities(probs), labels)
    assert_close(value, oracles.loss(name, np.log(probs.astype(np.float64)), labels))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32])
def test_from_probabilities_clips_at_1e_7(dtype):
    certain = losses.from_probabilities(np.array([0, 1], dtype))
    assert_close(certain, [np.log(1e-7), 0])
    gradient = jax.grad(lambda p: losses.from_probabilities(p).sum())(jnp.array([0.0, 1.0]))
    assert gradient.tolist() == [0, 1]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, bool])
def test_overlapping_channels_are_two_class_problems_each(name, dtype):
    rng = np.random.default_rng(19)
    logits = rng.normal(size=(*SHAPE, 2)).astype(np.float32)
    labels = rng.random((*SHAPE, 2)) > 0.5
    loss = LOSSES[name].function
    value = loss(*losses.binary_problems(logits, labels.astype(dtype))).reshape(BATCH, 2)
    for channel in range(2):
        z = np.stack([np.zeros(SHAPE), logits[..., channel]], axis=-1)
        assert_close(value[:, channel], oracles.loss(name, z, labels[..., channel].astype(int)))


def test_get_loss_sets_hyper_parameters():
    logits, labels, where = example(20)
    loss = losses.get_loss("dscpp", gamma=3.0)
    assert_close(loss(logits, labels), oracles.loss("dscpp", logits, labels, gamma=3.0))
    expected = oracles.loss("dscpp", logits, labels, where, gamma=3.0)
    assert_close(loss(logits, labels, where=where), expected)


def test_get_loss_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="unknown loss 'dicepp', did you mean 'dscpp'.*tversky"):
        losses.get_loss("dicepp")
    with pytest.raises(ValueError, match="unknown loss 'hinge'[.] Known: asymmetric_focal, "):
        losses.get_loss("hinge")
    with pytest.raises(ValueError, match="'dscpp' has no alpha, delta; it takes gamma"):
        losses.get_loss("dscpp", delta=0.5, alpha=0.5)
    with pytest.raises(ValueError, match="'ce' has no gamma; it takes no hyper-parameter"):
        losses.get_loss("ce", gamma=2.0)


@pytest.mark.parametrize(("name", "exponent"), [(n, LOSSES[n].plusplus) for n in PLUSPLUS])
@pytest.mark.parametrize("value", [0.49, 5.01, math.nan, np.float32(0), jnp.array(6.0)])
def test_plusplus_exponents_out_of_range(name, exponent, value):
    logits, labels, _ = example(21)
    with pytest.raises(ValueError, match=rf"^{exponent} must lie in \[0.5, 5\], got "):
        losses.get_loss(name, **{exponent: value})(logits, labels)


@pytest.mark.parametrize(
    ("name", "hyper", "message"),
    [
        ("focal", {"gamma": 0.4}, r"gamma must lie in \[0.5, 5\], got 0.4"),
        ("focal", {"alpha": -1.0}, r"alpha must lie in \[0, inf\], got -1.0"),
        ("tversky", {"beta": -0.1}, r"beta must lie in \[0, inf\], got -0.1"),
        ("focal_tversky", {"gamma": 0.7}, r"gamma must lie in \[1, 5\], got 0.7.*gamma_pp"),
        ("focal_tverskypp", {"gamma": 0.7}, r"gamma must lie in \[1, 5\], got 0.7.*gamma_pp"),
        ("combo", {"alpha": 1.1}, r"alpha must lie in \[0, 1\], got 1.1"),
        ("combopp", {"beta": -0.1}, r"beta must lie in \[0, 1\], got -0.1"),
        ("asymmetric_focal", {"gamma": 1.0}, r"gamma must lie in \[0, 1\), got 1.0.*gamma_pp"),
        ("asymmetric_focal_tversky", {"delta": 2}, r"delta must lie in \[0, 1\], got 2"),
        ("unified_focal", {"gamma": 2.0}, r"gamma must lie in \[0, 1\), got 2.0.*gamma_pp"),
        ("unified_focalpp", {"gamma": 2.0}, r"gamma must lie in \[0, 1\), got 2.0.*gamma_pp"),
        ("unified_focal", {"weight": -0.5}, r"weight must lie in \[0, 1\], got -0.5"),
    ],
)
def test_hyper_parameters_out_of_range(name, hyper, message):
    logits, labels, _ = example(21)
    with pytest.raises(ValueError, match=message):
        losses.get_loss(name, **hyper)(logits, labels)


def test_traced_hyper_parameters_are_not_checked():
    logits, labels, _ = example(22)
    value = jitted("dscpp")(logits, labels, ALL, {"gamma": 7.0})
    assert_close(value, oracles.loss("dscpp", logits, labels, gamma=7.0))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("logits", "labels", "where", "message"),
    [
        ((2, 4, 3), (2, 5), None, r"labels must .*\(2, 4\).*\(2, 4, 3\).*got int\d+ \(2, 5\)"),
        ((2, 4, 3), (2, 4, 2), None, r"labels must .*got int\d+ \(2, 4, 2\)"),
        ((2, 4, 1), (2, 4), None, r"C >= 2 classes, got float32 \(2, 4, 1\).*binary_problems"),
        ((3,), (), None, r"logits must .*got float32 \(3,\)"),
        ((2, 4, 3), (2, 4), (2, 4, 1), r"where must have shape \(2, 4\), got \(2, 4, 1\)"),
    ],
)
def test_shapes_that_do_not_fit(name, logits, labels, where, message):
    mask = None if where is None else np.ones(where, bool)
    with pytest.raises(ValueError, match=message):
        LOSSES[name].function(jnp.zeros(logits), np.zeros(labels, int), where=mask)


@pytest.mark.parametrize("name", LOSSES)
def test_dtypes_that_do_not_fit(name):
    loss = LOSSES[name].function
    with pytest.raises(ValueError, match=r"labels must be integer.*got float32 \(2, 4, 3\)"):
        loss(np.zeros((*SHAPE, CLASSES), np.float32), np.zeros(SHAPE, np.float32))
    with pytest.raises(ValueError, match=r"logits must be floating point.*got int\d+"):
        loss(np.zeros((*SHAPE, CLASSES), int), np.zeros(SHAPE, int))
