"""Which candidate wins: a pure decision over what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from converters.job import Written
from converters.request import Candidate, LayerDecision, VariantReport
from edgert.errors import GateFailed
from edgert.manifest import Placement

FLOATS = ("fp32", "fp16")
PLAIN = "fp32-plain"
"""The graph as it came: a rewrite of it has to earn its place."""

NOISE = 0.02
"""Timing ratios within this of each other count as equal: repeated runs of one file differ by as much."""


class NothingHolds(GateFailed):
    """No candidate holds the gate; `candidates` lists what was tried, `layers` what costs most in the best of them."""

    def __init__(
        self, message: str, remedy: str, candidates: Sequence[Candidate], layers: Sequence[LayerDecision] = ()
    ) -> None:
        super().__init__(message, remedy)
        self.candidates = tuple(candidates)
        self.layers = tuple(layers)

    def refused_json(self) -> list[dict[str, str]]:
        """Return the nodes that an accelerator refused as JSON objects: none."""
        return []


@dataclass(frozen=True)
class Judged:
    """One executed candidate: its gate value (1.0 is the original) and, where the time is real, its speed-up.

    `nearness` orders candidates by how near they are to the original, where the gate value alone is too coarse.
    """

    variant: str
    precision: str
    gate: float
    speedup: float | None
    nearness: tuple[float, ...] = ()


@dataclass(frozen=True)
class Choice:
    """What goes into the bundle of one profile, and why."""

    chosen: str
    reason: str
    models: Mapping[str, Written]
    reports: Sequence[VariantReport]
    placements: Sequence[Placement]
    candidates: Sequence[Candidate]
    recipe: Mapping[str, object]
    layers: Sequence[LayerDecision] = ()


def select(judged: Sequence[Judged], max_drop: float, metric: str) -> tuple[Judged | None, str]:
    """Return the winner among `judged`, which are in the profile's order of preference, and the reason.

    Only candidates within `max_drop` of the original count. Where times were measured the fastest wins, of several as
    fast the nearest to the original, and an integer candidate only if it is faster than every float one; where not, the
    profile's first. What became of the others is left to `outcome`.
    """
    held = [one for one in judged if one.gate >= 1.0 - max_drop]
    if not held:
        best = max(judged, key=lambda one: one.gate, default=None)
        found = f"; the best, {best.variant}, has {metric} {best.gate:.4f}" if best else ""
        return None, f"no candidate keeps {metric} within {max_drop:g} of the original{found}"
    timed = [one for one in held if one.speedup is not None]
    if len(timed) < len(held):
        first = held[0]
        return (
            first,
            f"{first.variant} is the first in the profile's order that holds the gate; its time is not measured here",
        )
    fastest = max(one.speedup or 0.0 for one in timed)
    as_fast = [one for one in timed if (one.speedup or 0) * (1 + NOISE) > fastest]
    winner = max(as_fast, key=lambda one: (one.nearness, one.speedup or 0.0))
    floats = [one for one in timed if one.precision in FLOATS]
    best_float = max(floats, key=lambda one: one.speedup or 0.0, default=None)
    if best_float and winner is not best_float and (winner.speedup or 0) < (best_float.speedup or 0) * (1 + NOISE):
        winner = best_float
    plain = next((one for one in floats if one.variant == PLAIN), None)
    if plain and winner in floats and (winner.speedup or 0) < (plain.speedup or 0) * (1 + NOISE):
        winner = plain
    place = "the fastest that holds the gate" if winner.speedup == fastest else "the nearest of the fastest"
    is_slower = winner.precision not in FLOATS and (winner.speedup or 0) * (1 + NOISE) < 1
    slower = "; it is slower than the original" if is_slower else ""
    return winner, f"{winner.variant} is {place}, {winner.speedup:.2f}x the original{slower}"


def outcome(judged: Judged, winner: Judged | None, max_drop: float) -> str:
    """Return what the table of candidates says of one of them."""
    if judged is winner:
        return "chosen"
    if judged.gate < 1.0 - max_drop:
        return "below the gate"
    return "later in the profile's order" if judged.speedup is None else "slower"
