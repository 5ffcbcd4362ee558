"""Topics: made from names and read back, strict on both ways."""

import zlib

import pytest

from edgert.errors import BadInput
from edgert.topics import DOWN, UP, Address, parse_topic


def test_topics_are_those_of_the_wire_format():
    """The shard is the CRC-32 of the device, modulo 256."""
    address = Address("acme", "press-7")
    shard = f"s{zlib.crc32(b'press-7') % 256:02x}"
    assert address.up("tel") == f"edgert/v1/{shard}/acme/press-7/up/tel"
    assert address.down("ack") == f"edgert/v1/{shard}/acme/press-7/dn/ack"
    assert address.status == f"edgert/v1/{shard}/acme/press-7/st"


def test_parse_topic_reads_every_topic_back():
    """All kinds, up and down, and presence."""
    address = Address("acme", "a" * 64)
    made = [*((address.up(kind), "up", kind) for kind in UP), *((address.down(kind), "dn", kind) for kind in DOWN)]
    for topic, direction, kind in [*made, (address.status, "st", "")]:
        found = parse_topic(topic)
        assert (found.address, found.direction, found.kind) == (address, direction, kind)


@pytest.mark.parametrize("word", ["", "A", "-a", "_a", "a.b", "a/b", "a b", "a+", "#", "$SYS", "ä", "a" * 65, "a\n"])
def test_address_refuses_ids_that_a_broker_may_misread(word):
    """Wildcards, dots, spaces, upper case, line ends, and more than 64 characters."""
    for names in ((word, "device"), ("tenant", word)):
        with pytest.raises(BadInput):
            Address(*names)


@pytest.mark.parametrize(
    "topic",
    [
        "edgert/v2/{s}/acme/press-7/up/tel",
        "edgert/v1/s00/acme/press-7/up/tel",
        "edgert/v1/{s}/acme/press-7/up/other",
        "edgert/v1/{s}/acme/press-7/up",
        "edgert/v1/{s}/acme/press-7/st/x",
        "edgert/v1/{s}/acme/press-7/up/tel/x",
        "edgert/v1/{s}/acme/press-7/dn/tel",
        "edgert/v1/{s}/acme//up/tel",
        "x" * 300,
    ],
)
def test_parse_topic_refuses_others(topic):
    """Another version, another shard, unknown kinds, tokens too few or too many."""
    with pytest.raises(BadInput):
        parse_topic(topic.replace("{s}", Address("acme", "press-7").shard))
