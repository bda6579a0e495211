"""Memory that was freed is used again: the kernel is asked for its pages once."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from engine.ingest import malloc

PROGRAM = """
import resource, sys
import numpy as np
from engine.ingest import malloc
if sys.argv[1]:
    malloc.keep_freed_memory(getattr(malloc, sys.argv[1]))
def use():
    np.ones(int(sys.argv[2]) << 20, np.uint8)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
before = faults()
for _ in range(20):
    use()
print(faults() - before)
"""
PAGE = 4096


def faults(options: str, mebibytes: int) -> int:
    words = [sys.executable, "-c", PROGRAM, options, str(mebibytes)]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
@pytest.mark.parametrize(("options", "mebibytes"), [("FRAMES", 24), ("ACTIVATIONS", 100)])
def test_a_block_that_was_freed_comes_back_without_new_pages(options: str, mebibytes: int) -> None:
    pages = 20 * (mebibytes << 20) // PAGE
    assert faults(options, mebibytes) < 0.1 * pages


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda name: object())
    malloc.keep_freed_memory(malloc.FRAMES)
