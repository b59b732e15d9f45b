"""Temperature scaling against a search in float64, and against the temperature of drawn labels."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from dicepp_jax import losses
from dicepp_jax.scaling import fit_temperature

SHAPE = (4, 32, 32, 3)


def drawn(temperature, shape=SHAPE, seed=0):
    """Logits, and labels drawn from softmax(logits / temperature)."""
    key, other = jax.random.split(jax.random.key(seed))
    logits = 3 * jax.random.normal(key, shape)
    return np.asarray(logits), np.asarray(jax.random.categorical(other, logits / temperature))


def mean_ce(logits, labels, inverse):
    """Mean cross entropy of softmax(logits * inverse) in float64."""
    p = oracles.softmax(np.asarray(logits, np.float64) * inverse)
    return -np.log(np.take_along_axis(p, labels[..., None], axis=-1)).mean()


def slope(logits, labels, inverse, step=1e-4):
    above, below = (mean_ce(logits, labels, inverse + h) for h in (step, -step))
    return (above - below) / (2 * step)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_temperature_of_drawn_labels_is_recovered(temperature):
    logits, labels = drawn(temperature)
    found = fit_temperature(logits, labels)
    # Fisher information of 1 / T: the mean variance of the logits under the true probabilities.
    p, z = oracles.softmax(logits / temperature), logits.astype(np.float64)
    information = ((p * z**2).sum(-1) - (p * z).sum(-1) ** 2).sum()
    assert abs(1 / found - 1 / temperature) < 4 / np.sqrt(information)
    assert 4 / np.sqrt(information) < 0.15 / temperature


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4])
def test_no_other_temperature_is_better(scale):
    logits, labels = drawn(2.0)
    found = fit_temperature(np.float32(scale) * logits, labels) / scale
    grid = found * np.exp(np.linspace(-0.2, 0.2, 81))
    values = [mean_ce(logits, labels, 1 / t) for t in grid]
    assert np.argmin(values) == 40
    assert abs(slope(logits, labels, 1 / found)) < 1e-5 * abs(slope(logits, labels, 0.1))


def test_the_segmentation_is_unchanged_and_the_loss_decreases():
    logits, labels = drawn(3.0)
    scaled = logits / fit_temperature(logits, labels)
    np.testing.assert_array_equal(scaled.argmax(-1), logits.argmax(-1))
    assert losses.ce(scaled, labels).mean() < 0.9 * losses.ce(logits, labels).mean()
    assert fit_temperature(scaled, labels) == pytest.approx(1, abs=1e-4)


def test_voxels_left_out_do_not_count():
    logits, labels = drawn(2.0)
    where = np.random.default_rng(0).random(labels.shape) > 0.5
    broken = np.where(where[..., None], logits, np.nan)
    expected = fit_temperature(logits[where][None], labels[where][None])
    assert fit_temperature(broken, labels, where) == pytest.approx(expected, rel=1e-4)
    assert fit_temperature(logits, labels) != pytest.approx(expected, rel=1e-3)


def test_a_sequence_is_fitted_jointly():
    logits, labels = drawn(2.0)
    where = np.random.default_rng(1).random(labels.shape) > 0.2
    whole = fit_temperature(logits, labels, where)
    sizes = [(slice(None), slice(20)), (slice(None), slice(20, None))]
    parts = [[x[size] for size in sizes] for x in (logits, labels, where)]
    assert fit_temperature(*parts) == pytest.approx(whole, rel=1e-4)
    whole = fit_temperature(logits, labels)
    assert fit_temperature(*map(tuple, parts[:2])) == pytest.approx(whole, rel=1e-4)


def test_one_hot_soft_and_half_precision():
    logits, labels = drawn(2.0)
    expected = fit_temperature(logits, labels)
    one_hot = oracles.one_hot(labels, 3)
    assert fit_temperature(logits, one_hot) == pytest.approx(expected, rel=1e-5)
    assert fit_temperature(jnp.asarray(logits, jnp.bfloat16), labels) == pytest.approx(
        expected, rel=1e-2
    )
    soft = oracles.softmax(logits / 1.5)
    assert fit_temperature(logits, soft) == pytest.approx(1.5, rel=1e-4)


def test_temperature_of_probabilities():
    logits, labels = drawn(2.0)
    probs = oracles.softmax(logits)
    found = fit_temperature(losses.from_probabilities(probs), labels)
    assert found == pytest.approx(fit_temperature(logits, labels), rel=1e-3)


def test_logits_that_are_always_correct_have_no_temperature():
    logits, _ = drawn(1.0)
    with pytest.raises(ValueError, match="every voxel is classified correctly.*T -> 0"):
        fit_temperature(logits, logits.argmax(-1))


@pytest.mark.parametrize("factor", [0, -1])
def test_uninformative_logits_have_no_temperature(factor):
    logits, labels = drawn(1.0)
    with pytest.raises(ValueError, match="no better than uniform .*T -> infinity"):
        fit_temperature(np.float32(factor) * logits, labels)


def test_invalid_arguments_are_refused():
    logits, labels = drawn(1.0)
    with pytest.raises(ValueError, match=r"labels must be integers of shape \(4, 32, 32\)"):
        fit_temperature(logits, labels[:2])
    with pytest.raises(
        ValueError, match="arrays, or sequences of the same length, got 2, 1 and 2 arrays"
    ):
        fit_temperature([logits, logits], labels)
    with pytest.raises(ValueError, match="got 1, 1 and 2 arrays"):
        fit_temperature(logits, labels, [labels > 0] * 2)
    with pytest.raises(ValueError, match="no voxel to fit"):
        fit_temperature(logits, labels, np.zeros(labels.shape, bool))
    broken = logits.copy()
    broken[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        fit_temperature(broken, labels)
