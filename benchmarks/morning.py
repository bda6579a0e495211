"""What the verbs that come after a night cost: an archive of so many rows is verified, reported, written out.

    python -m benchmarks.morning SCORES --rows 1000000 --out OUT

SCORES is a finished folder of `osteoray score`. Its rows are repeated under names of their own until there
are ``--rows`` of them, in shards of 256 with whole books, so that tables are as wide and full as real ones.
Prints seconds and peak memory (the process and all that it started) of each verb as JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.process_tree import peak_mib
from engine.store import ledger
from engine.store.files import MANIFEST_NAME, read_json
from jobs.running import running

SHARD_ROWS = 256
_NAMES = ("path", "sop_instance_uid", "study_instance_uid", "series_instance_uid", "patient_key")
_OF_A_RUN = ("complete", "counts", "plan_sha256", "finished", ledger.AUDIT_HEAD)


def repeated(scores: Path, target: Path, rows: int) -> None:
    """A folder of ``rows`` instances at ``target``, each one of ``scores`` under another name."""
    plan = ledger.read_plan(scores)
    names = {path.stem for path in scores.glob("shards/*/*.parquet")}
    tables = {name: _whole(scores, name) for name in sorted(names)}
    place = pa.array(range(rows), pa.int64())
    of_source = pa.array([row % plan.num_rows for row in range(rows)], pa.int64())
    grown = _under(plan.take(of_source), place, plan.num_rows)
    facts = {name: fact for name, fact in read_json(scores / MANIFEST_NAME).items() if name not in _OF_A_RUN}
    facts["config"] = {**facts["config"], "shard_size": SHARD_ROWS}
    with running(target) as run:
        ledger.begin(target, facts, run.staging)
        grown = ledger.write_plan(target, grown, run.staging)
        run.begin("score", grown, ledger.missing_shards(target, grown))
        for first in range(0, rows, SHARD_ROWS):
            wanted = range(first, min(first + SHARD_ROWS, rows))
            parts = {name: _rows_of(table, wanted, plan.num_rows) for name, table in tables.items()}
            counts = ledger.commit_shard(target, first // SHARD_ROWS, parts, run.staging)
            run.on_shard(first // SHARD_ROWS, counts)
        ledger.close(target, grown, {}, run.staging, run.log)


def _whole(scores: Path, name: str) -> pa.Table:
    return pa.concat_tables(ledger.read_table(path) for path in ledger.tables_of(scores, name))


def _rows_of(table: pa.Table, wanted: range, period: int) -> pa.Table:
    """The rows that stand for the planned instances ``wanted``."""
    sources = pa.array([row % period for row in wanted], pa.int64())
    found = pc.index_in(sources, table["instance_index"].combine_chunks())
    is_here = pc.is_valid(found)
    place = pa.array(wanted, pa.int64()).filter(is_here)
    return _under(table.take(found.filter(is_here)), place, period)


def _under(table: pa.Table, place: pa.Array, period: int) -> pa.Table:
    """``table`` with the indices ``place``, and names that say which repetition each row is of."""
    turn = pc.cast(pc.divide(place, period), pa.string())
    columns = {"instance_index": place}
    if "shard" in table.column_names:
        columns["shard"] = pc.cast(pc.divide(place, SHARD_ROWS), pa.int32())
    for name in set(_NAMES) & set(table.column_names):
        columns[name] = pc.binary_join_element_wise(table[name], turn, ".")
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), values)
    return table


def measured(words: list[str]) -> dict[str, Any]:
    """Seconds and MiB of one verb; one that fails ends this script."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "jobs", *words], stdout=subprocess.DEVNULL)
    tree_mib, _ = peak_mib(process, every_s=0.1)
    if process.returncode:
        sys.exit(f"{' '.join(words)} ended with {process.returncode}")
    return {"seconds": round(time.perf_counter() - started, 1), "peak_mib": tree_mib}


def main() -> None:
    """Repeat, run each verb, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scores", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    folder = options.out / "scores"
    if not folder.exists():
        repeated(options.scores, folder, options.rows)
    verbs = {
        "verify": ["verify", str(folder)],
        "report": ["report", str(folder), "--no-images"],
        "compare": ["compare", str(folder), str(folder), "--out", str(options.out / "compared")],
        "csv": ["deliver", str(folder), "--to", str(options.out / "scores.csv")],
        "xlsx": ["deliver", str(folder), "--to", str(options.out / "scores.xlsx")],
    }
    print(json.dumps({"rows": options.rows, **{name: measured(words) for name, words in verbs.items()}}))


if __name__ == "__main__":
    main()
