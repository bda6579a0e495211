"""What tests share: one small Ray, and one small story told with the real command, for the whole session.

All tests that use Ray are marked ``ray``: ``make test`` runs them in one process, which starts one Ray and
tells the story once, and the others in another beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import cluster_session
from tests.fixtures.story import Story, tell


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what asks for the session's Ray as what uses it."""
    for item in items:
        if "ray_session" in getattr(item, "fixturenames", ()):
            item.add_marker("ray")


@pytest.fixture(autouse=True)
def no_second_ray(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that is not marked and starts Ray fails: a second one would run beside that of the session."""
    if request.node.get_closest_marker("ray"):
        return
    knock = cluster_session._require_answer

    def refuse(address: str) -> None:
        if not address:
            pytest.fail("this test starts Ray: mark it `ray`, or let it ask for ray_session")
        knock(address)

    monkeypatch.setattr(cluster_session, "_require_answer", refuse)


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

    cluster_session.start_ray(num_cpus=2)
    yield
    ray.shutdown()


@pytest.fixture
def joined(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the cluster of the tests had been joined: commands in processes of their own join it, too."""
    import ray

    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)


@pytest.fixture(scope="session")
def story(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Archive, samples, teacher, student, bundle, scores and report of 96 phantoms."""
    root: Path = tmp_path_factory.mktemp("story")
    return tell(root)
