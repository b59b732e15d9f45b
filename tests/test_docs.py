"""The code of the README and of docs/ runs as printed, and says what is true."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from dicepp_jax import losses
from dicepp_jax.losses import LOSSES

ROOT = Path(__file__).parent.parent


def run_blocks(path):
    """All Python of a page, in one namespace; a reader's arrays may broadcast."""
    namespace = {}
    with jax.numpy_rank_promotion("allow"):
        for block in re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(), re.DOTALL):
            exec(compile(block, path, "exec"), namespace)
    return namespace


def test_readme():
    found = run_blocks("README.md")
    threshold = found["metrics"].threshold_for(
        found["validation"], found["metrics"].THRESHOLDS, recall=0.95
    )
    assert threshold.shape == (2,)
    temperature = found["fit_temperature"](3 * found["logits"], found["noisy"])
    assert temperature == pytest.approx(3, rel=0.02)


def test_losses_page():
    found = run_blocks("docs/losses.md")
    for library in ("optax", "equinox", "nnx", "haiku"):
        values = np.array(found[f"{library}_values"])
        assert values[-1] < values[0], library
    logits, labels = np.asarray(found["logits"]), np.asarray(found["labels"])
    expected = oracles.loss("dscpp", logits, labels)
    for name in ("of_probabilities", "of_whole", "by_hand"):
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(found["per_class"].mean(-1), expected, rtol=1e-5)
    np.testing.assert_allclose(
        found["ignoring"], oracles.loss("dscpp", logits[:, 4:], labels[:, 4:]), rtol=1e-5
    )
    grid = [oracles.loss("dscpp", logits, labels, gamma=gamma) for gamma in found["gammas"]]
    np.testing.assert_allclose(found["grid"], grid, rtol=1e-5)
    assert found["by_gamma"] < 0
    assert found["per_channel"].shape == (2, 3)


def test_the_same_step_takes_every_loss():
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 1))
    labels = (images[..., 0] > 0.5).astype(int)

    def mean_losses(weights):
        logits = images @ weights
        return {name: loss.function(logits, labels).mean() for name, loss in LOSSES.items()}

    for name, slope in jax.jit(jax.jacrev(mean_losses))(jnp.zeros((1, 2))).items():
        # More intensity is more foreground, so each loss falls with the weight of class 1.
        assert slope[0, 1] < 0 < slope[0, 0], name


def test_the_page_names_what_there_is():
    page = (ROOT / "docs" / "losses.md").read_text()
    imported = re.findall(r"from dicepp_jax.losses import (.*)", page)
    names = {name.strip() for line in imported for name in line.split(",")}
    names |= set(re.findall(r"`((?:ce|\w*focal)_map)`", page))
    assert len(names) > 8
    assert names <= set(losses.__all__)
