"""The C library's memory: keep what was freed, instead of giving it back and asking again."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc


def keep_freed_memory() -> bool:
    """Have glibc reuse large blocks; True if it agreed (False on other C libraries, where nothing changes).

    By default each tensor above 32 MB is a fresh mapping, which the kernel fills with zeros page by page: a third of
    a CPU training step.  The process then holds its peak memory until it ends."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
