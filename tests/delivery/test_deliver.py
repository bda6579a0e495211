"""Results go out once: to a folder, a real PACS, a real node; killed, refused, unreachable, sent 15 times."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pydicom
import pytest

from engine.delivery import outbox, uids
from engine.delivery.outbox import OutboxItem
from engine.delivery.send import SINKS, Options, deliver
from engine.delivery.sink import BUSY, REFUSED, SENT, UNREACHABLE, SendResult
from engine.errors import LeaseHeldError, SinkError, TableError, UsageError
from engine.store import lease
from jobs.deliver import delivered, delivered_to_all, require_sinks
from tests.fixtures.outside import free_port
from tests.fixtures.results_fixture import NAME, PATIENT, archive, scored_archive, storescp
from tests.fixtures.source_fixture import orthanc, post
from tests.fixtures.story import SHARD_SIZE, Story, osteoray
from tests.fixtures.stow_fixture import answering, failure, stored, uid_of

BOTH = Options(kinds=uids.KINDS)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("OSTEORAY_DICOMWEB_USER", "reader")
    monkeypatch.setenv("OSTEORAY_DICOMWEB_PASSWORD", "secret-word")


def test_a_folder_gets_each_result_once(tmp_path: Path) -> None:
    scores, to = scored_archive(tmp_path, count=3), tmp_path / "results"
    for turn in range(3):
        counts = deliver(scores, str(to), BOTH)
        assert (counts["sent"], counts["pending"], counts["failed"]) == (6, 0, 0)
        assert counts["sent_this_run"] == (0 if turn else 6)
    files = sorted(to.iterdir())
    assert len(files) == 6
    for path in files:
        result = pydicom.dcmread(path)
        assert (result.SOPInstanceUID, str(result.PatientName)) == (path.stem, NAME)
        assert path.stat().st_mode & 0o077 == 0, "others can read who the patient is"


def test_what_a_killed_delivery_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    scores, to = scored_archive(tmp_path, count=1), tmp_path / "results"
    to.mkdir()
    left, under_way, foreign = to / ".1.2.3.dcm.k3zq", to / ".1.2.4.dcm.9fd_", to / ".keep"
    for path in (left, under_way, foreign):
        path.write_bytes(b"half")
    for path in (left, foreign):
        os.utime(path, (0, 0))
    deliver(scores, str(to), Options())
    assert {path.name for path in to.glob(".*")} == {under_way.name, foreign.name}


def test_the_outbox_and_the_scores_hold_no_identity(tmp_path: Path) -> None:
    scores = scored_archive(tmp_path, count=2)
    deliver(scores, str(tmp_path / "results"), BOTH)
    marks = (PATIENT.encode(), "Müller".encode(), b"M\xfcller", b"20100203", b"ACC-1")
    for path in scores.rglob("*"):
        if path.is_file():
            assert not [mark for mark in marks if mark in path.read_bytes()], path


def test_a_real_pacs_sent_to_15_times_holds_each_result_once(tmp_path: Path) -> None:
    scores = scored_archive(tmp_path)
    with orthanc(tmp_path / "orthanc") as port:
        address = f"dicomweb+http://127.0.0.1:{port}/dicom-web"
        for data in archive(5).values():
            post(port, "/instances", data)
        for turn in range(15):
            if turn % 5 == 1:  # an outbox that was lost makes no double either
                for path in (scores / "outbox").rglob("outbox.sqlite3*"):
                    path.unlink()
            assert deliver(scores, address, Options())["sent"] == 5
        studies = [json.loads(get(port, f"/studies/{one}")) for one in json.loads(get(port, "/studies"))]
        assert json.loads(get(port, "/statistics"))["CountInstances"] == 10
        assert {study["PatientMainDicomTags"]["PatientID"] for study in studies} == {PATIENT}
        assert [len(study["Series"]) for study in studies] == [2] * 5  # image and report, side by side
        classes = {
            json.loads(get(port, f"/series/{s}"))["MainDicomTags"]["Modality"]
            for t in studies
            for s in t["Series"]
        }
        assert classes == {"DX", "SR"}


def test_a_real_node_takes_reports_and_captures(tmp_path: Path) -> None:
    scores, kept = scored_archive(tmp_path, count=3), tmp_path / "kept"
    with storescp(kept) as port:
        for _ in range(3):
            counts = deliver(scores, f"dimse://127.0.0.1:{port}/PACS", BOTH)
        assert (counts["sent"], counts["failed"]) == (6, 0)
        names = {pydicom.dcmread(path).SOPInstanceUID for path in kept.iterdir()}
    expected = {
        uids.result_uid(f"1.2.{n}.1.{n}", "ab" * 32, "hand-age", kind)
        for n in range(1, 4)
        for kind in uids.KINDS
    }
    assert names == expected


@pytest.mark.parametrize(
    ("options", "syntax"),
    [
        (("--prefer-uncompr",), "1.2.840.10008.1.2.1"),
        (("--prefer-little",), "1.2.840.10008.1.2.1"),
        (("--implicit",), "1.2.840.10008.1.2"),
    ],
)
def test_a_node_gets_the_transfer_syntax_that_it_takes(
    tmp_path: Path, options: tuple[str, ...], syntax: str
) -> None:
    """One that takes only the default transfer syntax (PS3.5 10.1) gets the same objects in that."""
    scores, kept = scored_archive(tmp_path, count=2), tmp_path / "kept"
    with storescp(kept, *options) as port:
        counts = deliver(scores, f"dimse://127.0.0.1:{port}/PACS", BOTH)
    assert (counts["sent"], counts["failed"]) == (4, 0)
    stored = [pydicom.dcmread(path) for path in kept.iterdir()]
    assert {one.file_meta.TransferSyntaxUID for one in stored} == {syntax}
    assert {one.SOPClassUID.name for one in stored} == {
        "Comprehensive SR Storage", "Secondary Capture Image Storage"
    }  # fmt: skip
    plain = tmp_path / "plain"
    deliver(scores, str(plain), BOTH)
    made = {one.SOPInstanceUID: one for one in (pydicom.dcmread(path) for path in plain.rglob("*.dcm"))}
    assert len(made) == len(stored)
    for one in stored:
        assert values(one) == values(made[one.SOPInstanceUID])


def values(data_set: pydicom.Dataset) -> list[tuple[int, object]]:
    """Tags and values without VR: in implicit VR, pixel data is OW (PS3.5 A.1)."""
    return [(one.tag, one.value) for one in data_set.iterall() if one.VR != "SQ"]


IMPOSSIBLE: dict[str, tuple[str, ...]] = {
    "StudyDate": ("00000000", "20201301", "20210229", "99999999", "00010101", "2020010", "2020.1.1"),
    "PatientBirthDate": ("00000000", "18000101", "20200000"),
    "StudyTime": ("240000", "126100", "1260", "999999", "123", "12:30"),
}


@pytest.mark.parametrize(("keyword", "value"), [(k, v) for k, values in IMPOSSIBLE.items() for v in values])
def test_dates_and_times_that_cannot_be_are_not_copied(tmp_path: Path, keyword: str, value: str) -> None:
    scores, out = scored_archive(tmp_path, count=1, **{keyword: value}), tmp_path / "out"
    assert deliver(scores, str(out), BOTH)["sent"] == 2
    for path in out.rglob("*.dcm"):
        written = [one.value for one in pydicom.dcmread(path).iterall() if one.VR in {"DA", "TM"}]
        assert pydicom.dcmread(path)[keyword].value == ""
        assert value not in written


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyDate", "20200229"),
        ("PatientBirthDate", "19000101"),
        *(("StudyTime", time) for time in ("12", "1230", "235960", "123000.25")),
    ],
)
def test_dates_and_times_that_can_be_are_copied(tmp_path: Path, keyword: str, value: str) -> None:
    scores, out = scored_archive(tmp_path, count=1, **{keyword: value}), tmp_path / "out"
    deliver(scores, str(out), Options())
    (path,) = out.rglob("*.dcm")
    assert pydicom.dcmread(path)[keyword].value == value


def test_a_node_that_is_not_there_leaves_everything_pending(tmp_path: Path) -> None:
    scores = scored_archive(tmp_path)
    with pytest.raises(SinkError, match="could not be reached"):
        deliver(scores, f"dimse://127.0.0.1:{free_port()}/PACS", Options(threads=1))


def test_a_server_that_comes_back_gets_the_rest(tmp_path: Path) -> None:
    scores = scored_archive(tmp_path)
    with answering(lambda n, uid: (503, b"") if n <= 7 else stored(uid)) as (address, bodies):
        counts = deliver(scores, address, Options(threads=2))
    assert (counts["sent"], counts["failed"], counts["failures"]) == (5, 0, {})
    assert len(bodies) == 12


def test_a_server_that_stays_busy_fails_with_a_reason_and_is_asked_again_next_time(tmp_path: Path) -> None:
    scores, is_up = scored_archive(tmp_path), [False]
    with answering(lambda n, uid: stored(uid) if is_up[0] else (503, b"")) as (address, bodies):
        counts = deliver(scores, address, Options(threads=2))
        assert (counts["failed"], counts["failures"]) == (5, {"busy:status_503": 5})
        assert len(bodies) == 5 * outbox.ATTEMPTS
        is_up[0] = True
        assert deliver(scores, address, Options())["sent"] == 5


def test_a_refusal_is_kept_until_it_is_asked_for(tmp_path: Path) -> None:
    scores, reason = scored_archive(tmp_path), "status_409_A900"
    with answering(lambda n, uid: (409, failure(0xA900)) if n <= 5 else stored(uid)) as (address, bodies):
        assert deliver(scores, address, Options())["failures"] == {f"refused:{reason}": 5}
        assert deliver(scores, address, Options())["sent_this_run"] == 0
        assert len(bodies) == 5
        assert deliver(scores, address, Options(retry=(reason,)))["sent"] == 5


@pytest.mark.parametrize("code", [0x0111, 45070])
def test_a_server_that_has_the_uid_already_is_content(tmp_path: Path, code: int) -> None:
    with answering(lambda *_: (409, failure(code))) as (address, _):
        assert deliver(scored_archive(tmp_path), address, Options())["sent"] == 5


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refused_credentials_or_no_service_end_at_once(tmp_path: Path, status: int) -> None:
    scores = scored_archive(tmp_path)
    with answering(lambda *_: (status, b"")) as (address, bodies), pytest.raises(SinkError):
        deliver(scores, address, Options(threads=1))
    assert len(bodies) <= 2


def test_a_source_that_changed_or_vanished_gives_no_result(tmp_path: Path) -> None:
    scores = scored_archive(tmp_path)
    (tmp_path / "archive/1.dcm").write_bytes(archive(1, PatientName="Other")["1.dcm"])
    (tmp_path / "archive/2.dcm").unlink()
    counts = deliver(scores, str(tmp_path / "results"), Options())
    assert (counts["sent"], counts["failures"]) == (
        3,
        {"refused:source_changed": 1, "refused:source_read": 1},
    )


def test_two_instances_under_one_uid_are_a_conflict_not_an_overwrite(tmp_path: Path) -> None:
    with outbox.opened(tmp_path) as box:
        box.add(
            [
                OutboxItem("2.25.1", "sr", "hand-age", 0, 0, "aa"),
                OutboxItem("2.25.1", "sr", "hand-age", 1, 0, "bb"),
            ]
        )
        box.add([OutboxItem("2.25.1", "sr", "hand-age", 2, 0, "aa")])  # the same bytes twice are no conflict
        assert box.counts() == {"pending": 1, "sent": 0, "failed": 0, "uid_conflict": 1}


def test_the_wait_doubles_and_outlives_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST_WAIT_S", 1000.0)
    monkeypatch.setattr(outbox, "LONGEST_WAIT_S", 3000.0)
    item = OutboxItem("2.25.1", "sr", "hand-age", 0, 0, "aa")
    with outbox.opened(tmp_path) as box:
        box.add([item])
        assert box.settle(item, SendResult(BUSY, "status_503")) == outbox.PENDING
    with outbox.opened(tmp_path) as box:
        assert box.due(5, frozenset()) == []
        assert 900 < (box.wait_s() or 0) <= 1000
        assert box.due(5, frozenset(), at=time.time() + 1001) == [item]
        for verdict in (UNREACHABLE, BUSY, BUSY):
            assert box.settle(item, SendResult(verdict, "again")) == outbox.PENDING
        assert (box.wait_s() or 0) > 2900
        assert box.settle(item, SendResult(BUSY, "again")) == outbox.FAILED


@pytest.mark.parametrize("answer", [SendResult(SENT), SendResult(REFUSED, "status_400")])
def test_what_has_ended_is_not_sent_again(tmp_path: Path, answer: SendResult) -> None:
    item = OutboxItem("2.25.1", "sr", "hand-age", 0, 0, "aa")
    with outbox.opened(tmp_path) as box:
        box.add([item])
        box.settle(item, answer)
        box.add([item])
        box.retry(())
        assert box.due(5, frozenset()) == []
        assert box.wait_s() is None


def test_a_kill_in_the_middle_loses_and_doubles_nothing(tmp_path: Path) -> None:
    scores = scored_archive(tmp_path, count=12)
    seen: list[str] = []

    def slow(_: int, uid: str) -> tuple[int, bytes]:
        time.sleep(0.1)
        return stored(uid)

    with answering(slow) as (address, bodies):
        words = [sys.executable, "-m", "jobs", "deliver", str(scores), "--to", address, "--threads", "2"]
        process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ)
        )
        while len(bodies) < 4:
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        counts = deliver(scores, address, Options())
        assert counts["sent"] == 12
        assert 0 < counts["sent_this_run"] < 12
        seen = [uid_of(body) for body in bodies]
    assert len(set(seen)) == 12
    assert len(seen) <= 12 + 4  # at most what was under way was sent a second time, under the same UID


def test_two_deliveries_to_one_sink_do_not_meet(tmp_path: Path) -> None:
    scores, to = scored_archive(tmp_path), tmp_path / "results"
    with lease.hold(outbox.place(scores, str(to.resolve()))), pytest.raises(LeaseHeldError):
        deliver(scores, str(to), Options())


def test_the_verb_ends_with_3_where_some_failed(tmp_path: Path) -> None:
    scores = scored_archive(tmp_path)
    (tmp_path / "archive/1.dcm").unlink()
    ended = osteoray("deliver", scores, "--to", tmp_path / "results", "--map")
    assert (ended.code, ended.facts["sent"], ended.facts["failed"]) == (3, 8, 2)


@pytest.mark.parametrize(
    "to",
    [
        "ftp://host/path", "dimse://host/PACS", "dimse://host:104", "dimse://host:104/A-TITLE-THAT-IS-TOO-LONG",
        "dimse://name:word@host:104/PACS", "dicomweb+http://name:word@host/x", "dicomweb+http://host/x?a=1",
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_a_usage_error_without_its_text(tmp_path: Path, to: str) -> None:
    with pytest.raises(UsageError) as caught:
        deliver(scored_archive(tmp_path), to, Options())
    assert "name:word" not in str(caught.value)


def test_a_folder_of_another_verb_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"kind": "ingest"}')
    with pytest.raises(UsageError, match="score"):
        deliver(tmp_path, str(tmp_path / "x"), Options())


@pytest.mark.parametrize("to", ["x", "fhir:x", "x.csv"])
def test_a_folder_of_an_earlier_release_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    monkeypatch.chdir(tmp_path)
    scores = scored_archive(tmp_path, count=1)
    (table,) = scores.glob("shards/*/predictions-*.parquet")
    table.rename(table.with_name("predictions.parquet"))
    with pytest.raises(TableError, match="earlier release: score into a new folder"):
        delivered(scores, to)


def test_every_kind_of_sink_has_a_name_of_its_own() -> None:
    assert len({kind.name for kind in SINKS}) == len(SINKS)
    for to, name in (("/a/b", "folder"), ("dimse://h:1/A", "dimse"), ("dicomweb+https://h", "stow")):
        assert next(kind.name for kind in SINKS if kind.fits(to)) == name


def get(port: int, path: str) -> bytes:
    import urllib.request

    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    request.add_header("Authorization", "Basic " + base64.b64encode(b"reader:secret-word").decode())
    with urllib.request.urlopen(request, timeout=30) as response:
        return bytes(response.read())


def test_a_sink_that_takes_nothing_keeps_no_other_from_its_share(tmp_path: Path) -> None:
    scores, to = scored_archive(tmp_path, count=2), tmp_path / "results"
    with answering(lambda *_: (401, b"")) as (address, _), pytest.raises(SinkError):
        delivered_to_all(scores, (address, str(to)))
    assert len(list(to.iterdir())) == 2


def test_what_is_no_sink_is_refused_before_anything_is_reached(tmp_path: Path) -> None:
    require_sinks((str(tmp_path / "new"), "out.csv", "dimse://127.0.0.1:9/PACS"))
    assert not (tmp_path / "new").exists()
    for to in ("ftp://host/x", "dimse://host/AET", "dicomweb+https://user:word@host/x"):
        with pytest.raises(UsageError):
            require_sinks((to,))


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_score_reports_and_delivers_when_all_is_scored(story: Story, tmp_path: Path) -> None:
    out, to, table = tmp_path / "scores", tmp_path / "results", tmp_path / "results.csv"
    shutil.copytree(story.scores, out)
    shutil.rmtree(out / "outbox", ignore_errors=True)
    page = out / "report.html"
    page.unlink(missing_ok=True)
    words = ("score", story.archive, "--model", story.bundle, "--out", out, "--shard-size", SHARD_SIZE)
    ended = osteoray(*words, "--report", "--deliver", to, "--deliver", table)
    told = ended.facts["delivered"]
    assert ended.code == 3  # of the quarantined files
    assert told[str(to)]["sent"] == ended.facts["scored"] == len(list(to.iterdir()))
    assert table.is_file()
    assert ended.facts["report"] == str(page)
    assert "For research use only" in page.read_text(encoding="utf-8")
    page.unlink()
    nobody = f"dimse://127.0.0.1:{free_port()}/PACS"
    assert osteoray(*words, "--report", "--deliver", nobody).facts["error"] == "ORY-O01"
    assert page.is_file()  # though the PACS was down
    assert osteoray(*words, "--deliver", to).facts["delivered"][str(to)]["sent_this_run"] == 0
