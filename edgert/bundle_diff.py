"""What differs between two bundles: a pure comparison of what they say of themselves, file by file and key by key.

Opening them is left to `edgert.bundle`, comparing their graphs to `converters.graph_diff`, printing to the command.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgert import strict_json
from edgert.bundle import Bundle
from edgert.errors import BadInput
from edgert.manifest import RECIPE_NAME, Manifest, manifest_bytes

Change = dict[str, object]
"""`{"key", "a", "b"}`: one thing that is not the same in both; None where one of them does not have it."""

IDENTITY = ("name", "version", "license", "profile", "arch", "isa", "chosen", "task")


@dataclass(frozen=True)
class Facts:
    """All that is compared of one bundle; `document` is its manifest as JSON, `measured` its `measurements.json`."""

    path: str
    digest: str
    manifest: Manifest
    document: Mapping[str, Any]
    recipe: Mapping[str, object]
    measured: Mapping[str, object]


def facts_of(bundle: Bundle) -> Facts:
    """Return what is compared of an opened bundle; the recipe is the manifest's where it has no `recipe.toml`."""
    manifest = bundle.manifest
    document: Any = strict_json.loads(manifest_bytes(manifest), "manifest")
    recipe: Mapping[str, object] = manifest.recipe
    if any(entry.name == RECIPE_NAME for entry in manifest.files):
        try:
            recipe = tomllib.loads(bundle.file(RECIPE_NAME).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as exc:
            raise BadInput(f"'{bundle.path}': {RECIPE_NAME} is not TOML: {exc}", "convert the model again") from exc
    return Facts(str(bundle.path), bundle.digest, manifest, document, recipe, bundle.measurements() or {})


def compare(a: Facts, b: Facts) -> dict[str, object]:
    """Return the document of `edgert diff --json` without graphs and parts.

    Lists hold what differs, but for `variants` and `measurements`, which hold all.
    """
    left, right = a.document, b.document
    return {
        "same": a.digest == b.digest,
        "a": _head(a),
        "b": _head(b),
        "identity": changes(*({key: side.get(key) for key in IDENTITY} for side in (left, right))),
        "inputs": changes(_by_name(left["inputs"]), _by_name(right["inputs"])),
        "outputs": changes(_by_name(left["outputs"]), _by_name(right["outputs"])),
        "variants": beside(_variants(a.manifest), _variants(b.manifest)),
        "placements": changes(_placements(left["placements"]), _placements(right["placements"])),
        "golden": changes(flat(left["golden"]), flat(right["golden"])),
        "recipe": changes(flat(a.recipe), flat(b.recipe)),
        "files": changes(_by_name(left["files"]), _by_name(right["files"])),
        "warnings": {
            "a": [text for text in a.manifest.warnings if text not in b.manifest.warnings],
            "b": [text for text in b.manifest.warnings if text not in a.manifest.warnings],
        },
        "measurements": beside(figures(a.measured), figures(b.measured)),
    }


def changes(a: Mapping[str, object], b: Mapping[str, object]) -> list[Change]:
    """Return the keys whose values differ, sorted; an absent key is None."""
    return [entry for entry in beside(a, b) if entry["a"] != entry["b"]]


def beside(a: Mapping[str, object], b: Mapping[str, object]) -> list[Change]:
    """Return all keys of both with the two values, sorted."""
    return [{"key": key, "a": a.get(key), "b": b.get(key)} for key in sorted(a.keys() | b.keys())]


def flat(table: Mapping[str, object], before: str = "") -> dict[str, object]:
    """Return a nested table with dotted keys."""
    found: dict[str, object] = {}
    for key, value in table.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return found


def figures(measured: Mapping[str, object]) -> dict[str, object]:
    """Return "variant on provider" -> its size, accuracy and time, each None where `measurements.json` has none.

    Nothing vouches for that file, so anything may stand in it.
    """
    variants = measured.get("variants")
    found: dict[str, object] = {}
    for entry in variants if isinstance(variants, list) else ():
        if isinstance(entry, Mapping):
            parity, latency = _table(entry.get("parity")), _table(entry.get("latency_ms"))
            found[f"{entry.get('name')} on {entry.get('provider')}"] = {
                "where": entry.get("where"),
                "bytes": entry.get("bytes"),
                "cosine": _least(parity, "cosine"),
                "top1_agreement": _least(parity, "top1_agreement"),
                "p50_ms": latency.get("p50"),
            }
    return found


def _table(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _least(parity: Mapping[str, object], key: str) -> float | None:
    numbers = [_table(output).get(key) for output in parity.values()]
    return min((number for number in numbers if isinstance(number, int | float)), default=None)


def _head(facts: Facts) -> dict[str, object]:
    manifest = facts.manifest
    size = sum(entry.bytes for entry in manifest.files)
    head = {"path": facts.path, "digest": facts.digest, "bytes": size}
    return {**head, **{key: getattr(manifest, key) for key in ("name", "version", "profile", "chosen")}}


def _by_name(entries: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    return {entry["name"]: {key: value for key, value in entry.items() if key != "name"} for entry in entries}


def _variants(manifest: Manifest) -> dict[str, object]:
    """Return each variant with its graph file's size and SHA-256; its tensors are in files of their own."""
    files = {entry.name: entry for entry in manifest.files}
    return {
        variant.name: {
            "precision": variant.precision,
            "bytes": files[variant.file].bytes,
            "sha256": files[variant.file].sha256,
        }
        for variant in manifest.variants
    }


def _placements(entries: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """Return "variant on provider" -> its place in the order of preference, and its options."""
    return {
        f"{entry['variant']} on {entry['provider']}": {"place": place, **flat({"options": entry["options"]})}
        | flat({"emulator_options": entry["emulator_options"]})
        for place, entry in enumerate(entries, 1)
    }
