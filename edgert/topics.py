"""The MQTT topics of docs/wire-format.md: names in, topic out, and back."""

import re
import zlib
from dataclasses import dataclass

from edgert.errors import BadInput

PREFIX = "edgert/v1"
UP = ("birth", "tel", "sk", "evt", "rep", "log", "resp")
DOWN = ("ack", "desired", "cmd")
STATUS = "st"

_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Address:
    """One device of one tenant. BadInput for an id that is none."""

    tenant: str
    device: str

    def __post_init__(self) -> None:
        for what, word in (("tenant", self.tenant), ("device", self.device)):
            if not _ID.fullmatch(word):
                raise BadInput(
                    f"{what} id {word[:80]!r} is not 1 to 64 of a-z 0-9 _ -, a letter or digit first",
                    "give it another id",
                )

    @property
    def shard(self) -> str:
        """The token that spreads devices over ingest workers, "s00" to "sff"."""
        return f"s{zlib.crc32(self.device.encode()) & 0xFF:02x}"

    @property
    def root(self) -> str:
        """What all of the device's topics begin with."""
        return f"{PREFIX}/{self.shard}/{self.tenant}/{self.device}"

    def up(self, kind: str) -> str:
        """Return the topic of a kind of record."""
        assert kind in UP, kind
        return f"{self.root}/up/{kind}"

    def down(self, kind: str) -> str:
        """Return the topic of a kind of message to the device."""
        assert kind in DOWN, kind
        return f"{self.root}/dn/{kind}"

    @property
    def status(self) -> str:
        """The topic of the device's presence."""
        return f"{self.root}/{STATUS}"


@dataclass(frozen=True)
class Topic:
    """A parsed topic: whose it is, "up", "dn" or "st", and the kind of message ("" for presence)."""

    address: Address
    direction: str
    kind: str


def parse_topic(topic: str) -> Topic:
    """Return what a topic says. BadInput for one that is none of this format, or has another device's shard."""
    tokens = topic.split("/") if len(topic) <= 256 else []
    if "/".join(tokens[:2]) != PREFIX or len(tokens) not in (6, 7):
        raise BadInput(f"topic {topic[:80]!r} is none of {PREFIX}/…", "see docs/wire-format.md")
    shard, tenant, device, direction, *rest = tokens[2:]
    address, kind = Address(tenant, device), rest[0] if rest else ""
    if shard != address.shard:
        raise BadInput(f"topic {topic[:80]!r} has shard {shard!r}, device '{device}' is in {address.shard}", "see docs")
    if kind not in {"up": UP, "dn": DOWN, STATUS: ("",)}.get(direction, ()):
        raise BadInput(f"topic {topic[:80]!r} is no kind of message", "see docs/wire-format.md")
    return Topic(address, direction, kind)
