"""The waits of an outbox, by a clock that jumps."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from engine.delivery import outbox
from engine.delivery.outbox import OutboxItem
from engine.delivery.sink import BUSY, SendResult


def test_an_outbox_whose_clock_was_put_back_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST_WAIT_S", 1.0)
    item = OutboxItem("2.25.1", "sr", "hand-age", 0, 0, "aa")
    true_s = time.time()
    with outbox.opened(tmp_path) as box:
        box.add([item])
        monkeypatch.setattr(time, "time", lambda: true_s + 1e7)  # a clock that was months ahead
        box.settle(item, SendResult(BUSY, "status_503"))
        assert box.due(5, frozenset()) == []
        monkeypatch.setattr(time, "time", lambda: true_s)
        assert (box.wait_s(), box.due(5, frozenset())) == (0.0, [item])
        monkeypatch.setattr(time, "time", lambda: true_s - 1e9)
        assert (box.wait_s(), box.due(5, frozenset())) == (0.0, [item])
