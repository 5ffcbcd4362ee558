"""The envelope of desired state and commands as an object: what is signed, and by whom.

Whether a signature holds, and what the device does about it, is left to `link`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edgert import cbor
from edgert.wire_fields import array, sized_bytes

KINDS = ("desired", "cmd")
KEY_ID_BYTES, SIGNATURE_BYTES = 8, 64
MOST_SIGNATURES = 8


@dataclass(frozen=True)
class Order:
    """The bytes of a map, and pairs of a key's id and its signature; `kind` is the last token of the topic."""

    kind: str
    body: bytes
    signatures: Sequence[tuple[bytes, bytes]]


def encode_order(order: Order) -> bytes:
    """Return the payload of `dn/desired` or `dn/cmd`."""
    return cbor.dumps([order.body, [list(pair) for pair in order.signatures]])


def decode_order(payload: bytes, kind: str) -> Order:
    """Return the envelope in a payload, unverified; BadInput for what is none."""
    body, signatures = array(cbor.loads(payload, "an order"), "an order", range(2, 3))
    return Order(kind, sized_bytes(body, "body"), read_signatures(signatures))


def read_signatures(item: object) -> tuple[tuple[bytes, bytes], ...]:
    """Return pairs of key id and signature."""
    pairs = [array(one, "a signature", range(2, 3)) for one in array(item, "signatures", range(1, MOST_SIGNATURES + 1))]
    return tuple(
        (sized_bytes(name, "key id", KEY_ID_BYTES), sized_bytes(mark, "signature", SIGNATURE_BYTES))
        for name, mark in pairs
    )
