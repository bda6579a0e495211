"""Under strace: a night runs on a disk that fails one call, each call in its turn.

    strace -e inject=fsync:error=EIO:when=PERIOD+PERIOD python -m tests.failing_disk fsync ROOT

strace makes each PERIOD-th call fail. Calls that do nothing shift it, so that the n-th call of the night is
the one. Then another process, whose disk is sound, does the same again, and its end has to be that of an
undisturbed one. Ends with the number of calls that failed as its last line, or with a traceback.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

from engine import proof
from tests.night_fixture import ends, named, night, write

PERIOD = 45
FILES = {**named(["f0", "f2", "f3"]), "f1": "pixel_decode"}  # two shards


def a_night(root: Path) -> object:
    write(root, **FILES)
    return night(root)


def its_end(root: Path) -> object:
    return proof.verify(root / "out"), ends(root)


def main() -> None:
    call, place = sys.argv[1:]
    root, failing = Path(place), CALLS[call]
    a_night(root / "whole")
    expected, refused = its_end(root / "whole"), 0
    for turn in range(1, PERIOD - 1):
        folder = root / str(turn)
        _shift(failing, root / "dummy", turn)
        if _ended_well(folder):
            break
        refused += 1
        child = os.fork()
        if child == 0:  # strace does not follow it
            os._exit(_ends_as(expected, folder))
        assert os.waitpid(child, 0)[1] == 0, f"{call} {turn} left a folder that cannot be resumed"
    sys.stdout.write(f"{refused}\n")


def _ended_well(folder: Path) -> bool:
    try:
        a_night(folder)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return False
    return True


def _ends_as(expected: object, folder: Path) -> int:
    try:
        a_night(folder)
        found = its_end(folder)
    except BaseException as error:  # noqa: BLE001 - it is a fork: whatever it is, say so and end
        sys.stderr.write(f"{error!r}\n")
        return 1
    return int(found != expected)


def _shift(call: Callable[[Path], None], dummy: Path, turn: int) -> None:
    """Make calls until one fails, then so many that the ``turn``-th behind them is the next to fail."""
    while _is_done(call, dummy):
        pass
    for _ in range(PERIOD - turn):
        call(dummy)


def _is_done(call: Callable[[Path], None], dummy: Path) -> bool:
    try:
        call(dummy)
    except OSError:
        return False
    return True


def _fsync(path: Path) -> None:
    path.touch()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename(path: Path) -> None:
    path.touch()
    path.rename(path)


CALLS: dict[str, Callable[[Path], None]] = {"fsync": _fsync, "rename": _rename}


if __name__ == "__main__":
    main()
