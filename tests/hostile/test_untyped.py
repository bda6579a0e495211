"""Kind `untyped`: Ray, an actor or a child dies, or its bundle goes; the user gets one ORY line."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest

from engine.deploy.on_ray import ScoreSpec, _Scorer
from engine.errors import BundleError
from engine.ingest.on_ray import is_carried, raise_carried
from engine.store import ledger
from tests.fixtures.story import osteoray
from tests.ingest.test_several_models import Night, tiny_bundle

HURRY_S = 60.0


def once(there: Path, act: object) -> threading.Thread:
    """A thread that acts when a path appears."""

    def wait() -> None:
        ends_s = time.monotonic() + HURRY_S
        while not there.exists() and time.monotonic() < ends_s:
            time.sleep(0.01)
        act()  # type: ignore[operator]

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.ray
def test_a_bundle_that_is_exchanged_under_a_run_ends_it(ray_session: None, tmp_path: Path) -> None:
    night = Night(tmp_path / "one")
    other = Night(tmp_path / "two").knee  # sound, and of another model

    def exchange() -> None:
        night.hand.rename(tmp_path / "gone")
        other.rename(night.hand)

    thread = once(night.out / ledger.PLAN_NAME, exchange)
    ended = night.score("--model", night.hand, "--out", night.out)
    thread.join()
    assert (ended.code, ended.facts["error"]) == (1, "ORY-B01")
    assert "is another bundle now" in ended.facts["message"]
    night.hand.rename(other)
    (tmp_path / "gone").rename(night.hand)
    assert night.score("--model", night.hand, "--out", night.out).code == 0
    assert osteoray("verify", night.out).code == 0


def test_an_actor_refuses_another_bundle_and_its_words_come_through(tmp_path: Path) -> None:
    place = tiny_bundle(tmp_path / "hand", "hand-age", 64, 1)
    actor = _Scorer(ScoreSpec(bundles=(place,), sha256s=("0" * 64,), engines=("torch",)))
    carried = actor(pa.table({"rule": [0]}))
    assert is_carried(carried)
    assert actor(carried) is carried
    beside = pa.concat_tables([pa.table({"rule": [0]}), carried], promote_options="default")
    with pytest.raises(BundleError, match="is another bundle now"):
        raise_carried(beside)
    raise_carried(pa.table({"rule": [0]}))
