"""What the C library does with the memory of freed tensors."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next tensors.

    By default it hands large pieces back to the kernel, and every training step pays for them again, page by page: some
    hundredths of a step of half a second. The process stays as large as it once was. Single tensors above 32 MiB are
    handed back all the same; elsewhere than on glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_MMAP_THRESHOLD, 2**25)  # the most that glibc allows
