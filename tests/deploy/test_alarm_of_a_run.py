"""A whole run over an archive unlike the training images: nothing scored, all said, and it goes on alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.deploy.bundle import open_bundle
from engine.store.files import MANIFEST_NAME, read_json
from tests.fixtures.dicom_fixture import image
from tests.fixtures.story import Story, column, osteoray

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]  # the story is told in the first test


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty films that call themselves hands, and show stripes of all widths and directions."""
    folder = tmp_path_factory.mktemp("foreign")
    rng = np.random.default_rng(0)
    rows_H1, columns_1W = np.mgrid[:128, :1][0], np.mgrid[:1, :128][1]
    for number in range(60):
        along, across = rng.uniform(0.05, 0.6, 2)
        wave_HW = np.sin(along * rows_H1 + across * columns_1W)
        noise_HW = rng.normal(0, 20, (128, 128)).clip(-60, 60)
        stored_HW = ((wave_HW + 1) * 2000 + noise_HW + 60).astype(np.uint16)
        uids = {"SOPInstanceUID": f"1.2.3.4.{number + 1}", "StudyInstanceUID": f"1.2.3.{number + 1}"}
        facts = {"BodyPartExamined": "HAND", "PatientID": f"P{number}", **uids}
        (folder / f"{number}.dcm").write_bytes(image(stored_HW, **facts))
    return folder


def test_an_archive_unlike_the_training_images_gets_no_score(
    story: Story, foreign: Path, tmp_path: Path
) -> None:
    assert open_bundle(story.bundle).checks is not None
    out = tmp_path / "scores"
    words = ["score", foreign, "--model", story.bundle, "--out", out, "--shard-size", 8, "--report"]
    ended = osteoray(*words)
    assert (ended.code, ended.facts["scored"], ended.facts["abstained"]) == (5, 0, 60)
    assert "not like the training images" in ended.facts["warnings"][0]
    page = (out / "report.html").read_text()
    assert page.index("not like the training images") < page.index("Planned")
    assert osteoray("verify", out).code == 0
    again = osteoray(*words)
    assert (again.code, again.facts["scored_this_run"]) == (5, 0)
    assert again.facts["warnings"] == ended.facts["warnings"]
    assert read_json(out / MANIFEST_NAME)["archive"]["tasks"]["hand-age"]["is_foreign"]
    assert not column(out, "predictions", ["path"])


def test_whoever_accepts_it_gets_the_scores_and_the_sentence(
    story: Story, foreign: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    ended = osteoray("score", foreign, "--model", story.bundle, "--out", out, "--accept-foreign")
    assert ended.code == 0
    assert "--accept-foreign" in ended.facts["warnings"][0]
    reasons = {row["reason"] for row in column(out, "abstained", ["reason"])}
    assert "foreign_archive" not in reasons


def test_the_archive_of_the_training_images_raises_no_alarm(story: Story) -> None:
    assert not any("not like the training images" in one for one in story.ended["score"].facts["warnings"])
    assert story.ended["score"].facts["scored"] > 0
    assert any("images only" in one for one in story.ended["export"].facts["warnings"])
