"""How much an outbox may hold."""

from dataclasses import dataclass


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
