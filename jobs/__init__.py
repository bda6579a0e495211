"""What users submit, one file a verb: parse, recipe, call the engine, say where the result is."""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
