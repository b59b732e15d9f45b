"""The one place that knows of several devices and several hosts.

The network is on every device, and each batch is cut into as many equal parts as there are devices,
in the batch's order: the devices of the first host have the first parts. Where a batch has too few
examples, its last one is repeated, and counts for nothing. What is trained does not depend on the
number of devices, but for the rounding of sums. Of a grid of trainings each device has some whole
(`over_devices`).

Every host runs a process of its own, and all of them the same program. The first, process 0, is
the one that writes and prints. Without `joined` there is one process, and nobody to wait for.
"""

import contextlib
import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dicepp_jax.data.pipeline import Share

Tree = TypeVar("Tree")

AXIS = "devices"
LANES = "lanes"
HEARTBEAT = 30
"""Seconds without a sign of life after which a process is taken for dead."""
WEEK_MS = 7 * 24 * 3600 * 1000
LOST = (
    "a process of this run has ended, or cannot be reached; if it could, it has said why. Give the "
    "same command on all hosts again: the run goes on after its last finished epoch"
)
# How XLA's errors begin where it is not the program's own fault.
_LOST_STATUS = re.compile("(ABORTED|CANCELLED|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE|UNKNOWN): ")
_DONE = "done"
# It outlives the process that starts it, however that ends.
_LAST_WORDS = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
if sys.stdin.read() != {_DONE!r}:
    print("error:", sys.argv[1], file=sys.stderr, flush=True)
"""


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices that share each batch.

    Attributes:
      mesh: them, in the order of the parts of a batch.
    """

    mesh: Mesh

    @property
    def count(self) -> int:
        """How many there are, on all hosts."""
        return self.mesh.size

    @property
    def share(self) -> Share:
        """The parts of a batch that this host reads."""
        here = self.count // jax.process_count()
        return Share(jax.process_index() * here, (jax.process_index() + 1) * here, self.count)

    @property
    def everywhere(self) -> NamedSharding:
        """Of arrays that each device has whole."""
        return NamedSharding(self.mesh, P())

    @property
    def in_parts(self) -> NamedSharding:
        """Of arrays that are cut along their first axis."""
        return NamedSharding(self.mesh, P(AXIS))

    def replicate(self, tree: Any) -> Any:
        """Arrays put on each device; nothing to do for those that are."""
        if all(getattr(x, "sharding", None) == self.everywhere for x in jax.tree.leaves(tree)):
            return tree
        # Between processes `jax.device_put` would compare what each has, array by array.
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(self.everywhere, np.array(x)), tree
        )

    def cut(self, array: np.ndarray) -> jax.Array:
        """This host's share of an array, put in parts on its devices."""
        return jax.make_array_from_process_local_data(self.in_parts, np.asarray(array))

    def sum(self, tree: Any) -> Any:
        """The sum over the devices, where `spread` runs a function."""
        # A sum of one would keep XLA from fusing what is around it, and so change the rounding.
        return tree if self.count == 1 else jax.lax.psum(tree, AXIS)

    def spread(self, function: Callable[..., Any], parts: Sequence[int]) -> Callable[..., Any]:
        """A function that is run on every device, to be jitted.

        Args:
          function: its results are the same on all devices, as by `sum`.
          parts: the arguments of which each device gets its part; it gets the others whole.

        Returns:
          The function of whole arguments.
        """

        def spread(*args: Any) -> Any:
            specs = tuple(P(AXIS) if i in parts else P() for i in range(len(args)))
            return jax.shard_map(
                function, mesh=self.mesh, in_specs=specs, out_specs=P(), check_vma=False
            )(*args)

        return spread


def places(length: int) -> jax.Array:
    """The places in the batch of the examples that a device has.

    Args:
      length: how many it has.

    Returns:
      int32 `(length,)`, where `Devices.spread` runs a function.
    """
    return jax.lax.axis_index(AXIS) * length + jnp.arange(length, dtype=jnp.int32)


def devices(local: int = 1) -> Devices:
    """The first devices of each host.

    Args:
      local: how many of each.

    Raises:
      ValueError: if a host has fewer.

    Example:
      >>> devices(1).count
      1
    """
    chosen = []
    for process in range(jax.process_count()):
        there = [d for d in jax.devices() if d.process_index == process]
        if local > len(there):
            where = f"process {process}" if jax.process_count() > 1 else "this machine"
            raise ValueError(
                f"devices is {local}, but {where} has {len(there)} ({there[0].device_kind}); "
                f"give --config.devices={len(there)}"
            )
        chosen += there[:local]
    return Devices(Mesh(np.array(chosen), (AXIS,)))


def check_batch_size(batch_size: int, devices: Devices) -> None:
    """Refuse a batch that cannot be cut into equal parts.

    Raises:
      ValueError: naming the nearest batch sizes, and the numbers of devices, that would do.
    """
    count, hosts = devices.count, jax.process_count()
    if batch_size % count == 0:
        return
    below = batch_size // count * count
    sizes = " or ".join(str(size) for size in (below, below + count) if size)
    fewer = [n for n in range(count // hosts - 1, 0, -1) if batch_size % (n * hosts) == 0]
    there = f"devices is {count // hosts}" + (f" on each of {hosts} hosts" if hosts > 1 else "")
    raise ValueError(
        f"data.batch_size is {batch_size}, and {there}, so that a batch cannot be cut into equal "
        f"parts; give --config.data.batch_size={sizes}"
        + (f", or --config.devices={fewer[0]}" if fewer else "")
    )


def over_devices(
    function: Callable[..., Any], devices: int, *, donate: bool = False
) -> Callable[..., Any]:
    """Compile a function of stacked lanes so that each local device computes a share of them.

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
        specs = (P(LANES), P(LANES), *(P() for _ in shared))
        # Lanes do not speak to each other, so there is nothing to check.
        return jax.shard_map(
            function,
            mesh=_lanes(devices),
            in_specs=specs,
            out_specs=P(LANES),
            check_vma=False,
        )(first, second, *shared)

    return jax.jit(spread, donate_argnums=donated)


def on_devices(lanes: Tree, devices: int) -> Tree:
    """Put stacked lanes where `over_devices` computes them."""
    if devices == 1:
        return jax.device_put(lanes)
    return jax.device_put(lanes, NamedSharding(_lanes(devices), P(LANES)))


def _lanes(devices: int) -> Mesh:
    return Mesh(np.array(jax.local_devices()[:devices]), (LANES,))


@contextlib.contextmanager
def joined(
    coordinator: str | None, processes: int | None, process: int | None, local: int
) -> Iterator[None]:
    """Join the other processes of a run on several hosts, and leave when all have ended.

    Only the first process prints from here on. Where another is lost, XLA raises an error or aborts
    the process, within about `HEARTBEAT` seconds, and `LOST` is said either way.

    Args:
      coordinator: HOST:PORT where process 0 listens; None to ask the cluster, as for the next two.
      processes: how many there are.
      process: the number of this one, from 0.
      local: the number of its devices.

    Raises:
      ValueError: if nothing says what is not given.
      ConnectionError: if another process is lost.
    """
    given = coordinator is not None, processes is not None, process is not None
    if any(given) and not all(given):
        raise ValueError("--coordinator, --processes and --process go together; give all three")
    if processes is not None and process is not None and not 0 <= process < processes:
        raise ValueError(
            f"--process is {process}; of --processes={processes} it is one from 0 to "
            f"{processes - 1}"
        )
    # Has to be said before there is a backend, and is looked at only where it is the CPU's.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would keep SIGTERM from ending a process.
    jax.config.update("jax_enable_preemption_service", False)
    words = subprocess.Popen(
        [sys.executable, "-c", _LAST_WORDS, LOST],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    with contextlib.ExitStack() as stack:
        stack.callback(words.communicate, _DONE)
        try:
            where = f" at {coordinator}" if coordinator else ""
            print(f"waiting for the other processes{where}", file=sys.stderr, flush=True)
            _initialize(coordinator, processes, process, local)
            if not is_first():
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            yield
            wait("end")
            jax.distributed.shutdown()
        except (ValueError, RuntimeError) as error:
            if not _LOST_STATUS.match(str(error)):
                raise
            raise ConnectionError(f"{LOST} ({str(error).splitlines()[0]})") from error


def _initialize(
    coordinator: str | None, processes: int | None, process: int | None, local: int
) -> None:
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            # In a cluster jax takes it that there is a process for each device.
            local_device_ids=range(local) if local > 1 else None,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except ValueError as error:
        if coordinator is not None:
            raise
        raise ValueError(
            f"no cluster is found that says which processes there are ({error}); give "
            "--coordinator=HOST:PORT --processes=N --process=I"
        ) from error


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def wait(name: str) -> None:
    """Wait until all processes are here, be it for days.

    Args:
      name: of the place.
    """
    if jax.process_count() > 1:
        # Slow to load. Unlike jax's own, its barrier takes no device, whose collectives time out.
        from orbax.checkpoint import multihost

        multihost.get_barrier_sync_fn()(key=name, timeout_ms=WEEK_MS)


@contextlib.contextmanager
def first_alone(name: str) -> Iterator[None]:
    """What the first process does before the others do it.

    Args:
      name: of what is done.
    """
    if not is_first():
        wait(name)
    yield
    if is_first():
        wait(name)


def leave(error: Exception) -> NoReturn:
    """End a process with an error.

    Among several it ends at once: an orderly end would wait for the others, which wait for it.
    """
    if not jax.distributed.is_initialized():
        sys.exit(f"error: {error}")
    print(f"error: {error}", file=sys.stderr, flush=True)
    os._exit(1)
