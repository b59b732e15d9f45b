"""Memory in pages of 2 MiB instead of 4 KiB, which glibc gives only to a process that starts so."""

import os
import platform
import sys
from pathlib import Path

TUNABLES = "GLIBC_TUNABLES"
HUGE_PAGES = "glibc.malloc.hugetlb"
# Pages of 2 MiB always, on request, or never.
POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use() -> None:
    """Start this process again with huge pages, unless it has them or the system gives none.

    On a CPU, XLA allocates a step's intermediate arrays anew for every step, and the system clears
    each page on its first use: a quarter of a large step with small pages. To be called before
    anything is loaded or read. Whatever the environment says of huge pages stands.
    """
    tunables = os.environ.get(TUNABLES, "")
    if platform.libc_ver()[0] != "glibc" or HUGE_PAGES in tunables:
        return
    if not POLICY.is_file() or "[madvise]" not in POLICY.read_text():
        return
    given = f"{tunables}:" if tunables else ""
    environment = os.environ | {TUNABLES: f"{given}{HUGE_PAGES}=1"}
    os.execve(sys.executable, sys.orig_argv, environment)
