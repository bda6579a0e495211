"""The one place that starts Ray, or joins it."""

from __future__ import annotations

import logging
import os


def start_ray(*, num_cpus: int | None = None, log_to_driver: bool = False) -> None:
    """Join the cluster that RAY_ADDRESS names, else start a local one; nothing where Ray runs already.

    ``num_cpus`` is for a local cluster (default: all cores). ``log_to_driver`` shows what workers print.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray  # after the variable above

    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    # Ray's notices at its start are in its own log folder; a verb's stderr has progress and errors only.
    ray.init(
        address=address or "local",
        num_cpus=None if address else num_cpus,
        include_dashboard=None if address else False,
        log_to_driver=log_to_driver,
        logging_level=logging.ERROR,
    )
