"""Orders: followed only when signed, for this device, in time and no step back."""

import os

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from edgert import cbor
from edgert.errors import BadInput
from edgert.link.orders import COMMAND, DESIRED, Refused, read_command, read_desired, seal
from edgert.topics import Address

ADDRESS, NOW = Address("acme", "press-7"), 1_790_000_000_000


def key_pair() -> tuple[bytes, bytes]:
    private = os.urandom(32)
    return private, Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


PRIVATE, PUBLIC = key_pair()
OTHER, OTHER_PUBLIC = key_pair()


def desired(version: int = 3, **fields: object) -> dict[str, object]:
    base = {
        "tenant": "acme",
        "device": "press-7",
        "version": version,
        "expires_ms": NOW + 60_000,
        "state": {"level": "full"},
    }
    return base | fields


def command(**fields: object) -> dict[str, object]:
    base = {"tenant": "acme", "device": "press-7", "id": "c-1", "name": "report", "args": {}, "expires_ms": NOW + 1}
    return base | fields


def test_desired_state_that_is_signed_for_this_device_is_read():
    """Content as it was sent; keys the device does not know beside it do no harm."""
    found = read_desired(seal(desired(), DESIRED, PRIVATE), ADDRESS, [OTHER_PUBLIC, PUBLIC], None, NOW)
    assert (found.version, found.state, found.expires_ms) == (3, {"level": "full"}, NOW + 60_000)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"device": "press-8"}, "press-8"),
        ({"tenant": "evil"}, "evil"),
        ({"expires_ms": NOW}, "expired"),
        ({"expires_ms": NOW - 90_000}, "90 s ago"),
    ],
)
def test_order_for_another_device_or_time_is_refused(fields, reason):
    """Signed by the right key all the same: a captured order of a neighbour, or of last year."""
    with pytest.raises(Refused, match=reason):
        read_desired(seal(desired(**fields), DESIRED, PRIVATE), ADDRESS, [PUBLIC], None, NOW)
    with pytest.raises(Refused, match=reason):
        read_command(seal(command(**fields), COMMAND, PRIVATE), ADDRESS, [PUBLIC], NOW)


def test_order_signed_by_a_stranger_or_for_another_purpose_is_refused():
    """A command's signature is none for a desired state of the same bytes."""
    for payload in (seal(desired(), DESIRED, OTHER), seal(desired(), COMMAND, PRIVATE)):
        with pytest.raises(Refused, match="no known key"):
            read_desired(payload, ADDRESS, [PUBLIC], None, NOW)


def test_desired_state_never_goes_back():
    """Older is refused, the same is the same, the same number with other content is refused, newer is taken."""
    held = read_desired(seal(desired(5), DESIRED, PRIVATE), ADDRESS, [PUBLIC], None, NOW)
    assert read_desired(seal(desired(5), DESIRED, PRIVATE), ADDRESS, [PUBLIC], held, NOW) == held
    assert read_desired(seal(desired(6), DESIRED, PRIVATE), ADDRESS, [PUBLIC], held, NOW).version == 6
    for document, reason in ((desired(4), "older"), (desired(5, state={}), "other content")):
        with pytest.raises(Refused, match=reason):
            read_desired(seal(document, DESIRED, PRIVATE), ADDRESS, [PUBLIC], held, NOW)


def test_order_without_a_clock_does_not_expire():
    """A device that does not know the time cannot tell; the version still holds it from going back."""
    assert read_desired(seal(desired(expires_ms=1), DESIRED, PRIVATE), ADDRESS, [PUBLIC], None, None).version == 3


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_order_with_any_byte_changed_is_refused(data):
    """Or it says what it said: a change that leaves body and signature alone is none."""
    payload = bytearray(seal(command(), COMMAND, PRIVATE))
    place = data.draw(st.integers(0, len(payload) - 1))
    payload[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadInput):
        read_command(bytes(payload), ADDRESS, [PUBLIC], NOW)


@pytest.mark.parametrize(
    "payload", [b"", b"\x80", cbor.dumps([b"", []]), cbor.dumps([b"\xff", [[bytes(8), bytes(64)]]])]
)
def test_order_that_is_none_is_refused(payload):
    """Nothing, no signature, a body that is no CBOR behind a signature by nobody."""
    with pytest.raises(BadInput):
        read_command(payload, ADDRESS, [PUBLIC], NOW)
