"""What the light packages load, in a process of their own."""

import subprocess
import sys

import pytest

HEAVY = {"flax", "optax", "orbax", "tensorflow_datasets", "grain", "matplotlib", "tensorflow"}


@pytest.mark.parametrize("module", ["losses", "metrics", "augment"])
def test_loads_jax_and_numpy_alone(module):
    code = f"import sys, dicepp_jax.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert {"jax", "numpy", "dicepp_jax"} <= loaded
    assert not loaded & HEAVY
