"""The rights of a process that reads strangers' bytes: bounded memory, tied to its parent, and no more.

Where the kernel has Landlock (Linux 5.13) it writes no file but below given folders, and, from 6.7 on, opens
no TCP connection. With seccomp, a child that reads local files makes no socket and starts no program. What a
kernel lacks is not missed: reading goes on, under the deadline and the memory bound alone.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_PDEATHSIG, _NO_NEW_PRIVS = 1, 38  # prctl.h
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # the same on all machines
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_WRITES = {1: 1 << 1 | sum(1 << bit for bit in range(4, 13)), 2: 1 << 13, 3: 1 << 14}
"""landlock.h, by the ABI that has them: WRITE_FILE and REMOVE_DIR to MAKE_SYM, REFER, TRUNCATE."""
_TCP_SINCE, _SCOPES_SINCE = 4, 6
_TCP, _SCOPES = 0b11, 0b11  # bind and connect; abstract sockets and signals
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# socket, ptrace, process_vm_readv, process_vm_writev, execve, execveat, io_uring_setup
_REFUSED = {
    "x86_64": (41, 101, 310, 311, 59, 322, 425),
    "aarch64": (198, 117, 270, 271, 221, 281, 425),
}
_X32 = 0x40000000
_ERRNO_EPERM, _ALLOW = 0x00050001, 0x7FFF0000

_KEPT = ("PATH", "HOME", "LANG", "LC_", "TZ", "TMP", "LD_", "PYTHON", "OMP_", "OPENBLAS_", "MKL_", "MALLOC_")
_KEPT_FOR_SERVERS = (
    "AWS_",
    "OSTEORAY_DICOMWEB_",
    "SSL_CERT_",
    "HTTP",
    "http",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
)
_ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}


def environment(*, is_local: bool) -> dict[str, str]:
    """What a child gets of ours: no token, no salt; the keys of servers only where it reads from one.

    The places that we import from are in it, so that the child runs the same code.
    """
    kept = _KEPT if is_local else _KEPT + _KEPT_FOR_SERVERS
    here = str(Path(__file__).resolve().parents[2])
    places = os.pathsep.join(dict.fromkeys([here, *(place for place in sys.path if place)]))
    own = {name: value for name, value in os.environ.items() if name.startswith(kept)}
    return {**own, **_ONE_THREAD, "PYTHONPATH": places}


def depend_on(parent: int) -> None:
    """Die with the parent, and take signals as a fresh process does."""
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        sys.exit()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def bound(memory_bytes: int) -> None:
    """Let private memory grow by ``memory_bytes`` from here on; leave no core: it would hold patient data."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
    most = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # should the machine run out of memory, then this process is the one to end
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")


def confine(*, is_local: bool, writable: Sequence[Path] = ()) -> None:
    """Give up all rights but those to read files, to write below ``writable``, and to speak to servers.

    The last one is given up, too, where the source ``is_local``. There is no way back.
    """
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
        _landlock(libc, is_local=is_local, writable=writable)
        if is_local:
            _seccomp(libc)


def _landlock(libc: ctypes.CDLL, *, is_local: bool, writable: Sequence[Path]) -> None:
    version = libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), _VERSION_FLAG)
    if version < 1:
        return
    writes = sum(rights for since, rights in _WRITES.items() if since <= version)
    rules = struct.pack("<Q", writes)
    if version >= _TCP_SINCE:
        rules += struct.pack("<Q", _TCP if is_local else 0)
    if version >= _SCOPES_SINCE:
        rules += struct.pack("<Q", _SCOPES)
    handle = libc.syscall(_LANDLOCK_CREATE, rules, ctypes.c_size_t(len(rules)), 0)
    if handle < 0:
        return
    for folder in writable:
        folder.mkdir(parents=True, exist_ok=True)
        below = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        libc.syscall(_LANDLOCK_ADD, handle, _PATH_BENEATH, struct.pack("<Qi", writes, below), 0)
        os.close(below)
    libc.syscall(_LANDLOCK_RESTRICT, handle, 0)
    os.close(handle)


def _seccomp(libc: ctypes.CDLL) -> None:
    machine = platform.machine()
    if machine not in _SECCOMP:
        return
    refused = _REFUSED[machine]
    load_arch, load_number = (0x20, 0, 0, 4), (0x20, 0, 0, 0)
    steps = [
        load_arch,
        (0x15, 1, 0, _ARCH[machine]),  # another architecture's calls: all refused
        (0x06, 0, 0, _ERRNO_EPERM),
        load_number,
        (0x35, len(refused) + 1, 0, _X32),
        *((0x15, len(refused) - place, 0, number) for place, number in enumerate(refused)),
        (0x06, 0, 0, _ALLOW),
        (0x06, 0, 0, _ERRNO_EPERM),
    ]
    program = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *step) for step in steps))
    filters = struct.pack("@HP", len(steps), ctypes.addressof(program))
    set_filter, all_threads = 1, 1
    libc.syscall(_SECCOMP[machine], set_filter, all_threads, filters)
