"""One self-contained HTML page about a conversion: no scripts, no network, light and dark.

Measuring is done; this only shows it. Callers may put sections of their own above the profiles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from converters.report.command_line import replay_command
from converters.report.markup import folded, megabytes, page, table, where_tag
from converters.report.sections import profile_section
from converters.request import BundleReport, Conversion, Request

__all__ = ["page", "profiles", "render", "table", "where_tag", "write_report"]

LEGEND = (
    "Where a figure was measured: <span class='tag device'>device</span> on a real NPU or GPU, "
    "<span class='tag host'>host</span> on this machine's own processor of the profile's kind, "
    "<span class='tag emulated'>emulated</span> on an emulator or on a processor of another kind: "
    "accuracy and node placement hold, times say nothing about the device."
)


def write_report(conversion: Conversion, request: Request, path: Path) -> Conversion:
    """Write the page to `path` and return the conversion with it."""
    calibration = None if request.calibration == "random" else request.calibration
    replays = {
        str(entry.path): replay_command(request, entry.path, calibration)
        for entry in conversion.bundles
        if isinstance(entry, BundleReport)
    }
    path.write_text(render(conversion, replays), encoding="utf-8")
    return replace(conversion, report=path)


def render(conversion: Conversion, replays: Mapping[str, str] | None = None) -> str:
    """Return the whole page; `replays` maps the path of a bundle to the command that builds it again."""
    document: Mapping[str, Any] = conversion.to_json()
    body = (
        _command(document["command"])
        + _judged(document["evaluation"], document["max_drop"])
        + _overview(document["bundles"])
        + _source(document["source"])
        + _calibration(document["calibration"])
        + _machine(document["host"], document["tools"], document["stages"])
        + profiles(document["bundles"], document["max_drop"], replays)
    )
    return page(f"{conversion.model}: bundles", body)


def profiles(bundles: Any, max_drop: float = 0.01, replays: Mapping[str, str] | None = None) -> str:
    """Return one section per entry of `convert --json`'s `bundles`."""
    sections = "".join(profile_section(bundle, max_drop, replays or {}) for bundle in bundles)
    return f"<p class='soft'>{LEGEND}</p>{sections}"


def _command(command: str) -> str:
    return f"<p>The command that does this again:</p><pre>{escape(command)}</pre>" if command else ""


def _judged(evaluation: Mapping[str, Any], max_drop: float) -> str:
    """Return what variants were judged by, and what the original itself has."""
    if not evaluation:
        return ""
    over = "" if evaluation["samples"] is None else f" over {evaluation['samples']} samples"
    score = "" if evaluation["kind"] == "agreement" else f"; the original has {evaluation['original']:.4f}"
    text = f"Judged by {evaluation['metric']}{over}: {evaluation['note']}{score}. "
    text += f"The gate value of the original is 1, and a variant may have {max_drop:g} less."
    return f"<p>{escape(text)}</p>"


def _overview(bundles: Sequence[Mapping[str, Any]]) -> str:
    """Return one row per profile, where there are several."""
    if len(bundles) < 2:
        return ""
    rows = [(escape(one["profile"]), *_came_out(one)) for one in bundles]
    return table(("Profile", "Chosen", "Bundle size", "Speed-up"), rows, numbers=(2, 3))


def _came_out(bundle: Mapping[str, Any]) -> tuple[str, str, str]:
    if "error" in bundle:
        return "<span class='bad'>no bundle</span>", "-", "-"
    speedups = [one["speedup"] for one in bundle["variants"] if one["name"] == bundle["chosen"] and one["speedup"]]
    speed = f"{speedups[0]:.2f}x" if speedups else "-"
    return escape(bundle["chosen"]), megabytes(bundle["bytes"]), speed


def _source(source: Mapping[str, Any]) -> str:
    """Return what the framework that the model came from says of the imported graph; nothing for ONNX."""
    warnings = "".join(f"<p class='bad'>{escape(text)}</p>" for text in source.get("warnings", ()))
    if not source.get("parity"):
        return warnings
    rows = [
        (
            escape(name),
            f"{entry['cosine_min']:.6f}",
            "exact" if entry["sqnr_db"] is None else f"{entry['sqnr_db']:.1f} dB",
            "-" if entry["agreement"] is None else f"{entry['agreement']:.4f}",
            f"{entry['max_abs_error']:.3g}",
        )
        for name, entry in source["parity"]["outputs"].items()
    ]
    head = (
        f"<p>Imported from {escape(source['framework'])} ({escape(source['kind'])}), which ran the same "
        f"{source['parity']['samples']} samples itself:</p>"
    )
    header = ("Output", "Smallest cosine", "SQNR", "Equal", "Max error")
    return head + table(header, rows, numbers=(1, 2, 3, 4)) + warnings


def _calibration(calibration: Mapping[str, Any]) -> str:
    if not calibration:
        return ""
    warning = f"<p class='bad'>{escape(calibration['warning'])}</p>" if calibration.get("warning") else ""
    data = f" from <code>{escape(str(calibration['data']))}</code>" if calibration.get("data") else ""
    return (
        f"<p>{calibration['count']} calibration samples ({escape(calibration['kind'])}){data}, "
        f"digest <code>{escape(calibration['digest'])}</code></p>{warning}"
    )


def _machine(host: Mapping[str, Any], tools: Mapping[str, str], stages: Sequence[Mapping[str, Any]]) -> str:
    """Return this machine, the versions of what took part, and how long each stage took, folded away."""
    here = ", ".join(escape(f"{key} {value}") for key, value in host.items())
    versions = table(("Tool", "Version"), [(escape(name), escape(text)) for name, text in sorted(tools.items())])
    times = table(
        ("Stage", "Seconds"), [(escape(one["stage"]), f"{one['seconds']:.1f}") for one in stages], numbers=(1,)
    )
    return (
        (f"<p class='soft'>Measured on {here}</p>" if here else "")
        + (folded("Versions of the tools", versions) if tools else "")
        + (folded("Time of each stage", times) if stages else "")
    )
