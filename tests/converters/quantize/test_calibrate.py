"""Calibration by running the graph."""

import numpy as np
import onnx_ir as ir
import pytest

from converters.quantize.calibrate import CalibrationFailed, calibrate, chunk_by_bytes, observe
from edgert.errors import BadInput, UsageError
from tests.converters.quantize.nets import conv_net, images, net, normal, ranges_of, run


def test_calibrate_minmax_equals_the_extremes_of_every_tensor(tmp_path):
    """The range of a tensor is the smallest and largest value over all samples, input and output included."""
    model, samples = conv_net(), images(3)
    ranges = ranges_of(model, samples, tmp_path)
    assert set(ranges) == set("xarcdsepfy")
    outputs = [run(model, sample, tmp_path)["y"] for sample in samples]
    assert ranges["y"].minimum == pytest.approx(min(y.min() for y in outputs), abs=1e-6)
    assert ranges["y"].maximum == pytest.approx(max(y.max() for y in outputs), abs=1e-6)
    assert ranges["x"].maximum == max(sample["x"].max() for sample in samples)
    assert ranges["x"].count == 3 * 3 * 16 * 16


@pytest.mark.parametrize("method", ["percentile", "mse"])
def test_calibrate_with_a_tiny_budget_gives_the_same_ranges(method, tmp_path):
    """Fetching one tensor at a time changes nothing but the memory: no data is lost between chunks."""
    model, samples = conv_net(), images(3)
    at_once = calibrate(model, samples, method=method, workdir=tmp_path)
    one_by_one = calibrate(model, samples, method=method, workdir=tmp_path, memory_budget=1)
    assert one_by_one == pytest.approx(at_once)
    assert not list(tmp_path.iterdir())


def test_calibrate_samples_of_different_shapes_are_counted_together(tmp_path):
    """Samples need not have one shape: text lines of different width calibrate one model (onnxruntime 18792)."""
    model = net("y = Relu (x)", "float[1,N] x", "float[1,N] y", {})
    samples = [{"x": np.array([[-1.0, 2.0]], np.float32)}, {"x": np.array([[0.5, 1.0, 7.0]], np.float32)}]
    ranges = calibrate(model, samples, method="percentile", workdir=tmp_path)
    assert ranges["y"].count == 5
    assert ranges["y"].absmax == 7.0


def test_calibrate_nan_in_the_middle_of_a_tensor_names_tensor_and_node(tmp_path):
    """A NaN is found wherever it stands, although ReduceMin passes it over, and its origin is named."""
    model = net("a = Sqrt (x) y = Relu (a)", "float[1,9] x", "float[1,9] y", {})
    bad = np.ones((1, 9), np.float32)
    bad[0, 4] = -1.0
    with pytest.raises(CalibrationFailed, match=r"sample 2 .*'a' of node 'Sqrt_0'"):
        ranges_of(model, [{"x": np.ones((1, 9), np.float32)}, {"x": bad}], tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_calibrate_not_finite_input_is_refused(value, tmp_path):
    """NaN and infinity in the samples themselves are the user's data and named as that."""
    samples = images(1)
    samples[0]["x"][0, 1, 5, 5] = value
    with pytest.raises(BadInput, match="in the input 'x'"):
        ranges_of(conv_net(), samples, tmp_path)


def test_calibrate_missing_values_leave_their_tensors_without_a_range(tmp_path):
    """Where a node knows missing values NaN is no error: what holds it stays in float, the rest is measured."""
    imputer = "ai.onnx.ml.Imputer <imputed_value_floats = [0.5], replaced_value_float = nan>"
    model = net(f"y = {imputer} (x) b = Neg (x)", "float[1,3] x", "float[1,3] y, float[1,3] b", {})
    samples = [{"x": np.array([[1.0, np.nan, 4.0]], np.float32)}, {"x": np.ones((1, 3), np.float32)}]
    for method in ("minmax", "percentile"):
        ranges = calibrate(model, samples, method=method, workdir=tmp_path)
        assert set(ranges) == {"y"}
        assert (ranges["y"].minimum, ranges["y"].maximum) == (0.5, 4.0)


def test_calibrate_without_samples_is_refused(tmp_path):
    """No sample means no range; that is an error, not a range of zero."""
    with pytest.raises(BadInput, match="no sample"):
        ranges_of(conv_net(), [], tmp_path)


def test_calibrate_unknown_method_is_a_usage_error(tmp_path):
    """A method that does not exist is refused before anything runs."""
    with pytest.raises(UsageError, match="'median'"):
        calibrate(conv_net(), images(1), method="median", workdir=tmp_path)


def test_observe_reports_every_run_of_the_model(tmp_path):
    """Progress counts each run, and ends at the number that it promised."""
    seen: list[tuple[int, int]] = []
    observe(conv_net(), images(2), histograms=True, workdir=tmp_path, progress=lambda *now: seen.append(now))
    assert seen == [(1, 0), (2, 0), (3, 4), (4, 4)]


def test_calibrate_constants_are_not_observed(tmp_path):
    """Only what changes with the input is measured."""
    model = net("c = Constant <value_float = 2.0> () y = Mul (x, c)", "float[1,4] x", "float[1,4] y", {})
    assert set(ranges_of(model, [{"x": normal(1, 4)}], tmp_path)) == {"x", "y"}


def test_chunk_by_bytes_large_tensor_stands_alone():
    """Chunks keep the order and the budget, except for a tensor that is larger by itself."""
    assert chunk_by_bytes({"a": 4, "b": 5, "c": 99, "d": 1}, 10) == [["a", "b"], ["c"], ["d"]]


def test_calibrate_infinity_of_the_graph_has_no_range(tmp_path):
    """A mask of -inf takes its own tensor out of the ranges, and no other."""
    model = net(
        "z = Add (x, m) p = Softmax (z)",
        "float[1,4] x",
        "float[1,4] p",
        {"m": np.array([0, 0, -np.inf, -np.inf], np.float32)},
    )
    for method in ("minmax", "percentile"):
        assert set(calibrate(model, [{"x": normal(1, 4)}], method=method, workdir=tmp_path)) == {"x", "p"}


def test_calibrate_external_weights_are_found(tmp_path):
    """The scratch file carries the weights that lie beside the model."""
    ir.save(conv_net(), tmp_path / "a.onnx", external_data="a.weights", size_threshold_bytes=0)
    (tmp_path / "scratch").mkdir()
    samples = images(2)
    assert ranges_of(ir.load(tmp_path / "a.onnx"), samples, tmp_path / "scratch") == ranges_of(
        conv_net(), samples, tmp_path
    )
