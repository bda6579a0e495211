"""Planning: series kept whole, repeated paths, DICOMDIR, and memory that does not grow with the listing."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine import sources
from engine.errors import SourceReadError, UsageError
from engine.sources.listing import Entry, cut_shards, fitting_shard_size, listed, planned
from tests.fixtures.source_fixture import instance, orthanc, post, write_dicomdir


def cut(series: str, shard_size: int) -> list[int]:
    shards: list[int] = cut_shards(pa.chunked_array([list(series)]), shard_size).tolist()
    return shards


def test_a_series_lies_in_one_shard() -> None:
    assert cut("aaabbc", 4) == [0, 0, 0, 1, 1, 1]
    assert cut("aabbbbbc", 3) == [0, 0, 1, 1, 1, 1, 1, 2]
    assert cut("abc", 1) == [0, 1, 2]
    assert cut("", 3) == []


def test_rows_of_no_known_series_are_cut_anywhere() -> None:
    series = pa.chunked_array([["", "", "", "a", "a", ""]])
    assert cut_shards(series, 2).tolist() == [0, 0, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("count", "size"),
    [(1, 64), (5000, 64), (8192, 64), (16_384, 128), (32_768, 256), (1_000_000, 256)],
)
def test_shards_follow_the_archive_where_nobody_says_their_size(count: int, size: int) -> None:
    assert fitting_shard_size(count) == size
    plan = planned(listed(Entry(f"{number:07d}", 1) for number in range(min(count, 20_000))), None)
    rows = np.bincount(plan["shard"].to_numpy())
    assert len(rows) >= min(128, count // 64)
    assert set(rows[:-1].tolist()) <= {fitting_shard_size(plan.num_rows)}


def test_repeated_paths_become_rows_of_their_own() -> None:
    entries = [Entry("b", 1), Entry("a", 2), Entry("b", 3), Entry("b", 4), Entry("c", 5), Entry("c", 6)]
    plan = planned(listed(entries), 10)
    assert plan["path"].to_pylist() == ["a", "b", "b!duplicate2", "b!duplicate3", "c", "c!duplicate2"]
    assert plan["size_bytes"].to_pylist() == [2, 1, 3, 4, 5, 6]


def test_memory_of_a_listing_is_that_of_its_table() -> None:
    def entries(count: int) -> Iterator[Entry]:
        for number in range(count):
            yield Entry(f"study-{number % 977:05d}/series/IM{number:08d}", number)

    def python_peak(count: int) -> int:
        tracemalloc.start()
        planned(listed(entries(count)), 512)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    slope = (python_peak(60_000) - python_peak(20_000)) / 4
    assert slope < 1 << 20  # beside Arrow's own memory, for 10,000 instances


def test_a_dicomdir_keeps_its_series_whole_and_its_reads_inside(tmp_path: Path) -> None:
    content = {f"{series}-{n}": instance(n, series=series) for series in (1, 2) for n in range(1, 4)}
    path = write_dicomdir(tmp_path / "medium", content)
    plan = sources.plan(str(path), 4)
    assert plan["shard"].to_pylist() == [0, 0, 0, 1, 1, 1]
    listed_files = plan["path"].to_pylist()
    (tmp_path / "medium" / listed_files[0]).unlink()
    assert sources.plan(str(path), 4)["size_bytes"][0].as_py() == -1
    with pytest.raises(SourceReadError, match="no such member"):
        sources.read(str(path), listed_files[0])
    data = path.read_bytes()
    first = listed_files[1].split("/")[0].encode()
    (tmp_path / "secret").write_bytes(b"secret")
    path.write_bytes(data.replace(first, b"..".ljust(len(first), b"/")))
    for planned_path in sources.plan(str(path), 4)["path"].to_pylist():
        with pytest.raises(SourceReadError, match="leaves the source"):
            sources.read(str(path), planned_path)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UsageError, match="cannot be used"):
        sources.plan(str(path), 4)


@pytest.mark.slow
def test_a_pacs_gives_the_same_table_as_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.ingest.decode_process import Isolation
    from engine.ingest.shard import ReadSpec, read_shard
    from engine.tasks.hand_age import HAND_AGE

    fresh = Isolation(start_s=100)  # a child of an earlier test would not know the variables that follow

    monkeypatch.setenv("OSTEORAY_DICOMWEB_USER", "reader")
    monkeypatch.setenv("OSTEORAY_DICOMWEB_PASSWORD", "secret-word")
    folder = tmp_path / "archive"
    folder.mkdir()

    def table(source: str) -> list[dict[str, object]]:
        spec = ReadSpec(
            source=source, folder=tmp_path / "out", rules=(HAND_AGE.rule,), salt=b"s" * 32, isolation=fresh
        )
        samples = read_shard(sources.plan(source, 1000).to_pylist(), spec)["samples"]
        rows = samples.drop_columns(["instance_index", "path", "shard", "image"]).to_pylist()
        images = [image.as_py() for image in samples["image"].combine_chunks().storage]
        return sorted(
            ({**row, "image": image} for row, image in zip(rows, images, strict=True)),
            key=lambda row: str(row["sop_instance_uid"]),
        )

    with orthanc(tmp_path / "orthanc") as port:
        for number in range(500):
            data = instance(number % 5, series=number % 2 + 1, study=number // 10 + 1,
                            SOPInstanceUID=f"1.2.9.{number}")  # fmt: skip
            (folder / f"{number}.dcm").write_bytes(data)
            post(port, "/instances", data)
        web = table(f"dicomweb+http://127.0.0.1:{port}/dicom-web")
    sources.release()
    assert len(web) == 500
    assert web == table(str(folder))
