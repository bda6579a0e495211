"""ZIP, TAR and gzip members: every one planned, bombs, links and traversal refused, damage told."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest

from engine import sources
from engine.errors import InstanceError, OverLimitError, SourceReadError, UsageError
from engine.sources.gzipped import GzipStream, Points
from engine.sources.limits import ArchiveLimits
from tests.fixtures.source_fixture import write_tar, write_tree, write_zip

CONTENT = {"a": b"one", "b/c.dcm": b"two" * 1000, "b/é": b"three"}


def outcomes(source: Path) -> dict[str, object]:
    """Bytes, or reason, of every planned row."""
    found: dict[str, object] = {}
    for path in sources.plan(str(source), 10)["path"].to_pylist():
        try:
            found[path] = sources.read(str(source), path)
        except InstanceError as error:
            found[path] = error.reason
    return found


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tgz"])
def test_an_archive_alone_and_in_a_tree(tmp_path: Path, name: str) -> None:
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    write = write_zip if name.endswith("zip") else write_tar
    path = write(tmp_path / "tree" / "sub" / name, CONTENT | {"labels.csv": b"labels"})
    assert outcomes(path) == CONTENT
    (tmp_path / "tree" / "plain").write_bytes(b"4")
    inside = {f"sub/{name}!/{member}": data for member, data in (CONTENT | {"labels.csv": b"labels"}).items()}
    assert outcomes(tmp_path / "tree") == {"plain": b"4", **inside}


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_to_pack_are_said(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as archive:
        archive.writestr("a", b"x" * 100)
    assert outcomes(tmp_path / "x.zip") == {"a": "source_read"}
    with pytest.raises(SourceReadError, match=f"method {method}"):
        sources.read(str(tmp_path / "x.zip"), "a")


def test_zip64_stored_and_appended_archives(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("big", "w", force_zip64=True) as stream:
            stream.write(b"b" * 5000)
        archive.writestr("small", b"s")
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())  # as a self-extracting archive
    assert outcomes(path) == {"big": b"b" * 5000, "small": b"s"}


def test_traversal_links_and_devices_in_a_zip_end_typed(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("../evil", "/etc/evil", "a/../../evil", "..\\evil"):
            archive.writestr(name, b"x")
        link = zipfile.ZipInfo("link")
        link.external_attr = (0o120777 << 16) & 0xFFFFFFFF
        archive.writestr(link, "/etc/passwd")
        archive.writestr("folder/", b"")
        archive.writestr("good", b"good")
    found = outcomes(path)
    assert found.pop("good") == b"good"
    assert len(found) == 5
    assert set(found.values()) == {"source_read"}


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
def test_traversal_links_and_devices_in_a_tar_end_typed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with tarfile.open(path, "w:gz" if name.endswith("gz") else "w") as archive:
        for member in ("../evil", "/etc/evil", "good", "n" * 300):
            info = tarfile.TarInfo(member)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"good"))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo(f"type{kind.decode()}")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    found = outcomes(path)
    assert found.pop("good") == found.pop("n" * 300) == b"good"
    assert len(found) == 6
    assert set(found.values()) == {"source_read"}


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("name", ["x.zip", "x.tar"])
def test_the_first_of_two_members_of_one_name_is_read_and_the_other_ends_typed(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    if name == "x.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a", b"first")
            archive.writestr("a", b"second")
    else:
        with tarfile.open(path, "w") as tar:
            for data in (b"first", b"second"):
                info = tarfile.TarInfo("a")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    assert outcomes(path) == {"a": b"first", "a!duplicate2": "source_read"}


def test_an_encrypted_member_is_said(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a": b"x"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(SourceReadError, match="encrypted"):
        sources.read(str(path), "a")


def test_archives_in_archives_and_damaged_ones_are_one_row(tmp_path: Path) -> None:
    inner = write_zip(tmp_path / "inner.zip", CONTENT).read_bytes()
    tree = write_tree(
        tmp_path / "tree", {"broken.zip": inner[:-30], "empty.tar": b"\0" * 1024, "no.tar": b"text"}
    )
    write_zip(tree / "outer.zip", {"inner.zip": inner, "good": b"good"})
    assert outcomes(tree) == {
        "broken.zip": "source_read",
        "empty.tar": "source_read",
        "no.tar": "source_read",
        "outer.zip!/good": b"good",
        "outer.zip!/inner.zip": "source_read",
    }
    for name in ("broken.zip", "no.tar"):
        with pytest.raises(UsageError, match="cannot be listed"):
            sources.plan(str(tree / name), 2)


def test_an_archive_that_is_damaged_in_its_middle_says_so(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {name: bytes(600) for name in "abcd"})
    data = bytearray(path.read_bytes())
    data[2 * 1536 : 2 * 1536 + 512] = b"\xff" * 512
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "x.tar").write_bytes(data)
    assert outcomes(tmp_path / "tree") == {
        "x.tar": "source_read", "x.tar!/a": bytes(600), "x.tar!/b": bytes(600)
    }  # fmt: skip
    (tmp_path / "x.tar").write_bytes(data)
    assert outcomes(tmp_path / "x.tar") == {"a": bytes(600), "b": bytes(600), "not-all-listed": "source_read"}


def test_a_zip_bomb_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(64 << 20))
        archive.writestr("flat", bytes(8 << 20))
    with pytest.raises(OverLimitError, match="200 to 1"):
        sources.read(str(path), "bomb")
    assert sources.read(str(path), "flat") == bytes(8 << 20)  # an empty picture is none
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02")
    struct.pack_into("<I", data, place + 24, 1000)  # it claims to be small
    path.write_bytes(data)
    with pytest.raises(SourceReadError, match="cannot be read"):
        sources.read(str(path), "bomb")


def test_a_gzip_bomb_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar.gz", {"zeros": bytes(64 << 20)})
    assert outcomes(tmp_path / "x.tar.gz") == {"zeros": "over_limit", "not-all-listed": "source_read"}
    with pytest.raises(SourceReadError, match="200 to 1"):
        sources.read(str(tmp_path / "x.tar.gz"), "not-all-listed")
    tree = write_tree(
        tmp_path / "tree", {"x.gz": gzip.compress(bytes(64 << 20)), "y.gz": gzip.compress(b"y")}
    )
    assert outcomes(tree) == {"x.gz": "over_limit", "y.gz": b"y"}


def test_a_member_with_another_checksum_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a": b"x" * 100})
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 16, zlib.crc32(b"other"))
    path.write_bytes(data)
    assert outcomes(path) == {"a": "source_read"}


def test_a_gzip_stream_is_read_from_any_place() -> None:
    content = os.urandom(300_000) * 40
    halves = gzip.compress(content[: len(content) // 2], 1) + gzip.compress(content[len(content) // 2 :], 1)
    points = Points()
    for place in (0, 9_000_000, 11_999_990, 5_999_999, 4_300_000, 100):
        stream = GzipStream(io.BytesIO(halves + bytes(100)), ArchiveLimits(), points)
        stream.seek(place)
        assert io.BufferedReader(stream).read(20) == content[place : place + 20]
    assert points.kept


def test_a_cut_gzip_stream_is_damage(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar.gz", {"a": os.urandom(100_000)})
    path.write_bytes(path.read_bytes()[:-5000])
    assert outcomes(path) == {"a": "source_read", "not-all-listed": "source_read"}


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    from engine.sources.archives import Archives

    path = write_zip(tmp_path / "x.zip", CONTENT)
    archives = Archives(ArchiveLimits(members=2))
    with pytest.raises(OverLimitError, match="3 members"):
        list(archives.members("x.zip", lambda: path.open("rb")))


def test_a_changed_archive_is_read_anew(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    write_zip(tree / "x.zip", {"a": b"1", "b": b"2"})
    assert sources.read(str(tree), "x.zip!/b") == b"2"
    write_zip(tree / "x.zip", {"b": b"changed", "longer": b"3"})
    assert sources.read(str(tree), "x.zip!/b") == b"changed"
    with pytest.raises(SourceReadError, match="no such member"):
        sources.read(str(tree), "x.zip!/a")
