"""A real Ray Serve on a free port: the number of bulk scoring, and a typed problem for a bad body."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pydicom
import pytest
from starlette.testclient import TestClient

from engine.deploy.abstained import AgeAboveRangeError
from engine.deploy.bundle import open_bundle
from engine.errors import CovariateError, UsageError
from engine.ingest.covariates import SEX, Covariate
from engine.serving.app import build_app, columns, notice, request_body, response_model
from engine.serving.on_ray import deploy
from engine.tasks.hand_age import HAND_AGE
from jobs.__main__ import main
from tests.fixtures.breaking_child import broken, isolation
from tests.fixtures.outside import free_port
from tests.fixtures.story import COUNT, Story, column

STATUS = {"over_limit": 413, "unsupported_syntax": 415}

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]  # the story is told in the first test


@pytest.fixture(scope="module")
def server(story: Story) -> Iterator[httpx.Client]:
    from ray import serve

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    deploy([open_bundle(story.bundle)], host="127.0.0.1", port=port, isolation=isolation(deadline_s=10.0))
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        yield client
    serve.shutdown()


def test_same_file_same_row_as_score(server: httpx.Client, story: Story) -> None:
    names = [*columns(HAND_AGE)]
    assert {"predicted_months", "interval_low_months", "age_months", "task", "model_sha256"} <= set(names)
    rows = column(story.scores, "predictions", ["path", *names])
    assert len(rows) == COUNT
    for row in rows[::8]:
        answer = server.post("/v1/hand-age", content=(story.archive / row.pop("path")).read_bytes())
        assert answer.status_code == 200
        assert answer.json() == {**row, "notice": notice(open_bundle(story.bundle).facts)}


def test_multipart_and_raw_agree(server: httpx.Client, story: Story) -> None:
    path = story.archive / column(story.scores, "predictions", ["path"])[0]["path"]
    raw = server.post("/v1/hand-age", content=path.read_bytes())
    for form in ({}, {"covariates": "{}"}):
        multipart = server.post("/v1/hand-age", files={"file": path.read_bytes()}, data=form)
        assert raw.json() == multipart.json()


@pytest.mark.parametrize("text", ["[]", "no JSON", '{"patient_sex": 1}', '{"calcium": 2.3}'])
def test_covariates_that_cannot_be_are_refused(server: httpx.Client, story: Story, text: str) -> None:
    path = story.archive / column(story.scores, "predictions", ["path"])[0]["path"]
    answer = server.post("/v1/hand-age", files={"file": path.read_bytes()}, data={"covariates": text})
    assert (answer.status_code, answer.json()["code"]) == (422, CovariateError.code)


def test_the_api_names_what_goes_in_and_what_comes_out() -> None:
    calcium = Covariate(
        name="calcium", source="table:ca", encode=lambda value: (value or 0.0,), unit="mmol/l", low=1.0
    )
    form = request_body((SEX, calcium))["content"]["multipart/form-data"]["schema"]
    assert form["properties"]["covariates"]["properties"] == {
        "ca": {"type": ["number", "null"], "description": "mmol/l", "minimum": 1.0}
    }
    assert list(request_body((SEX,))["content"]["multipart/form-data"]["schema"]["properties"]) == ["file"]
    shown = response_model(HAND_AGE).model_json_schema()["properties"]
    assert "patient_key" not in shown
    assert shown["predicted_months"]["description"] == "Expected bone age (months)"
    assert shown["interval_low_months"]["anyOf"] == [{"type": "number"}, {"type": "null"}]
    assert shown["image_position_patient"]["anyOf"][0] == {"type": "array", "items": {"type": "number"}}


@pytest.mark.parametrize(
    ("way", "reason"),
    [("segfault", "decoder_crash"), ("balloon", "decoder_memory"), ("hang", "decoder_timeout")],
)
def test_an_upload_that_breaks_the_decoder_leaves_the_server_alive(
    server: httpx.Client, story: Story, way: str, reason: str
) -> None:
    sound = (story.archive / column(story.scores, "predictions", ["path"])[0]["path"]).read_bytes()
    answer = server.post("/v1/hand-age", content=broken(sound, way))
    assert (answer.status_code, answer.json()["reason"]) == (422, reason)
    assert server.post("/v1/hand-age", content=sound).status_code == 200


def test_several_files_in_a_request_are_refused(server: httpx.Client, story: Story) -> None:
    path = story.archive / column(story.scores, "predictions", ["path"])[0]["path"]
    files = [("file", (name, path.read_bytes())) for name in ("a.dcm", "b.dcm")]
    for body in ({"files": files}, {"content": path.read_bytes() * 2}):
        answer = server.post("/v1/hand-age", **body)  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()["reason"]) == (400, "request")
        assert "send each file in a request of its own" in answer.json()["message"]


def test_a_second_server_ends_with_an_error(
    server: httpx.Client, story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    port = server.base_url.port
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--model", str(story.bundle), "--port", str(port)])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line
        == f"error ORY-U01: port {port} is taken by another server: end that one, or choose another --port"
    )
    with pytest.raises(UsageError, match="serves already"):
        deploy([open_bundle(story.bundle)], host="127.0.0.1", port=free_port())


def test_facts_routes(server: httpx.Client) -> None:
    assert server.get("/healthz").json()["tasks"] == ["hand-age"]
    assert server.get("/v1/models").json()[0]["backbone"] == "mobilenetv3_small_100"
    paths = server.get("/openapi.json").json()["paths"]
    assert "multipart/form-data" in paths["/v1/hand-age"]["post"]["requestBody"]["content"]


@pytest.fixture(scope="module")
def local(story: Story) -> TestClient:
    """The same application without Ray, for the table of bad requests."""
    return TestClient(build_app([story.bundle]))


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 422, "empty_file"),
        (b"no DICOM at all", 422, "companion"),
        (bytes(400), 422, "not_dicom"),
        (b"\0" * 128 + b"DICM", 422, "truncated"),
    ],
)
def test_bad_bodies_are_typed(local: TestClient, body: bytes, status: int, reason: str) -> None:
    answer = local.post("/v1/hand-age", content=body)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)


def test_faulty_files_get_the_code_of_the_quarantine_table(local: TestClient, story: Story) -> None:
    for table in ("quarantine", "filtered"):
        for row in column(story.scores, table, ["path", "code", "reason"]):
            answer = local.post("/v1/hand-age", content=(story.archive / row["path"]).read_bytes())
            assert answer.status_code == STATUS.get(row["reason"], 422)
            assert (answer.json()["code"], answer.json()["reason"]) == (row["code"], row["reason"])


def test_a_score_that_bulk_scoring_withholds_is_not_given_either(local: TestClient, story: Story) -> None:
    path = story.archive / column(story.scores, "predictions", ["path"])[0]["path"]
    grown_up, file = pydicom.dcmread(path), io.BytesIO()
    grown_up.PatientAge = "045Y"
    grown_up.save_as(file)
    answer = local.post("/v1/hand-age", content=file.getvalue())
    assert (answer.status_code, answer.json()["code"]) == (422, AgeAboveRangeError.code)
    assert answer.json()["reason"] == AgeAboveRangeError.reason


def test_claimed_size_above_the_cap_is_refused_unread(local: TestClient) -> None:
    answer = local.post("/v1/hand-age", content=b"x", headers={"content-length": str(1 << 40)})
    assert answer.status_code == 413


def test_multipart_without_the_field(local: TestClient) -> None:
    assert local.post("/v1/hand-age", files={"other": b"x"}).status_code == 400


def test_key_guards_every_v1_route(story: Story) -> None:
    client = TestClient(build_app([story.bundle], api_key="k" * 20))
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/hand-age")):
        assert client.request(method, path).status_code == 401
        wrong = client.request(method, path, headers={"authorization": "Bearer wrong"})
        assert wrong.status_code == 401
    right = client.get("/v1/models", headers={"authorization": f"Bearer {'k' * 20}"})
    assert right.status_code == 200
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "some.name"])
def test_open_host_without_a_key_is_refused(host: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="api-key-file"):
        deploy([], host=host, port=1)


def test_two_bundles_for_one_task_are_refused(story: Story) -> None:
    with pytest.raises(UsageError, match="two bundles"):
        build_app([story.bundle, story.bundle])
