"""What users submit, one file a verb: parse, recipe, call the engine, say where the result is."""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
if not os.environ.get("RAY_ADDRESS"):
    # Ray reads it when it is imported: what it starts here then listens on 127.0.0.1 only.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
