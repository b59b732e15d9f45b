"""Gradients by object size: against finite differences in float64, and closed forms."""

import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import oracles
import pytest
from scipy.ndimage import label as components

from dicepp_jax import gradients
from dicepp_jax.gradients import disc, gradient_norms, norms_by_size, variation
from dicepp_jax.losses import LOSSES, ce, dsc, dscpp
from dicepp_jax.plots.object_sizes import PANELS, gradients_by_size

SIZES = (1, 8, 64, 512)


@functools.cache
def found():
    """Three losses over sizes, computed once."""
    return norms_by_size({"dscpp": dscpp, "ce": ce, "dsc": dsc}, SIZES, shape=(32, 32), draws=4)


def log_odds(state, key=0, shape=(32, 32)):
    """Labels and log-odds of the sizes, float64."""
    labels = jnp.asarray(np.stack([disc(size, shape) for size in SIZES]))
    drawn = jax.vmap(lambda y: gradients.STATES[state](jax.random.key(key), y))(labels)
    return np.asarray(labels), np.asarray(drawn, np.float64)


def test_every_loss_against_finite_differences():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 4, 4, 3)).astype(np.float32)
    labels = rng.integers(0, 3, (2, 4, 4))

    @jax.jit
    def of_all(logits):
        return {
            name: gradient_norms(loss.function, logits, labels) for name, loss in LOSSES.items()
        }

    for name, norms in of_all(logits).items():
        for b in range(2):
            gradient = oracles.numerical_gradient(
                lambda z, b=b, name=name: oracles.loss(name, z[None], labels[b : b + 1])[0],
                logits[b],
            )
            of_voxels = np.linalg.norm(gradient, axis=-1)
            for part, expected in (
                (norms.total, np.linalg.norm(gradient)),
                (norms.object, of_voxels[labels[b] > 0].mean()),
                (norms.background, of_voxels[labels[b] == 0].mean()),
            ):
                np.testing.assert_allclose(part[b], expected, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("state", gradients.STATES)
def test_cross_entropy_is_the_error_of_each_voxel(state):
    """With two classes a voxel's gradient is (1 - p of its class) (-1, 1) / N."""
    wrong, sizes = [], np.array(SIZES)
    for key in jax.random.split(jax.random.key(0), 4):
        labels = np.stack([disc(size, (32, 32)) for size in SIZES])
        z = jax.vmap(lambda y, key=key: gradients.STATES[state](key, y))(jnp.asarray(labels))
        wrong.append(1 / (1 + np.exp(np.where(labels == 1, 1, -1) * np.asarray(z, np.float64))))
    pull = np.sqrt(2) / 1024 * np.stack(wrong, 1)  # (sizes, draws, 32, 32)
    inside = labels[:, None]
    norms = found()["ce"][state]
    np.testing.assert_allclose(norms.total, np.sqrt((pull**2).sum((2, 3))), rtol=1e-4)
    of_object = (pull * inside).sum((2, 3)) / sizes[:, None]
    np.testing.assert_allclose(norms.object, of_object, rtol=1e-4)
    of_rest = (pull * (1 - inside)).sum((2, 3)) / (1024 - sizes[:, None])
    np.testing.assert_allclose(norms.background, of_rest, rtol=1e-4)


def test_dice_pulls_at_a_found_object_by_the_inverse_of_its_size():
    """p on the object and 0 elsewhere: both terms of the loss are quotients of known counts."""
    p, total = 0.9, 32 * 32
    labels = np.stack([disc(size, (32, 32)) for size in SIZES])
    z = np.where(labels == 1, np.log(p / (1 - p)), -40.0)
    logits = np.stack([np.zeros_like(z), z], -1).astype(np.float32)
    norms = gradient_norms(dsc, jnp.asarray(logits), jnp.asarray(labels))
    n = np.array(SIZES, float)
    of_object = 1 / (n * (1 + p) ** 2)
    of_background = (total - n) / (2 * (total - n) + n * (1 - p)) ** 2
    expected = np.sqrt(2) * p * (1 - p) * (of_object + of_background)
    np.testing.assert_allclose(norms.object, expected, rtol=1e-4)
    np.testing.assert_allclose(norms.total, np.sqrt(n) * expected, rtol=1e-4)
    np.testing.assert_allclose(norms.background, 0, atol=1e-12)


def test_dice_grows_and_cross_entropy_falls_as_objects_shrink():
    confident = {name: np.asarray(of["confident"].total.mean(-1)) for name, of in found().items()}
    assert confident["dsc"][1] > 10 * confident["dsc"][3]
    assert confident["ce"][1] < confident["ce"][3] / 2
    # A lone voxel that is missed altogether: what Dice says depends on the noise of one logit.
    single = {name: float(variation(of["confident"].total)[0]) for name, of in found().items()}
    assert single["ce"] < 0.05 < 0.5 < min(single["dsc"], single["dscpp"])


def test_states_are_what_they_are_called():
    for state, right in (("untrained", 0.5), ("half-trained", 0.8), ("confident", 0.999)):
        labels, z = log_odds(state)
        odds = np.where(labels == 1, z, -z)[-1]
        assert np.median(1 / (1 + np.exp(-odds))) == pytest.approx(right, abs=0.02)
    labels, z = log_odds("confident")
    moved = np.stack([np.roll(y, 1, axis=-1) for y in labels])
    assert np.mean((z > 0) == moved) > 0.999
    assert not np.any((z > 0) & (labels == 1), axis=(1, 2))[0]  # The single voxel is missed.


def test_losses_keep_their_order_and_draws_repeat():
    assert list(found()) == ["dscpp", "ce", "dsc"]
    again, other = (
        norms_by_size({"ce": ce}, SIZES, shape=(32, 32), draws=4, seed=seed)["ce"]
        for seed in (0, 1)
    )
    for state, norms in found()["ce"].items():
        assert norms.total.shape == (4, 4)
        np.testing.assert_array_equal(norms.total, again[state].total)
        assert np.all(np.asarray(norms.total) != np.asarray(other[state].total))
        assert np.unique(norms.total).size == norms.total.size


@pytest.mark.parametrize("shape", [(9, 9), (8, 10), (7, 7, 7)])
def test_discs_have_their_size_and_are_nested_and_whole(shape):
    last = np.zeros(shape, int)
    for size in (1, 2, 9, 30, 60):
        label = disc(size, shape)
        assert label.sum() == size and set(np.unique(label)) <= {0, 1}
        assert components(label)[1] == 1
        assert np.all(label >= last) and label[tuple(n // 2 for n in shape)] == 1
        last = label


@pytest.mark.parametrize("size", [0, 26])
def test_a_disc_that_does_not_fit_is_refused(size):
    with pytest.raises(ValueError, match=f"from 1 to 25 voxels .* not {size}"):
        disc(size, (5, 5))


def test_a_single_draw_has_no_variation():
    with pytest.raises(ValueError, match="draws is 1; it takes at least 2"):
        norms_by_size({"ce": ce}, (1,), draws=1)


def test_the_figure_shows_every_loss_in_every_state():
    figure = gradients_by_size(found(), SIZES)
    figure.draw_without_rendering()
    assert len(figure.axes) == len(PANELS) * len(gradients.STATES)
    for index, axes in enumerate(figure.axes):
        row, column = divmod(index, len(gradients.STATES))
        state = list(gradients.STATES)[column]
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        assert row or axes.get_title() == state
        for line in axes.lines:
            norms = found()[line.get_label()][state]
            total, ours, theirs = (np.asarray(x, np.float64) for x in norms)
            expected = (
                total.mean(-1),
                ours.mean(-1) / theirs.mean(-1),
                total.std(-1, ddof=1) / total.mean(-1),
            )[row]
            np.testing.assert_array_equal(line.get_xdata(), SIZES)
            np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-4)
    widths = {line.get_label(): line.get_linewidth() for line in figure.axes[0].lines}
    assert widths["dsc"] == widths["dscpp"] > widths["ce"]
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(found())
    plt.close(figure)
