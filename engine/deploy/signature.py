"""Who made a bundle: an ed25519 signature (RFC 8032) of its seal, and the digests that a site pins.

A seal finds a change; only a signature tells who sealed. BUNDLE/signature.bin holds the 64 bytes. Keys are
PEM files, as ``openssl genpkey -algorithm ed25519`` and ``openssl pkey -pubout`` write them.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from engine.deploy.bundle import SEAL, Bundle
from engine.errors import BundleError, UsageError
from engine.store.files import replacing

SIGNATURE_NAME = "signature.bin"
_SIGNATURE_BYTES = 64
_MOST_KEY_BYTES = 64 << 10
_CONTEXT = b"osteoray bundle "
"""A signature of this key under anything else is none of a bundle."""
_PUBLIC = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)
_DIGEST = re.compile(r"[0-9a-f]{64}")


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """The key that signs.

    Raises:
        UsageError: the file cannot be read, others can read it, or it holds no such key without a password.
    """
    data = _read(path)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UsageError(f"the key {path} can be read by others: chmod 600 it")
    try:
        key = load_pem_private_key(data, password=None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path} holds no private key in PEM without a password") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path} is no ed25519 key: make one with `openssl genpkey -algorithm ed25519`")
    return key


def sign(bundle: Bundle, key: Ed25519PrivateKey) -> None:
    """Write the signature of a bundle's seal beside its files."""
    with replacing(bundle.folder / SIGNATURE_NAME) as temporary:
        temporary.write_bytes(key.sign(_signed(bundle)))


def require_known(bundles: Iterable[Bundle], trusted: Path | None, pins: Sequence[str] = ()) -> None:
    """Return where each bundle is signed by one of the ``trusted`` keys and is one of the ``pins``.

    Without keys no signature is asked for, without pins every model is allowed.

    Raises:
        BundleError: a bundle is not signed by them, or not pinned.
        UsageError: a pin is no digest, or the file of keys holds none.
    """
    for pin in pins:
        if not _DIGEST.fullmatch(pin.lower()):
            raise UsageError(f"--pin takes the 64 digits of model_sha256 that `osteoray export` told: {pin}")
    keys = _public_keys(trusted) if trusted else []
    for bundle in bundles:
        if trusted and not any(_is_signed_by(bundle, key) for key in keys):
            raise BundleError(
                f"{bundle.folder} is not signed by a key of {trusted}: find out who made it first"
            )
        if pins and bundle.sha256 not in {pin.lower() for pin in pins}:
            raise BundleError(
                f"{bundle.folder} is model {bundle.sha256}, which no --pin names: is it the bundle that you "
                "approved?"
            )


def _public_keys(path: Path) -> list[Ed25519PublicKey]:
    keys = []
    for block in _PUBLIC.findall(_read(path)):
        try:
            key = load_pem_public_key(block)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise UsageError(f"{path} holds a key that cannot be read") from error
        if not isinstance(key, Ed25519PublicKey):
            raise UsageError(f"{path} holds a key that is no ed25519 key")
        keys.append(key)
    if not keys:
        raise UsageError(f"{path} holds no public key: write one with `openssl pkey -in KEY -pubout`")
    return keys


def _is_signed_by(bundle: Bundle, key: Ed25519PublicKey) -> bool:
    try:
        with (bundle.folder / SIGNATURE_NAME).open("rb") as stream:
            key.verify(stream.read(_SIGNATURE_BYTES + 1), _signed(bundle))
    except (OSError, InvalidSignature):
        return False
    return True


def _signed(bundle: Bundle) -> bytes:
    return _CONTEXT + str(bundle.facts[SEAL]).encode()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_MOST_KEY_BYTES)
    except OSError as error:
        raise UsageError(f"the key {path} cannot be read ({error.strerror})") from error
