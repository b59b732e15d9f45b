"""What a report says of the machine: hardware, versions, and how fast the simplest work is done."""

import importlib.metadata
import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("jax", "torch", "monai", "batchgenerators")
SIDE = 2048
BYTES = 256 * 2**20
ROUNDS = 5


class Floor(NamedTuple):
    """What the machine does at best.

    Attributes:
      gflops: rate of a float32 matrix product, in 1e9 additions and multiplications per second.
      gb_per_s: memory read and written per second in adding a number to an array, in 1e9 bytes.
    """

    gflops: float
    gb_per_s: float


class Machine(NamedTuple):
    """Where and how a report was made.

    Attributes:
      hardware: processor and cores, or accelerator.
      versions: of the packages that are installed, by name.
      floor: its speed.
    """

    hardware: str
    versions: dict[str, str]
    floor: Floor


def this_machine() -> Machine:
    """This machine, with its speed measured now."""
    return Machine(hardware(), versions(), measure_floor(SIDE, BYTES))


def hardware() -> str:
    """The accelerator, or the processor with its cores."""
    import jax

    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return f"{model[1] if model else platform.processor()}, {os.cpu_count()} cores"


def versions() -> dict[str, str]:
    """Versions of this library's and the peers' packages, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def measure_floor(side: int, nbytes: int) -> Floor:
    """The best of a few rounds.

    Args:
      side: of the square matrices.
      nbytes: of the array.

    Returns:
      A `Floor`. A product of matrices takes 2 side**3 operations; the sum reads and writes
      nbytes each.
    """
    import jax
    import jax.numpy as jnp

    square = jnp.ones((side, side))
    # In full precision, where an accelerator would round to fewer bits.
    product = jax.jit(lambda x: jnp.matmul(x, x, precision="highest"))
    array = jnp.ones(nbytes // 4)
    added = jax.jit(lambda x: x + 1)
    return Floor(
        2e-9 * side**3 / _fastest(lambda: product(square).block_until_ready()),
        2e-9 * nbytes / _fastest(lambda: added(array).block_until_ready()),
    )


def _fastest(call: Callable[[], object]) -> float:
    """Seconds of the fastest call, the first not counted."""
    seconds = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
