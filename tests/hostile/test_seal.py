"""Kind `seal`: something is put in the place of what was named; bytes tell it, never its path."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from engine import sources
from engine.deploy.bundle import BUNDLE_NAME, FORMAT, SEAL, SEALED, open_bundle, read_facts, sealed
from engine.deploy.signature import SIGNATURE_NAME, read_private_key, require_known, sign
from engine.errors import (
    BundleError,
    EngineError,
    LedgerError,
    TableError,
    UsageError,
    error_of,
    error_words,
)
from engine.store import ledger, verification
from engine.store.files import MANIFEST_NAME, sha256_of_file, write_json
from engine.tasks.hand_age import HAND_AGE
from engine.tasks.knee_age import KNEE_AGE
from jobs.plan import Listing, waiting
from tests.fixtures.night_fixture import night, tables_of, write

NAMES = [f"f{number}" for number in range(12)]


def archive(root: Path, padding: str = "") -> Path:
    """Twelve files of one size whose bytes depend on ``padding``, which the night's reader overlooks."""
    write(root, **{name: f"{padding:<3}good" for name in NAMES})
    return root


def files(root: Path) -> str:
    return str(root / "in")


def from_there(root: Path) -> Callable[[Path, list[dict[str, Any]]], dict[str, pa.Table]]:
    return lambda _, planned: tables_of(root, planned)


# ---- the source


def test_another_source_is_refused_also_where_all_is_done(tmp_path: Path) -> None:
    first, second = archive(tmp_path / "a"), archive(tmp_path / "b", "\n")
    night(first)
    with pytest.raises(TableError, match=r"begun on the source .*/a/in: .* --moved"):
        night(first, source=files(second))
    verification.verify(first / "out")


def test_moved_takes_the_same_bytes_and_no_others(tmp_path: Path) -> None:
    first, other = archive(tmp_path / "a"), archive(tmp_path / "b", "\n")
    night(first)
    moved = shutil.copytree(first / "in", tmp_path / "c" / "in").parent
    with pytest.raises(TableError, match="8 of 8 files .* other bytes"):
        night(first, source=files(other), is_moved=True)
    assert json.loads((first / "out" / MANIFEST_NAME).read_text())["source"] == files(first)
    assert night(first, source=files(moved), is_moved=True)["planned"] == 12
    verification.verify(first / "out")
    manifest = json.loads((first / "out" / MANIFEST_NAME).read_text())
    assert (manifest["source"], manifest["moves"][0]["from"]) == (files(moved), files(first))
    assert night(first, source=files(moved))["planned"] == 12


def begun_and_killed(root: Path, at: str) -> None:
    """A night that ends before the shard with the file ``at``."""

    def read(_: Path, planned: list[dict[str, Any]]) -> dict[str, pa.Table]:
        if any(row["path"] == at for row in planned):
            raise KeyboardInterrupt
        return tables_of(root, planned)

    with pytest.raises(KeyboardInterrupt):
        night(root, read=read)


@pytest.mark.parametrize("at", ["f3", "f9", ""])
def test_another_medium_at_the_same_path_is_found_by_its_bytes(at: str, tmp_path: Path) -> None:
    root = archive(tmp_path)
    if at:
        begun_and_killed(root, at)
    else:
        night(root)
    archive(root, "\n")
    with pytest.raises(TableError, match="this is another archive"):
        night(root)


def test_another_medium_with_other_names_is_refused(tmp_path: Path) -> None:
    root = archive(tmp_path)
    night(root)
    shutil.rmtree(root / "in")
    write(root, IM0001="good")
    with pytest.raises(TableError, match="no file that .* was begun on"):
        night(root)


def test_on_a_live_archive_the_same_command_goes_on(tmp_path: Path) -> None:
    root = archive(tmp_path)
    begun_and_killed(root, at="f6")
    write(root, new1="good", new2="good", f1="longer than before", f2="  \ngood")
    (root / "in" / "f0").unlink()
    (root / "in" / "f9").unlink()

    def read(_: Path, planned: list[dict[str, Any]]) -> dict[str, pa.Table]:
        (root / "in" / "f9").write_text("source_read")  # what the reader says of a file that is gone
        try:
            return tables_of(root, planned)
        finally:
            (root / "in" / "f9").unlink()

    assert night(root, read=read)["planned"] == 12
    verification.verify(root / "out")
    plan = ledger.read_plan(root / "out")
    listing = Listing(sources.plan(files(root), 3), 3)
    assert waiting(plan, listing) == {"waiting_for_incremental": {"new": 2, "changed": 1, "gone": 2}}
    assert night(root, incremental=True)["planned"] == 16  # f1 and f2 once more, and the new ones
    listing = Listing(sources.plan(files(root), 3), 3)
    assert waiting(ledger.read_plan(root / "out"), listing) == {"waiting_for_incremental": {"gone": 2}}


# ---- the bundle


def bundle_of(folder: Path, **changes: Any) -> Path:
    """A sealed bundle whose facts are changed by ``changes``; its files are text."""
    folder.mkdir()
    for name in SEALED:
        (folder / name).write_bytes(f"the bytes of {name}".encode())
    facts = {
        "format": FORMAT, "task": HAND_AGE.facts(), "engine": "onnxruntime", "checks": None,
        "model": {"covariates": ["sex"], "covariate_columns": [1]},
        "outputs": {"months": [], "attention": [4, 4], "embedding": [8]},
        "calibration": {"instances": 40, "temperature": 1.5}, "evaluation": {"mae_months": 7.5},
        "sha256": {name: sha256_of_file(folder / name) for name in SEALED},
    }  # fmt: skip
    write_json(folder / BUNDLE_NAME, sealed({**facts, **changes}))
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluation": {"mae_months": 1.0}},
        {"calibration": {"instances": 40, "temperature": 2.5}},
        {"task": {**HAND_AGE.facts(), "name": "knee-age"}},
        {"outputs": {"months": [], "attention": [2, 2], "embedding": [8]}},
        {"task": {**KNEE_AGE.facts(), "name": "hand-age"}},
    ],
)
def test_what_a_bundle_claims_is_its_identity(changes: dict[str, Any], tmp_path: Path) -> None:
    before = open_bundle(bundle_of(tmp_path / "a"))
    place = bundle_of(tmp_path / "b", **changes)
    with pytest.raises(BundleError):
        open_bundle(place, before.sha256)


def test_another_bundle_at_the_same_path_is_refused(tmp_path: Path) -> None:
    place = bundle_of(tmp_path / "a")
    digest = open_bundle(place).sha256
    assert open_bundle(place, digest).sha256 == digest
    shutil.rmtree(place)
    (bundle_of(tmp_path / "b", evaluation={"mae_months": 0.1})).rename(place)
    assert read_facts(place)[SEAL]
    with pytest.raises(BundleError, match="is another bundle now"):
        open_bundle(place, digest)


@pytest.mark.parametrize("number", [99, 2, 0, True, 3.0, "3", None, [3], {"a": 3}])
def test_an_unknown_format_is_refused(number: Any, tmp_path: Path) -> None:
    place = bundle_of(tmp_path / "a", format=number)
    with pytest.raises(BundleError, match="this release reads"):
        open_bundle(place)


# ---- who made it


def key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """A private and a public key, as openssl writes them."""
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.touch(0o600)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_a_signature_tells_who_sealed(tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "ours")
    _, theirs = key_pair(tmp_path, "theirs")
    bundle = open_bundle(bundle_of(tmp_path / "a"))
    with pytest.raises(BundleError, match="is not signed by a key of"):
        require_known([bundle], public)
    sign(bundle, read_private_key(private))
    assert open_bundle(bundle.folder).sha256 == bundle.sha256
    require_known([bundle], public)
    both = tmp_path / "both"
    both.write_bytes(theirs.read_bytes() + public.read_bytes())
    require_known([bundle], both)
    with pytest.raises(BundleError, match="is not signed"):
        require_known([bundle], theirs)


@pytest.mark.parametrize(
    "changes", [{"evaluation": {"mae_months": 1.0}}, {"written": "later"}, {"engine": "torch"}]
)
def test_a_bundle_that_was_sealed_again_lost_its_signature(changes: dict[str, Any], tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "ours")
    signed = open_bundle(bundle_of(tmp_path / "a"))
    sign(signed, read_private_key(private))
    changed = bundle_of(tmp_path / "b", **changes)
    shutil.copy(signed.folder / SIGNATURE_NAME, changed)
    with pytest.raises(BundleError, match="is not signed"):
        require_known([open_bundle(changed)], public)


@pytest.mark.parametrize("data", [b"", b"-" * 64, b"-" * 1_000_000])
def test_what_is_no_signature_is_none(data: bytes, tmp_path: Path) -> None:
    _, public = key_pair(tmp_path, "ours")
    bundle = open_bundle(bundle_of(tmp_path / "a"))
    (bundle.folder / SIGNATURE_NAME).write_bytes(data)
    with pytest.raises(BundleError, match="is not signed"):
        require_known([bundle], public)


def test_a_pin_names_the_model(tmp_path: Path) -> None:
    bundle = open_bundle(bundle_of(tmp_path / "a"))
    require_known([bundle], None, [bundle.sha256.upper(), "0" * 64])
    with pytest.raises(BundleError, match="which no --pin names"):
        require_known([bundle], None, ["0" * 64])
    for pin in (bundle.sha256[:12], "x" * 64, f"{bundle.sha256}\n"):
        with pytest.raises(UsageError, match="--pin takes"):
            require_known([bundle], None, [pin])


@pytest.mark.parametrize(
    "data", [b"", b"text", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"]
)
def test_what_is_no_key_is_exit_code_2(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(data)
    bundle = open_bundle(bundle_of(tmp_path / "a"))
    with pytest.raises(UsageError, match=str(path)):
        require_known([bundle], path)
    with pytest.raises(UsageError, match=str(path)):
        read_private_key(path)
    path.chmod(0o644)
    with pytest.raises(UsageError, match="read by others"):
        read_private_key(path)


# ---- the rows


def scored(root: Path, changes: dict[str, str]) -> Path:
    """A finished folder whose rows name a model; ``changes`` are put into its last row."""
    row = {"task": "hand-age", "model_sha256": "m" * 64, "code_version": "1"}

    def read(_: Path, planned: list[dict[str, Any]]) -> dict[str, pa.Table]:
        tables = tables_of(root, planned)
        rows = [{**found, **row} for found in tables.pop("filtered").to_pylist()]
        if any(found["path"] == NAMES[-1] for found in rows):
            rows[-1] |= changes
        return {**tables, "predictions-hand-age": pa.Table.from_pylist(rows)}

    night(archive(root), read=read)
    return root / "out"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_sha256": "n" * 64}, "a model that manifest.json does not name"),
        ({"task": "knee-age"}, "rows of another task"),
        ({"code_version": "2"}, "a release that no start"),
    ],
)
def test_verify_knows_each_rows_model_task_and_code(
    changes: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.fixtures import night_fixture

    def manifest_of(source: str, shard_size: int, of: Any = night_fixture.manifest_of) -> dict[str, Any]:
        facts = of(source, shard_size)
        models = [{"model_sha256": "m" * 64, "task": {"name": "hand-age"}}]
        config = {**facts["config"], "models": [{"model_sha256": "m" * 64, "engine": "torch"}]}
        return {**facts, "config": config, "models": models, "code_version": "1"}

    monkeypatch.setattr(night_fixture, "manifest_of", manifest_of)
    verification.verify(scored(tmp_path / "sound", {}))
    with pytest.raises(LedgerError, match=said):
        verification.verify(scored(tmp_path / "mixed", changes))


def kinds(kind: type[EngineError] = EngineError) -> list[type[EngineError]]:
    return [kind, *(below for one in kind.__subclasses__() for below in kinds(one))]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.code)
def test_an_error_crosses_processes_as_itself(kind: type[EngineError]) -> None:
    error = error_of(kind.code, "what happened")
    assert type(error) is kind
    assert (str(error), error.exit_code) == ("what happened", kind.exit_code)
    assert error_words(error) == (kind.code, "what happened")
