"""`edgert diff`: show what differs between two bundles."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import click

from edgert.bundle import Bundle, check_bundle, open_bundle
from edgert.bundle_diff import compare, facts_of
from edgert.commands.printing import megabytes, print_json, table
from edgert.errors import BadInput, VerificationFailed

GRAPHS_NEED = ("onnx", "onnx_ir")
NO_GRAPHS = "the graphs were not compared: pip install 'edgert[convert]'"
WIDEST = 60
"""So many characters of a value are printed; --json has all of it."""


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def diff(a: Path, b: Path, as_json: bool) -> int:
    """Check bundles A and B and show what differs; exit code 0 when their digests are equal, 1 when not.

    \b
    Example:
      edgert diff old/model-raspberry-pi-5.edgert new/model-raspberry-pi-5.edgert
    """
    document = _compare(_opened(a), _opened(b))
    if as_json:
        print_json(document)
    else:
        _print(document)
    return 0 if document["same"] else 1


def _opened(path: Path) -> Bundle:
    """Return a bundle after checking every byte of it; BadInput also for a damaged one: 1 means that they differ."""
    try:
        check_bundle(path)
        return open_bundle(path)
    except VerificationFailed as exc:
        raise BadInput(exc.message, exc.remedy) from exc


def _compare(a: Bundle, b: Bundle) -> dict[str, Any]:
    """Return the comparison with graphs, where they can be read, and parts."""
    document: dict[str, Any] = compare(facts_of(a), facts_of(b))
    document["note"] = "" if _can_read_graphs() else NO_GRAPHS
    for change in document["variants"]:
        in_both = change["a"] and change["b"] and not document["same"]
        change["graph"] = _graphs(a, b, change["key"]) if in_both else None
    shared = a.manifest.parts.keys() & b.manifest.parts.keys()
    document["parts"] = {name: _compare(_part(a, name), _part(b, name)) for name in sorted(shared)}
    return document


def _part(bundle: Bundle, name: str) -> Bundle:
    return open_bundle(bundle.file(bundle.manifest.parts[name]))


def _can_read_graphs() -> bool:
    return all(importlib.util.find_spec(name) for name in GRAPHS_NEED)


def _graphs(a: Bundle, b: Bundle, variant: str) -> dict[str, Any] | None:
    if not _can_read_graphs():
        return None
    converter: Any = importlib.import_module("converters.graph_diff")
    left, right = (bundle.file(bundle.manifest.variant(variant).file) for bundle in (a, b))
    found: dict[str, Any] = converter.compare_graphs(left, right)
    return found


def _print(document: dict[str, Any]) -> None:
    for side in ("a", "b"):
        head = document[side]
        click.echo(f"{side}  {head['path']}  {megabytes(head['bytes'])}  {head['digest']}")
    if document["same"]:
        click.echo("the same")
        return
    for section in ("identity", "inputs", "outputs", "variants", "placements", "golden", "recipe", "files"):
        _print_changes(section, document[section])
    for change in document["variants"]:
        if change["graph"]:
            _print_graph(change["key"], change["graph"])
    if document["note"]:
        click.echo(f"\n{document['note']}")
    _print_figures(document["measurements"])
    for side, warnings in document["warnings"].items():
        for warning in warnings:
            click.secho(f"WARNING only in {side}: {warning}", fg="yellow", bold=True)
    for name in (name for name, part in document["parts"].items() if not part["same"]):
        click.echo(f"\npart {name}")
        _print(document["parts"][name])


def _print_changes(section: str, entries: list[dict[str, Any]]) -> None:
    rows = [(_cut(entry["key"]), *_words(entry["a"], entry["b"])) for entry in entries if entry["a"] != entry["b"]]
    if rows:
        click.echo()
        click.echo(table((section, "a", "b"), rows))


def _words(a: object, b: object) -> tuple[str, str]:
    """Return two values that differ as short texts: of tables and lists only what the other does not have."""
    if isinstance(a, dict) or isinstance(b, dict):
        left, right = _table_words(a, b), _table_words(b, a)
    elif isinstance(a, list) and isinstance(b, list):
        left, right = (
            f"{len(side)}: " + ", ".join(str(item) for item in side if item not in other)
            for side, other in ((a, b), (b, a))
        )
    else:
        left, right = ("-" if side is None else str(side) for side in (a, b))
    return _cut(left), _cut(right)


def _table_words(table: object, other: object) -> str:
    """Return what a table has otherwise than the other one; the start of a SHA-256 tells it apart."""
    if not isinstance(table, dict):
        return "-"
    known = other if isinstance(other, dict) else {}
    entries = [(key, value) for key, value in table.items() if key not in known or known[key] != value]
    return ", ".join(f"{key} {str(value)[:16] if key == 'sha256' else value}" for key, value in entries) or "-"


def _cut(text: str) -> str:
    """Return a text of limited length that cannot command a terminal: nothing vouches for what was measured."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def _print_graph(name: str, graph: dict[str, Any]) -> None:
    nodes = graph["nodes"]
    click.echo(f"\ngraph {name}: {nodes['a']} nodes in a, {nodes['b']} in b")
    for kind in graph["op_types"]:
        click.echo(f"  {kind['op_type']} {kind['a']} -> {kind['b']} ({kind['b'] - kind['a']:+d})")
    for what in ("encodings", "tensors"):
        found = graph[what]
        if any(found.values()):
            numbers = (f"{found[key]} {key.replace('_', ' in ')}" for key in ("same", "differ", "only_a", "only_b"))
            click.echo(f"  {what}: {', '.join(numbers)}")


def _print_figures(measured: list[dict[str, Any]]) -> None:
    rows = []
    for entry in measured:
        for side in ("a", "b"):
            figures = entry[side] or {}
            words = (_figure(figures.get(key)) for key in ("bytes", "cosine", "top1_agreement", "p50_ms", "where"))
            rows.append((_cut(entry["key"]) if side == "a" else "", side, *words))
    if rows:
        click.echo()
        click.echo(table(("measured at conversion", "", "bytes", "cosine", "top-1", "p50 ms", "where"), rows))


def _figure(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else _cut(str(value))
