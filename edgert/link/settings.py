"""What a link is told: where the broker is, and how much an outbox may hold."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Broker:
    """Where the broker is and how to be known there. `url` is mqtt://host:port or mqtts://host:port.

    Certificate, key and token are read anew at each connection, so that they can be changed without a restart.
    """

    url: str
    username: str = ""
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    version: int = 5


@dataclass(frozen=True)
class Limits:
    """How much may wait: bytes of payload on disk and in memory, and seconds (0: for ever).

    `min_free` is the share of the whole disk that stays free for others. `spill_s` is None where all goes to disk at
    once; else it is in memory until a record has waited for so many seconds, or memory is full, or it is closed.
    """

    max_bytes: int = 20_000_000
    ram_bytes: int = 2_000_000
    max_age_s: float = 7 * 86_400
    min_free: float = 0.0
    spill_s: float | None = None


LIMITS = Limits()
