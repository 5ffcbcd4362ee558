"""Mixed precision, end to end: int8 fails the gate at one layer, that layer stays in float, the table says so."""

from collections import Counter

import onnx
import pytest

from converters.candidates.mixed import layers_around
from converters.pipeline import convert
from converters.request import BundleReport, ProfileFailure
from edgert.bundle import open_bundle
from tests.converters.outlier_net import outlier_net, save_outlier_net

ARM = "raspberry-pi-5"


def _converted(tmp_path, precision="auto", max_drop=0.01):
    model, samples = save_outlier_net(tmp_path)
    conversion = convert(
        model, [ARM], calibration=str(samples), output=tmp_path / "out", precision=precision, max_drop=max_drop
    )
    return conversion.bundles[0]


def test_mixed_keeps_in_float_what_int8_ruins_and_nothing_else(tmp_path):
    """int8 is below the gate and mixed above it; the loud tensor is float, and most layers are int8."""
    report = _converted(tmp_path)
    assert isinstance(report, BundleReport), report
    outcomes = {one.variant: one for one in report.candidates}
    integer = [one for name, one in outcomes.items() if one.precision == "int8"]
    assert integer
    assert all(one.gate < 0.99 for one in integer)
    assert report.chosen == "qdq-s8s8"
    assert report.variants[0].precision == "mixed"
    decisions = {layer.layer: layer.decision for layer in report.layers}
    assert decisions["a0"] == decisions["s0"] == "float"
    assert Counter(decisions.values())["int8"] > len(decisions) / 2
    assert report.layers[0].layer in ("a0", "s0")
    assert report.layers[0].error > 0.001
    assert report.layers[0].error > 20 * report.layers[len(report.layers) // 2].error


def test_mixed_model_file_has_float_and_integer_layers(tmp_path):
    """The first convolutions read floats, the last ones dequantized integers."""
    report = _converted(tmp_path)
    bundle = open_bundle(report.path)
    model, recipe = onnx.load(bundle.folder / "qdq-s8s8.onnx"), bundle.manifest.recipe
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    convs = [makers.get(node.input[0], "") for node in model.graph.node if node.op_type == "Conv"]
    assert convs[0] != "DequantizeLinear"
    assert convs.count("DequantizeLinear") >= 3
    assert "a0" in recipe["keep_float"]
    assert recipe["precision"] == "mixed"


def test_mixed_on_request_only_where_int8_is_asked_for_by_name(tmp_path):
    """--precision int8 means int8: it fails, with the best that was found, instead of mixing in floats."""
    failure = _converted(tmp_path, precision="int8")
    assert isinstance(failure, ProfileFailure)
    assert "qdq-s8s8" in failure.message
    assert {one.precision for one in failure.candidates} == {"int8"}
    assert all(one.outcome.startswith("below the gate") for one in failure.candidates)


def test_mixed_can_be_forced(tmp_path):
    """--precision mixed gives the mixed variant even where the gate would let int8 pass."""
    report = _converted(tmp_path, precision="mixed", max_drop=0.9)
    assert isinstance(report, BundleReport), report
    assert report.variants[0].precision == "mixed"


def test_time_budget_begins_no_further_candidate(tmp_path):
    """With no time left only float is tried; the bundle is written, and the table says what was not tried and why."""
    model, samples = save_outlier_net(tmp_path)
    (report,) = convert(model, [ARM], calibration=str(samples), output=tmp_path / "out", time_budget_s=1e-6).bundles
    assert isinstance(report, BundleReport)
    assert report.chosen == "fp32"
    untried = [one for one in report.candidates if "not tried" in one.outcome]
    assert untried
    assert all("--time-budget" in one.outcome for one in untried)


def test_weights_are_rounded_for_their_inputs_only_where_they_are_to_blame(tmp_path, monkeypatch):
    """Here they are, and the candidate is run; where they would have to cost more than all does, the row says so."""
    monkeypatch.setenv("EDGERT_CACHE", str(tmp_path / "cache"))
    (row,) = [one for one in _converted(tmp_path).candidates if one.variant.endswith("-gptq")]
    assert row.gate is not None
    monkeypatch.setattr("converters.candidates.cpu_search.LEAST_WEIGHTS", 1e6)
    (tmp_path / "again").mkdir()
    (row,) = [one for one in _converted(tmp_path / "again").candidates if one.variant.endswith("-gptq")]
    assert row.gate is None
    assert row.outcome.startswith("not tried: of the ")


@pytest.mark.parametrize(
    ("tensors", "expected"), [({"a0"}, {"a0", "h0", "s0"}), ({"s0"}, {"s0", "a1"}), (set(), set())]
)
def test_layers_around_are_the_writer_and_all_readers(tensors, expected):
    """A tensor is in float only if neither the node that gives it nor one that reads it is quantized."""
    assert layers_around(outlier_net().graph, tensors) == expected
