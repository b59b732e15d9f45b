"""The one place that knows of several devices."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Tree = TypeVar("Tree")

LANES = "lanes"


def _mesh(devices: int) -> Mesh:
    return Mesh(np.array(jax.local_devices()[:devices]), (LANES,))


def over_devices(
    function: Callable[..., Any], devices: int, *, donate: bool = False
) -> Callable[..., Any]:
    """Compile a function of stacked lanes so that each device computes a share of them.

    Args:
      function: `(first, second, *shared)`, where the leaves of the first two, and of what comes
        out, have a leading axis of lanes, which it treats each by itself.
      devices: how many, by which the number of lanes can be divided.
      donate: whether the memory of `first` is given up.

    Returns:
      The compiled function.
    """
    donated = (0,) if donate else ()
    if devices == 1:
        return jax.jit(function, donate_argnums=donated)

    def spread(first: Any, second: Any, *shared: Any) -> Any:
        specs = (PartitionSpec(LANES), PartitionSpec(LANES), *(PartitionSpec() for _ in shared))
        mapped = jax.shard_map(
            function,
            mesh=_mesh(devices),
            in_specs=specs,
            out_specs=PartitionSpec(LANES),
            # Lanes do not speak to each other, so there is nothing to check.
            check_vma=False,
        )
        return mapped(first, second, *shared)

    return jax.jit(spread, donate_argnums=donated)


def on_devices(lanes: Tree, devices: int) -> Tree:
    """Put stacked lanes where `over_devices` computes them."""
    if devices == 1:
        return jax.device_put(lanes)
    return jax.device_put(lanes, NamedSharding(_mesh(devices), PartitionSpec(LANES)))
