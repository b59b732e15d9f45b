"""Compiled programs, kept on disk so that a command that is repeated need not compile them again.

JAX keeps them under a key of the program, the compiler, its options and the processor's
instructions, but not the number of cores, by which XLA may divide work: each number has a folder of
its own.
"""

import os
import sys
from pathlib import Path

FOLDER = Path("dicepp_jax") / "compiled"
OPTIONS = {
    "jax_persistent_cache_min_compile_time_secs": 0.1,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    "jax_compilation_cache_max_size": 2 * 2**30,
    # Their size has no limit, and they are contained in the programs.
    "jax_persistent_cache_enable_xla_caches": "none",
}
PATIENCE = 10
"""Seconds to wait for another process."""


def keep() -> None:
    """Let JAX keep compiled programs, unless the environment says where or that it must not.

    A folder that cannot be written is reported, and nothing is kept.
    """
    import jax

    enabled = jax.config.values["jax_enable_compilation_cache"]
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or not enabled:
        return
    folder = _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _drop_unfinished(folder)
    except OSError as error:
        print(f"compiled programs are not kept: {error}", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, value in OPTIONS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def _folder() -> Path:
    """Where the user keeps caches, for this number of cores."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return caches / FOLDER / f"{cores}_cores"


def _drop_unfinished(folder: Path) -> None:
    """Remove what a process has left that was killed while it wrote: JAX would stumble over it."""
    from filelock import FileLock

    with FileLock(folder / ".lockfile", timeout=PATIENCE):  # JAX's own.
        for program in folder.glob("*-cache"):
            used = program.with_name(program.name.removesuffix("-cache") + "-atime")
            if not (used.exists() and used.stat().st_size and program.stat().st_size):
                program.unlink()
