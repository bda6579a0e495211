"""The same instances in every kind of source, made with other people's tools, served on 127.0.0.1."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pydicom
import pytest
from pydicom.fileset import FileSet

from tests.dicom_fixture import image, picture

PLUGINS = Path("/usr/share/orthanc/plugins")
Failure = Callable[[int, dict[str, str], bytes], tuple[int, dict[str, str], bytes]]
"""What becomes of an answer: status, headers, body."""
SERVER = shutil.which("Orthanc", path=os.environ.get("PATH", "") + ":/usr/sbin")


def instance(number: int, *, series: int = 1, study: int = 1, **changes: object) -> bytes:
    """A small DX image; ``number`` is in its UID and in its pixels."""
    stored_HW = np.roll(picture((32, 24)), number, axis=0)
    uids = {
        "SOPInstanceUID": f"1.2.{study}.{series}.{number}",
        "SeriesInstanceUID": f"1.2.{study}.{series}",
        "StudyInstanceUID": f"1.2.{study}",
    }
    facts = {
        "PatientName": "Doe",
        "StudyDate": "20200101",
        "StudyTime": "1200",
        "StudyID": "1",
        "SeriesNumber": series,
    }
    return image(stored_HW, **{**facts, "InstanceNumber": number, **uids, **changes})


def files() -> dict[str, bytes]:
    """Three instances by path."""
    return {"a.dcm": instance(1), "b/c": instance(2), "b/d.dcm": instance(3)}


def write_tree(root: Path, content: dict[str, bytes]) -> Path:
    for name, data in content.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_zip(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, content: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix in {".gz", ".tgz"} else "w") as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_dicomdir(folder: Path, content: dict[str, bytes]) -> Path:
    """A medium as pydicom's own file sets write it."""
    file_set = FileSet()
    for data in content.values():
        file_set.add(pydicom.dcmread(io.BytesIO(data)))
    file_set.write(folder)
    file_set._stage["t"].cleanup()
    return folder / "DICOMDIR"


@contextmanager
def s3_bucket(content: dict[str, bytes], patch: pytest.MonkeyPatch) -> Iterator[str]:
    """A moto server with the files below ``archive``; the usual variables of the environment point to it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    # All servers of a process share one store.
    urllib.request.urlopen(urllib.request.Request(f"{address}/moto-api/reset", method="POST")).close()
    for name, value in (
        ("AWS_ENDPOINT_URL", address), ("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "us-east-1"), ("AWS_EC2_METADATA_DISABLED", "true"),
    ):  # fmt: skip
        patch.setenv(name, value)
    try:
        client = boto3.client("s3", endpoint_url=address, region_name="us-east-1")
        client.create_bucket(Bucket="bucket")
        for name, data in content.items():
            client.put_object(Bucket="bucket", Key=f"archive/{name}", Body=data)
        client.close()
        yield "s3://bucket/archive"
    finally:
        server.stop()


KEPT = frozenset({"Content-Length", "Content-Type", "Last-Modified", "ETag", "Content-Range"})


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """An HTTP server on a free port of 127.0.0.1; gives the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def between(address: str, failing: Callable[[str], Failure | None]) -> Iterator[str]:
    """A server that hands requests on to the one at ``address``; ``failing`` may have its own for a path."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            request = urllib.request.Request(address + self.path, method=self.command)
            for name in set(self.headers) - {"Host"}:
                request.add_header(name, self.headers[name])
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    status, headers, body = response.status, dict(response.headers), response.read()
            except urllib.error.HTTPError as error:
                status, headers, body = error.code, dict(error.headers), error.read()
            failure = failing(urlsplit(self.path).path)
            if failure:
                status, headers, body = failure(status, headers, body)
            self.send_response(status)
            for name in headers.keys() & KEPT:
                self.send_header(name, headers[name])
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(OSError):  # the other side may have lost its patience
                self.wfile.write(body)
            self.close_connection = True

        do_HEAD = do_GET

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    with listening(Handler) as port:
        yield f"http://127.0.0.1:{port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def orthanc(folder: Path) -> Iterator[int]:
    """A real PACS on a free port of 127.0.0.1; gives the port. Skips, or fails in CI, where there is none."""
    if SERVER is None or not (PLUGINS / "libOrthancDicomWeb.so").exists():
        absent = "no Orthanc: apt-get install orthanc orthanc-dicomweb"
        if os.environ.get("CI"):
            pytest.fail(absent)
        pytest.skip(absent)
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    configuration = {
        "Name": "test", "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"),
        "HttpPort": port, "DicomServerEnabled": False, "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True, "RegisteredUsers": {"reader": "secret-word"},
        "Plugins": [str(PLUGINS / "libOrthancDicomWeb.so")],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}, "HttpThreadsCount": 8,
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([SERVER, str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        _wait(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def post(port: int, path: str, data: bytes) -> bytes:
    return _ask(urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=data, method="POST"))


def _ask(request: urllib.request.Request) -> bytes:
    request.add_header("Authorization", "Basic cmVhZGVyOnNlY3JldC13b3Jk")  # reader:secret-word
    with urllib.request.urlopen(request, timeout=30) as response:
        return bytes(response.read())


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert process.poll() is None, "Orthanc ended at its start"
        try:
            _ask(urllib.request.Request(f"http://127.0.0.1:{port}/system"))
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("Orthanc did not start")
