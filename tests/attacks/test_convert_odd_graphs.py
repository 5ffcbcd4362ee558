"""Graphs that one optional candidate cannot take: the candidate is left out, and the bundle is made all the same."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters.pipeline import convert
from converters.request import BundleReport, ProfileFailure
from edgert.bundle import open_bundle
from edgert.host import host_facts
from edgert.profile import detect_profile
from edgert.runtime.providers import Absent, find_device
from tests.converters.quantize.nets import net, normal

HOST, PI = detect_profile(host_facts()), "raspberry-pi-5"


def converted(folder: Path, model: onnx.ModelProto | ir.Model, samples, profiles=(HOST, PI), **options):
    """Convert a net with samples of its input `x`; every profile must give a bundle."""
    path = folder / "odd.onnx"
    ir.save(model, path) if isinstance(model, ir.Model) else onnx.save(model, path)
    (folder / "samples").mkdir()
    for number, sample in enumerate(samples):
        np.savez(folder / "samples" / f"{number}.npz", x=sample)
    given = {"calibration": str(folder / "samples"), "output": folder / "out", "license": "MIT"} | options
    reports = convert(path, profiles, **given).bundles
    assert all(isinstance(report, BundleReport) for report in reports), reports
    return reports


def linear(opset: int) -> onnx.ModelProto:
    """Return what PyTorch makes of a Linear: Gemm with transB."""
    weights = [numpy_helper.from_array(normal(10, 64), "w"), numpy_helper.from_array(normal(10), "b")]
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name, size in (("x", 64), ("y", 10))
    ]
    graph = helper.make_graph([node], "linear", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("opset", [9, 13, 17])
def test_convert_a_linear_layer_tries_dynamic_int8(opset, tmp_path):
    """onnxruntime transposes its weight and then finds the old shape: it must not be there."""
    for report in converted(tmp_path, linear(opset), [normal(1, 64, seed=seed) for seed in range(6)]):
        (dynamic,) = [one for one in report.candidates if one.variant == "dyn-int8"]
        assert dynamic.gate is not None
        assert dynamic.gate > 0.99


def test_convert_half_precision_leaves_out_what_takes_single_only(tmp_path):
    """DynamicQuantizeLinear has no float16: a row says so, and another candidate is taken."""
    body = "a = MatMul (x, w) r = Relu (a) y = MatMul (r, v)"
    weights = {"w": normal(32, 32).astype(np.float16), "v": normal(32, 32, seed=1).astype(np.float16)}
    model = net(body, "float16[2,32] x", "float16[2,32] y", weights)
    for report in converted(tmp_path, model, [normal(2, 32, seed=seed).astype(np.float16) for seed in range(6)]):
        (row,) = [one for one in report.candidates if one.variant == "dyn-int8"]
        assert "cannot be" in row.outcome
        assert report.chosen != "dyn-int8"


def test_convert_an_output_whose_shape_rounding_changes_keeps_float(tmp_path):
    """NonZero behind a rounded Relu: int8 finds fewer; that is its fault, not the model's."""
    model = net(
        "a = MatMul (x, w) r = Relu (a) y = NonZero (r)", "float[2,32] x", "int64[2,n] y", {"w": normal(32, 32)}
    )
    for report in converted(tmp_path, model, [normal(2, 32, seed=seed) for seed in range(12)]):
        shaped = [one for one in report.candidates if "has shape" in one.outcome]
        assert shaped
        assert report.chosen not in [one.variant for one in shaped]


def test_convert_doubles_beyond_single_precision(tmp_path):
    """1e200 has no range that integers are worth: float is left, and nothing that quantizes nothing is called int8."""
    weights = {"w": (normal(32, 32).astype(np.float64) * 1e200), "v": normal(32, 8).astype(np.float64)}
    model = net("a = MatMul (x, w) y = MatMul (a, v)", "double[2,32] x", "double[2,8] y", weights)
    for report in converted(tmp_path, model, [normal(2, 32, seed=seed).astype(np.float64) for seed in range(6)]):
        assert report.chosen.startswith("fp32")


def test_convert_for_an_npu_names_nothing_int8_that_holds_no_integer(tmp_path):
    """An LSTM has no integers there: it goes as float, and the row of int8 says why."""
    if isinstance(find_device("QNNExecutionProvider", allow_emulated=True), Absent):
        pytest.skip("QNNExecutionProvider is not installed")
    weights = {"w": normal(1, 32, 8) / 4, "r": normal(1, 32, 8, seed=1) / 4}
    model = net("y, h = LSTM <hidden_size = 8> (x, w, r)", "float[4,1,8] x", "float[4,1,1,8] y", weights)
    path = tmp_path / "lstm.onnx"
    ir.save(model, path)
    (tmp_path / "s").mkdir()
    for seed in range(4):
        np.savez(tmp_path / "s" / f"{seed}.npz", x=normal(4, 1, 8, seed=seed))
    (report,) = convert(
        path, ["snapdragon-8-gen-3"], calibration=str(tmp_path / "s"), output=tmp_path / "out", license="MIT"
    ).bundles
    rows = {one.variant: one.outcome for one in report.candidates}
    assert "no operator of the graph takes integers" in rows["qdq-u8s8"]
    if isinstance(report, ProfileFailure):
        return
    assert report.chosen == "fp32-npu"
    assert open_bundle(report.path).manifest.chosen == "fp32-npu"
