"""The one place that knows of several devices and several hosts.

Training is data parallel, by `jax.pmap` (`Devices.pmap`). Every device has the whole network, and
each batch is split into as many equal parts as there are devices, in the batch's order: the devices
of the first host get the first parts. Where a batch has too few examples, its last one is repeated
and does not count. Apart from the rounding of sums, the result of training does not depend on the
number of devices. A grid of trainings is divided over devices too, each lane whole on one of them
(`over_devices`).

Each host runs its own process, and all processes run the same program. Only the first, process 0,
writes and prints. Without `joined` there is a single process, and waiting returns at once.
"""

import contextlib
import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
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
"""Seconds without a heartbeat after which a process is considered dead."""
WEEK_MS = 7 * 24 * 3600 * 1000
LOST = (
    "a process of this run has ended or cannot be reached; its own output may say why. Give the "
    "same command on all hosts again: the run resumes after its last finished epoch"
)
# How XLA's errors begin when the cause is outside this program.
_LOST_STATUS = re.compile("(ABORTED|CANCELLED|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE|UNKNOWN): ")
_DONE = "done"
# A child process that reports how the parent ended, which may be aborted without a message.
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
      mesh: the devices, in the order of the parts of a batch.
    """

    mesh: Mesh

    @property
    def count(self) -> int:
        """How many there are, on all hosts."""
        return self.mesh.size

    @property
    def here(self) -> int:
        """How many there are on this host."""
        return self.mesh.local_mesh.size

    @property
    def share(self) -> Share:
        """The parts of a batch that this host reads."""
        first = jax.process_index() * self.here
        return Share(first, first + self.here, self.count)

    def replicate(self, tree: Any) -> Any:
        """Arrays replicated over the devices of this host, not stacked, as `pmap` returns them.

        Args:
          tree: of arrays, or of `jax.ShapeDtypeStruct`s that describe them.

        Returns:
          The same tree. Arrays that are replicated already are not copied.
        """
        whole = NamedSharding(self.mesh.local_mesh, P())

        def put(x: Any) -> Any:
            if getattr(x, "sharding", None) == whole:
                return x
            if isinstance(x, jax.ShapeDtypeStruct):
                return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole)
            return jax.device_put(x, whole)

        return jax.tree.map(put, tree)

    def shard(self, array: np.ndarray) -> np.ndarray:
        """This host's share of a batch, `(b, ...)`, as `(devices here, b / devices here, ...)`."""
        return np.asarray(array).reshape(self.here, -1, *array.shape[1:])

    def sum(self, tree: Any) -> Any:
        """The sum over the devices, within a function that `pmap` runs."""
        # A psum over one device would keep XLA from fusing the operations around it, and so would
        # change the rounding.
        return tree if self.count == 1 else jax.lax.psum(tree, AXIS)

    def pmap(
        self, function: Callable[..., Any], in_axes: tuple[int | None, ...], **options: Any
    ) -> Any:
        """`jax.pmap` over these devices; what all of them share has no leading axis of copies.

        On several hosts each process passes its own share, and `sum` is over the devices of all.

        Args:
          function: what each device runs. Its results must be the same on all, as by `sum`.
          in_axes: for each argument, 0 if it comes from `shard`, None if each device gets it whole.
          options: of `jax.pmap`, such as `donate_argnums`.

        Returns:
          The compiled function.
        """
        return jax.pmap(
            function,
            AXIS,
            in_axes=in_axes,
            out_axes=None,
            devices=tuple(self.mesh.devices.flat),
            **options,
        )


def places(length: int) -> jax.Array:
    """The places in the batch of a device's examples, within a function that `Devices.pmap` runs.

    Args:
      length: the number of examples of each device.

    Returns:
      int32 `(length,)`.
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
    """Refuse a batch that cannot be split into equal parts.

    Raises:
      ValueError: naming the nearest batch sizes that can, and a number of devices.
    """
    count, hosts = devices.count, jax.process_count()
    if batch_size % count == 0:
        return
    below = batch_size // count * count
    sizes = " or ".join(str(size) for size in (below, below + count) if size)
    fewer = [n for n in range(count // hosts - 1, 0, -1) if batch_size % (n * hosts) == 0]
    there = f"devices is {count // hosts}" + (f" on each of {hosts} hosts" if hosts > 1 else "")
    raise ValueError(
        f"data.batch_size is {batch_size}, and {there}, so a batch cannot be split into equal "
        f"parts; give --config.data.batch_size={sizes}"
        + (f", or --config.devices={fewer[0]}" if fewer else "")
    )


def over_devices(
    function: Callable[..., Any], devices: int, *, donate: bool = False
) -> Callable[..., Any]:
    """Compile a function of stacked lanes so that each local device computes a share of them.

    Args:
      function: `(first, second, *shared)`, where the leaves of the first two and of the results
        have a leading axis of lanes, which do not depend on each other.
      devices: how many; the number of lanes has to be divisible by it.
      donate: whether to donate the memory of `first`.

    Returns:
      The compiled function.
    """
    donated = (0,) if donate else ()
    if devices == 1:
        return jax.jit(function, donate_argnums=donated)

    def spread(first: Any, second: Any, *shared: Any) -> Any:
        specs = (P(LANES), P(LANES), *(P() for _ in shared))
        # Lanes do not communicate, so there is nothing to check.
        return jax.shard_map(
            function,
            mesh=_lanes(devices),
            in_specs=specs,
            out_specs=P(LANES),
            check_vma=False,
        )(first, second, *shared)

    return jax.jit(spread, donate_argnums=donated)


def on_devices(lanes: Tree, devices: int) -> Tree:
    """Place stacked lanes on the devices that compute them in `over_devices`."""
    if devices == 1:
        return jax.device_put(lanes)
    return jax.device_put(lanes, NamedSharding(_lanes(devices), P(LANES)))


def _lanes(devices: int) -> Mesh:
    return Mesh(np.array(jax.local_devices()[:devices]), (LANES,))


@contextlib.contextmanager
def joined(
    coordinator: str | None, processes: int | None, process: int | None, local: int
) -> Iterator[None]:
    """Join the other processes of a run on several hosts, and leave when all have finished.

    From here on only the first process prints. If another is lost, XLA raises an error or aborts
    this process within about `HEARTBEAT` seconds; `LOST` is printed either way.

    Args:
      coordinator: HOST:PORT where process 0 listens. None to take it, and the next two, from the
        cluster's environment.
      processes: how many there are.
      process: the number of this one, from 0.
      local: the number of its devices.

    Raises:
      ValueError: if some of the three are missing, or no cluster is found.
      ConnectionError: if another process is lost.
    """
    given = coordinator is not None, processes is not None, process is not None
    if any(given) and not all(given):
        raise ValueError("--coordinator, --processes and --process go together; give all three")
    if processes is not None and process is not None and not 0 <= process < processes:
        raise ValueError(
            f"--process is {process}; with --processes={processes} it must be from 0 to "
            f"{processes - 1}"
        )
    # Has to be set before JAX starts a backend; only the CPU's reads it.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # That service would keep SIGTERM from ending a process.
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
            # In a cluster JAX assumes one process for each device.
            local_device_ids=range(local) if local > 1 else None,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except ValueError as error:
        if coordinator is not None:
            raise
        raise ValueError(
            f"no cluster was found that defines the processes ({error}); give "
            "--coordinator=HOST:PORT --processes=N --process=I"
        ) from error


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def is_alone() -> bool:
    """Whether this process is the only one."""
    return jax.process_count() == 1


def wait(name: str) -> None:
    """Wait until all processes have called this, for up to a week.

    Args:
      name: of the point in the program, the same in all processes.
    """
    if not is_alone():
        # Imported here because it is slow to load. Unlike JAX's own barrier, orbax's uses no
        # collective of the devices, which would time out.
        from orbax.checkpoint import multihost

        multihost.get_barrier_sync_fn()(key=name, timeout_ms=WEEK_MS)


@contextlib.contextmanager
def first_alone(name: str) -> Iterator[None]:
    """A block that the first process runs before the others do.

    Args:
      name: of the block, the same in all processes.
    """
    if not is_first():
        wait(name)
    yield
    if is_first():
        wait(name)


def leave(message: str) -> NoReturn:
    """End a process with an error.

    One of several ends at once: an orderly exit would wait for the others, which wait for it.
    """
    if not jax.distributed.is_initialized():
        sys.exit(f"error: {message}")
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(1)
