"""What a label table of sos-stage holds."""

from __future__ import annotations

from engine.store.labels import Label

TRUTH = Label(name="sos_stage", kind="class", required=True)
"""0 open to 4 fused."""
REGION = Label(name="sos", kind="box")
"""What the reader cut out for the teacher, in original pixels; only training looks at it."""
