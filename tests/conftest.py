"""A strict session of 8 devices: no array is broadcast by accident, and warnings are errors."""

import gc
import os
import sys
import tempfile

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)

# Traces and compiled programs are millions of small objects that live as long as the session, and
# the search for cycles among them took a tenth of its time.
gc.set_threshold(100_000, 50, 100)

# How fast cases are drawn says something of the machine, and nothing of what is tested.
hypothesis.settings.register_profile(
    "suite", max_examples=40, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("suite")


# The same small programs are compiled by many tests and by the processes that they start; workers
# of the session find the directory in their environment.
if "DICEPP_JAX_TEST_CACHE" not in os.environ:
    CACHE = tempfile.TemporaryDirectory(prefix="dicepp_jax_compiled_")
    os.environ["DICEPP_JAX_TEST_CACHE"] = CACHE.name
for name, value in (
    ("jax_compilation_cache_dir", os.environ["DICEPP_JAX_TEST_CACHE"]),
    ("jax_persistent_cache_min_compile_time_secs", 0.0),
):
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)

# Compiling takes most of the session's time, and what is compiled is small and runs a few times;
# the processes that tests start do likewise. Before jax 0.11, an older way to compile loops takes
# half the time of the default one.
QUICKLY = ["--xla_backend_optimization_level=0"]
QUICKLY += ["--xla_cpu_use_fusion_emitters=false"] * (jax.__version_info__ < (0, 11))
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *QUICKLY])


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores: a worker often waits for a process that it has started."""
    return 1 + (os.cpu_count() or 1)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where tests keep prepared sets."""
    return str(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    """Each test closes the figures that it opens: an open one is memory that a session loses."""
    yield
    pyplot = sys.modules.get("matplotlib.pyplot")
    opened = pyplot.get_fignums() if pyplot else []
    if opened:
        pyplot.close("all")
    assert opened == []
