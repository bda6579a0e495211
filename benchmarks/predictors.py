"""Images per second of an eager teacher and a compiled student, in turns on the same cores; last line JSON.

    python -m benchmarks.predictors --teacher RUN --bundle BUNDLE --data INGEST [--threads 2] [--rounds 5]

The teacher runs plain float32 torch in batches of 32, the student as `score` and `serve` run it. Rounds
alternate so that a drift of the machine's speed meets both; the ratio is the median over rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch

from engine.deploy.bundle import open_bundle
from engine.deploy.engines import PREDICTORS, open_predictor
from engine.deploy.export import images_per_second as compiled_speed
from engine.deploy.parity import parity_samples
from engine.models.network import Network
from engine.training.evaluate import images_per_second as eager_speed
from engine.training.run_folder import load_net


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    bundle, teacher = open_bundle(options.bundle), load_net(options.teacher, Network)
    samples = parity_samples(options.data, 256, bundle.covariates)
    torch.set_num_threads(options.threads)
    engines = [name for name, backend in PREDICTORS.items() if backend.available()]
    predictors = {name: open_predictor(options.bundle, name, threads=options.threads) for name in engines}
    eager: list[float] = []
    compiled: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(options.rounds):
        eager.append(eager_speed(teacher, bundle.rule.view.size_HW, seconds=2))
        for name, predictor in predictors.items():
            compiled[name].append(compiled_speed(predictor, samples, seconds=2))
    result = {
        "teacher": teacher.facts.backbone,
        "student": bundle.facts["model"]["backbone"],
        "view": bundle.rule.view.size_HW,
        "threads": options.threads,
        "teacher_eager_images_per_second": round(statistics.median(eager), 1),
        "student_images_per_second": {k: round(statistics.median(v), 1) for k, v in compiled.items()},
        "ratio_to_eager_teacher": {
            name: round(statistics.median(c / e for c, e in zip(speeds, eager, strict=True)), 2)
            for name, speeds in compiled.items()
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
