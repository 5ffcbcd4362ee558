"""One self-contained HTML page about a conversion: no scripts, no network, light and dark.

Measuring is done; this only shows it. Callers may put sections of their own above the profiles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from converters.request import Conversion
from converters.samples import Samples

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5a6470; --paper: #ffffff; --card: #f5f6f8; --line: #d9dde2;
  --good: #116d3c; --bad: #b3261e; --mark: #1f5fbf; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaee; --soft: #a2acb8; --paper: #14171b; --card: #1d2126;
  --line: #353b43; --good: #5fce92; --bad: #ff8a80; --mark: #8ab4f8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Liberation Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p { margin: .35rem 0; } .soft { color: var(--soft); } .good { color: var(--good); } .bad { color: var(--bad); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .4rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; } td.n { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; } th.n { text-align: right; }
.tag { display: inline-block; padding: 0 .45rem; border: 1px solid var(--line); border-radius: .6rem; font-size: .8rem;
  background: var(--card); white-space: nowrap; }
.tag.emulated { color: var(--bad); } .tag.host, .tag.device { color: var(--good); }
.chosen td:first-child { font-weight: 700; color: var(--mark); }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--soft); }
code, pre { font: .86rem/1.45 "DejaVu Sans Mono", ui-monospace, monospace; }
pre { background: var(--card); padding: .7rem; overflow-x: auto; border-radius: .4rem; }
img { height: 2rem; background: #fff; border-radius: .2rem; }
"""

LEGEND = (
    "Where a figure was measured: <span class='tag device'>device</span> on a real NPU or GPU, "
    "<span class='tag host'>host</span> on this machine's own processor of the profile's kind, "
    "<span class='tag emulated'>emulated</span> on an emulator or another CPU: the numerics are real, the time is not "
    "the device's."
)


def write_report(conversion: Conversion, samples: Samples, path: Path) -> Conversion:
    """Write the page about `conversion` to `path` and return the conversion with the path in it."""
    document = conversion.to_json()
    intro = f"{samples.count} calibration samples ({escape(samples.kind)})"
    body = f"<p class='soft'>{intro}</p>" + (f"<p class='bad'>{escape(samples.warning)}</p>" if samples.warning else "")
    body += _judged(conversion.evaluation) + _source(document["source"])
    path.write_text(page(f"{conversion.model}: bundles", body + profiles(document["bundles"])), encoding="utf-8")
    return replace(conversion, report=path)


def page(title: str, body: str) -> str:
    """Return a whole HTML document."""
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def profiles(bundles: Any) -> str:
    """Return one section per entry of `convert --json`'s `bundles`."""
    return f"<p class='soft'>{LEGEND}</p>" + "".join(_profile(bundle) for bundle in bundles)


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = (), marked: int = -1
) -> str:
    """Return a table of ready HTML cells; columns in `numbers` are right-aligned, row `marked` is the chosen one."""

    def line(cells: Sequence[str], tag: str, css: str = "") -> str:
        inner = "".join(
            f"<{tag}{' class=n' if column in numbers else ''}>{cell}</{tag}>" for column, cell in enumerate(cells)
        )
        return f"<tr{css}>{inner}</tr>"

    body = "".join(line(row, "td", " class=chosen" if number == marked else "") for number, row in enumerate(rows))
    return f"<div class='scroll'><table><thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table></div>"


def where_tag(where: str) -> str:
    """Return the badge that says where a figure was measured."""
    return f"<span class='tag {escape(where)}'>{escape(where)}</span>"


def _judged(evaluation: Mapping[str, Any]) -> str:
    """Return what variants were judged by, and what the original itself has."""
    over = "" if evaluation["samples"] is None else f" over {evaluation['samples']} samples"
    score = "" if evaluation["kind"] == "agreement" else f"; the original has {evaluation['original']:.4f}"
    return f"<p>Judged by {escape(evaluation['metric'])}{over}: {escape(evaluation['note'])}{score}</p>"


def _source(source: Any) -> str:
    """Return what the framework that the model came from says of the imported graph; nothing for ONNX."""
    warnings = "".join(f"<p class='bad'>{escape(text)}</p>" for text in source["warnings"])
    if source["parity"] is None:
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
    return (
        head + table(("Output", "Smallest cosine", "SQNR", "Equal", "Max error"), rows, numbers=(1, 2, 3, 4)) + warnings
    )


def _parts(parts: Mapping[str, Any]) -> str:
    return "".join(
        f"<h3>Part {escape(name)}</h3>{_bundle(part, escape(name) + '.edgert')}" for name, part in parts.items()
    )


def _profile(bundle: Mapping[str, Any]) -> str:
    head = f"<h2>{escape(bundle['profile'])}</h2>"
    if "error" in bundle:
        error = bundle["error"]
        text = f"<p class='bad'>No bundle.</p><pre>{escape(error['message'])}</pre>"
        text += f"<p>Remedy: {escape(error['remedy'])}</p>"
        return head + text + _candidates(bundle["candidates"])
    return head + _bundle(bundle, escape(Path(bundle["path"]).name)) + _parts(bundle["parts"])


def _bundle(bundle: Mapping[str, Any], name: str) -> str:
    rows = [_variant(variant) for variant in bundle["variants"]]
    names = [variant["name"] for variant in bundle["variants"]]
    marked = names.index(bundle["chosen"]) if bundle["chosen"] in names else -1
    header = ("Variant", "Provider", "Nodes", "Size", "Cosine", "SQNR", "Top-1", "Samples", "p50", "p99", "Measured")
    warnings = "".join(f"<p class='bad'>{escape(text)}</p>" for text in bundle["warnings"])
    notes = "".join(
        f"<p class='soft'>{escape(v['name'])}: {escape(v['note'])}</p>" for v in bundle["variants"] if v["note"]
    )
    return (
        f"<p>{escape(bundle['reason'])}</p>"
        + table(header, rows, numbers=(3, 4, 5, 6, 7, 8, 9), marked=marked)
        + notes
        + warnings
        + _checks(bundle["variants"])
        + _candidates(bundle["candidates"])
        + f"<p class='soft'><code>{name}</code>, {bundle['bytes'] / 1e6:.2f} MB, "
        f"digest <code>{escape(bundle['digest'])}</code></p>"
    )


def _variant(variant: Mapping[str, Any]) -> tuple[str, ...]:
    worst = _worst(variant["parity"])
    latency = variant["latency_ms"]
    return (
        escape(variant["name"]),
        escape(variant["provider"]),
        "<br>".join(
            f"{count} on {escape(name.removesuffix('ExecutionProvider'))}" for name, count in variant["nodes"].items()
        ),
        f"{variant['bytes'] / 1e6:.2f} MB",
        *worst,
        str(variant["checks"][0]["samples"]),
        f"{latency['p50']:.2f} ms" if latency else "-",
        f"{latency['p99']:.2f} ms" if latency else "-",
        where_tag(variant["where"]),
    )


def _worst(parity: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the worst cosine, SQNR and top-1 agreement over the outputs as text."""
    cosine = min((entry["cosine"] for entry in parity.values()), default=1.0)
    decibels = [entry["sqnr_db"] for entry in parity.values() if entry["sqnr_db"] is not None]
    shares = [entry["top1_agreement"] for entry in parity.values() if entry["top1_agreement"] is not None]
    return (
        f"{cosine:.5f}",
        f"{min(decibels):.1f} dB" if decibels else "exact",
        f"{min(shares):.3f}" if shares else "-",
    )


def _checks(variants: Sequence[Mapping[str, Any]]) -> str:
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
        "Variant",
        "Ran on",
        "Measured",
        "Samples",
        "Output",
        "Cosine",
        "Smallest",
        "Max error",
        "Against",
        "Note",
    )
    body = table(header, rows, numbers=(3, 5, 6, 7))
    return f"<details><summary>Every comparison with the original</summary>{body}</details>"


def _candidates(candidates: Sequence[Mapping[str, Any]]) -> str:
    if not candidates:
        return ""
    rows = [
        (
            escape(entry["variant"]),
            escape(entry["precision"]),
            "-" if entry["gate"] is None else f"{entry['gate']:.5f}",
            "-" if entry["speedup"] is None else f"{entry['speedup']:.2f}x",
            escape(entry["outcome"]),
        )
        for entry in candidates
    ]
    header = ("Candidate", "Precision", "Gate metric", "Speed-up", "Outcome")
    return f"<details open><summary>What was tried</summary>{table(header, rows, numbers=(2, 3))}</details>"
