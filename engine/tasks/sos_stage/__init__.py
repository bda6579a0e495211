"""The stage of fusion of the spheno-occipital synchondrosis, from the whole head film.

Entries: ``SOS_STAGE``; how it is learnt is ``learning``, which imports torch.
"""

from __future__ import annotations

from engine.tasks.sos_stage.task import SOS_STAGE as SOS_STAGE
