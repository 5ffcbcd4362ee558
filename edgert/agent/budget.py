"""How much a report may tell, so that the day's bytes, flash writes and CPU stay inside what was allowed. Pure.

What a report costs is measured; the least reduction whose costs fit what is left of the day is taken.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgert.agent.window import CORE, Detail

DAY_S = 86_400.0
MESSAGE_BYTES = 150
"""Of MQTT, TLS, TCP and IP around a payload and its acknowledgements."""

FLASH_GUESS = 30_000.0
"""Bytes that a report writes, until one has been measured."""

RICHER = 0.85
"""A step that tells more is taken again where it needs no more than this share: steps do not alternate."""

STEPS: tuple[Detail, ...] = (
    Detail(),
    Detail(2),
    Detail(4, CORE),
    Detail(12, CORE, ("run_seconds", "class/", "confidence/")),
    Detail(48, 2, ("run_seconds",)),
    Detail(288, 2, ("run_seconds",)),
)
"""From all that there is to hardly anything: longer windows, then fewer columns and sketches."""


@dataclass(frozen=True)
class Budget:
    """What a day may cost; None where it does not matter. `cpu_share` is of one core."""

    bytes_per_day: float | None = None
    flash_mb_per_day: float | None = None
    cpu_share: float | None = None


@dataclass(frozen=True)
class Spent:
    """What the link has cost since it began: bytes sent, bytes written to flash, seconds of CPU."""

    sent_bytes: float = 0.0
    flash_bytes: float = 0.0
    cpu_s: float = 0.0


@dataclass
class _Rates:
    """What one report costs: means in which the newest counts most."""

    report_bytes: dict[int, float] = field(default_factory=dict)
    flash_bytes: float = FLASH_GUESS
    cpu_s: float = 0.0


class Planner:
    """Chooses the step of a report. Days begin with the planner, and are 24 hours of its clock."""

    def __init__(self, budget: Budget, window_s: float, now_s: float) -> None:
        self.budget, self.window_s, self.step = budget, window_s, 0
        self.reason = ""
        self._rates, self._day_s, self._at_dawn, self._last = _Rates(), now_s, Spent(), Spent()

    @property
    def detail(self) -> Detail:
        """How much the report tells that is due next."""
        return STEPS[self.step]

    def left(self, now_s: float, spent: Spent) -> float | None:
        """Return how many bytes may still be sent today; None where there is no limit."""
        self._begin_day(now_s, spent)
        if self.budget.bytes_per_day is None:
            return None
        return self.budget.bytes_per_day - (spent.sent_bytes - self._at_dawn.sent_bytes)

    def reported(self, now_s: float, spent: Spent, sizes: Mapping[int, float]) -> bool:
        """Take in what a report cost, and choose the next one's step; `sizes` has the bytes it has in each step.

        Returns whether the step is another one now.
        """
        self._begin_day(now_s, spent)
        rates = self._rates
        for step, size in sizes.items():
            rates.report_bytes[step] = _mean(rates.report_bytes.get(step), size)
        rates.flash_bytes = _mean(rates.flash_bytes, spent.flash_bytes - self._last.flash_bytes)
        rates.cpu_s = _mean(rates.cpu_s or None, spent.cpu_s - self._last.cpu_s)
        self._last = spent
        before = self.step
        self.step, self.reason = self._fitting(now_s, spent)
        return self.step != before

    def _fitting(self, now_s: float, spent: Spent) -> tuple[int, str]:
        """Return the first step that fits, and what the one before it would exceed; else the last one."""
        reason = ""
        for step in range(len(STEPS)):
            exceeded = self._exceeded(step, now_s, spent, RICHER if step < self.step else 1.0)
            if not exceeded:
                return step, reason
            reason = exceeded
        return len(STEPS) - 1, reason

    def _exceeded(self, step: int, now_s: float, spent: Spent, share: float) -> str:
        """Return the name of what a day's rest with this step would exceed, "" for nothing; `share` of it is there."""
        rest_s = max(DAY_S - (now_s - self._day_s), self.window_s)
        reports = rest_s / (self.window_s * STEPS[step].windows)
        budget, dawn, rates = self.budget, self._at_dawn, self._rates
        sizes = rates.report_bytes
        size = sizes.get(step, max(sizes.values(), default=0.0))
        sent = spent.sent_bytes - dawn.sent_bytes + reports * size
        if budget.bytes_per_day is not None and sent > share * budget.bytes_per_day:
            return "bytes_per_day"
        flash = spent.flash_bytes - dawn.flash_bytes + reports * rates.flash_bytes
        if budget.flash_mb_per_day is not None and flash > share * budget.flash_mb_per_day * 1e6:
            return "flash_mb_per_day"
        cpu_s = rates.cpu_s / (self.window_s * STEPS[step].windows)
        if budget.cpu_share is not None and cpu_s > share * budget.cpu_share:
            return "cpu_share"
        return ""

    def _begin_day(self, now_s: float, spent: Spent) -> None:
        if now_s - self._day_s >= DAY_S:
            self._day_s, self._at_dawn = now_s, spent


def _mean(before: float | None, now: float) -> float:
    return now if before is None else before + (now - before) * 0.3
