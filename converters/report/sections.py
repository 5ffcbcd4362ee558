"""What the page says of each profile, and of each part of a bundle. Entries are those of `convert --json`."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import tomli_w

from converters.report.markup import folded, megabytes, provider_name, table, where_tag
from converters.report.pareto import pareto
from converters.report.plots import histogram_cards, layer_bars, placement_bars

Entry = Mapping[str, Any]


def profile_section(bundle: Entry, max_drop: float, replays: Mapping[str, str]) -> str:
    """Return the section of one entry of `bundles`; `replays` has the command that builds a path's bundle again."""
    head = f"<h2>{escape(bundle['profile'])}</h2>"
    if "error" in bundle:
        return head + _failure(bundle, max_drop)
    parts = "".join(
        f"<h2>{escape(bundle['profile'])}, part {escape(name)}</h2>{_bundle(part, f'{name}.edgert', max_drop)}"
        for name, part in bundle["parts"].items()
    )
    replay = replays.get(bundle["path"], "")
    return head + _bundle(bundle, Path(bundle["path"]).name, max_drop, replay) + parts


def _failure(bundle: Entry, max_drop: float) -> str:
    error = bundle["error"]
    refused = [
        (escape(node["name"]), escape(node["op_type"]), escape(node["domain"])) for node in error["refused_nodes"]
    ]
    return (
        f"<p class='verdict bad'>No bundle.</p><pre>{escape(error['message'])}</pre>"
        f"<p>Remedy: {escape(error['remedy'])}</p>"
        + _titled(
            "Nodes that the accelerator refuses", table(("Node", "Operator", "Domain"), refused) if refused else ""
        )
        + _candidates(bundle["candidates"], max_drop)
        + _titled("Sensitivity of the layers", layer_bars(bundle["layers"]))
    )


def _bundle(bundle: Entry, name: str, max_drop: float, replay: str = "") -> str:
    gate = bundle["recipe"].get("max_drop", max_drop)
    warnings = "".join(f"<p class='bad'>Warning: {escape(text)}</p>" for text in bundle["warnings"])
    return (
        _verdict(bundle)
        + f"<p>{escape(bundle['reason'])}</p>{warnings}"
        + _titled("Variants in the bundle", _variants(bundle))
        + _candidates(bundle["candidates"], gate)
        + _titled("Sensitivity of the layers", layer_bars(bundle["layers"]))
        + _titled("Tensors that cost most in integers", histogram_cards(bundle["histograms"]))
        + _titled("Where the nodes run", placement_bars(bundle["variants"]))
        + _passes(bundle["passes"])
        + _recipe(bundle["recipe"], replay)
        + f"<p class='soft'><code>{escape(name)}</code>, {megabytes(bundle['bytes'])}, "
        f"digest <code>{escape(bundle['digest'])}</code></p>"
    )


def _titled(title: str, body: str) -> str:
    """Return a body under its title; nothing where there is none."""
    return f"<h3>{escape(title)}</h3>{body}" if body else ""


def _verdict(bundle: Entry) -> str:
    """Return the one line that says what came out: what, how much faster, how large, how good."""
    chosen = next((one for one in bundle["variants"] if one["name"] == bundle["chosen"]), None)
    if chosen is None:
        return f"<p class='verdict good'>{escape(bundle['chosen'])}</p>"
    speed = "its time is not measured here"
    if chosen["speedup"] is not None:
        speed = f"{chosen['speedup']:.2f}x as fast as the original ({escape(chosen['where'])})"
    gate = next((one["gate"] for one in bundle["candidates"] if one["outcome"].startswith("chosen")), None)
    judged = "" if gate is None else f", gate value {gate:.5f}"
    return f"<p class='verdict good'>{escape(chosen['name'])}: {speed}, {megabytes(chosen['bytes'])}{judged}</p>"


def _variants(bundle: Entry) -> str:
    names = [variant["name"] for variant in bundle["variants"]]
    marked = names.index(bundle["chosen"]) if bundle["chosen"] in names else -1
    header = (
        *("Variant", "Provider", "Size", "Cosine", "SQNR", "Top-1", "Samples"),
        *("p50", "p99", "Speed-up", "Measured"),
    )
    notes = "".join(
        f"<p class='soft'>{escape(one['name'])}: {escape(one['note'])}</p>" for one in bundle["variants"] if one["note"]
    )
    rows = [_variant(one) for one in bundle["variants"]]
    return table(header, rows, numbers=range(2, 10), marked=marked) + notes + _checks(bundle["variants"])


def _variant(variant: Entry) -> tuple[str, ...]:
    latency = variant["latency_ms"]
    return (
        escape(variant["name"]),
        provider_name(variant["provider"]),
        megabytes(variant["bytes"]),
        *_worst(variant["parity"]),
        str(variant["checks"][0]["samples"]) if variant["checks"] else "-",
        f"{latency['p50']:.2f} ms" if latency else "-",
        f"{latency['p99']:.2f} ms" if latency else "-",
        "-" if variant["speedup"] is None else f"{variant['speedup']:.2f}x",
        where_tag(variant["where"]),
    )


def _worst(parity: Entry) -> tuple[str, str, str]:
    """Return the worst cosine, SQNR and top-1 agreement over the outputs as text."""
    cosine = min((entry["cosine"] for entry in parity.values()), default=1.0)
    decibels = [entry["sqnr_db"] for entry in parity.values() if entry["sqnr_db"] is not None]
    shares = [entry["top1_agreement"] for entry in parity.values() if entry["top1_agreement"] is not None]
    return (
        f"{cosine:.5f}",
        f"{min(decibels):.1f} dB" if decibels else "exact",
        f"{min(shares):.3f}" if shares else "-",
    )


def _checks(variants: Sequence[Entry]) -> str:
    rows = [
        (
            *(escape(variant["name"]), escape(check["provider"]), where_tag(check["where"]), str(check["samples"])),
            *(escape(name), f"{entry['cosine']:.6f}", f"{entry['cosine_min']:.6f}", f"{entry['max_abs_error']:.3g}"),
            escape(check["reference"]),
            escape(check["note"]),
        )
        for variant in variants
        for check in variant["checks"]
        for name, entry in check["outputs"].items()
    ]
    header = (
        *("Variant", "Ran on", "Measured", "Samples", "Output", "Cosine", "Smallest", "Max error"),
        *("Against", "Note"),
    )
    return folded("Every comparison with the original", table(header, rows, numbers=(3, 5, 6, 7))) if rows else ""


def _candidates(candidates: Sequence[Entry], max_drop: float) -> str:
    rows = [
        (
            escape(entry["variant"]),
            escape(entry["precision"]),
            "-" if entry["gate"] is None else f"{entry['gate']:.5f}",
            "-" if entry["speedup"] is None else f"{entry['speedup']:.2f}x",
            "-" if entry["bytes"] is None else megabytes(entry["bytes"]),
            escape(entry["outcome"]),
        )
        for entry in candidates
    ]
    marked = next((place for place, one in enumerate(candidates) if one["outcome"].startswith("chosen")), -1)
    header = ("Candidate", "Precision", "Gate value", "Speed-up", "Size", "Outcome")
    body = pareto(candidates, max_drop) + table(header, rows, numbers=(2, 3, 4), marked=marked)
    return _titled("What was tried", body if rows else "")


def _passes(passes: Sequence[Entry]) -> str:
    """Return what each graph pass changed, and what it declined and why."""
    rows = [(escape(one["name"]), str(one["changes"]), _declined(one["declined"])) for one in passes]
    changed = sum(1 for one in passes if one["changes"])
    summary = f"{changed} of {len(passes)} graph passes changed something"
    body = folded(summary, table(("Pass", "Changes", "Declined"), rows, numbers=(1,)))
    return _titled("Graph passes", body if rows else "")


def _declined(reasons: Sequence[str]) -> str:
    if len(reasons) <= 3:
        return "<br>".join(escape(text) for text in reasons)
    return folded(f"{len(reasons)} times", "<br>".join(escape(text) for text in reasons))


def _recipe(recipe: Entry, replay: str) -> str:
    if not recipe:
        return ""
    again = f"<p>Builds the same bytes again, without a search:</p><pre>{escape(replay)}</pre>" if replay else ""
    text = f"<pre>{escape(tomli_w.dumps(_without_none(recipe)))}</pre>"
    return _titled("Recipe", again + folded("What built the chosen variant", text))


def _without_none(value: Any) -> Any:
    """Return a document without its nulls, which TOML does not have."""
    if isinstance(value, Mapping):
        return {str(key): _without_none(one) for key, one in value.items() if one is not None}
    if isinstance(value, list | tuple):
        return [_without_none(one) for one in value if one is not None]
    return value
