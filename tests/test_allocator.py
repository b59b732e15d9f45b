"""Memory that training keeps, on Linux: a process of its own counts the pages that it is given."""

import os
import subprocess
import sys
from pathlib import Path

FAULTS = """
import resource, sys
import numpy as np
from experiments.setup.allocator import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
np.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    np.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, **environment: str) -> int:
    """Pages that three arrays of 128 MiB take from the system, after a first one is freed."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how],
        cwd=Path(__file__).parents[1],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def test_kept_memory_is_not_taken_from_the_system_again():
    # numpy asks for huge pages, so the number of faults is small either way.
    assert faults("keep") < 0.1 * faults("free")


def test_what_the_environment_says_stands():
    assert faults("keep", MALLOC_ARENA_MAX="4") > 0.9 * faults("free")
