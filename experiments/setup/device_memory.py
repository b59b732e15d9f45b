"""The memory of the device, or of the machine, that trains."""

import os

import jax


def device_limit() -> int:
    """Bytes of the device: the limit of an accelerator's allocator, or a machine's memory."""
    known = jax.local_devices()[0].memory_stats() or {}
    return known.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
