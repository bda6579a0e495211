"""What tests share: one small Ray for the whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local Ray with 2 CPUs and no dashboard, whatever cluster the environment names."""
    import ray

    from jobs.cluster_session import start_ray

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        start_ray(num_cpus=2)
    yield
    ray.shutdown()
