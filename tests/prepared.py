"""One instance through header, rule and view, without a source or a process of its own around it."""

from __future__ import annotations

from engine.boxes import Crop
from engine.instance import InputRule, Instance, open_instance, viewed
from engine.manifest import sha256_of_bytes


def prepare(data: bytes, rule: InputRule, salt: bytes, crop: Crop | None = None) -> Instance:
    """What the bytes of one file become; raises what the product raises."""
    opened = open_instance(data, salt)
    rule.require_fit(opened.columns)
    return viewed(opened, rule, sha256_of_bytes(data), crop=crop)
