"""Several bundles in one run: every one that accepts an instance scores it as it would alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pydicom
import pytest
import torch

from engine import sources
from engine.datasets.phantom.archive import write_archive
from engine.datasets.phantom.visits import KNEES
from engine.deploy.bundle import BUNDLE_NAME, FORMAT, SEALED, WEIGHTS_NAME, Bundle, open_bundle, sealed
from engine.deploy.score import Scorer, predictions_schema, result_tables
from engine.dicom.write import Facts, uid_from, write_instance
from engine.ingest import reuse
from engine.ingest.routing import ONLY_FIT, OPEN
from engine.ingest.shard import ReadSpec, read_rows
from engine.models.network import Network, save_weights
from engine.store import ledger, schema
from engine.store.files import MANIFEST_NAME, read_json, sha256_of_file, write_json
from engine.tasks import task_named
from engine.tasks.ages.calibration import Calibration
from engine.training.recipe import model_of
from jobs.salt import read_salt
from tests.fixtures.report_fixture import Page
from tests.fixtures.source_fixture import instance
from tests.fixtures.story import Ended, column, osteoray
from tests.fixtures.training_fixture import disc, tiny_recipe

CT = "1.2.840.10008.5.1.4.1.1.2"


def tiny_bundle(folder: Path, task_name: str, size: int, seed: int) -> Path:
    """A bundle of random weights for torch; its map is as coarse as its view is small."""
    torch.manual_seed(seed)
    task = task_named(task_name)
    task = replace(task, rule=replace(task.rule, view=replace(task.rule.view, size_HW=(size, size))))
    model = model_of(tiny_recipe(), task.covariates, 1)
    net = Network(model)
    with torch.no_grad():
        net.classify.weight.normal_(std=0.5)
    folder.mkdir(parents=True)
    for name in SEALED:
        (folder / name).write_bytes(b"-")
    save_weights(net, folder / WEIGHTS_NAME)
    calibration = Calibration(
        instances=9,
        temperature=1.0 + seed,
        by_sd={"0.9": 2.0},
        by_months={"0.9": 9.0},
        slope=0.0,
        intercept=0.0,
    )
    facts = {
        "task": task.facts(), "model": model.facts(), "engine": "torch",
        "outputs": {"months": [], "sd_months": [], "attention": [-(-size // 32)] * 2, "embedding": [64]},
        "format": FORMAT, "calibration": calibration.facts(), "checks": None, "evaluation": {},
        "sha256": {name: sha256_of_file(folder / name) for name in SEALED},
    }  # fmt: skip
    write_json(folder / BUNDLE_NAME, sealed(facts))
    return folder


EXTRA = {
    "patella.dcm": ("PATELLA", {"knee-age": ONLY_FIT}),
    "unsaid.dcm": (None, {"hand-age": OPEN, "knee-age": OPEN}),
    "foot.dcm": ("FOOT", {}),
}
CHILDREN = 4


class Night:
    """A mixed archive, two bundles, and how one run over both ended."""

    ended: Ended
    num_reused: int

    def __init__(self, root: Path) -> None:
        self.archive, self.out = root / "archive", root / "scores"
        write_archive(KNEES, self.archive, count=CHILDREN, size=96, syntax="explicit")
        for name, (part, _) in EXTRA.items():
            uid = uid_from(name)
            facts = Facts(
                sop_instance_uid=uid, study_instance_uid=uid_from("s", uid),
                series_instance_uid=uid_from("r", uid), patient_id=name, body_part_examined=part,
                bits_stored=8,
            )  # fmt: skip
            write_instance(self.archive / name, disc(120, 96), facts)
        (self.archive / "ct.dcm").write_bytes(instance(3, SOPClassUID=CT))
        (self.archive / "noise").write_bytes(bytes(range(256)) * 8)  # no companion that is known
        self.hand = tiny_bundle(root / "hand", "hand-age", 64, 1)
        self.knee = tiny_bundle(root / "knee", "knee-age", 96, 2)

    def score(self, *words: object) -> Ended:
        return osteoray("score", self.archive, "--shard-size", 5, *words)

    def rows(self, folder: Path, task: str) -> list[dict[str, Any]]:
        tables = [ledger.read_table(path) for path in ledger.tables_of(folder, f"predictions-{task}")]
        return [row for table in tables for row in table.drop_columns(["attention_map"]).to_pylist()]

    def alone(self, folder: Path) -> list[dict[str, Any]]:
        """What one bundle makes of the archive when it is the only one, without Ray."""
        bundle = open_bundle(folder)
        scored = self.scored([bundle])[f"predictions-{bundle.task}"]
        return scored.drop_columns(["attention_map"]).to_pylist()

    def scored(self, bundles: list[Bundle], known: Path | None = None) -> dict[str, pa.Table]:
        spec = ReadSpec(
            source=str(self.archive), folder=self.out, rules=tuple(bundle.rule for bundle in bundles),
            tasks=tuple(bundle.task for bundle in bundles), salt=read_salt(), known=known, isolation=None,
        )  # fmt: skip
        rows = read_rows(sources.plan(spec.source, 5).to_pylist(), spec)
        self.num_reused = rows["table"].to_pylist().count("reused")
        scorer = Scorer(
            [bundle.folder for bundle in bundles],
            ["torch"] * len(bundles),
            [bundle.sha256 for bundle in bundles],
            threads=1,
        )
        schemas = {bundle.task: predictions_schema(bundle) for bundle in bundles}
        return result_tables([scorer.score(rows)], schemas)


@pytest.fixture(scope="module")
def night(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Night:
    night = Night(tmp_path_factory.mktemp("night"))
    night.ended = night.score("--model", night.hand, "--model", night.knee, "--out", night.out)
    return night


PLANNED = 2 * CHILDREN + 5
"""The films of the children, three more, a CT slice and a text."""
OF_HAND, OF_KNEE = CHILDREN + 1, CHILDREN + 2


@pytest.mark.ray
def test_each_instance_ends_once_for_every_task_with_its_route(night: Night) -> None:
    ended = night.ended
    assert ended.code == 3
    assert ended.facts["planned"] == PLANNED
    for task, scored in (("hand-age", OF_HAND), ("knee-age", OF_KNEE)):
        counts = ended.facts["tasks"][task]
        assert (counts["scored"], counts["quarantined"]) == (scored, 1)
        assert sum(counts.values()) == PLANNED
        for row in night.rows(night.out, task):
            part = {"HAND": "hand-age", "KNEE": "knee-age"}.get(row["body_part_examined"])
            assert row["task"] == task
            assert row["route"] == (ONLY_FIT if part else EXTRA[row["path"]][1][task])
    assert osteoray("verify", night.out).code == 0
    names = ["path", "task", "reason"]
    found = {(row["path"], row["task"]): row["reason"] for row in column(night.out, "filtered", names)}
    assert found.pop(("foot.dcm", None)) == "body_part"
    assert found.pop(("ct.dcm", None)) == "sop_class"
    assert found.pop(("patella.dcm", "hand-age")) == "body_part"
    assert sorted(task for _, task in found) == ["hand-age"] * CHILDREN + ["knee-age"] * CHILDREN
    assert set(found.values()) == {"body_part"}
    assert [row["task"] for row in column(night.out, "quarantine", ["task"])] == [None]


@pytest.mark.ray
def test_a_row_is_what_its_bundle_gives_alone(night: Night) -> None:
    for task, folder in (("hand-age", night.hand), ("knee-age", night.knee)):
        alone = {row["path"]: row for row in night.alone(folder)}
        rows = night.rows(night.out, task)
        assert rows
        for row in rows:
            assert {**row, "route": ONLY_FIT} == alone[row["path"]]


@pytest.mark.ray
def test_the_manifest_names_both_and_others_are_refused(night: Night) -> None:
    models = read_json(night.out / MANIFEST_NAME)["models"]
    bundles = [open_bundle(folder) for folder in (night.hand, night.knee)]
    assert [model["model_sha256"] for model in models] == [bundle.sha256 for bundle in bundles]
    for words in (("--model", night.hand), ("--model", night.knee, "--model", night.hand)):
        ended = night.score(*words, "--out", night.out)
        assert (ended.code, ended.facts["error"]) == (1, "ORY-T01")


@pytest.mark.ray
def test_rows_of_each_model_are_reused(night: Night, tmp_path: Path) -> None:
    hand, knee = open_bundle(night.hand), open_bundle(night.knee)
    fresh = night.scored([knee, hand])
    assert night.num_reused == 0
    index = tmp_path / "index"
    models = {knee.sha256: knee.task, hand.sha256: hand.task}
    assert reuse.write_index(index, [night.out], models) == OF_HAND + OF_KNEE
    again = night.scored([knee, hand], index)
    assert night.num_reused == OF_HAND + OF_KNEE
    assert {name: again[name].equals(table) for name, table in fresh.items()} == dict.fromkeys(fresh, True)


@pytest.mark.ray
def test_a_withheld_score_is_reused_as_one(night: Night, tmp_path: Path) -> None:
    archive, out, again = (tmp_path / name for name in ("archive", "out", "again"))
    archive.mkdir()
    for name, age in (("adult", "030Y"), ("child", "009Y")):
        uid = uid_from(name)
        facts = Facts(
            sop_instance_uid=uid, study_instance_uid=uid_from("s", uid), patient_id=name, patient_age=age,
            series_instance_uid=uid_from("r", uid), body_part_examined="HAND", bits_stored=8,
        )  # fmt: skip
        write_instance(archive / f"{name}.dcm", disc(120, 96), facts)

    def reasons(folder: Path) -> list[tuple[str, str, str]]:
        names = ["path", "reason", "content_sha256", "model_sha256"]
        found = column(folder, "abstained", names)
        assert {row["model_sha256"] for row in found} == {open_bundle(night.hand).sha256}
        return [(row["path"], row["reason"], row["content_sha256"]) for row in found]

    words = ("score", archive, "--model", night.hand, "--out")
    first = osteoray(*words, out)
    assert [first.facts[name] for name in ("scored", "abstained", "reused")] == [1, 1, 0]
    ((path, reason, sha256),) = reasons(out)
    assert (path, reason) == ("adult.dcm", "age_above_range")
    second = osteoray(*words, again, "--reuse", out)
    assert [second.facts[name] for name in ("scored", "abstained", "reused")] == [1, 1, 2]
    assert reasons(again) == [(path, reason, sha256)]
    (archive / "moved.dcm").write_bytes((archive / "adult.dcm").read_bytes())
    grown = osteoray(*words, again, "--incremental")
    assert [grown.facts[name] for name in ("scored", "abstained", "reused")] == [1, 2, 1]
    assert reasons(again) == [(path, reason, sha256), ("moved.dcm", reason, sha256)]
    assert osteoray("verify", again).code == 0


@pytest.mark.ray
def test_results_of_each_task_are_delivered_as_such(night: Night, tmp_path: Path) -> None:
    ended = osteoray("deliver", night.out, "--to", tmp_path / "results", "--map")
    assert (ended.code, ended.facts["sent"]) == (0, 2 * (OF_HAND + OF_KNEE))
    sites = {"hand-age": "Hand", "knee-age": "Knee"}
    rows = {(row["sop_instance_uid"], row["model_sha256"]): row for task in sites
            for row in night.rows(night.out, task)}  # fmt: skip
    reports = [pydicom.dcmread(path) for path in (tmp_path / "results").rglob("*") if path.is_file()]
    seen = set()
    for report in reports:
        if report.Modality != "SR":
            continue
        (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
        uid = evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        row = rows[uid, report.DeviceSerialNumber]
        text = str(report)
        assert [f"'{name}" in text for name in sites.values()] == [row["task"] == task for task in sites]
        seen.add((uid, report.DeviceSerialNumber))
    assert seen == set(rows)


@pytest.mark.ray
def test_the_report_has_a_part_for_each_task_and_compare_refuses(night: Night, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    labels = night.archive / "labels.csv"
    assert osteoray("report", night.out, "--out", page, "--labels", labels).code == 0
    report = Page(page.read_text())
    assert len(report.ids) == len(set(report.ids))
    assert {"values", "values-2", "cases", "cases-2", "facts", "facts-2"} <= set(report.ids)
    assert "Predictions: Bone age of the knee" in report.text
    assert "different models wrote" not in report.text
    for part, scored in (("Bone age of the hand", OF_HAND), ("Bone age of the knee", OF_KNEE)):
        for counted in ("Tables", "Manifest"):
            row = report.row(f"{counted}: {part}")
            assert (row[1], row[2], row[-2], row[-1]) == (str(PLANNED), str(scored), "1", "0")
    ended = osteoray("compare", night.out, night.out, "--out", tmp_path / "compared")
    assert (ended.code, ended.facts["error"]) == (2, "ORY-U01")


@pytest.mark.ray
def test_a_dry_run_says_which_bundle_takes_how_many_and_why(night: Night) -> None:
    ended = night.score("--model", night.hand, "--model", night.knee, "--dry-run")
    assert ended.code == 0
    hand, knee = ended.facts["models"]
    assert (hand["task"], hand["fits"], hand["routes"]) == (
        "hand-age", OF_HAND, {ONLY_FIT: CHILDREN, OPEN: 1},
    )  # fmt: skip
    assert (knee["task"], knee["routes"]) == ("knee-age", {ONLY_FIT: CHILDREN + 1, OPEN: 1})
    assert knee["body_parts"] == {"KNEE": CHILDREN, "PATELLA": 1, "": 1}
    assert ended.facts["fits"] == 2 * CHILDREN + 2
    assert ended.facts["filtered"] == {"body_part": 1, "sop_class": 1}
    assert ended.facts["eta_s"] is not None
    assert ended.facts["shards"] == 1 + ledger.read_plan(night.out)["shard"][-1].as_py()


@pytest.mark.ray
def test_what_no_header_names_can_be_left_out(night: Night, tmp_path: Path) -> None:
    both, out = ("--model", night.hand, "--model", night.knee), tmp_path / "out"
    dry = night.score(*both, "--route", "named", "--dry-run")
    assert dry.facts["filtered"] == {"body_part": 1, "sop_class": 1, "body_part_open": 1}
    assert dry.facts["models"][0]["routes"] == {ONLY_FIT: CHILDREN}
    ended = night.score(*both, "--route", "named", "--out", out, "--reuse", night.out)
    assert [counts["scored"] for counts in ended.facts["tasks"].values()] == [CHILDREN, CHILDREN + 1]
    assert ended.facts["reused"] == 2 * CHILDREN + 1
    assert osteoray("verify", out).code == 0
    of_all = {row["path"]: row["reason"] for row in column(out, "filtered", ["path", "task", "reason"])
              if row["task"] is None}  # fmt: skip
    assert of_all == {"foot.dcm": "body_part", "ct.dcm": "sop_class", "unsaid.dcm": "body_part_open"}
    mixed = night.score(*both, "--out", out)
    assert (mixed.code, mixed.facts["error"]) == (1, "ORY-T01")


def test_an_unknown_route_is_a_wrong_word(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "hand", "hand-age", 64, 1)
    ended = osteoray("score", tmp_path, "--model", bundle, "--dry-run", "--route", "name")
    assert (ended.code, ended.facts["error"]) == (2, "ORY-U02")
    assert "named" in ended.facts["message"]


@pytest.mark.ray
def test_two_bundles_of_one_task_are_refused(night: Night, tmp_path: Path) -> None:
    ended = night.score("--model", night.hand, "--model", night.hand, "--out", tmp_path / "out")
    assert (ended.code, ended.facts["error"]) == (2, "ORY-U01")
    assert "hand-age" in ended.facts["message"]
    assert not (tmp_path / "out").exists()


@pytest.mark.ray
def test_maps_of_each_bundle_lie_on_its_own_grid(night: Night) -> None:
    for task, grid in (("hand-age", (2, 2)), ("knee-age", (3, 3))):
        for path in ledger.tables_of(night.out, f"predictions-{task}"):
            maps_Nhw = schema.tensor_values(ledger.read_table(path)["attention_map"])
            assert maps_Nhw.shape[1:] == grid
            assert np.ptp(maps_Nhw, axis=(1, 2)).all()
