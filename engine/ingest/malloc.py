"""What a process does with memory that it freed: keep it, since fresh pages from the kernel are dear.

A decoded frame or an activation is some megabytes, freed and asked for again many times a second. By default
glibc gives each back to the kernel, which fills the next with zeros, 4 KiB at a time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4  # malloc.h
_MOST = 2**31 - 1

FRAMES: Mapping[int, int] = {_M_MMAP_THRESHOLD: 32 << 20, _M_TRIM_THRESHOLD: 256 << 20, _M_TOP_PAD: 64 << 20}
"""For one decoded frame after the other: at most 256 MiB stay."""
ACTIVATIONS: Mapping[int, int] = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _MOST, _M_TOP_PAD: 256 << 20}
"""For the steps of a training, which all need the same: up to 2 GiB stay."""

HUGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}
"""Environment in which torch asks for pages of 2 MiB on a CPU; it looks once, at its first tensor."""


def keep_freed_memory(options: Mapping[int, int]) -> None:
    """Set ``options`` of malloc in this process; a C library without ``mallopt`` goes on as it is."""
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in options.items():
            mallopt(option, value)
