"""Arrays that make no sense are refused by every function, and those that do make sense are not.

The tables of functions are those of the package, so what is added to them is tested by being there.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.experimental import checkify

from dicepp_jax import augment, inference, losses, metrics, preprocess, saved, scaling, statistics
from dicepp_jax.data.specs import PHANTOM
from dicepp_jax.losses import LOSSES
from dicepp_jax.metrics import CALIBRATION, LABEL_MAP, OVERLAP, UNCERTAINTY, surface

CLASSES = 3
SHAPE = (2, 4, 5)

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(*SHAPE, CLASSES)).astype(np.float32)
P = oracles.softmax(Z).astype(np.float32)
Y = np.arange(np.prod(SHAPE)).reshape(SHAPE) % CLASSES
ONE_HOT = oracles.one_hot(Y, CLASSES)
ALL = np.ones(SHAPE, bool)


def at_one(x, value):
    """`x` with another value at one voxel."""
    changed = np.array(x)
    changed[1, 2, 3] = value
    return changed


FIRST = functools.partial(np.moveaxis, source=-1, destination=1)

# Of labels and where, for losses and for metrics: the words of the message, the arrays.
BAD_LABELS = {
    "255": (r"labels hold 255, expected .* 0 to 2; where=labels != 255", at_one(Y, 255), None),
    "255 in uint8": (r"labels hold 255", at_one(Y, 255).astype(np.uint8), None),
    "255 that where includes": (r"labels hold 255", at_one(Y, 255), at_one(~ALL, True)),
    "-1": (r"labels hold -1, .*where=labels != -1", at_one(Y, -1), None),
    "-1 in int8": (r"labels hold -1", at_one(Y, -1).astype(np.int8), None),
    "C": (r"labels hold 3, expected the classes 0 to 2", at_one(Y, 3), None),
    "lists of C": (r"labels hold 3", at_one(Y, 3).tolist(), None),
    "classes as floats": (r"labels .*float.*astype\(int\)", Y.astype(float), None),
    "no batch": (r"labels.*got .*\(4, 5\)", Y[0], None),
    "another batch": (r"labels.*got .*\(1, 4, 5\)", Y[:1], None),
    "a channel axis": (r"labels.*got .*\(2, 4, 5, 1\)", Y[..., None], None),
    "another size": (r"labels.*got .*\(2, 5, 4\)", np.swapaxes(Y, 1, 2), None),
    "complex": (r"labels must be an array of real numbers.*complex", Y + 0j, None),
    "text": (r"labels must be an array of real numbers", Y.astype(str), None),
    "objects": (r"labels must be an array of real numbers.*object", Y.astype(object), None),
    "nothing": (r"labels must be an array of real numbers", None, None),
    "ragged": (r"labels must be an array of real numbers.*list", [[0], [0, 1]], None),
    "where of no batch": (r"where .*\(4, 5\)", Y, ALL[0]),
    "where with a channel axis": (r"where .*\(2, 4, 5, 1\)", Y, ALL[..., None]),
    "where of weights": (r"where must be boolean, got float", Y, 0.5 * ALL),
    "where of text": (r"where must be an array of real numbers", Y, ALL.astype(str)),
}

BAD_LOGITS = {
    "channels first": (r"labels .*jnp.moveaxis\(logits, 1, -1\)", FIRST(Z), Y, None),
    "all channels first": (r"labels must sum to 1 over the last axis", FIRST(Z), FIRST(ONE_HOT)),
    "one image, channels first": (r"labels .*moveaxis", np.moveaxis(Z[0], -1, 0), Y[0]),
    "one class": (r"logits must .*C >= 2 .*binary_problems", Z[..., :1], Y * 0),
    "integers": (r"logits must be floating point", Z.astype(int), Y),
    "complex": (r"logits must be an array of real numbers.*complex", Z + 0j, Y),
    "text": (r"logits must be an array of real numbers", Z.astype(str), Y),
    "objects": (r"logits must be an array of real numbers", Z.astype(object), Y),
    "no voxel": (r"logits must have an example and a voxel", Z[:, :0], Y[:, :0]),
    "no example": (r"logits must have an example and a voxel", Z[:0], Y[:0]),
    "NaN": (r"logits must be finite.*NaN.* 1 voxels", at_one(Z, np.nan), Y),
    "infinity": (r"logits must be finite.*infinity.* 1 voxels", at_one(Z, [0, np.inf, 0]), Y),
    "no class": (r"logits must be finite.* 1 voxels", at_one(Z, -np.inf), Y),
    "NaN that where includes": (r"logits must be finite", at_one(Z, np.nan), Y, ALL),
    "probabilities": (r"logits are probabilities.* 40 voxels.*from_probabilities", P, Y),
    "certain": (r"logits are probabilities", ONE_HOT.astype(np.float32), Y),
    "no class in one-hot": (r"labels must sum to 1.*sums of 0 to 1", Z, at_one(ONE_HOT, 0)),
    "two classes in one-hot": (r"labels must sum to 1.*sums of 1 to 3", Z, at_one(ONE_HOT, 1)),
    "one-hot of 255": (
        r"labels must lie in \[0, 1\], found 0 to 255",
        Z,
        255 * ONE_HOT.astype(int),
    ),
    "soft and negative": (r"labels must lie in \[0, 1\]", Z, at_one(ONE_HOT, [-0.5, 0.5, 1])),
    "soft and NaN": (r"labels must lie in \[0, 1\]", Z, at_one(ONE_HOT, np.nan)),
} | {f"labels: {name}": (words, Z, *rest) for name, (words, *rest) in BAD_LABELS.items()}

OF_LOGITS = {name: loss.function for name, loss in LOSSES.items()} | {
    name: getattr(losses, name)
    for name in ("ce_map", "focal_map", "asymmetric_focal_map", "soft_counts")
}


@pytest.mark.parametrize("bad", BAD_LOGITS.values(), ids=BAD_LOGITS)
def test_every_loss_refuses(bad):
    words, logits, labels, *where = bad
    for function in OF_LOGITS.values():
        with pytest.raises(ValueError, match=words):
            function(logits, labels, where=where[0] if where else None)
    with pytest.raises(ValueError, match=words):
        scaling.fit_temperature([logits], [labels], [where[0]] if where else None)


BAD_PROBS = {
    "logits": (r"probs must lie in \[0, 1\], found -.*softmax", Z, Y),
    "not normalised": (r"probs must sum to 1 .* 0.5 to 0.5; .*softmax", P / 2, Y),
    "of sigmoids": (r"probs must sum to 1", 1 / (1 + np.exp(-Z)), Y),
    "NaN": (r"probs must lie in \[0, 1\], found nan", at_one(P, np.nan), Y),
    "infinity": (r"probs must lie in \[0, 1\]", at_one(P, np.inf), Y),
    "per cent": (r"probs must lie in \[0, 1\], found .*softmax", 100 * P, Y),
    "channels first": (r"probs .*need integer labels", FIRST(P), Y),
    "one class": (r"probs must be of C >= 2 .*\[1 - p, p\]", P[..., :1], Y * 0),
    "no spatial axis": (r"labels must be .*\(B, \*spatial\)", P[0, 0], Y[0, 0]),
    "text": (r"probs must be an array of real numbers", P.astype(str), Y),
    "one-hot labels": (r"labels.*got \(2, 4, 5, 3\)", P, ONE_HOT.astype(int)),
} | {f"labels: {name}": (words, P, *rest) for name, (words, *rest) in BAD_LABELS.items()}

OF_PROBS = (
    CALIBRATION
    | LABEL_MAP
    | UNCERTAINTY
    | {name: getattr(metrics, name) for name in ("reliability", "adaptive_reliability")}
)
# Classes are compared with thresholds one by one, and NaN reaches none of them.
OF_ONE_CLASS = {"not normalised", "of sigmoids", "NaN"}


@pytest.mark.parametrize("name", BAD_PROBS)
def test_every_metric_of_probabilities_refuses(name):
    words, probs, labels, *where = BAD_PROBS[name]
    for function in OF_PROBS.values():
        with pytest.raises(ValueError, match=words):
            function(probs, labels, *where)
    if name not in OF_ONE_CLASS:
        with pytest.raises(ValueError, match=words):
            metrics.threshold_counts(probs, labels, [0.5], *where)


BAD_MASKS = {
    "probabilities": (r"same shape .*\(2, 4, 5, 3\)", P, Y, None),
    "probabilities of one class": (r"mask must be integer.*argmax", P[..., 1], Y, None),
    "one-hot": (r"same shape .*\(2, 4, 5, 3\)", ONE_HOT.astype(int), Y, None),
    "label 255": (r"labels hold 255.*where=labels != 255", Y, at_one(Y, 255), None),
    "mask of 255": (r"mask hold 255, .*where=mask != 255", at_one(Y, 255), Y, None),
    "mask of C": (r"mask hold 3, expected .* (0|-1) to 2", at_one(Y, 3), Y, None),
    "-2": (r"labels hold -2", Y, at_one(Y, -2), None),
    "floats": (r"labels must be integer.*astype\(int\)", Y, Y.astype(float), None),
    "flat": (r"mask must be integer of shape \(B, \*spatial\)", Y[0, 0], Y[0, 0], None),
    "objects": (r"mask must be an array of real numbers", Y.astype(object), Y, None),
    "where of weights": (r"where must be boolean", Y, Y, 0.5 * ALL),
    "where of no batch": (r"where .*\(4, 5\)", Y, Y, ALL[0]),
}
OF_MASKS = OVERLAP | {
    "confusion": metrics.confusion,
    "hausdorff95": lambda *a: surface.hausdorff95(*a[:3], (1, 1), *a[3:]),
    "surface_dice": lambda *a: surface.surface_dice(*a[:3], (1, 1), 1.0, *a[3:]),
}


@pytest.mark.parametrize("bad", BAD_MASKS.values(), ids=BAD_MASKS)
def test_every_metric_of_masks_refuses(bad):
    words, mask, labels, where = bad
    for function in OF_MASKS.values():
        with pytest.raises(ValueError, match=words):
            function(mask, labels, CLASSES, where)


def test_overlap_refuses_minus_1_and_numbers_that_are_none_of_classes():
    for function in OVERLAP.values():
        with pytest.raises(ValueError, match=r"labels hold -1.*where=labels != -1"):
            function(Y, at_one(Y, -1), CLASSES)
    for function in OF_MASKS.values():
        for number in (1, 0, 3.0, "3", None):
            with pytest.raises(ValueError, match="num_classes must be an integer of at least 2"):
                function(Y * 0, Y * 0, number)


COUNTS = metrics.threshold_counts(P, Y, [0.3, 0.5])
IMAGE = np.ones((6, 5, 1), np.float32)
LABEL = np.ones((6, 5), np.int32)
PREDICT = inference.make_predict(lambda params, x: x, 0.0, PHANTOM, (8, 8))
PICTURE = np.arange(9 * 7 * 3.0).reshape(9, 7, 3)


def negative(counts):
    return counts._replace(fp=counts.fp - 100)


# Everything else: the words of the message and the call.
OTHERS = {
    "map without voxels": (r"x must have", lambda: losses.mean_voxels(np.ones((2, 0)))),
    "map and where": (
        r"where must have shape \(2, 4, 5\)",
        lambda: losses.mean_voxels(P[..., 0], ALL[..., None]),
    ),
    "weights as where": (
        r"where must be boolean",
        lambda: losses.mean_voxels(P[..., 0], 0.5 * ALL),
    ),
    "logits as probabilities": (
        r"probs must lie in \[0, 1\].*pass them to the loss",
        lambda: losses.from_probabilities(Z),
    ),
    "channels of 255": (
        r"labels must lie in \[0, 1\], found 0 to 255",
        lambda: losses.binary_problems(Z, 255 * ONE_HOT.astype(np.uint8)),
    ),
    "channels and labels swapped": (
        r"logits must be floating point, got int",
        lambda: losses.binary_problems(ONE_HOT.astype(int), ONE_HOT),
    ),
    "band of floats": (r"labels must be integer", lambda: metrics.foreground_band(Z[..., 0], 1)),
    "band of -1": (r"labels hold -1", lambda: metrics.foreground_band(at_one(Y, -1), 1)),
    "band of half a voxel": (r"width must", lambda: metrics.foreground_band(Y, 0.5)),
    "half a bin": (r"bins must be at least 1", lambda: metrics.ece(P, Y, bins=1.5)),
    "thresholds of text": (
        r"thresholds must be an array",
        lambda: metrics.threshold_counts(P, Y, ["0.5"]),
    ),
    "no counts": (r"counts must be a Confusion", lambda: metrics.roc_auc(tuple(COUNTS))),
    "counts that differ": (
        r"counts must be a Confusion.*\(2, 3, 2\)",
        lambda: metrics.average_precision(COUNTS._replace(fp=np.ones(2))),
    ),
    "negative counts": (
        r"counts must not be negative",
        lambda: metrics.threshold_for(negative(COUNTS), [0.3, 0.5], recall=0.5),
    ),
    "spacing of text": (
        r"spacing must be an array",
        lambda: surface.hausdorff95(Y, Y, CLASSES, ("1", "1")),
    ),
    "tolerance of text": (
        r"tolerance must be a distance",
        lambda: surface.surface_dice(Y, Y, CLASSES, (1, 1), "1"),
    ),
    "flips of floats": (
        r"flips .* are float",
        lambda: augment.mirror(IMAGE, LABEL, np.array([0.3, 0.0])),
    ),
    "image of integers": (
        r"image is int",
        lambda: augment.brightness(IMAGE.astype(int), np.ones(1)),
    ),
    "factor of NaN": (r"factors must be finite", lambda: augment.brightness(IMAGE, [np.nan])),
    "sigma of NaN": (
        r"sigma is nan",
        lambda: augment.smooth_noise(np.ones((2, 6, 5), np.float32), jnp.array(np.nan)),
    ),
    "noise of one field": (
        r"noise has shape \(1, 6, 5\)",
        lambda: augment.elastic_displacement(np.ones((1, 6, 5), np.float32), 1.0, 9.0),
    ),
    "angle of NaN": (r"angles must be finite", lambda: augment.rotation_matrix([np.nan])),
    "displacement of NaN": (
        r"displacement must be finite",
        lambda: augment.warp(IMAGE, LABEL, np.full((2, 6, 5), np.nan, np.float32), np.eye(2)),
    ),
    "image without voxels": (
        r"no voxel",
        lambda: augment.augment(jax.random.key(0), IMAGE[:0], LABEL[:0]),
    ),
    "image, channels first": (
        r"image \(1, 6, 5\) does not match label",
        lambda: augment.augment(jax.random.key(0), IMAGE.transpose(2, 0, 1), LABEL),
    ),
    "values of text": (r"values must be real numbers", lambda: statistics.bootstrap(["1", "2"])),
    "values of None": (r"values must be real.*NaN", lambda: statistics.bootstrap([None, 1.0])),
    "complex p": (r"p_values must be real", lambda: statistics.holm(np.array([0.1j]))),
    **{
        f"{test.__name__} of columns": (
            r"a must be one value per case, .*\(3, 2\)",
            functools.partial(test, np.ones((3, 2)), np.ones((3, 2))),
        )
        for test in (
            *(statistics.rank_sum, statistics.signed_rank),
            *(statistics.cliffs_delta, statistics.rank_biserial),
        )
    },
    "label of 255 resized": (
        r"label is .*255, expected integers from 0 to 2",
        lambda: preprocess.resize_label(np.array([0, 255, 1]), (2,), 3),
    ),
    "size of other axes": (r"size is \(4, 4\)", lambda: preprocess.resize(PICTURE[0], (4, 4))),
    "size of 0": (r"size is \(0,\)", lambda: preprocess.resize(PICTURE[0], (0,))),
    "complex image": (r"array is complex", lambda: preprocess.resize(PICTURE * 1j, (4, 4))),
    "spacing of 0": (
        r"spacing is \(0.0,\), expected 1 positive",
        lambda: preprocess.resampled_shape((4,), (0.0,), (1.0,)),
    ),
    "image of NaN": (
        r"image has pixels that are NaN",
        lambda: preprocess.normalise(np.where(PICTURE == 5, np.nan, PICTURE)),
    ),
    "overlap of the window": (
        r"the overlap is 4, expected",
        lambda: preprocess.window_starts(9, 4, 4),
    ),
    "predict, no channels": (
        r"image has shape \(9, 7\), expected 2",
        lambda: PREDICT(PICTURE[..., 0], (9, 7)),
    ),
    "predict, channels first": (
        r"image has shape \(3, 9, 7\)",
        lambda: PREDICT(PICTURE.transpose(2, 0, 1), (9, 7)),
    ),
    "predict NaN": (r"image has values that are NaN", lambda: PREDICT(PICTURE * np.nan, (9, 7))),
    "predict text": (r"image is <U", lambda: PREDICT(PICTURE.astype(str), (9, 7))),
    "predict for one axis": (r"native is \(9,\)", lambda: PREDICT(PICTURE, (9,))),
    "segment NaN": (r"probs are NaN", lambda: saved.segment(at_one(P, np.nan))),
    "segment a mask": (r"probs are int", lambda: saved.segment(Y)),
}


@pytest.mark.parametrize(("words", "call"), OTHERS.values(), ids=OTHERS)
def test_everything_else_refuses(words, call):
    with pytest.raises(ValueError, match=words):
        call()


def excluding(z, labels):
    """Logits of -inf for a class that is not the label's."""
    return np.where(oracles.one_hot((labels + 1) % CLASSES, CLASSES) > 0, -np.inf, z)


LOG_P = np.log(P)
SOFT = RNG.dirichlet(np.ones(CLASSES), SHAPE).astype(np.float32)
HIDDEN = at_one(ALL, False)

# What looks strange and makes sense: arrays, and what they are the same as for the oracle.
GOOD = {
    "zeros": (Z * 0, Y),
    "uniform probabilities as logits": (np.full_like(Z, 1 / CLASSES), Y),
    "an output layer of a bias that sums to 1": (Z * 0 + np.float32([0.2, 0.3, 0.5]), Y),
    "few logits that sum to 1": (P[:, :1, :3], Y[:, :1, :3]),
    "log-probabilities": (LOG_P, Y),
    "lists": (Z.tolist(), Y.tolist(), ALL.tolist()),
    "one voxel": (Z[:1, :1, :1], Y[:1, :1, :1]),
    "one spatial axis": (Z[0], Y[0]),
    "many classes": (np.tile(Z, 20), Y),
    "uint8 labels": (Z, Y.astype(np.uint8)),
    "labels of a single class": (Z, Y * 0),
    "boolean labels": (Z[..., :2], Y == 1),
    "one-hot int": (Z, ONE_HOT.astype(int)),
    "one-hot bool": (Z, ONE_HOT.astype(bool)),
    "soft labels": (Z, SOFT),
    "soft labels of 8 bits": (Z, np.round(SOFT * 255) / 255),
    "soft labels in bfloat16": (Z, jnp.asarray(SOFT, jnp.bfloat16)),
    "all included": (Z, Y, ALL),
    "nothing included": (Z, Y, ~ALL),
    "255 left out": (Z, at_one(Y, 255), HIDDEN),
    "-1 left out": (Z, at_one(Y, -1), HIDDEN.astype(np.uint8)),
    "NaN left out": (at_one(Z, np.nan), Y, HIDDEN),
    "no class left out": (Z, at_one(ONE_HOT, 0), HIDDEN),
}


@pytest.mark.parametrize("good", GOOD.values(), ids=GOOD)
def test_what_makes_sense_is_not_refused(good):
    arrays = [np.asarray(x) for x in good]
    for name in ("ce", "dscpp"):
        found = LOSSES[name].function(*good[:2], where=good[2] if len(good) > 2 else None)
        np.testing.assert_allclose(found, oracles.loss(name, *arrays), rtol=1e-4, atol=1e-6)


def test_an_excluded_class_is_not_refused():
    z = excluding(Z, Y).astype(np.float32)
    expected = oracles.loss("dscpp", np.maximum(z, -1e5), Y)
    np.testing.assert_allclose(losses.dscpp(z, Y), expected, rtol=1e-5)


def test_probabilities_may_be_rounded():
    probs = {
        "8 bits, cut off": np.floor(P * 255) / 255,
        "bfloat16": jax.nn.softmax(jnp.asarray(Z, jnp.bfloat16)),
        "float16": P.astype(np.float16),
        "just beyond 1": at_one(P, [-1e-6, 1 + 1e-6, 0]),
        "NaN left out": at_one(P, np.nan),
    }
    for p in probs.values():
        kept = np.asarray(p, np.float64)[HIDDEN]
        y = Y[HIDDEN]
        expected = (oracles.one_hot(y, CLASSES) - kept) ** 2
        # As many voxels in the first example, one less in the second.
        means = [expected[:20].mean(0), expected[20:].mean(0)]
        np.testing.assert_allclose(metrics.brier(p, Y, HIDDEN), means, rtol=1e-4)


def test_metrics_of_nothing_are_nan():
    for function in (CALIBRATION | UNCERTAINTY).values():
        assert np.isnan(function(P[:, :0], Y[:, :0])).all()
        assert function(P[:0], Y[:0]).shape[0] == 0
    for function in OVERLAP.values():
        assert np.isnan(function(Y[:, :0], Y[:, :0], CLASSES)).all()
        assert function(Y[:0], Y[:0], CLASSES).shape == (0, CLASSES)


def test_labels_that_are_known_are_checked_while_logits_are_traced():
    bad = at_one(Y, 255)

    def mean(z):
        return losses.dscpp(z, bad).mean()

    for transformed in (jax.grad(mean), jax.jit(mean)):
        with pytest.raises(ValueError, match="labels hold 255"):
            transformed(Z)
    with pytest.raises(ValueError, match="logits must be finite"):
        jax.jit(lambda y: losses.dscpp(at_one(Z, np.nan), y))(Y)


def test_traced_arrays_are_not_checked():
    """As documented: a label of no class, NaN that shows, and counts below every threshold."""
    none = at_one(ONE_HOT, 0)
    p = oracles.softmax(Z)
    expected = -(none * np.log(p)).sum(-1).mean((1, 2))
    np.testing.assert_allclose(jax.jit(losses.ce)(Z, at_one(Y, 255)), expected, rtol=1e-5)
    for name, loss in LOSSES.items():
        found = jax.jit(loss.function)(at_one(Z, np.nan), Y) if name in ("ce", "dscpp") else None
        assert found is None or np.isnan(found).tolist() == [False, True]
    assert np.isnan(jax.jit(metrics.brier)(at_one(P, np.nan), Y)[1]).all()


CONFIGURED = [losses.inputs, metrics.given]


def jaxprs():
    """Of every loss and metric, with all arrays traced and with labels that are known."""
    programs = {}
    for name, function in OF_LOGITS.items():
        programs[name] = jax.make_jaxpr(lambda z, y, w, f=function: f(z, y, where=w))(Z, Y, ALL)
        programs[f"{name}, labels"] = jax.make_jaxpr(lambda z, f=function: f(z, Y))(Z)
    for name, function in OF_PROBS.items():
        programs[name] = jax.make_jaxpr(function)(P, Y, ALL)
        programs[f"{name}, labels"] = jax.make_jaxpr(lambda p, f=function: f(p, Y))(P)
    for name, function in OVERLAP.items():
        programs[name] = jax.make_jaxpr(lambda m, f=function: f(m, Y, CLASSES))(Y)
    return {name: str(program) for name, program in programs.items()}


def test_programs_contain_no_check(monkeypatch):
    with_checks = jaxprs()
    for module in CONFIGURED:
        monkeypatch.setattr(module, "enforce", lambda *arrays, **settings: None)
    monkeypatch.setattr(losses.inputs, "enforce_usable", lambda *arrays: None)
    with pytest.raises(AssertionError):
        np.testing.assert_equal(losses.ce(at_one(Z, np.nan), Y), 0)
    assert jaxprs() == with_checks


VALUES = ("255", "-1", "C"), ("NaN", "infinity", "no class", "probabilities", "certain")


@functools.cache
def checked_programs():
    """A loss as is, of a batch of batches, and its gradient."""
    loss = losses.checked(losses.get_loss("ce"))
    return [
        jax.jit(checkify.checkify(loss)),
        jax.jit(checkify.checkify(lambda z, y: jax.vmap(loss)(z[None], y[None])[0])),
        jax.jit(checkify.checkify(jax.grad(lambda z, y: loss(z, y).sum()))),
    ]


def refusal(function, *arrays):
    with pytest.raises(ValueError) as caught:
        function(*arrays)
    return str(caught.value)


@pytest.mark.parametrize("name", [f"labels: {n}" for n in VALUES[0]] + list(VALUES[1]))
def test_checkify_finds_under_jit_what_is_refused_outside(name):
    _, logits, labels, *_ = BAD_LOGITS[name]
    expected = refusal(losses.ce, logits, labels)
    for program in checked_programs():
        error, _ = program(logits.astype(np.float32), labels)
        assert expected in error.get()
        with pytest.raises(ValueError, match="^(labels|logits) "):
            error.throw()


def test_checkify_lets_pass_what_makes_sense():
    expected = np.asarray(losses.ce(Z, Y))
    for program, found in zip(checked_programs(), (expected, expected, None), strict=True):
        error, value = program(Z, Y)
        error.throw()
        if found is not None:
            np.testing.assert_allclose(value, found, rtol=1e-6)
    np.testing.assert_array_equal(losses.checked(losses.ce)(Z, Y), expected)


CHECKED_METRICS = {
    "mask": (metrics.dice, (at_one(Y, 7), Y), "mask hold 7"),
    "probs": (metrics.brier, (Z, Y), "probs must lie in"),
    "sums": (metrics.nll, (P / 2, Y), "probs must sum to 1"),
    "thresholds": (metrics.threshold_counts, (P, at_one(Y, 255), [0.5]), "labels hold 255"),
}


@pytest.mark.parametrize(
    ("metric", "arrays", "words"), CHECKED_METRICS.values(), ids=CHECKED_METRICS
)
def test_checkify_of_metrics(metric, arrays, words):
    more = {"num_classes": CLASSES} if metric is metrics.dice else {}
    program = jax.jit(checkify.checkify(functools.partial(metrics.checked(metric), **more)))
    assert words in program(*arrays)[0].get()
    good = {"mask": Y, "probs": P, "labels": Y, "thresholds": np.array([0.5])}
    names = [name for name in good if name in metric.__annotations__]
    error, found = program(*(good[name] for name in names))
    error.throw()
    expected = metric(*(good[name] for name in names), **more)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


# An original loss is its ++ loss at exponent 1, so the ++ losses cover both.
NAMES = [name for name in LOSSES if f"{name}pp" not in LOSSES]


def everything(logits, labels, where):
    found = {name: LOSSES[name].function(logits, labels, where=where) for name in NAMES}
    probs = jax.nn.softmax(logits)
    found |= {name: f(probs, labels, where) for name, f in (CALIBRATION | LABEL_MAP).items()}
    mask = probs.argmax(-1)
    return found | {n: f(mask, labels, CLASSES, where) for n, f in OVERLAP.items()}


jitted = jax.jit(everything)


@settings(deadline=None, max_examples=15)
@given(
    logits=hnp.arrays(np.float32, (*SHAPE, CLASSES), elements=st.floats(-30, 30, width=32)),
    labels=hnp.arrays(np.int32, SHAPE, elements=st.integers(0, CLASSES - 1)),
    where=hnp.arrays(bool, SHAPE),
)
def test_outside_jit_is_as_under_jit(logits, labels, where):
    expected = jitted(logits, labels, where)
    for name, found in everything(logits, labels, where).items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
