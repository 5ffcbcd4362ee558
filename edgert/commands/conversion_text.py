"""What `edgert convert` tells a person: lines of text made from the document that `--json` prints.

Names of layers come from the model, so whatever could command a terminal is taken out of the tables.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import click

from edgert.commands.printing import megabytes, printable, table

LAYERS = 5
"""So many of the costliest layers are shown; the report has all."""

LEAST_SHARE = 0.05
"""Stages that took less than this share of the time are not shown."""

Document = dict[str, Any]


def conversion_lines(document: Document) -> Iterator[str]:
    """Yield the lines about a conversion: source, metric, each profile, where the time went, the report."""
    yield from _source_lines(document["source"])
    yield judged(document["evaluation"])
    for bundle in document["bundles"]:
        yield f"\n{bundle['profile']}"
        yield from _failure_lines(bundle, document) if "error" in bundle else _bundle_lines(bundle, document)
        for name, part in bundle.get("parts", {}).items():
            yield f"  part {name}"
            yield from _bundle_lines(part, document)
    yield from stage_lines(document["stages"])
    if document["report"]:
        yield f"\nreport: {document['report']}"


def _source_lines(source: Document) -> Iterator[str]:
    parity = source.get("parity")
    if not parity:
        return
    worst = min(
        (entry["sqnr_db"] for entry in parity["outputs"].values() if entry["sqnr_db"] is not None), default=None
    )
    how = "equal to the bit" if worst is None else f"SQNR {worst:.1f} dB at least"
    yield f"source: {parity['note']}; the imported graph is the same on {parity['samples']} samples, {how}"


def judged(evaluation: Document) -> str:
    """Return the line that says what variants are judged by."""
    over = "" if evaluation["samples"] is None else f" over {evaluation['samples']} samples"
    original = evaluation["original"]
    score = "" if evaluation["kind"] == "agreement" else f"; the original has {original:.4f}"
    return f"judged by {evaluation['metric']}{over}: {evaluation['note']}{score}"


def _failure_lines(bundle: Document, document: Document) -> Iterator[str]:
    yield f"  failed: {bundle['error']['message']}"
    yield f"  remedy: {bundle['error']['remedy']}"
    yield from candidate_lines(bundle, _gate_name(document["evaluation"]))
    yield from layer_lines(bundle["layers"])


def _bundle_lines(bundle: Document, document: Document) -> Iterator[str]:
    recipe = bundle["recipe"]
    evaluation = {**recipe["evaluation"], "metric": recipe["metric"]} if recipe else document["evaluation"]
    yield f"  {bundle['reason']}"
    yield from candidate_lines(bundle, _gate_name(evaluation))
    yield from layer_lines(bundle["layers"])
    yield from _variant_lines(bundle)
    for warning in bundle["warnings"]:
        yield click.style(f"  WARNING: {warning}", fg="yellow", bold=True)
    where = bundle["path"] or "in the bundle"
    yield f"  {where}  {megabytes(bundle['bytes'])}  sha256:{bundle['digest'].removeprefix('sha256:')[:16]}"


def _gate_name(evaluation: Document) -> str:
    """Return the head of the column that the gate judges: an agreement is its own value, of a score it is the fall."""
    metric = str(evaluation["metric"])
    return metric if evaluation["kind"] == "agreement" else f"1 - drop of {metric}"


def candidate_lines(bundle: Document, gate_name: str) -> Iterator[str]:
    """Yield the table of all candidates of a profile, the chosen one marked."""
    candidates = bundle["candidates"]
    if not candidates:
        return
    by_outcome = any(one["outcome"] == "chosen" for one in candidates)
    rows = [
        (
            "*" if (one["outcome"] == "chosen" if by_outcome else one["variant"] == bundle["chosen"]) else " ",
            one["variant"],
            one["precision"],
            "-" if one["bytes"] is None else megabytes(one["bytes"]),
            "-" if one["gate"] is None else f"{one['gate']:.4f}",
            "-" if one["speedup"] is None else f"{one['speedup']:.2f}x",
            printable(one["outcome"]),
        )
        for one in candidates
    ]
    yield indented(("", "candidate", "precision", "size", gate_name, "speed-up", "outcome"), rows)


def layer_lines(layers: Sequence[Document]) -> Iterator[str]:
    """Yield the table of the layers that add most to the error at 8 bits."""
    costliest = sorted(layers, key=lambda one: -one["error"])[:LAYERS]
    if not costliest:
        return
    rows = [
        (printable(one["node"] or one["layer"]), one["op_type"], f"{one['error']:.2g}", one["decision"])
        for one in costliest
    ]
    yield indented(("costliest layer", "op type", "error at 8 bits", "decision"), rows)


def _variant_lines(bundle: Document) -> Iterator[str]:
    header = ("", "in the bundle", "provider", "nodes", "size", "cosine", "top-1", "latency", "where")
    yield indented(header, [_variant_row(variant, bundle["chosen"]) for variant in bundle["variants"]])


def _variant_row(variant: Document, chosen: str) -> tuple[str, ...]:
    worst = min((entry["cosine"] for entry in variant["parity"].values()), default=1.0)
    shares = [entry["top1_agreement"] for entry in variant["parity"].values() if entry["top1_agreement"] is not None]
    latency = variant["latency_ms"]
    return (
        "*" if variant["name"] == chosen else " ",
        variant["name"],
        variant["provider"].removesuffix("ExecutionProvider"),
        " ".join(f"{name.removesuffix('ExecutionProvider')}:{count}" for name, count in variant["nodes"].items()),
        megabytes(variant["bytes"]),
        f"{worst:.5f}",
        f"{min(shares):.3f}" if shares else "-",
        f"{latency['p50']:.2f} ms" if latency else "-",
        variant["where"],
    )


def stage_lines(stages: Sequence[Document]) -> Iterator[str]:
    """Yield how long it took, and a line for each stage that took at least 5 % of it, the longest first."""
    total = sum(one["seconds"] for one in stages)
    if total <= 0:
        return
    yield f"\ntime: {total:.1f} s"
    for one in sorted(stages, key=lambda one: -one["seconds"]):
        if one["seconds"] >= LEAST_SHARE * total:
            yield f"  {100 * one['seconds'] / total:3.0f} %  {one['seconds']:7.1f} s  {printable(one['stage'])}"


def indented(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table two blanks further right."""
    return "\n".join(f"  {line}" for line in table(header, rows).splitlines())
