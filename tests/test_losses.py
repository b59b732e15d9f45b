"""The losses against float64 NumPy, the authors' values, and by their properties.

Everything runs over the table of losses: a new row is tested by being there, once `oracles.LOSSES`
states its formula.
"""

import functools
import itertools
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
from jax.sharding import PartitionSpec as P

from dicepp_jax import losses, metrics
from dicepp_jax.losses import LOSSES

GOLDEN = json.loads((Path(__file__).parent / "golden" / "losses.json").read_text())
GOLDEN_ROWS = [(case, row) for case in GOLDEN for row in case["cases"]]

BATCH, SPATIAL, CLASSES = 2, (4, 3), 3
SHAPE = (BATCH, *SPATIAL)
ALL = np.ones(SHAPE, bool)

PLUSPLUS = [name for name, loss in LOSSES.items() if loss.plusplus]
REGION = [name for name in LOSSES if "tversky" in name] + ["dsc", "dscpp", "dml"]
NEIGHBOURS = ("nacl", "svls")
"""Losses in which the place of a voxel matters."""
CAUTIOUS = (*NEIGHBOURS, "mbls", "label_smoothing")
"""Losses that are not lowest at p = y."""
DEFAULTS = {name: loss.defaults for name, loss in LOSSES.items()}


def values_of(name, hyper):
    """A few values of a hyper-parameter over its range, including both ends."""
    if hyper in ("alpha", "beta", "delta", "weight"):
        return 0.0, 0.3, 1.0
    if hyper == "margin":
        return 0.0, 2.0, 10.0
    if hyper == "gamma" and name.startswith("focal_tversky"):
        return 1.0, 4 / 3, 5.0
    if hyper == "gamma" and name.startswith(("asymmetric", "unified")):
        return 0.0, 0.5, 0.99
    return 0.5, 1.0, 2.0, 5.0


# For each loss the defaults, then each hyper-parameter at each of its values.
SETTINGS = {
    name: [defaults] + [defaults | {h: v} for h in defaults for v in values_of(name, h)]
    for name, defaults in DEFAULTS.items()
}
ROUNDS = [
    {name: choices[i % len(choices)] for name, choices in SETTINGS.items()}
    for i in range(max(map(len, SETTINGS.values())))
]
rounds = pytest.mark.parametrize("hyper", ROUNDS, ids=range(len(ROUNDS)))


def values(logits, labels, where, hyper):
    """Every loss with its own hyper-parameters."""
    return {
        name: loss.function(logits, labels, where=where, **hyper[name])
        for name, loss in LOSSES.items()
    }


def gradients(logits, labels, where, hyper):
    """Every loss, summed over the batch, with its gradients in logits and hyper-parameters."""

    def of(loss, own):
        def total(logits, own):
            return loss.function(logits, labels, where=where, **own).sum()

        return jax.value_and_grad(total, argnums=(0, 1))(logits, own)

    return {name: of(loss, hyper[name]) for name, loss in LOSSES.items()}


# All losses in one program, which compiles several times faster than each in its own.
jitted = jax.jit(values)
jitted_gradients = jax.jit(gradients)


def expected_values(logits, labels, where=None, hyper=DEFAULTS):
    return {name: oracles.loss(name, logits, labels, where, **hyper[name]) for name in LOSSES}


def example(seed, shape=SHAPE, classes=CLASSES, sharpness=2.0):
    """Logits that are weakly correlated with the labels, integer labels of all classes, a mask."""
    rng = np.random.default_rng(seed)
    voxels = np.arange(math.prod(shape[1:])) % classes
    labels = rng.permuted(np.tile(voxels, (shape[0], 1)), axis=1).reshape(shape)
    logits = sharpness * rng.normal(size=(*shape, classes)) + oracles.one_hot(labels, classes)
    return logits.astype(np.float32), labels, rng.random(shape) > 0.3


def soft_labels(seed, shape=SHAPE, classes=CLASSES):
    """Labels between 0 and 1 that sum to 1, some of them exactly 0 or 1."""
    rng = np.random.default_rng(seed)
    soft = rng.dirichlet(np.ones(classes), shape)
    hard = oracles.one_hot(rng.integers(0, classes, shape), classes)
    return np.where(rng.random(shape)[..., None] < 0.3, hard, soft).astype(np.float32)


def assert_close(actual, expected, rtol=1e-5, atol=1e-6, err_msg=""):
    """Compare `actual` and `expected`, both arrays or both dictionaries of arrays by loss name."""
    if isinstance(expected, dict):
        assert set(actual) == set(expected)
        for key in expected:
            assert_close(actual[key], expected[key], rtol, atol, f"{err_msg} {key}")
    else:
        actual = np.asarray(actual, np.float64)
        np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol, err_msg=err_msg)


def assert_finite(found):
    for name, arrays in found.items():
        for leaf in jax.tree.leaves(arrays):
            assert np.isfinite(np.asarray(leaf, np.float64)).all(), name


def test_every_loss_has_an_oracle():
    assert set(LOSSES) == set(oracles.LOSSES)


@pytest.mark.parametrize(
    ("case", "row"),
    GOLDEN_ROWS,
    ids=[f"{case['seed']}-{row['loss']}-{i}" for i, (case, row) in enumerate(GOLDEN_ROWS)],
)
def test_values_and_gradients_of_the_authors_code(case, row):
    labels = jnp.asarray(case["labels"])
    value, gradient = jax.value_and_grad(
        lambda logits: LOSSES[row["loss"]].function(logits, labels, **row["args"]).mean()
    )(jnp.asarray(case["logits"]))
    gradient = np.asarray(gradient, np.float64)
    assert_close(value, row["value"], atol=0)
    assert_close(np.linalg.norm(gradient), row["grad_l2"], atol=0)
    assert_close(np.abs(gradient).sum(), row["grad_sum_abs"], atol=0)


@pytest.mark.parametrize(("spatial", "classes"), [((6, 5), 2), ((4, 4, 4), 3), ((12,), 4)])
def test_values_for_any_rank_and_number_of_classes(spatial, classes):
    shape = (BATCH, *spatial)
    logits, integer, mask = example(0, shape, classes)
    one_hot = oracles.one_hot(integer, classes)
    for labels in (integer, one_hot.astype(np.int32), one_hot, soft_labels(1, shape, classes)):
        for where in (None, mask):
            found = values(logits, labels, where, DEFAULTS)
            assert {(v.shape, v.dtype.name) for v in found.values()} == {((BATCH,), "float32")}
            assert_close(found, expected_values(logits, labels, where))


@rounds
def test_values_over_the_hyper_parameters(hyper):
    logits, integer, where = example(2)
    for labels in (integer, soft_labels(3)):
        expected = expected_values(logits, labels, where, hyper)
        assert_close(jitted(logits, labels, where, hyper), expected)
        assert_close(values(logits, labels, where, hyper), expected)


def numerical_gradient(name, logits, labels, where, hyper):
    """Central differences of the loss in float64, example by example."""
    return np.stack(
        [
            oracles.numerical_gradient(
                lambda z, y=y, keep=keep: oracles.loss(name, z[None], y[None], keep, **hyper).sum(),
                example,
            )
            for example, y, keep in zip(logits, labels, where[:, None], strict=True)
        ]
    )


@functools.cache
def expected_gradient(name, kind, own):
    """Of an example; most losses have fewer settings than there are rounds."""
    logits, integer, where = example(4)
    labels = integer if kind == "integer" else soft_labels(5)
    return numerical_gradient(name, logits, labels, where, dict(own))


@rounds
def test_gradients_in_the_logits(hyper):
    logits, integer, where = example(4)
    for kind, labels in (("integer", integer), ("soft", soft_labels(5))):
        of_all = jitted_gradients(logits, labels, where, hyper)
        found = {name: in_logits for name, (_, (in_logits, _)) in of_all.items()}
        own = {name: tuple(hyper[name].items()) for name in LOSSES}
        expected = {name: expected_gradient(name, kind, own[name]) for name in LOSSES}
        assert_close(found, expected, rtol=1e-4)


@rounds
def test_gradients_in_the_hyper_parameters(hyper):
    logits, labels, where = example(6)
    step = 1e-5
    for name, (_, (_, found)) in jitted_gradients(logits, labels, where, hyper).items():
        for key, gradient in found.items():
            above, below = (
                oracles.loss(
                    name, logits, labels, where, **hyper[name] | {key: hyper[name][key] + shift}
                ).sum()
                for shift in (step, -step)
            )
            assert_close(
                gradient,
                (above - below) / (2 * step),
                rtol=1e-4,
                atol=1e-5,
                err_msg=f"{name} {key}",
            )


def test_jit_and_vmap_over_a_batch_of_batches():
    batches = [example(seed) for seed in range(3)]
    stacked = (jnp.stack(x) for x in zip(*batches, strict=True))
    found = jax.jit(jax.vmap(lambda *batch: values(*batch, DEFAULTS)))(*stacked)
    for index, batch in enumerate(batches):
        assert_close({name: v[index] for name, v in found.items()}, expected_values(*batch))


def test_one_trace_serves_a_grid_of_hyper_parameters():
    logits, labels, where = example(7)
    traces = 0

    def traced(hyper):
        nonlocal traces
        traces += 1
        return values(logits, labels, where, hyper)

    over_grid = jax.jit(jax.vmap(traced))
    for points in (ROUNDS, ROUNDS[::-1]):
        found = over_grid(jax.tree.map(lambda *x: jnp.array(x), *points))
        for index, hyper in enumerate(points):
            expected = jax.tree.map(np.asarray, jitted(logits, labels, where, hyper))
            assert_close({name: v[index] for name, v in found.items()}, expected)
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
    certain = np.zeros_like(logits)
    certain[..., 0] = 1e4
    background = np.zeros_like(labels)
    return {
        "logits of 1e4 either way": (signs, labels, ALL),
        "certain and right": (right, labels, ALL),
        "certain and wrong": (-right, labels, ALL),
        "a class absent": (logits, two, ALL),
        "a class absent and hardly predicted": (logits - np.float32([[[[0, 0, 18]]]]), two, ALL),
        "a class absent and not predicted": (unpredicted, two, ALL),
        "all background": (logits, background, ALL),
        "all background and certain": (certain, background, ALL),
        "all foreground": (logits, np.ones_like(labels), ALL),
        "all foreground and certain of background": (certain, np.ones_like(labels), ALL),
        "ties": (np.zeros_like(logits), labels, ALL),
        "no voxel": (logits, labels, ~ALL),
        "one example without a voxel, and NaN": (hidden, labels, ~np.isnan(hidden).any(-1)),
    }


@pytest.mark.parametrize(
    ("logits", "labels", "where"), extreme_examples().values(), ids=extreme_examples()
)
def test_extremes_are_finite_and_exact(logits, labels, where):
    for hyper in ROUNDS:
        assert_finite(jitted_gradients(logits, labels, where, hyper))
        expected = expected_values(logits, labels, where, hyper)
        assert_close(jitted(logits, labels, where, hyper), expected)


def test_soft_labels_with_confident_logits():
    labels = soft_labels(10)
    logits = 1e4 * np.sign(example(10)[0])
    for hyper in ROUNDS:
        assert_finite(jitted_gradients(logits, labels, ALL, hyper))
        expected = expected_values(logits, labels, ALL, hyper)
        assert_close(jitted(logits, labels, ALL, hyper), expected)


@pytest.mark.parametrize("shift", range(0, 120, 5))
def test_gradients_are_finite_while_an_absent_class_fades(shift):
    logits, labels, _ = example(9)
    logits[..., 2] -= shift
    for hyper in ROUNDS:
        assert_finite(jitted_gradients(logits, np.minimum(labels, 1), ALL, hyper))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("sharpness", [3.0, 1e4])
def test_half_precision_logits(name, dtype, sharpness):
    logits, labels, where = example(9, (BATCH, 4, 4, 4), CLASSES, sharpness)
    half = jnp.asarray(logits, dtype)
    value, gradient = jax.value_and_grad(
        lambda z: LOSSES[name].function(z, labels, where=where).sum()
    )(half)
    assert gradient.dtype == dtype
    assert_finite({name: gradient})
    assert_close(value, oracles.loss(name, np.asarray(half, np.float64), labels, where).sum())


def test_where_may_hold_0_and_255():
    logits, labels, where = example(11)
    found = values(logits, labels, (255 * where).astype(np.uint8), DEFAULTS)
    assert_close(found, expected_values(logits, labels, where))


def test_ignore_index():
    logits, labels, where = example(12)
    ignored = np.where(where, labels, 255).astype(np.uint8)
    found = values(logits, ignored, ignored != 255, DEFAULTS)
    assert_close(found, expected_values(logits, labels, where))


def test_float64_second_forward_and_recomputed_derivatives():
    logits, _, where = example(13)
    labels = soft_labels(13)
    direction = np.random.default_rng(13).normal(size=logits.shape)
    single = jitted_gradients(logits, labels, where, DEFAULTS)
    # An original loss is its ++ loss at exponent 1, so the ++ losses cover both.
    names = [name for name in LOSSES if f"{name}pp" not in LOSSES]

    def stacked(z):
        found = values(z, labels, where, DEFAULTS)
        return jnp.stack([found[name].sum() for name in names])

    def gradient(z):
        found = jax.jacrev(jax.checkpoint(stacked))(z)
        return found, found

    with jax.enable_x64(True):
        z = logits.astype(np.float64)
        slopes = jax.jit(lambda z: jax.jvp(stacked, (z,), (direction,))[1])(z)
        second = jax.jit(jax.jacfwd(gradient, has_aux=True))
        hessians, gradients = second(z)
        step = 1e-5
        above, below = (second(z + shift * direction)[1] for shift in (step, -step))
    hessians = np.asarray(hessians)
    assert gradients.dtype == jnp.float64
    bends = np.asarray(above - below) / (2 * step)
    for index, name in enumerate(names):
        gradient = np.asarray(gradients[index])
        expected = numerical_gradient(name, logits, labels, where, DEFAULTS[name])
        assert_close(gradient, expected, 1e-6, 1e-9, err_msg=name)
        assert_close(single[name][1][0], gradient, err_msg=name)
        assert_close(slopes[index], np.vdot(gradient, direction), 1e-9, 1e-12, err_msg=name)
        hessian = hessians[index].reshape(logits.size, logits.size)
        assert_close(hessian, hessian.T, 1e-9, 1e-12, err_msg=name)
        bend = hessian @ direction.ravel()
        assert_close(bend, bends[index].ravel(), 1e-5, 1e-8, err_msg=name)


logit_arrays = hnp.arrays(
    np.float32, (*SHAPE, CLASSES), elements=st.floats(-30, 30, width=32), fill=st.nothing()
)
label_arrays = hnp.arrays(np.int32, SHAPE, elements=st.integers(0, CLASSES - 1), fill=st.nothing())
mask_arrays = hnp.arrays(bool, SHAPE, fill=st.nothing())
orders = st.permutations(range(math.prod(SPATIAL)))
hypers = st.fixed_dictionaries({name: st.sampled_from(SETTINGS[name]) for name in LOSSES})


def lowest(hyper):
    """The minimum of every loss."""
    return {
        name: own["alpha"] - 1 if name.startswith("combo") else 0.0 for name, own in hyper.items()
    }


def reordered(x, order):
    """`x` (B, *spatial, ...) with its voxels permuted."""
    flat = x.reshape(BATCH, math.prod(SPATIAL), *x.shape[3:])
    return flat[:, list(order)].reshape(x.shape)


def as_numpy(found):
    return {name: np.asarray(value) for name, value in found.items()}


def without(names, found):
    return {name: value for name, value in as_numpy(found).items() if name not in names}


@settings(deadline=None)
@given(logits=logit_arrays, labels=label_arrays, where=mask_arrays, hyper=hypers)
def test_bounds(logits, labels, where, hyper):
    found = as_numpy(jitted(logits, labels, where, hyper))
    for name, least in lowest(hyper).items():
        assert (found[name] >= least - 1e-6).all(), name
    for name in REGION:
        assert (found[name] <= 1 + 1e-6).all(), name


@settings(deadline=None)
@given(labels=label_arrays, where=mask_arrays, hyper=hypers)
def test_a_perfect_prediction_reaches_the_minimum(labels, where, hyper):
    logits = 1e4 * oracles.one_hot(labels, CLASSES).astype(np.float32)
    found = without(CAUTIOUS, jitted(logits, labels, where, hyper))
    expected = {name: np.full(BATCH, v) for name, v in lowest(hyper).items()}
    assert_close(found, without(CAUTIOUS, expected))


@settings(deadline=None)
@given(logits=logit_arrays, labels=label_arrays, where=mask_arrays, hyper=hypers, order=orders)
def test_the_order_of_voxels_does_not_matter(logits, labels, where, hyper, order):
    shuffled = (reordered(x, order) for x in (logits, labels, where))
    expected = without(NEIGHBOURS, jitted(logits, labels, where, hyper))
    assert_close(without(NEIGHBOURS, jitted(*shuffled, hyper)), expected)


@settings(deadline=None)
@given(logits=logit_arrays, labels=label_arrays, where=mask_arrays, hyper=hypers)
def test_the_order_of_foreground_classes_does_not_matter(logits, labels, where, hyper):
    swap = np.array([0, 2, 1], np.int32)
    expected = as_numpy(jitted(logits, labels, where, hyper))
    assert_close(jitted(logits[..., swap], swap[labels], where, hyper), expected)


@settings(deadline=None)
@given(logits=logit_arrays, labels=label_arrays, hyper=hypers, order=orders)
def test_where_is_equivalent_to_removing_voxels(logits, labels, hyper, order):
    kept = list(order[: len(order) // 2])
    where = np.zeros((BATCH, math.prod(SPATIAL)), bool)
    where[:, kept] = True
    part = (x.reshape(BATCH, -1, *x.shape[3:])[:, kept] for x in (logits, labels))
    expected = without(NEIGHBOURS, jitted(*part, None, hyper))
    found = jitted(logits, labels, where.reshape(SHAPE), hyper)
    assert_close(without(NEIGHBOURS, found), expected)


@settings(deadline=None)
@given(logits=logit_arrays, labels=label_arrays, where=mask_arrays, hyper=hypers)
def test_plusplus_at_1_is_the_original(logits, labels, where, hyper):
    originals = {name: name.replace("pp", "") for name in PLUSPLUS}
    for name, original in originals.items():
        hyper = hyper | {name: hyper[original] | {LOSSES[name].plusplus: 1.0}}
    found = as_numpy(jitted(logits, labels, where, hyper))
    for name, original in originals.items():
        assert_close(found[name], found[original], err_msg=name)


@settings(deadline=None)
@given(logits=logit_arrays, labels=label_arrays, where=mask_arrays, hyper=hypers)
def test_a_larger_plusplus_exponent_gives_a_smaller_loss(logits, labels, where, hyper):
    series = []
    for exponent in (0.5, 0.9, 1.0, 2.0, 3.5, 5.0):
        raised = {name: hyper[name] | {LOSSES[name].plusplus: exponent} for name in PLUSPLUS}
        series.append(jitted(logits, labels, where, hyper | raised))
    for name in PLUSPLUS:
        assert (np.diff(np.stack([v[name] for v in series]), axis=0) <= 1e-6).all(), name


@settings(deadline=None)
@given(logits=logit_arrays, labels=label_arrays, where=mask_arrays, gamma=st.floats(0.5, 5.0))
def test_counts_of_two_halves_add_up(logits, labels, where, gamma):
    counts = jax.jit(losses.soft_counts)
    whole = counts(logits, labels, where=where, gamma=gamma)
    top, bottom = (
        counts(logits[:, rows], labels[:, rows], where=where[:, rows], gamma=gamma)
        for rows in (slice(2), slice(2, 4))
    )
    for total, first, second in zip(whole, top, bottom, strict=True):
        assert total.shape == (BATCH, CLASSES)
        assert_close(first + second, np.asarray(total))


@pytest.mark.parametrize("over", ["batch", "volume"])
def test_losses_sharded_over_4_devices_equal_those_of_the_whole(over):
    logits, labels, where = example(23, shape=(4, 4, 3))
    spec, axis_name = (P("x"), None) if over == "batch" else (P(None, "x"), "x")
    left_out = () if over == "batch" else NEIGHBOURS
    mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    shard = functools.partial(jax.shard_map, mesh=mesh, in_specs=(spec, spec, spec))
    # An original loss is its ++ loss at exponent 1, so the ++ losses cover both.
    names = [name for name in LOSSES if f"{name}pp" not in LOSSES and name not in left_out]

    def stacked(logits, labels, where, axis_name=axis_name):
        return jnp.stack(
            [LOSSES[n].function(logits, labels, where=where, axis_name=axis_name) for n in names],
            axis=-1,
        )

    def gradient(loss, logits, labels, where):
        return jax.jacrev(lambda z: loss(z, labels, where).sum(0))(logits)

    sharded = shard(stacked, out_specs=P("x") if over == "batch" else P())
    gradient_of_part = shard(functools.partial(gradient, stacked), out_specs=P(None, *spec))

    @jax.jit
    def everything(*batch):
        whole = gradient(functools.partial(stacked, axis_name=None), *batch)
        return sharded(*batch), whole, gradient(sharded, *batch), gradient_of_part(*batch)

    found, whole, outside, inside = everything(logits, labels, where)
    expected = expected_values(logits, labels, where)
    assert_close(found, np.stack([expected[name] for name in names], axis=-1))
    assert_close(outside, np.asarray(whole), rtol=1e-4)
    assert_close(inside, np.asarray(whole), rtol=1e-4)


def test_under_pmap_the_mean_gradient_is_that_of_the_whole():
    logits, labels, _ = example(24, shape=(1, 8, 3))

    def loss(scale, logits, labels, axis_name=None):
        return losses.unified_focalpp(scale * logits, labels, axis_name=axis_name).sum()

    expected = jax.grad(loss)(2.0, logits, labels)
    quarters = (x.reshape(1, 4, 2, *x.shape[2:]).swapaxes(0, 1) for x in (logits, labels))

    def mean_gradient(logits, labels):
        return jax.lax.pmean(jax.grad(loss)(2.0, logits, labels, "x"), "x")

    found = jax.pmap(mean_gradient, axis_name="x", devices=jax.devices()[:4])(*quarters)
    assert_close(found, np.full(4, expected))


def test_sums_over_a_whole_volume_keep_their_precision():
    logits, labels, where = example(25, shape=(1, 80, 160, 160), sharpness=3.0)
    found = jax.jit(LOSSES["unified_focalpp"].function)(logits, labels, where=where)
    assert_close(found, oracles.loss("unified_focalpp", logits, labels, where), atol=0)


def test_an_excluded_class_has_no_gradient():
    logits, labels, where = example(26)
    out = np.where(oracles.one_hot(labels, CLASSES) == 1, logits, -np.inf).astype(np.float32)
    logits[..., 2] = -np.inf
    for z, y in ((logits, np.minimum(labels, 1)), (out, labels)):
        assert_finite(jitted_gradients(z, y, where, DEFAULTS))
        finite = np.maximum(z, -1e5)
        # Smoothed labels contradict the exclusion: their cross entropy has no bound.
        smoothed = ("label_smoothing", "svls") if z is out else ("label_smoothing",)
        expected = without(smoothed, expected_values(finite, y, where))
        assert_close(without(smoothed, jitted(z, y, where, DEFAULTS)), expected)


def test_nan_propagates():
    logits, labels, _ = example(27)
    logits[0, 0, 0, 1] = np.nan
    for name, found in jitted(logits, labels, ALL, DEFAULTS).items():
        assert np.isnan(found).tolist() == [True, False], name


def test_counts_match_the_formula():
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


def test_dml_is_the_dice_loss_of_hard_labels():
    for seed, sharpness in enumerate((0.1, 2.0, 1e4)):
        logits, labels, where = example(seed, sharpness=sharpness)
        expected = oracles.loss("dsc", logits, labels, where)
        assert_close(losses.dml(logits, labels, where=where), expected)
        one_hot = oracles.one_hot(labels, CLASSES)
        assert_close(losses.dml(logits, one_hot, where=where), expected)


def test_at_soft_labels_dml_is_0_and_the_dice_loss_is_not():
    labels = soft_labels(30)
    logits = losses.from_probabilities(labels)
    assert_close(losses.dml(logits, labels), np.zeros(BATCH), atol=1e-5)
    assert (losses.dsc(logits, labels) > 0.1).all()


def test_l1_ace_is_the_metric():
    logits, labels, where = example(31)
    probs = jax.nn.softmax(logits)
    for mask in (None, where):
        of_classes = metrics.ace(probs, labels, mask)
        assert_close(losses.l1_ace(logits, labels, where=mask), np.float64(of_classes).mean(-1))


@pytest.mark.parametrize("classes", [2, 3, 4, 5])
def test_calibration_errors_of_uniform_logits_are_distances_from_the_frequencies(classes):
    """Also where 1 / C lies on the edge of two bins, whichever side it is rounded to."""
    labels = np.arange(24).reshape(SHAPE) % 7 % classes
    shares = oracles.one_hot(labels, classes).mean((1, 2))
    expected = np.abs(shares - 1 / classes).mean(-1)
    for shift in (0.0, -3.7, 1e4):
        logits = np.full((*SHAPE, classes), shift, np.float32)
        assert_close(losses.l1_ace(logits, labels), expected)
        assert_close(losses.soft_l1_ace(logits, labels), expected)


def test_smoothed_labels_are_where_their_cross_entropies_are_lowest():
    _, labels, where = example(32)
    y = oracles.one_hot(labels, CLASSES)
    spatial = np.asarray(losses.smooth_labels(labels, CLASSES, where))
    for loss, smooth in ((losses.label_smoothing, 0.9 * y + 0.1 / 3), (losses.svls, spatial)):
        logits = np.log(np.maximum(smooth, 1e-30)).astype(np.float32)
        entropy = -(smooth * logits).sum(-1)
        expected = (entropy * where).sum((1, 2)) / where.sum((1, 2))
        assert_close(loss(logits, labels, where=where), expected)
        slope = jax.grad(lambda z, loss=loss: loss(z, labels, where=where).sum())(logits)
        assert_close(slope, np.zeros_like(logits))


@pytest.mark.parametrize("spatial", [(), (3,), (4, 3), (3, 1, 4)])
def test_smooth_labels(spatial):
    labels = np.random.default_rng(33).integers(0, 3, (BATCH, *spatial))
    one_hot = oracles.one_hot(labels, 3)
    found = losses.smooth_labels(labels, 3)
    # The centre weighs 1/2, the others share the rest by exp(-d**2 / 2).
    padded = np.pad(one_hot, [(0, 0), *[(1, 1)] * len(spatial), (0, 0)], mode="edge")
    total, weight = np.zeros_like(one_hot), 0.0
    for steps in itertools.product((0, 1, 2), repeat=len(spatial)):
        if steps != (1,) * len(spatial):
            w = math.exp(-sum((s - 1) ** 2 for s in steps) / 2)
            places = (slice(s, s + n) for s, n in zip(steps, spatial, strict=True))
            total, weight = total + w * padded[:, *places], weight + w
    expected = (one_hot + total / weight) / 2 if spatial else one_hot
    assert_close(found, expected)
    assert_close(losses.smooth_labels(one_hot, 3), expected)
    assert_close(found.sum(-1), np.ones(labels.shape))


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_labels_that_are_left_out_are_no_neighbours(name):
    logits, labels, where = example(34)
    other = np.where(where, labels, (labels + 1) % CLASSES)
    loss = functools.partial(LOSSES[name].function, where=where)
    assert_close(loss(logits, other), np.asarray(loss(logits, labels)))
    ignored = np.where(where[..., None], oracles.one_hot(labels, CLASSES), np.nan)
    assert_close(loss(logits, ignored.astype(np.float32)), np.asarray(loss(logits, labels)))


def test_neighbours_across_the_border_of_a_part_are_missed():
    logits, labels, _ = example(35)
    with pytest.raises(ValueError, match="nacl needs all neighbours.*axis_name is 'x'.*examples"):
        losses.nacl(logits, labels, axis_name="x")
    with pytest.raises(ValueError, match="svls needs all neighbours.*losses.smooth_labels"):
        losses.svls(logits, labels, axis_name="x")
    expected = oracles.loss("svls", logits, labels)
    assert_close(losses.ce(logits, losses.smooth_labels(labels, CLASSES)), expected)


def test_an_excluded_class_has_no_penalty():
    logits, labels, _ = example(36)
    labels = np.minimum(labels, 1)
    excluded = np.where([True, True, False], logits, -np.inf).astype(np.float32)
    for loss in (losses.nacl, losses.mbls):
        given = {"margin": 1.0} if loss is losses.mbls else {}
        expected = np.asarray(loss(logits[..., :2], labels, **given))
        assert_close(loss(excluded, labels, **given), expected)


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
    value = jax.jit(losses.focal)(logits, labels, alpha=1.0, gamma=1e-7)
    assert_close(value, oracles.loss("ce", logits, labels))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_from_probabilities(dtype):
    logits, labels, where = example(18, sharpness=1.0)
    probs = oracles.softmax(logits).astype(dtype)
    found = jitted(losses.from_probabilities(probs), labels, where, DEFAULTS)
    assert_close(found, expected_values(np.log(probs.astype(np.float64)), labels, where))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32])
def test_from_probabilities_clips_at_1e_7(dtype):
    certain = losses.from_probabilities(np.array([0, 1], dtype))
    assert_close(certain, [np.log(1e-7), 0])
    gradient = jax.grad(lambda p: losses.from_probabilities(p).sum())(jnp.array([0.0, 1.0]))
    assert gradient.tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, bool])
def test_overlapping_channels_are_two_class_problems_each(dtype):
    rng = np.random.default_rng(19)
    logits = rng.normal(size=(1, 6, 5, 2)).astype(np.float32)
    labels = rng.random(logits.shape) > 0.5
    problems = losses.binary_problems(logits, labels.astype(dtype))
    found = {name: v.reshape(1, 2) for name, v in values(*problems, None, DEFAULTS).items()}
    for channel in range(2):
        z = np.stack([np.zeros((1, 6, 5)), logits[..., channel]], axis=-1)
        expected = expected_values(z, labels[..., channel].astype(int))
        assert_close({name: v[:, channel] for name, v in found.items()}, expected)


def test_channels_and_labels_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"same shape.*got \(2, 4, 3\) and \(2, 4\)"):
        losses.binary_problems(np.zeros((2, 4, 3)), np.zeros((2, 4)))


def test_get_loss_sets_hyper_parameters():
    logits, labels, where = example(20)
    loss = losses.get_loss("dscpp", gamma=3.0)
    assert_close(loss(logits, labels), oracles.loss("dscpp", logits, labels, gamma=3.0))
    expected = oracles.loss("dscpp", logits, labels, where, gamma=3.0)
    assert_close(loss(logits, labels, where=where), expected)


def test_get_loss_refuses_unknown_names():
    with pytest.raises(ValueError, match="unknown loss 'dicepp', did you mean 'dscpp'.*tversky"):
        losses.get_loss("dicepp")
    for spelt, meant in (("dice", "dsc"), ("DSC++", "dscpp"), ("focal-tversky", "focal_tversky")):
        with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
            losses.get_loss(spelt)
    with pytest.raises(ValueError, match="unknown loss 'hinge'[.] Known: asymmetric_focal, "):
        losses.get_loss("hinge")
    with pytest.raises(ValueError, match="'dscpp' has no alpha, delta; it takes gamma"):
        losses.get_loss("dscpp", delta=0.5, alpha=0.5)
    with pytest.raises(ValueError, match="'ce' has no gamma; it takes no hyper-parameter"):
        losses.get_loss("ce", gamma=2.0)


def test_a_sum_of_losses():
    logits, labels, where = example(37)
    parts = {"dscpp": {"gamma": 3.0}, "l1_ace": {}, "nacl": {"weight": 0.2}}
    expected = sum(oracles.loss(name, logits, labels, where, **own) for name, own in parts.items())
    loss = losses.get_loss("dscpp+l1_ace+nacl", weight=0.2)
    assert_close(loss(logits, labels, where=where, gamma=3.0), expected)
    by_gamma = jax.jit(jax.vmap(lambda gamma: loss(logits, labels, where=where, gamma=gamma)))
    assert_close(by_gamma(jnp.array([3.0]))[0], expected)
    row = losses.find_loss("nacl+focal_tverskypp")
    assert row.plusplus == "gamma_pp" and not row.shared
    assert row.defaults == LOSSES["nacl"].defaults | LOSSES["focal_tverskypp"].defaults
    assert losses.find_loss("dscpp+focal").plusplus is None
    assert losses.find_loss("dsc") is LOSSES["dsc"]


def test_hyper_parameters_that_two_terms_of_a_sum_have_keep_their_defaults():
    logits, labels, _ = example(38)
    expected = oracles.loss("mbls", logits, labels) + oracles.loss("nacl", logits, labels)
    assert_close(losses.get_loss("mbls+nacl")(logits, labels), expected)
    found = losses.get_loss("mbls+nacl", margin=1.0)(logits, labels)
    expected = oracles.loss("mbls", logits, labels, margin=1.0)
    assert_close(found, expected + oracles.loss("nacl", logits, labels))
    with pytest.raises(ValueError, match="weight is .* of mbls and of nacl, .* sum 'mbls[+]nacl'"):
        losses.get_loss("mbls+nacl", weight=0.5)
    with pytest.raises(TypeError, match="weight"):
        losses.get_loss("mbls+nacl")(logits, labels, weight=0.5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dsc+l1ace", "unknown loss 'dsc[+]l1ace', did you mean 'dsc[+]l1_ace'[?]"),
        ("DSC++ + L1-ACE", "did you mean 'dscpp[+]l1_ace'"),
        ("dsc+", "unknown loss 'dsc[+]'[.] Known"),
        ("dsc+hinge", "unknown loss 'dsc[+]hinge'[.] Known"),
        ("dsc+dsc", "'dsc[+]dsc' has a term twice"),
    ],
)
def test_sums_that_cannot_be(name, message):
    with pytest.raises(ValueError, match=message):
        losses.get_loss(name)


def test_a_sum_names_the_hyper_parameters_that_it_takes():
    with pytest.raises(ValueError, match="'dscpp[+]nacl' has no alpha; it takes gamma, weight"):
        losses.get_loss("dscpp+nacl", alpha=1.0)


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
        ("nacl", {"weight": -1.0}, r"weight must lie in \[0, inf\], got -1.0"),
        ("mbls", {"weight": -1.0}, r"weight must lie in \[0, inf\], got -1.0"),
        ("mbls", {"margin": -1.0}, r"margin must lie in \[0, inf\], got -1.0"),
        ("label_smoothing", {"alpha": 1.5}, r"alpha must lie in \[0, 1\], got 1.5"),
        ("exp_ce", {"gamma": 0.0}, r"gamma must lie in \[0.1, 5\], got 0.0"),
    ],
)
def test_hyper_parameters_out_of_range(name, hyper, message):
    logits, labels, _ = example(21)
    with pytest.raises(ValueError, match=message):
        losses.get_loss(name, **hyper)(logits, labels)


def test_traced_hyper_parameters_are_not_checked():
    logits, labels, _ = example(22)
    value = jax.jit(losses.dscpp)(logits, labels, gamma=7.0)
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
def test_mismatched_shapes_are_refused(name, logits, labels, where, message):
    mask = None if where is None else np.ones(where, bool)
    with pytest.raises(ValueError, match=message):
        LOSSES[name].function(jnp.zeros(logits), np.zeros(labels, int), where=mask)


@pytest.mark.parametrize("name", LOSSES)
def test_wrong_dtypes_are_refused(name):
    loss = LOSSES[name].function
    with pytest.raises(ValueError, match=r"labels must be integer.*got float32 \(2, 4, 3\)"):
        loss(np.zeros((*SHAPE, CLASSES), np.float32), np.zeros(SHAPE, np.float32))
    with pytest.raises(ValueError, match=r"logits must be floating point.*got int\d+"):
        loss(np.zeros((*SHAPE, CLASSES), int), np.zeros(SHAPE, int))
