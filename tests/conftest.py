"""A strict session: arrays are never broadcast by accident, and warnings are errors."""

import os
import tempfile

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# The same small programs are compiled by many tests and by the processes that they start.
CACHE = tempfile.TemporaryDirectory(prefix="dicepp_jax_compiled_")
for name, value in (
    ("jax_compilation_cache_dir", CACHE.name),
    ("jax_persistent_cache_min_compile_time_secs", 0.3),
):
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where tests keep prepared sets."""
    return str(tmp_path_factory.mktemp("prepared"))
