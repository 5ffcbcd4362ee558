"""What the server wants of a device: desired state and commands, signed, for this device, in time, in order.

Reading and refusing only: doing it, and remembering what was done, is left to the agent.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgert import cbor
from edgert.errors import BadInput, MissingExtra
from edgert.topics import Address
from edgert.wire_fields import array, integer, mapping, sized_bytes, text, uint

DESIRED, COMMAND = "edgert/v1/desired", "edgert/v1/cmd"
KEY_BYTES, SIGNATURE_BYTES, KEY_ID_BYTES = 32, 64, 8
MOST_SIGNATURES = 8
_REMEDY = "sign it anew with a key that the device was enrolled with"


class Refused(BadInput):
    """An order that must not be followed."""


@dataclass(frozen=True)
class Desired:
    """The state that the server wants; `digest` tells two of one version apart."""

    version: int
    state: Mapping[str, Any]
    expires_ms: int
    digest: bytes


@dataclass(frozen=True)
class Command:
    """One thing to do once."""

    id: str
    name: str
    args: Mapping[str, Any]
    expires_ms: int


def key_id(public_key: bytes) -> bytes:
    """Return the 8 bytes that name an Ed25519 public key of 32 bytes."""
    return hashlib.sha256(public_key).digest()[:KEY_ID_BYTES]


def read_desired(
    payload: bytes, address: Address, keys: Sequence[bytes], held: Desired | None, now_ms: int | None
) -> Desired:
    """Return the desired state in a payload. Refused where it is forged, not for this device, expired, or a step back.

    `now_ms` is the wall clock, None where nobody knows the time: then nothing is expired. The same version with the
    same bytes is returned again.
    """
    body, document = _opened(payload, DESIRED, address, keys, now_ms)
    found = Desired(
        uint(document.get("version"), "version"),
        mapping(document.get("state"), "state"),
        integer(document.get("expires_ms"), "expires_ms"),
        hashlib.sha256(body).digest(),
    )
    if held is not None and (found.version < held.version):
        raise Refused(
            f"desired state {found.version} is older than {held.version}, which is in force", "send a newer one"
        )
    if held is not None and found.version == held.version and found.digest != held.digest:
        raise Refused(f"desired state {found.version} is there with other content", "give every change a new version")
    return found


def read_command(payload: bytes, address: Address, keys: Sequence[bytes], now_ms: int | None) -> Command:
    """Return the command in a payload; Refused as for `read_desired`."""
    _, document = _opened(payload, COMMAND, address, keys, now_ms)
    return Command(
        text(document.get("id"), "id"),
        text(document.get("name"), "name"),
        mapping(document.get("args", {}), "args"),
        integer(document.get("expires_ms"), "expires_ms"),
    )


def seal(document: Mapping[str, Any], purpose: str, private_key: bytes) -> bytes:
    """Return a document signed by an Ed25519 private key of 32 bytes: what a server sends, and what tests forge."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(private_key)
    body = cbor.dumps(dict(document))
    public = key.public_key().public_bytes_raw()
    return cbor.dumps([body, [[key_id(public), key.sign(_signed(purpose, body))]]])


def _opened(
    payload: bytes, purpose: str, address: Address, keys: Sequence[bytes], now_ms: int | None
) -> tuple[bytes, dict[str, Any]]:
    """Check signature, addressee and time, in this order, and return the signed bytes with what they say."""
    sealed, signatures = array(cbor.loads(payload, "an order"), "an order", range(2, 3))
    body = sized_bytes(sealed, "body")
    if not _is_signed(body, purpose, array(signatures, "signatures", range(1, MOST_SIGNATURES + 1)), keys):
        raise Refused("an order that no known key has signed", _REMEDY)
    document = mapping(cbor.loads(body, "an order's body"), "an order's body")
    addressee = (document.get("tenant"), document.get("device"))
    if addressee != (address.tenant, address.device):
        raise Refused(f"an order for {addressee[0]}/{addressee[1]}, this is {address.tenant}/{address.device}", _REMEDY)
    expires_ms = integer(document.get("expires_ms"), "expires_ms")
    if now_ms is not None and now_ms >= expires_ms:
        raise Refused(
            f"an order that expired {(now_ms - expires_ms) / 1000:.0f} s ago", "send it again, or set the clock"
        )
    return body, document


def _is_signed(body: bytes, purpose: str, signatures: Sequence[object], keys: Sequence[bytes]) -> bool:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as exc:
        raise MissingExtra(
            "orders are signed, and cryptography is not installed", "pip install 'edgert[mqtt]'"
        ) from exc
    known = {key_id(key): key for key in keys}
    for entry in signatures:
        name, signature = array(entry, "a signature", range(2, 3))
        key = known.get(sized_bytes(name, "key id", KEY_ID_BYTES))
        if key is None:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(
                sized_bytes(signature, "signature", SIGNATURE_BYTES), _signed(purpose, body)
            )
        except InvalidSignature:
            continue
        return True
    return False


def _signed(purpose: str, body: bytes) -> bytes:
    return purpose.encode() + b"\0" + body
