"""Every kind of source: the same plan twice, the same bytes, and typed refusals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine import sources
from engine.errors import EngineError, OverLimitError, SourceReadError, StorageError, UsageError
from engine.sources import SOURCES
from engine.store import schema
from tests.fixtures.source_fixture import (
    files,
    free_port,
    orthanc,
    post,
    s3_bucket,
    write_dicomdir,
    write_tar,
    write_tree,
    write_zip,
)


@contextmanager
def made(kind: str, folder: Path, patch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """A source of the kind with the three instances, and one of the kind that is not there."""
    if kind == "folder":
        yield str(write_tree(folder / "tree", files())), str(folder / "absent")
    elif kind == "archive":
        yield str(write_zip(folder / "x.zip", files())), str(folder / "absent.zip")
    elif kind == "dicomdir":
        yield str(write_dicomdir(folder / "medium", files())), str(folder / "absent" / "DICOMDIR")
    elif kind == "s3":
        with s3_bucket(files(), patch) as source:
            yield source, "s3://no-such-bucket/archive"
    else:
        patch.setenv("OSTEORAY_DICOMWEB_USER", "reader")
        patch.setenv("OSTEORAY_DICOMWEB_PASSWORD", "secret-word")
        with orthanc(folder / "orthanc") as port:
            for data in files().values():
                post(port, "/instances", data)
            yield (
                f"dicomweb+http://127.0.0.1:{port}/dicom-web",
                f"dicomweb+http://127.0.0.1:{port}/elsewhere",
            )


@pytest.fixture(scope="module", params=[kind.name for kind in SOURCES])
def source(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch, made(request.param, folder, patch) as both:
        yield both
        sources.release()


def test_a_plan_names_every_instance_once_and_again_the_same(source: tuple[str, str]) -> None:
    told: list[int] = []
    plan = sources.plan(source[0], 2, told.append)
    assert plan.schema.equals(schema.PLAN)
    assert plan["instance_index"].to_pylist() == [0, 1, 2]
    assert plan["path"].to_pylist() == sorted(set(plan["path"].to_pylist()))
    assert told[-1] == 3
    assert sources.plan(source[0], 2).equals(plan)


def test_read_gives_the_bytes_of_each(source: tuple[str, str]) -> None:
    plan = sources.plan(source[0], 2)
    found = [sources.read(source[0], path) for path in plan["path"].to_pylist()]
    wanted = list(files().values())
    if source[0].endswith("DICOMDIR"):  # the writer of the medium writes its own file meta group
        found, wanted = ([data[data.index(b"DX") :] for data in side] for side in (found, wanted))
    assert sorted(found) == sorted(wanted)
    sizes = [size for size in plan["size_bytes"].to_pylist() if size >= 0]
    assert not sizes or sizes == [len(sources.read(source[0], path)) for path in plan["path"].to_pylist()]


def test_head_is_the_begin_of_the_bytes(source: tuple[str, str]) -> None:
    path = sources.plan(source[0], 2)["path"][0].as_py()
    whole = sources.read(source[0], path)
    assert sources.head(source[0], path, 200) == whole[:200]
    assert sources.head(source[0], path, 1 << 20) == whole


@pytest.mark.parametrize(
    "path", ["../x", "/etc/hostname", "b/../../x", "absent", "", "..\\x", "a\0b", "studies/1/../../x"]
)
def test_a_path_that_is_none_of_the_source_is_refused(source: tuple[str, str], path: str) -> None:
    with pytest.raises(SourceReadError):
        sources.read(source[0], path)


def test_a_member_above_the_cap_is_refused(source: tuple[str, str]) -> None:
    path = sources.plan(source[0], 2)["path"][0].as_py()
    size = len(sources.read(source[0], path))
    assert len(sources.read(source[0], path, max_bytes=size)) == size
    with pytest.raises(OverLimitError):
        sources.read(source[0], path, max_bytes=size - 1)


def test_a_source_that_is_not_there_is_an_error_of_the_request(source: tuple[str, str]) -> None:
    with pytest.raises((UsageError, StorageError)) as caught:
        sources.plan(source[1], 2)
    assert isinstance(caught.value, EngineError)


def test_a_manifest_says_where_it_came_from(source: tuple[str, str]) -> None:
    named = sources.identity(source[0])
    assert named == source[0] or Path(named) == Path(source[0]).resolve()
    assert (sources.local_root(source[0]) is None) == ("://" in source[0])


@pytest.mark.parametrize(
    ("source_name", "said"),
    [
        ("ftp://host/x", "begins with s3://"),
        ("s3://", "s3://bucket/prefix"),
        ("s3://key:word@bucket/x", "AWS_ACCESS_KEY_ID"),
        ("dicomweb+http://me:hush@host/x", "OSTEORAY_DICOMWEB_TOKEN"),
        ("dicomweb+http:///x", "dicomweb"),
        ("dicomweb+http://host/x?PatientID=hush", "StudyDate"),
        ("dicomweb+http://host/x?StudyDate=hush", "20240131"),
        ("dicomweb+http://host:x/y", "cannot be read"),
    ],
)
def test_senseless_addresses_are_refused_without_repeating_them(source_name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        sources.plan(source_name, 2)
    assert "hush" not in str(caught.value)
    assert "word@" not in str(caught.value)


def test_a_server_that_does_not_listen_is_a_storage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.sources import dicomweb
    from engine.sources.web import Patience

    server = dicomweb.DicomWeb(
        f"dicomweb+http://127.0.0.1:{free_port()}/x", Patience(attempts=2, first_wait_s=0.01)
    )
    with pytest.raises(StorageError, match="ConnectError"):
        list(server.entries())
    server.close()


def test_a_tar_alone_is_a_source_too(tmp_path: Path) -> None:
    for name in ("x.tar", "x.tar.gz", "x.TGZ".lower()):
        archive = write_tar(tmp_path / name, files())
        plan = sources.plan(str(archive), 2)
        assert plan["path"].to_pylist() == list(files())
        assert [sources.read(str(archive), path) for path in files()] == list(files().values())
