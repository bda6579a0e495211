"""A dry run: what a source holds, told from headers, and nothing written."""

from __future__ import annotations

from pathlib import Path

from engine.ingest.sample import HEAD_BYTES
from engine.ingest.survey import survey
from engine.tasks.hand_age import HAND_AGE
from tests.fixtures.dicom_fixture import DEFLATED, EXPLICIT, image, picture
from tests.fixtures.source_fixture import instance, write_tree, write_zip
from tests.fixtures.story import osteoray

CT = "1.2.840.10008.5.1.4.1.1.2"


def archive(root: Path) -> Path:
    write_tree(
        root,
        {
            "good": instance(1),
            "large": instance(2, PixelData=bytes(2)) + bytes(HEAD_BYTES),
            "deflated": image(picture((64, 64)), syntax=DEFLATED),
            "ct": instance(3, SOPClassUID=CT),
            "frames": instance(4, NumberOfFrames=2),
            "text": b"no DICOM at all",
            "empty": b"",
        },
    )
    write_zip(root / "x.zip", {"good": instance(5), "../evil": b"x"})
    return root


def test_everything_is_counted_once(tmp_path: Path) -> None:
    told: list[int] = []
    found = survey(
        str(archive(tmp_path / "in")), [HAND_AGE.rule], on_progress=lambda done, total: told.append(done)
    )
    assert found.planned == told[-1] == 9
    assert dict(found.filtered) == {"sop_class": 1, "multi_frame": 1, "companion": 1}
    assert dict(found.quarantined) == {"empty_file": 1, "source_read": 1}
    assert found.fits == 4
    assert found.sop_classes[CT] == 1
    assert found.transfer_syntaxes == {EXPLICIT: 5, DEFLATED: 1}
    assert found.decoded_per_second is not None
    assert found.eta_s is not None


def test_a_dry_run_says_it_and_writes_nothing(tmp_path: Path) -> None:
    before = sorted(archive(tmp_path / "in").rglob("*"))
    ended = osteoray("ingest", tmp_path / "in", "--task", "hand-age", "--dry-run")
    assert ended.code == 0
    assert ended.facts["planned"] == 9
    assert ended.facts["fits"] == 4
    assert ended.facts["eta_s"] >= 0
    assert sorted((tmp_path / "in").rglob("*")) == before
    assert list(tmp_path.iterdir()) == [tmp_path / "in"]


def test_without_out_and_dry_run_there_is_nothing_to_do(tmp_path: Path) -> None:
    ended = osteoray("ingest", archive(tmp_path / "in"), "--task", "hand-age")
    assert ended.code == 2
    assert "--dry-run" in ended.facts["message"]
