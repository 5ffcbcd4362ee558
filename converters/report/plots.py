"""Plots in the tables and cards of the page, as inline SVG: bars of layers and providers, histograms of tensors."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from converters.report.markup import provider_name, table

LAYERS = 20
"""So many layers are shown, the costliest first."""

TONES = {"int8": "int8", "16-bit": "wide", "float": "float"}
"""Decision about a layer -> the name of its colour."""

BAR = 100.0
WIDTH, HEIGHT, FOOT = 300.0, 90.0, 18.0


def layer_bars(layers: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of the costliest layers with a bar for the error of each; "" without layers."""
    ranked = sorted(layers, key=lambda one: -one["error"])[:LAYERS]
    if not ranked:
        return ""
    largest = max(ranked[0]["error"], 1e-12)
    rows = [
        (
            escape(one["node"] or one["layer"]),
            escape(one["op_type"]),
            _tone(one["decision"]),
            _bar([(max(one["error"], 0.0) / largest, TONES.get(one["decision"], "int8"), _alone(one))]),
            f"{one['error']:.2g}{'' if one['alone'] else '*'}",
        )
        for one in ranked
    ]
    shared = any(not one["alone"] for one in ranked)
    note = (
        f"The {len(ranked)} costliest of {len(layers)}: by how much the outputs' cosine falls when this layer alone is "
        "rounded, and what was decided about it." + (" * its share of a group." if shared else "")
    )
    header = ("Layer", "Operator", "Decision", "Error", "")
    return f"{table(header, rows, numbers=(4,))}<p class='soft'>{note}</p>"


def _alone(layer: Mapping[str, Any]) -> str:
    return f"{layer['layer']}: {layer['error']:.3g}" + ("" if layer["alone"] else ", its share of a group")


def _tone(decision: str) -> str:
    return f"<span class='tag {TONES.get(decision, 'int8')}'>{escape(decision)}</span>"


def _bar(pieces: Sequence[tuple[float, str, str]]) -> str:
    """Return one bar of pieces (share of its width, colour, what it stands for) side by side."""
    parts, left = "", 0.0
    for share, css, title in pieces:
        parts += f"<rect class='{css}' x='{left:.2f}' y='0' width='{share * BAR:.2f}' height='10'>"
        parts += f"<title>{escape(title)}</title></rect>"
        left += share * BAR
    return f"<svg class='bar' viewBox='0 0 {BAR:.0f} 10' preserveAspectRatio='none' aria-hidden='true'>{parts}</svg>"


def placement_bars(variants: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of how many nodes of each variant run on which provider; "" where nothing was placed."""
    placed = [one for one in variants if one["nodes"]]
    if not placed:
        return ""
    names = sorted({name for one in placed for name in one["nodes"]})
    rows = []
    for one in placed:
        total = max(sum(one["nodes"].values()), 1)
        pieces = [
            (count / total, f"p{names.index(name) % 3}", f"{name}: {count}") for name, count in one["nodes"].items()
        ]
        words = ", ".join(f"{count} on {provider_name(name)}" for name, count in one["nodes"].items())
        rows.append((escape(one["name"]), provider_name(one["provider"]), words, _bar(pieces)))
    return table(("Variant", "Asked for", "Nodes", ""), rows)


def histogram_cards(histograms: Sequence[Mapping[str, Any]]) -> str:
    """Return a card for each tensor: its histogram with the range that its encoding holds; "" without any."""
    if not histograms:
        return ""
    note = (
        "Where the values of these tensors lie, in a logarithmic scale, so that the tails show. The shaded range is "
        "what the integers hold; what lies outside is cut off, which costs nothing where the next node does so anyway."
    )
    return f"<p class='soft'>{note}</p><div class='grid'>{''.join(_card(one) for one in histograms)}</div>"


def _card(one: Mapping[str, Any]) -> str:
    kept = f"{_number(one['chosen_minimum'])} to {_number(one['chosen_maximum'])}"
    whole = f"{_number(one['minimum'])} to {_number(one['maximum'])}"
    told = f"{escape(one['stored'])}, {kept} of {whole}; {_share(one['cut'])} cut off"
    if one["stored"] == "float":
        told = f"left in float, {whole}; calibrated to {kept}, which would cut off {_share(one['cut'])}"
    text = f"<b>{escape(one['name'])}</b><br>{told}"
    return f"<figure>{_histogram(one)}<figcaption>{text}</figcaption></figure>"


def _histogram(one: Mapping[str, Any]) -> str:
    low = min(one["minimum"], one["chosen_minimum"])
    high = max(one["maximum"], one["chosen_maximum"])
    width = (high - low) or 1.0

    def across(value: float) -> float:
        return float((value - low) / width * WIDTH)

    top = math.log1p(max(one["counts"], default=0)) or 1.0
    step = (one["maximum"] - one["minimum"]) / max(len(one["counts"]), 1)
    bins = "".join(
        _bin(across(one["minimum"] + step * place), max(step / width * WIDTH - 0.4, 0.4), math.log1p(count) / top)
        for place, count in enumerate(one["counts"])
        if count
    )
    first, last = across(one["chosen_minimum"]), across(one["chosen_maximum"])
    ends = "".join(f"<path class='bound' d='M{place:.1f} 0V{HEIGHT:.0f}'/>" for place in (first, last))
    return (
        f"<svg viewBox='-2 0 {WIDTH + 4:.0f} {HEIGHT + FOOT:.0f}' role='img' "
        f"aria-label='Histogram of {escape(one['name'], quote=True)}'>"
        f"<rect class='kept' x='{first:.1f}' y='0' width='{max(last - first, 0.5):.1f}' height='{HEIGHT:.0f}'/>"
        f"{bins}{ends}"
        f"<path class='axis' d='M0 {HEIGHT:.0f}H{WIDTH:.0f}'/>"
        f"<text class='soft' x='0' y='{HEIGHT + 14:.0f}'>{_number(low)}</text>"
        f"<text class='soft end' x='{WIDTH:.0f}' y='{HEIGHT + 14:.0f}'>{_number(high)}</text></svg>"
    )


def _bin(left: float, width: float, share: float) -> str:
    height = max(share * (HEIGHT - 4), 1.0)
    return f"<rect class='bin' x='{left:.1f}' y='{HEIGHT - height:.1f}' width='{width:.1f}' height='{height:.1f}'/>"


def _number(value: float) -> str:
    return f"{value:.3g}"


def _share(share: float) -> str:
    return "nothing" if share <= 0 else f"{share:.2%}" if share >= 1e-4 else "less than 0.01%"
