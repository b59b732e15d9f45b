"""What the light modules load, in a process of their own."""

import subprocess
import sys

import pytest

HEAVY = {"flax", "optax", "orbax", "tensorflow_datasets", "grain", "matplotlib", "tensorflow"}


def loaded_by(module):
    """The modules that a module loads."""
    code = f"import sys, dicepp_jax.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize("module", ["losses", "metrics", "augment"])
def test_loads_jax_and_numpy_alone(module):
    loaded = {name.split(".")[0] for name in loaded_by(module)}
    assert {"jax", "numpy", "dicepp_jax"} <= loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("module", ["preprocess", "spec", "inference", "saved"])
def test_what_predicts_loads_nothing_that_reads_data_sets(module):
    loaded = loaded_by(module)
    assert "dicepp_jax.data" not in loaded
    assert not {name.split(".")[0] for name in loaded} & {*HEAVY, "nibabel", "PIL", "tifffile"}
