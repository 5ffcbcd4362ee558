"""The page about a conversion: every section is there, nothing is fetched, and no name can become markup."""

import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from converters.quantize.observers import Histogram
from converters.report.histograms import coarse, stored_error
from converters.report.page import profiles, render, write_report
from converters.report.pareto import pareto
from converters.report.plots import LAYERS, layer_bars
from converters.request import (
    BundleReport,
    Candidate,
    Check,
    Conversion,
    LayerDecision,
    ProfileFailure,
    Request,
    StageTime,
    TensorHistogram,
    VariantReport,
)
from converters.verify.parity import OutputParity
from edgert.runtime.timing import Latency

VOID = {"meta", "br", "img"}
HOSTILE = "<script>alert('1')</script>&\"<img src=x onerror=y>"


class Tags(HTMLParser):
    """The tags that are open, all that were seen, their attributes, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open, f"</{tag}> closes nothing"
            assert self.open.pop() == tag, f"</{tag}> at {self.getpos()} closes another tag"

    def handle_data(self, data):
        self.text += data


def read(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    return tags


def a_variant(name: str = "qdq-u8s8", speedup: float | None = 1.84) -> VariantReport:
    parity = OutputParity(24.5, 0.9961, 0.99, 0.31, 0.98, None)
    latency = Latency(2.5, 2.9, 3.5, 12, speedup)
    checks = [Check("CPUExecutionProvider", "host", 12, {"probabilities": parity}, note="checked")]
    nodes = {"CPUExecutionProvider": 144, "XnnpackExecutionProvider": 7}
    return VariantReport(name, "int8", 620_000, "CPUExecutionProvider", "host", nodes, checks, latency, "a remark")


def a_report(**changes) -> BundleReport:
    report = BundleReport(
        path=Path("out/cls-x86.edgert"),
        profile="x86-avx512-vnni",
        digest="sha256:abc",
        bytes=910_000,
        chosen="qdq-u8s8",
        reason="qdq-u8s8 is the fastest that holds the gate",
        variants=[a_variant()],
        candidates=[
            Candidate("int8", "qdq-u8s8-kl", 0.9867, None, "below the gate", 610_000),
            Candidate("mixed", "qdq-mixed-2", 0.9961, 1.84, "chosen", 620_000),
            Candidate("fp32", "fp32", 1.0, 1.2, "slower", 2_000_000),
            Candidate("int4", "never-run", None, None, "pruned", None),
        ],
        warnings=["no --license given"],
        layers=[
            LayerDecision("conv_out", "conv-node", "Conv", 0.004, True, "float"),
            LayerDecision("gemm_out", "gemm-node", "Gemm", 0.001, False, "int8"),
            LayerDecision("mul_out", "mul-node", "Mul", 0.0005, True, "16-bit"),
        ],
        histograms=[TensorHistogram("conv_out", -8.0, 24.0, -4.0, 12.0, 0.0123, "uint8", (1, 0, 900, 40, 3))],
        passes=[{"name": "fold_bn", "changes": 12, "declined": ["node 'x': two readers"]}],
        recipe={"max_drop": 0.01, "calibration_method": "kl", "task": None, "tools": {"onnx": "1.19"}},
    )
    return replace(report, **changes)


def a_conversion(*bundles: BundleReport | ProfileFailure, **changes) -> Conversion:
    said = {"metric": "cosine", "kind": "agreement", "samples": 12, "digest": "", "original": 1.0, "note": "agreement"}
    conversion = Conversion(
        "cls.onnx",
        list(bundles) or [a_report()],
        source={"kind": "onnx", "framework": "", "parity": None, "warnings": []},
        evaluation=said,
        calibration={"data": "images", "kind": "images", "count": 12, "digest": "d1gest", "warning": ""},
        tools={"onnxruntime": "1.23.4"},
        host={"cpu": "A CPU", "cores": 2},
        command="edgert convert cls.onnx -p x86-avx512-vnni",
        stages=[StageTime("calibrating", 3.25)],
    )
    return replace(conversion, **changes)


@pytest.mark.parametrize(
    "words",
    [
        "qdq-u8s8: 1.84x as fast as the original (host), 0.62 MB, gate value 0.99610",
        "qdq-u8s8 is the fastest that holds the gate",
        "Warning: no --license given",
        "Variants in the bundle",
        "2.50 ms",
        "a remark",
        "What was tried",
        "never-run",
        "below the gate",
        "Sensitivity of the layers",
        "conv-node",
        "16-bit",
        "Tensors that cost most in integers",
        "uint8, -4 to 12 of -8 to 24; 1.23% cut off",
        "144 on CPU, 7 on Xnnpack",
        "1 of 1 graph passes changed something",
        "node 'x': two readers",
        'calibration_method = "kl"',
        "12 calibration samples (images)",
        "d1gest",
        "1.23.4",
        "A CPU",
        "edgert convert cls.onnx -p x86-avx512-vnni",
        "calibrating",
        "sha256:abc",
        "agreement",
    ],
)
def test_page_says_everything_that_the_conversion_found(words):
    """Each figure, name and reason of a conversion is text of the page."""
    assert words in read(render(a_conversion())).text


def test_page_of_every_kind_of_entry_fetches_nothing_and_runs_nothing():
    """No script, no link, no address: the page is the same without a network."""
    failure = ProfileFailure("snapdragon-8-gen-3", "refused", "replace it", 1)
    page = render(a_conversion(a_report(parts={"encoder": a_report(path=Path("x"))}), failure))
    tags = read(page)
    assert not {"script", "link", "iframe", "img", "object", "base"} & {name for name, _ in tags.seen}
    assert not [values for _, values in tags.seen if {"src", "href", "srcset", "style", "onload"} & values.keys()]
    assert not re.search(r"https?:|//[a-z]|url\(|@import", page)


def test_page_has_colours_for_a_dark_screen_and_scrolls_wide_tables():
    """The style sheet knows both schemes, and each table stands in a box of its own that scrolls."""
    page = render(a_conversion())
    assert "prefers-color-scheme: dark" in page
    assert page.count("<table>") == page.count("<div class='scroll'><table>") > 4


def test_names_that_are_markup_stay_text():
    """Whatever a model calls its nodes, tensors and files, no tag comes of it."""
    layer = LayerDecision(HOSTILE, HOSTILE, HOSTILE, 0.1, False, HOSTILE)
    histogram = TensorHistogram(HOSTILE, 0.0, 1.0, 0.0, 1.0, 0.0, HOSTILE, (1, 2))
    variant = replace(a_variant(HOSTILE), provider=HOSTILE, where=HOSTILE, nodes={HOSTILE: 1}, note=HOSTILE)
    variant = replace(variant, checks=[Check(HOSTILE, HOSTILE, 1, {HOSTILE: OutputParity(1, 1, 1, 1, 1, 1)}, HOSTILE)])
    report = a_report(
        path=Path("out") / HOSTILE.replace("/", ""),
        profile=HOSTILE,
        digest=HOSTILE,
        chosen=HOSTILE,
        reason=HOSTILE,
        variants=[variant],
        candidates=[Candidate(HOSTILE, HOSTILE, 0.999, 1.0, "chosen " + HOSTILE, 5)],
        warnings=[HOSTILE],
        layers=[layer],
        histograms=[histogram],
        passes=[{"name": HOSTILE, "changes": 1, "declined": [HOSTILE] * 5}],
        recipe={HOSTILE: HOSTILE},
    )
    refused = [{"name": HOSTILE, "op_type": HOSTILE, "domain": HOSTILE}]
    failure = ProfileFailure(HOSTILE, HOSTILE, HOSTILE, 1, refused, report.candidates, [layer])
    conversion = a_conversion(
        replace(report, parts={HOSTILE: report}),
        failure,
        model=HOSTILE,
        source={"kind": HOSTILE, "framework": HOSTILE, "parity": variant.checks[0].to_json(), "warnings": [HOSTILE]},
        calibration={"data": HOSTILE, "kind": HOSTILE, "count": 1, "digest": HOSTILE, "warning": HOSTILE},
        tools={HOSTILE: HOSTILE},
        host={HOSTILE: HOSTILE},
        command=HOSTILE,
        stages=[StageTime(HOSTILE, 1.0)],
    )
    tags = read(render(conversion, {str(report.path): HOSTILE}))
    assert not {"script", "img"} & {name for name, _ in tags.seen}
    assert not [values for _, values in tags.seen if "onerror" in values]
    assert HOSTILE in tags.text


def test_profile_without_bundle_tells_why_and_what_was_tried():
    """A failure has its error, its remedy, each refused node, and the candidates against the gate asked for."""
    refused = [{"name": "If_0", "op_type": "If", "domain": ""}]
    tried = [Candidate("int8", "qdq-s8s8", 0.91, None, "below the gate", 5)]
    failure = ProfileFailure("npu", "no candidate holds", "give a larger --max-drop", 1, refused, tried)
    text = read(render(a_conversion(failure, max_drop=0.05))).text
    assert all(word in text for word in ("No bundle", "no candidate holds", "give a larger", "If_0", "gate 0.95"))


def test_profiles_alone_draw_the_gate_of_the_recipe():
    """Who shows bundles without their conversion gets each one's own gate."""
    report = a_report(recipe={"max_drop": 0.05})
    assert "gate 0.95" in read(profiles([report.to_json()])).text


def test_profiles_of_parts_have_sections_of_their_own():
    """A bundle in the bundle is shown like any other."""
    report = a_report(parts={"encoder": a_report(chosen="fp32", variants=[a_variant("fp32")])})
    text = read(profiles([report.to_json()])).text
    assert "part encoder" in text
    assert "fp32: 1.84x" in text


def test_pareto_marks_the_chosen_and_greys_what_is_below_the_gate():
    """There is one dot per candidate with a gate value, one ring, and a line at the gate."""
    svg = pareto([one.to_json() for one in a_report().candidates], 0.01)
    assert svg.count("<circle class='dot") == 3
    assert svg.count("<circle class='ring'") == 1
    assert re.findall(r"<g class='below'><title>([^:]*)", svg) == ["qdq-u8s8-kl"]
    assert "gate 0.99<" in svg
    assert "never-run" not in svg


def test_pareto_with_times_puts_the_faster_one_further_right_and_the_untimed_apart():
    """The horizontal axis is the speed-up, and what was not timed stands in a strip of its own at the left."""
    svg = pareto([one.to_json() for one in a_report().candidates], 0.01)
    place = {name: float(x) for name, x in re.findall(r"<title>([^:]*):.*?cx='([0-9.]+)'", svg)}
    assert place["qdq-u8s8-kl"] < place["fp32"] < place["qdq-mixed-2"]
    assert "not timed" in svg


def test_pareto_without_times_shows_sizes():
    """Where the processor is not here, smaller is what can be told."""
    candidates = [Candidate("int8", name, 0.999, None, "", size).to_json() for name, size in (("a", 10), ("b", 10**7))]
    svg = pareto(candidates, 0.01)
    place = {name: float(x) for name, x in re.findall(r"<title>([^:]*):.*?cx='([0-9.]+)'", svg)}
    assert "MB" in svg
    assert place["a"] < place["b"]


def test_pareto_line_joins_only_what_nothing_beats():
    """One that is slower and no better, to five digits, is not on the line."""
    figures = {
        "best": (0.999999, 2.0),
        "better": (1.0, 1.5),
        "beaten": (0.995, 1.2),
        "plain": (0.9999991, 1.0),
        "same time": (0.995, 2.0),
    }
    candidates = [Candidate("fp32", name, gate, speed, "", 1) for name, (gate, speed) in figures.items()]
    assert "class='front'" not in pareto([one.to_json() for one in candidates], 0.01)
    slower = Candidate("int8", "fast", 0.992, 3.0, "", 1)
    svg = pareto([one.to_json() for one in (*candidates, slower)], 0.01)
    assert re.search(r"class='front' d='M[0-9. ]+L[0-9. ]+'", svg)


def test_pareto_with_a_ruined_candidate_keeps_the_others_apart():
    """One at 0.1 stands at the bottom with its value written out; the others still have room between them."""
    gates = {"ruined": 0.1, "good": 0.999, "fair": 0.992}
    svg = pareto([Candidate("int8", name, gate, 1.0, "", 1).to_json() for name, gate in gates.items()], 0.01)
    place = {name: float(y) for name, y in re.findall(r"<title>([^:]*):.*?cy='([0-9.]+)'", svg)}
    assert place["ruined"] > place["fair"] > place["good"] + 10
    assert "Off the scale, at the bottom: ruined (0.100)." in svg


@pytest.mark.parametrize("count", [1, 12])
def test_pareto_of_equal_candidates_labels_each_apart(count):
    """Labels of candidates that lie at the same place do not cover each other."""
    svg = pareto([Candidate("int8", f"same-{place}", 1.0, 1.0, "", 1).to_json() for place in range(count)], 0.0)
    heights = sorted(float(y) for y in re.findall(r"<text class='(?:start|end)' x='[0-9.]+' y='([0-9.]+)'>same", svg))
    assert len(heights) == count
    assert all(np.diff(heights) >= 12.9)


def test_layer_bars_show_the_costliest_first_and_no_more_than_fit():
    """Of many layers the costliest are shown, and the bar of the first is full."""
    layers = [
        LayerDecision(f"t{place}", f"n{place}", "Conv", place / 1e4, True, "int8").to_json() for place in range(50)
    ]
    html = layer_bars(layers)
    widths = [float(width) for width in re.findall(r"width='([0-9.]+)' height='10'", html)]
    assert widths[0] == 100.0
    assert widths == sorted(widths, reverse=True)
    assert len(widths) == LAYERS
    assert "n49" in html
    assert "n29<" not in html


def test_report_file_names_the_replay_of_each_bundle(tmp_path):
    """Under each bundle stands the command that builds the same bytes from its recipe."""
    request = Request(Path("cls.onnx"), ("x86-avx512-vnni",), Path("out"), calibration="images", max_drop=0.02)
    conversion = write_report(a_conversion(), request, tmp_path / "report.html")
    text = read(conversion.report.read_text(encoding="utf-8")).text
    recipe = shlex.quote(str(Path("out/cls-x86.edgert")))
    assert re.search(rf"edgert convert cls.onnx .*--recipe[ =]{re.escape(recipe)}.*--calibration[ =]images", text)


def test_document_of_a_conversion_is_strict_json():
    """What the page shows is in `convert --json`, too."""
    document = json.loads(json.dumps(a_conversion().to_json(), allow_nan=False))
    assert document["bundles"][0]["histograms"][0]["counts"] == [1, 0, 900, 40, 3]
    assert document["command"].startswith("edgert convert")


def test_coarse_histogram_keeps_the_sum_and_the_place_of_the_values():
    """64 bins hold as many values as 4096 do, and the outlier is in the last of them."""
    histogram = Histogram()
    values = np.append(np.random.default_rng(0).standard_normal(5000), 40.0).astype(np.float32)
    histogram.add(values, float(values.min()), 40.0)
    counts = coarse(histogram, float(values.min()), 40.0)
    assert len(counts) == 64
    assert counts.sum() == 5001
    assert counts[-1] == 1
    assert counts[:16].sum() == 5000


def test_stored_error_of_a_range_that_cuts_the_bulk_is_larger():
    """Clipping half of the values costs more than steps a little wider."""
    histogram = Histogram()
    values = np.linspace(-1, 1, 4001, dtype=np.float32)
    histogram.add(values, -1.0, 1.0)
    errors = [stored_error(histogram, -bound, bound, levels=256) for bound in (0.5, 1.0, 2.0)]
    assert errors[1] < errors[2] < errors[0]
