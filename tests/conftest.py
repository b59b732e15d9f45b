"""A strict session: arrays are never broadcast by accident, and warnings are errors."""

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where tests keep prepared sets."""
    return str(tmp_path_factory.mktemp("prepared"))
