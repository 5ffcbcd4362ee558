"""What `edgert convert --dry-run` tells a person: lines of text made from the document that `--json` prints."""

from collections.abc import Iterator, Sequence
from typing import Any

from edgert.commands.conversion_text import indented, judged
from edgert.commands.printing import megabytes, printable, table

Document = dict[str, Any]


def plan_lines(document: Document) -> Iterator[str]:
    """Yield the lines about what a conversion would do: model, samples, each profile, what would be written."""
    yield "dry run: nothing is calibrated, quantized or written"
    source, calibration = document["source"], document["calibration"]
    yield f"model: {document['model']} ({source['kind']}), {megabytes(source['bytes'])}"
    for one in document["inputs"]:
        dims = ",".join(map(str, one["shape"]))
        yield f"  input {printable(one['name'])}: {one['dtype']} [{printable(dims)}]"
    yield f"samples: {calibration['count']} ({calibration['kind']})"
    if calibration["warning"]:
        yield f"  WARNING: {printable(calibration['warning'])}"
    yield judged(document["evaluation"])
    yield f"one run of the original here: {document['run_ms']:.3g} ms"
    for profile in document["profiles"]:
        yield f"\n{profile['profile']}"
        yield from _profile_lines(profile)
    yield from _written_lines(document)


def _profile_lines(profile: Document) -> Iterator[str]:
    rows = [
        (one["provider"].removesuffix("ExecutionProvider"), one["processor"], one["state"], printable(one["detail"]))
        for one in profile["providers"]
    ]
    yield indented(("provider", "processor", "here", ""), rows)
    error = profile["error"]
    if error:
        yield f"  would fail: {error['message']}\n  remedy: {error['remedy']}"
    candidates = profile["candidates"]
    if candidates:
        numbered = [
            (str(number), one["candidate"], one["precision"], one["when"]) for number, one in enumerate(candidates, 1)
        ]
        yield indented(("", "candidate, in the order of trying", "precision", "tried"), numbered)
    yield from _pass_lines(profile["passes"])
    cost, estimate = profile["calibration"], profile["estimate"]
    if cost:
        yield f"  to calibrate: {cost['tensors']} float tensors"
    if estimate:
        yield f"  estimate: {duration(estimate['least_s'])} to {duration(estimate['most_s'])}"


def _pass_lines(passes: Sequence[Document]) -> Iterator[str]:
    """Yield the passes that change the graph, those of one name together, and how many find nothing to change."""
    totals: dict[str, int] = {}
    for step in passes:
        totals[step["name"]] = totals.get(step["name"], 0) + step["changes"]
    changed = [f"{name} {count}" for name, count in totals.items() if count]
    if totals:
        idle = len(totals) - len(changed)
        yield f"  graph passes: {', '.join(changed) or 'no change'}; {idle} find nothing to change"


def _written_lines(document: Document) -> Iterator[str]:
    rows = [(one["writes"], "replaces what is there" if one["replaces"] else "") for one in document["profiles"]]
    yield "\n" + table(("would be written", ""), [*rows, (document["report"], "")])
    if document["parts"]:
        yield f"each bundle also holds: {', '.join(map(printable, document['parts']))}"
    hows = dict.fromkeys(one["estimate"]["how"] for one in document["profiles"] if one["estimate"])
    yield from (f"estimates are {how}" for how in hows)


def duration(seconds: float) -> str:
    """Return seconds as a person reads them; below two minutes with two digits, else in minutes or hours."""
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 100 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
