"""Signatures of records, so that neither broker nor transit has to be trusted: docs/wire-format.md, "Signatures"."""

import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgert.disk import read_failed
from edgert.errors import BadInput, MissingExtra
from edgert.topics import Address
from edgert.wire import signed_part

_PURPOSE = b"edgert/v1/record\0"


@dataclass(frozen=True)
class Signer:
    """Signs the records of one device; `public_key` (32 bytes) goes into its birth."""

    public_key: bytes
    sign: Callable[[str, bytes], bytes]


def open_signer(path: Path, address: Address) -> Signer:
    """Return the signer with the Ed25519 private key in a PEM file that nobody else can read."""
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as exc:
        raise MissingExtra("cryptography, which signs records, is not installed", "pip install 'edgert[mqtt]'") from exc
    try:
        mode, text = path.stat().st_mode, path.read_bytes()
    except OSError as exc:
        raise read_failed(exc, path) from exc
    if mode & (stat.S_IRWXG | stat.S_IRWXO) and stat.S_IMODE(mode) != 0o666:  # 0666 is what Windows says of any file
        raise BadInput(f"{path} can be read by others than its owner", f"chmod 600 {path}")
    try:
        key = load_pem_private_key(text, None)
    except (ValueError, TypeError) as exc:
        raise BadInput(f"{path} is not a private key: {exc}", "openssl genpkey -algorithm ed25519 makes one") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput(f"{path} has a key of another kind", "openssl genpkey -algorithm ed25519 makes one")
    return Signer(key.public_key().public_bytes_raw(), lambda kind, part: key.sign(_signed(address.up(kind), part)))


def is_signed(payload: bytes, topic: str, keys: Sequence[bytes]) -> bool:
    """Say whether one of `keys` (32 bytes each) signed the record in a payload for the topic that it came on."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    found = signed_part(payload)
    if found is None:
        return False
    part, signature = found
    for key in keys:
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signature, _signed(topic, part))
        except InvalidSignature:
            continue
        return True
    return False


def _signed(topic: str, part: bytes) -> bytes:
    return _PURPOSE + topic.encode() + b"\0" + part
