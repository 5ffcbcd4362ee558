"""Signatures of records: what a device wrote, for the topic it wrote it for, and nothing else."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from edgert.errors import BadInput, EnvironmentFailed
from edgert.link.outbox import Outbox
from edgert.link.signing import is_signed, open_signer
from edgert.record import Event, Events, Stamp
from edgert.topics import Address
from edgert.wire import decode, encode
from tests.telemetry import RECORDS

HOME = Address("acme", "press-7")
PEM = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("keys") / "key.pem"
    path.write_bytes(Ed25519PrivateKey.generate().private_bytes(*PEM))
    path.chmod(0o600)
    return open_signer(path, HOME)


def test_signed_record_is_the_same_record_and_verifies_for_its_topic_alone(signer):
    """Another topic, another key, no key: not signed."""

    @given(RECORDS)
    @settings(max_examples=100, deadline=None)
    def check(record):
        payload = encode(record, signer.sign)
        assert decode(payload, record.kind) == record
        assert is_signed(payload, HOME.up(record.kind), [bytes(32), signer.public_key][1:])
        assert not is_signed(payload, Address("acme", "press-8").up(record.kind), [signer.public_key])
        assert not is_signed(payload, HOME.up(record.kind), [])
        other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
        assert not is_signed(payload, HOME.up(record.kind), [other])
        assert not is_signed(encode(record), HOME.up(record.kind), [signer.public_key])

    check()


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
@settings(max_examples=300, deadline=None)
def test_any_bit_that_was_changed_on_the_way_is_found(signer, place, bit):
    """Wherever it is: in the numbers, the body or the signature."""
    (payload,) = _stored(signer)
    forged = bytearray(payload)
    forged[place % len(forged)] ^= 1 << bit
    assert is_signed(payload, HOME.up("evt"), [signer.public_key])
    assert not is_signed(bytes(forged), HOME.up("evt"), [signer.public_key])


def _stored(signer):
    outbox = Outbox(None, sign=signer.sign)
    outbox.put([(Stamp(1), Events((Event("something", 0, 0, {"text": "x" * 40}),)))])
    return [one.payload for one in outbox.waiting(0, 10)]


def test_renumbered_records_are_signed_anew(signer):
    """The signature is over the number, so a new epoch needs a new one."""
    outbox = Outbox(None, sign=signer.sign)
    outbox.put([(Stamp(1), Events((Event("something", 0),)))])
    before = outbox.waiting(0, 1)[0].payload
    outbox.renumber()
    after = outbox.waiting(0, 1)[0].payload
    assert after != before
    assert is_signed(after, HOME.up("evt"), [signer.public_key])


def test_key_file_that_others_can_read_or_that_is_no_key_is_refused(tmp_path):
    """With the command that puts it right."""
    path = tmp_path / "key.pem"
    path.write_bytes(Ed25519PrivateKey.generate().private_bytes(*PEM))
    path.chmod(0o640)
    with pytest.raises(BadInput, match="read by others") as caught:
        open_signer(path, HOME)
    assert "chmod 600" in caught.value.remedy
    for content, reason in (
        (b"nonsense", "not a private key"),
        (generate_private_key(65537, 2048).private_bytes(*PEM), "another kind"),
    ):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(BadInput, match=reason):
            open_signer(path, HOME)
    with pytest.raises(EnvironmentFailed, match="No such file"):
        open_signer(tmp_path / "none.pem", HOME)
