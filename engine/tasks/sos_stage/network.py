"""The student's network: a dense head at stride 8, pooled by its mean and by attention.

The region is half a per cent of a head film: it drowns in a mean over the film, and is less than a cell at
stride 32. So the trunk is cut after stride 16, joined with stride 8 from the top down, and a learnt attention
is pooled beside the mean. The class maps hold the weight that either pooling gives a place: their spatial
mean and the bias are the logits, so that Grad-CAM at them is the closed form of ``models.grad_cam``.

Legend: B batch, V views, Q covariate columns, C channels, K stages, h, w grid at stride 8.
"""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from engine.models.network import ModelFacts, Network, Outputs
from engine.tasks.sos_stage.answer import STAGES

_WIDTH = 96


def stage_network(facts: ModelFacts) -> Network:
    """The student's network where a trunk is cut; where all of it is kept a plain one, the teacher's."""
    staged = replace(facts, num_bins=STAGES)
    return StageNetwork(staged) if facts.stages else Network(staged)


class StageNetwork(Network):
    """See the module."""

    def __init__(self, facts: ModelFacts) -> None:
        """Build with random weights; both poolings begin alike. The task has no covariates."""
        super().__init__(facts)
        shallow, deep = self.channels
        self.lateral = nn.Conv2d(shallow, _WIDTH, 1)
        self.top = nn.Conv2d(deep, _WIDTH, 1)
        self.mix = nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1)
        self.norm = nn.BatchNorm2d(_WIDTH)
        self.classify = nn.Conv2d(_WIDTH, facts.num_bins, 1)
        self.look = nn.Conv2d(_WIDTH, 1, 1)
        nn.init.zeros_(self.look.weight)

    def forward(self, x_BVHW: Tensor, covariates_BQ: Tensor) -> Outputs:
        """Images in [0, 1] to Outputs; the covariates of this task are none."""
        shallow, deep = self.trunk((x_BVHW - self.facts.mean) / self.facts.sd)
        up = F.interpolate(self.top(deep), size=shallow.shape[2:], mode="nearest")
        fused_BChw = F.relu(self.norm(self.mix(F.relu(self.lateral(shallow) + up))))
        dense_BKhw, bias_K = self._dense(fused_BChw)
        places_B1P = self.look(fused_BChw).float().flatten(2)
        share_B1hw = (places_B1P.softmax(2) * places_B1P.shape[2]).reshape(-1, 1, *dense_BKhw.shape[2:])
        maps_BKhw = dense_BKhw.float() * (1 + share_B1hw) / 2
        return Outputs(maps_BKhw.mean((2, 3)) + bias_K, maps_BKhw, (shallow, deep), local_BKhw=dense_BKhw)
