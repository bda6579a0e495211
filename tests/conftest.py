"""What tests share: one small Ray, and one small story told with the real command, for the whole session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.story import Story, tell


@pytest.fixture(scope="session", autouse=True)
def own_salt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests never read or make the user's salt, and never join a cluster of the environment.

    Their salt is fixed: splits go by the patient key, and of few patients a new salt may hold out none.
    """
    salt = tmp_path_factory.mktemp("salt") / "salt"
    salt.touch(0o600)
    salt.write_bytes(b"osteoray's tests: no site's salt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OSTEORAY_SALT", str(salt))
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


@pytest.fixture(scope="session")
def ray_session(own_salt: None) -> Iterator[None]:
    """A local Ray with 2 CPUs and no dashboard."""
    import ray

    from jobs.cluster_session import start_ray

    start_ray(num_cpus=2)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def story(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Archive, samples, teacher, student, bundle, scores and report of 96 phantoms."""
    root: Path = tmp_path_factory.mktemp("story")
    return tell(root)
