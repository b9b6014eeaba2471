"""A setting of the C library's allocator that large tensors on a CPU profit from."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Keep memory that is freed for the next allocation instead of handing it back; whether that is possible here.

    A training step frees and allocates the same large tensors again and again. By default glibc maps each one over
    32 MB afresh, and the kernel has to clear its pages every time.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, -1))
