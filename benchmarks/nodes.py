"""`score` on a Ray cluster of one node and of two, each of one core, in turns on one machine; last line JSON.

    python -m benchmarks.nodes ARCHIVE --model BUNDLE [--rounds 3] [--cores 1]

The nodes are raylets of `ray.cluster_utils.Cluster`: processes of one machine that share its disk and memory.
What is shown is what Ray's scheduling and the shipping of blocks between nodes cost, not a network. Speeds
are those that the verb states itself, from the first task to the last commit; ``wall`` has its start, too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from ray.cluster_utils import Cluster

from benchmarks.verb import finish, told

NODES = (1, 2)


def scored_on(nodes: int, options: argparse.Namespace, out: Path) -> tuple[float, float]:
    """Images per second that the verb states, and of the whole process, on a new cluster."""
    node = {"num_cpus": options.cores}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**node)
        cluster.wait_for_nodes()
        words = ["score", str(options.archive), "--model", str(options.model), "--shard-size", "64"]
        wall_s = finish(words, out, {"RAY_ADDRESS": cluster.address})
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]
    report = told(out)
    return report["images_per_second"], report["scored_this_run"] / wall_s


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=1, help="of each node")
    options = parser.parse_args()
    stated: dict[int, list[float]] = defaultdict(list)
    whole: dict[int, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(options.rounds):
            for nodes in NODES:
                speeds = scored_on(nodes, options, Path(scratch) / f"{nodes}-{turn}")
                stated[nodes].append(speeds[0])
                whole[nodes].append(speeds[1])
                print(f"turn {turn + 1}/{options.rounds}, {nodes}: {speeds}", file=sys.stderr, flush=True)
    ratios = [two / one for one, two in zip(stated[1], stated[2], strict=True)]
    result = {
        "cores_per_node": options.cores,
        "images_per_second": {nodes: round(statistics.median(stated[nodes]), 1) for nodes in NODES},
        "wall_images_per_second": {nodes: round(statistics.median(whole[nodes]), 1) for nodes in NODES},
        "two_nodes_over_one": round(statistics.median(ratios), 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
