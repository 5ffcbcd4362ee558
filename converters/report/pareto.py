"""The plot of all candidates of a profile: how fast or how small against how good, as inline SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, HEIGHT = 760, 330
LEFT, RIGHT, TOP, BOTTOM = 70, 730, 20, 285
LANE = 150
"""Width of the strip at the left where candidates stand that have no place on the horizontal axis."""

DEEPEST = 6.0
"""What fell this many times as far as --max-drop allows is drawn at the bottom: else all the others were one line."""

SEEN = 5
"""Gate values that differ in a later digit are equal to the eye."""

LETTER, LINE = 6.6, 13.0  # of a label, in units of the drawing


@dataclass(frozen=True)
class Dot:
    """One candidate: `x` is None where it has no figure for the horizontal axis, `held` says that it is good enough."""

    label: str
    x: float | None
    gate: float
    chosen: bool
    held: bool


def pareto(candidates: Sequence[Mapping[str, Any]], max_drop: float) -> str:
    """Return the figure; "" where no candidate has a gate value.

    The horizontal axis is the speed-up where one was measured, else the size in MB.
    """
    judged = [one for one in candidates if one["gate"] is not None]
    if not judged:
        return ""
    timed = any(one["speedup"] is not None for one in judged)
    dots = [_dot(one, timed, max_drop) for one in judged]
    across = "speed-up against the original" if timed else "size in MB"
    caption = (
        f"Every candidate that was judged: {across} to the right, the gate value (1 is the original) upwards. "
        "The ring marks the chosen one; those below the gate are grey."
    )
    deep = [dot for dot in dots if dot.gate < _scale(dots, max_drop).y_low]
    if deep:
        caption += (
            f" Off the scale, at the bottom: {escape(', '.join(f'{dot.label} ({dot.gate:.3f})' for dot in deep))}."
        )
    label = f"Candidates by {across} and gate value"
    return (
        f"<figure><div class='scroll'><svg class='plot' viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{label}'>"
        f"{_drawing(dots, max_drop, timed)}</svg></div><figcaption>{caption}</figcaption></figure>"
    )


def _dot(entry: Mapping[str, Any], timed: bool, max_drop: float) -> Dot:
    size = None if entry["bytes"] is None else entry["bytes"] / 1e6
    x = entry["speedup"] if timed else size
    chosen = str(entry["outcome"]).startswith("chosen")
    return Dot(entry["variant"], x, entry["gate"], chosen, entry["gate"] >= 1.0 - max_drop)


@dataclass(frozen=True)
class _Scale:
    """From figures to places in the drawing; `low` and `high` are the ends of each axis."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    left: float

    def x(self, value: float | None) -> float:
        """Return the place across; in the middle of the strip at the left for None."""
        if value is None:
            return LEFT + LANE / 2
        return self.left + (value - self.x_low) / (self.x_high - self.x_low) * (RIGHT - self.left)

    def y(self, value: float) -> float:
        """Return the place down; the bottom for what lies deeper."""
        share = (max(value, self.y_low) - self.y_low) / (self.y_high - self.y_low)
        return BOTTOM - share * (BOTTOM - TOP)


def _scale(dots: Sequence[Dot], max_drop: float) -> _Scale:
    across = [dot.x for dot in dots if dot.x is not None] or [0.0, 1.0]
    gates = [dot.gate for dot in dots]
    gate = 1.0 - max_drop
    low = min(gate, max(min(gates), 1.0 - DEEPEST * max_drop))
    high = max(1.0, *gates)
    pad_y = max((high - low) * 0.12, 1e-6)
    pad_x = max((max(across) - min(across)) * 0.12, max(across) * 0.05, 1e-6)
    left = LEFT + (LANE if any(dot.x is None for dot in dots) else 0)
    return _Scale(max(min(across) - pad_x, 0.0), max(across) + pad_x, low - pad_y, high + pad_y, left)


def _drawing(dots: Sequence[Dot], max_drop: float, timed: bool) -> str:
    scale = _scale(dots, max_drop)
    parts = [*_axes(scale, timed), _gate_line(scale, 1.0 - max_drop), _front(dots, scale, timed)]
    taken: list[tuple[float, float, float]] = []
    marks = [_mark(dot, scale, taken) for dot in sorted(dots, key=lambda one: (not one.chosen, -one.gate))]
    return "".join([*parts, *(lead for lead, _ in marks), *(mark for _, mark in marks)])


def _axes(scale: _Scale, timed: bool) -> list[str]:
    parts = [f"<path class='axis' fill='none' d='M{LEFT} {TOP}V{BOTTOM}H{RIGHT}'/>"]
    for text, gate in _ticks(scale.y_low, max(min(scale.y_high, 1.0), scale.y_low)):
        parts.append(f"<text class='soft end' x='{LEFT - 8}' y='{scale.y(gate) + 4:.1f}'>{text}</text>")
    for text, value in _ticks(scale.x_low, scale.x_high):
        shown = f"{text}x" if timed else f"{text} MB"
        parts.append(f"<text class='soft middle' x='{scale.x(value):.1f}' y='{BOTTOM + 18}'>{shown}</text>")
    if scale.left > LEFT:
        parts.append(f"<path class='axis' d='M{scale.left:.1f} {TOP}V{BOTTOM}'/>")
        word = "not timed" if timed else "no size"
        parts.append(f"<text class='soft middle' x='{LEFT + LANE / 2}' y='{BOTTOM + 18}'>{word}</text>")
    title = "speed-up, more is better" if timed else "size, less is better"
    parts.append(f"<text class='soft end' x='{RIGHT}' y='{HEIGHT - 8}'>{title}</text>")
    return parts


def _ticks(low: float, high: float) -> list[tuple[str, float]]:
    """Return three to eight round numbers from `low` to `high`, each with its text; one where there is no width."""
    if high <= low:
        return [(f"{low:.4g}", low)]
    rough = (high - low) / 5
    power = math.floor(math.log10(rough))
    step = next(factor * 10.0**power for factor in (1, 2, 5, 10) if factor * 10.0**power >= rough)
    digits = max(-math.floor(math.log10(step) + 1e-9), 0)
    places = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return [(f"{place * step:.{digits}f}", place * step) for place in places]


def _gate_line(scale: _Scale, gate: float) -> str:
    y = scale.y(gate)
    return (
        f"<path class='gate' d='M{LEFT} {y:.1f}H{RIGHT}'/>"
        f"<text class='gatetext end' x='{RIGHT}' y='{y + 14:.1f}'>gate {gate:.6g}</text>"
    )


def _front(dots: Sequence[Dot], scale: _Scale, timed: bool) -> str:
    """Return a line through the candidates that hold the gate and that no other beats in both figures."""
    sign = 1.0 if timed else -1.0
    placed = sorted({(dot.x, round(dot.gate, SEEN)) for dot in dots if dot.held and dot.x is not None})
    best = [
        one
        for one in placed
        if not any(two != one and sign * (two[0] - one[0]) >= 0 and two[1] >= one[1] for two in placed)
    ]
    if len(best) < 2:
        return ""
    return f"<path class='front' d='M{'L'.join(f'{scale.x(x):.1f} {scale.y(gate):.1f}' for x, gate in best)}'/>"


def _mark(dot: Dot, scale: _Scale, taken: list[tuple[float, float, float]]) -> tuple[str, str]:
    """Return the line from a dot to its label, and both: `taken` has the left, right and middle of other labels.

    What lies off the scale has no label.
    """
    x, y = scale.x(dot.x), scale.y(dot.gate)
    css = " chosen" if dot.chosen else ""
    drawn = (
        f"<title>{escape(dot.label)}: {escape(_figures(dot))}</title>"
        f"<circle class='dot{css}' cx='{x:.1f}' cy='{y:.1f}' r='4.5'/>"
        + (f"<circle class='ring' cx='{x:.1f}' cy='{y:.1f}' r='9'/>" if dot.chosen else "")
    )
    group = f"<g class='{'held' if dot.held else 'below'}'>"
    if dot.gate < scale.y_low:
        return "", f"{group}{drawn}</g>"
    text = dot.label if len(dot.label) <= 40 else f"{dot.label[:39]}…"
    width = len(text) * LETTER
    before = x + 12 + width > RIGHT
    left = x - 12 - width if before else x + 12
    place = _free(left, left + width, y, taken)
    taken.append((left, left + width, place))
    lead = f"<path class='lead' d='M{x:.1f} {y:.1f}L{x - 10 if before else x + 10:.1f} {place:.1f}'/>"
    return lead if abs(place - y) > 3 else "", (
        f"{group}{drawn}<text class='{'end' if before else 'start'}{css}' x='{x - 12 if before else x + 12:.1f}' "
        f"y='{place + 4:.1f}'>{escape(text)}</text></g>"
    )


def _figures(dot: Dot) -> str:
    return f"gate value {dot.gate:.5f}" + ("" if dot.x is None else f", {dot.x:.3g} across")


def _free(left: float, right: float, y: float, taken: Sequence[tuple[float, float, float]]) -> float:
    """Return the middle of a label nearest to `y` at which it covers none of the others."""
    for step in range(40):
        place = y + (step + 1) // 2 * LINE * (1 if step % 2 else -1)
        crossing = any(left < b and a < right and abs(place - middle) < LINE for a, b, middle in taken)
        if not crossing and TOP - 10 <= place <= BOTTOM - 2:
            return place
    return y
