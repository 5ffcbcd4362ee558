"""Calibration by running the graph."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest

from converters.quantize.calibrate import CalibrationFailed, Statistics, calibrate, observe
from converters.quantize.choose_range import METHODS
from converters.quantize.observers import TensorRange
from converters.quantize.probes import SAMPLED, probes
from edgert.errors import BadInput, UsageError
from tests.converters.quantize.nets import Array, conv_net, images, net, normal, ranges_of, run


class _Passes:
    """Samples that count how often they are read, and know their number only if told."""

    def __init__(self, samples: list[dict[str, Array]]) -> None:
        self._samples, self.passes = samples, 0

    def __iter__(self) -> Iterator[dict[str, Array]]:
        self.passes += 1
        return iter(self._samples)


def _ends(chosen: TensorRange) -> list[float]:
    return [chosen.minimum, chosen.maximum, chosen.absmax, chosen.count]


def _same(one: Statistics, other: Statistics) -> bool:
    return (
        one.ranges == other.ranges
        and one.histograms.keys() == other.histograms.keys()
        and all(np.array_equal(one.histograms[name].counts, other.histograms[name].counts) for name in one.histograms)
        and all(one.histograms[name].edges[0] == other.histograms[name].edges[0] for name in one.histograms)
        and all(np.array_equal(one.channels[name].mean, other.channels[name].mean) for name in one.channels)
    )


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


def test_observe_reads_the_samples_once(tmp_path):
    """One pass over the samples serves all methods."""
    samples = _Passes(images(3))
    statistics = observe(conv_net(), samples, workdir=tmp_path)
    for method in ("minmax", "percentile", "kl", "mse"):
        assert set(statistics.choose(method)) == set("xarcdsepfy")
    assert samples.passes == 1
    assert statistics.samples == 3
    assert not list(tmp_path.iterdir())


def test_observe_with_a_small_budget_gives_the_same_statistics(tmp_path):
    """Where not all histograms fit at once, tensors are observed in several passes and nothing is lost.

    The last digits differ: ONNX Runtime fuses other nodes where it need not show their outputs.
    """
    model, samples = conv_net(), _Passes(images(3))
    budget = max(4 * (probe.elements or 0) + probe.fetched_bytes for probe in probes(model)) + 4096 * 8
    in_passes = observe(model, samples, workdir=tmp_path, memory_budget=budget)
    assert samples.passes > 3
    at_once = observe(model, images(3), workdir=tmp_path)
    assert in_passes.samples == 3
    assert in_passes.channels.keys() == at_once.channels.keys()
    for method in METHODS:
        one, other = in_passes.choose(method), at_once.choose(method)
        assert one.keys() == other.keys()
        assert all(_ends(one[name]) == pytest.approx(_ends(other[name]), rel=2e-3) for name in one)
    for name, histogram in at_once.histograms.items():
        assert in_passes.histograms[name].counts.sum() == histogram.counts.sum()


@pytest.mark.parametrize("width", ["16", "N"])
def test_observe_budget_below_one_tensor_names_it_and_the_smallest_that_would_do(width, tmp_path):
    """A budget that cannot hold one tensor is refused with its name and the least budget, fixed size or not."""
    model = net("a = Relu (x) y = Concat <axis = 1> (a, a)", f"float[1,{width}] x", "float[1,M] y", {})
    samples = [{"x": normal(1, 16)}]
    with pytest.raises(BadInput, match=r"the tensor 'y' has 128 bytes for one sample .* budget of 99") as caught:
        observe(model, samples, workdir=tmp_path, memory_budget=99)
    (least,) = [int(word) for word in caught.value.remedy.split() if word.isdigit()]
    assert observe(model, samples, workdir=tmp_path, memory_budget=least).ranges.keys() == {"x", "a", "y"}
    with pytest.raises(BadInput, match="'y'"):
        observe(model, samples, workdir=tmp_path, memory_budget=least - 1)


def test_observe_on_one_thread_and_on_many_gives_the_same_statistics(tmp_path):
    """Samples that run at the same time are taken in in their order."""
    model, samples = conv_net(), images(9)
    one, many = (observe(model, samples, workdir=tmp_path, threads=threads) for threads in (1, 4))
    assert _same(one, many)


@pytest.mark.parametrize(("budget", "at_once"), [(1e9, 4), (3e6, 1)])
def test_observe_runs_as_many_samples_at_once_as_the_budget_holds(budget, at_once, tmp_path):
    """Four threads run four samples at a time where memory allows it, and one where two would not fit."""
    done, outstanding = [0], []

    def samples() -> Iterator[dict[str, Array]]:
        for number in range(12):
            outstanding.append(number - done[0])
            yield {"x": normal(1, 250_000, seed=number)}

    def progress(now: int, _: int) -> None:
        done[0] = now

    model = net("y = Neg (x)", "float[1,N] x", "float[1,N] y", {})
    observe(model, samples(), workdir=tmp_path, threads=4, memory_budget=budget, progress=progress)
    assert max(outstanding) == at_once


def test_observe_in_parts_adds_up_to_all_at_once(tmp_path):
    """Two halves of the samples hold together what all of them hold (onnxruntime issue 18893 loses such parts)."""
    model, samples = conv_net(), images(6)
    whole, *halves = (observe(model, part, workdir=tmp_path) for part in (samples, samples[:3], samples[3:]))
    for name, full in whole.ranges.items():
        assert full.minimum == min(half.ranges[name].minimum for half in halves)
        assert full.maximum == max(half.ranges[name].maximum for half in halves)
        assert full.count == sum(half.ranges[name].count for half in halves)
        assert whole.histograms[name].counts.sum() == sum(half.histograms[name].counts.sum() for half in halves)


def test_observe_channels_have_the_extremes_and_means_of_the_data_inputs(tmp_path):
    """Channels of a convolution's input lie on axis 1, those of a product with constant weights on the last."""
    model, samples = conv_net(), images(4)
    channels = observe(model, samples, workdir=tmp_path).channels
    assert {name: one.axis for name, one in channels.items()} == {"x": 1, "r": 1, "f": 1}
    data = np.concatenate([sample["x"] for sample in samples])
    assert np.array_equal(channels["x"].minimum, data.min(axis=(0, 2, 3)))
    assert np.array_equal(channels["x"].maximum, data.max(axis=(0, 2, 3)))
    assert np.allclose(channels["x"].mean, data.mean(axis=(0, 2, 3)), atol=1e-6)
    assert channels["f"].mean.shape == (128,)
    assert channels["x"].mean.dtype == np.float32


@pytest.mark.parametrize("opset", [13, 20])
def test_observe_product_of_two_activations_has_no_channels(opset, tmp_path):
    """Only a product with constant weights has channels to equalise; a transposed Gemm has them elsewhere."""
    model = net(
        "y = MatMul (x, x) z = MatMul (y, w) t = Gemm <transA = 1> (z, w)",
        "float[4,4] x",
        "float[4,4] t",
        {"w": normal(4, 4)},
        opset,
    )
    channels = observe(model, [{"x": normal(4, 4)}], workdir=tmp_path).channels
    assert set(channels) == {"y"}
    assert channels["y"].axis == 1


def test_observe_fixed_and_free_sizes_are_sampled_alike(tmp_path):
    """The same values are taken whether the graph knows the size or not: what is shared between both is the same."""
    samples = [{"x": normal(1, 100_001, seed=seed)} for seed in range(3)]
    fixed, free = (
        observe(net("y = Sin (x)", f"float[1,{size}] x", "float[1,M] y", {}), samples, workdir=tmp_path)
        for size in ("100001", "N")
    )
    assert _same(fixed, free)


def test_observe_large_tensor_is_sampled_and_its_extremes_are_exact(tmp_path):
    """One value in a million decides the range; the histogram counts a sample that sees every place in turn."""
    model = net("y = Relu (x)", "float[1,64,64,64] x", "float[1,64,64,64] y", {})
    samples = [{"x": normal(1, 64, 64, 64, seed=seed)} for seed in range(8)]
    samples[5]["x"][0, 3, 2, 1] = 1234.5
    statistics = observe(model, samples, workdir=tmp_path)
    assert statistics.ranges["y"].maximum == 1234.5
    assert statistics.ranges["x"].count == 8 * 64**3
    counted = statistics.histograms["x"].counts.sum()
    assert 8 * SAMPLED / 2 < counted <= 8 * 2 * SAMPLED


@pytest.mark.parametrize("size", ["64", "H"])
def test_observe_sample_of_a_large_tensor_is_spread_over_all_channels(size, tmp_path):
    """A step that meets the same channel every time would see one kind of value only."""
    model = net("y = Neg (x)", f"float[1,{size},{size},64] x", "float[A,B,C,D] y", {})
    each = np.broadcast_to(np.arange(64, dtype=np.float32), (1, 64, 64, 64))
    histogram = observe(model, [{"x": np.ascontiguousarray(each)}], workdir=tmp_path).histograms["x"]
    counts = histogram.counts[histogram.counts > 0]
    assert len(counts) == 64
    assert counts.max() <= 1.2 * counts.min()


def test_observe_memory_does_not_grow_with_the_samples(tmp_path):
    """What is held after many samples is what is held after few."""

    def peak(count: int) -> int:
        tracemalloc.start()
        observe(conv_net(), (sample for sample in images(4) * (count // 4)), workdir=tmp_path, threads=1)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(4)
    assert peak(200) < 1.1 * peak(8)


def test_statistics_saturated_is_the_share_of_values_that_a_range_cuts_off(tmp_path):
    """Of normal noise 4.6 % lies beyond two standard deviations; of the full range nothing does."""
    model = net("y = Neg (x)", "float[1,8000] x", "float[1,8000] y", {})
    statistics = observe(model, [{"x": normal(1, 8000, seed=seed)} for seed in range(4)], workdir=tmp_path)
    assert statistics.saturated("x", TensorRange(-2.0, 2.0, 4.0, 1)) == pytest.approx(0.0455, abs=0.005)
    assert statistics.saturated("x", TensorRange(-2.0, 9.0, 4.0, 1)) == pytest.approx(0.0228, abs=0.004)
    assert statistics.saturated("x", statistics.ranges["x"]) == 0.0


def test_statistics_overflow_is_the_share_that_float16_cannot_hold(tmp_path):
    """Values beyond 65504 are counted, and one of them is never overlooked for being rare."""
    model = net(
        "y = Mul (x, k) s = Neg (x)", "float[1,100] x", "float[1,100] y, float[1,100] s", {"k": np.float32(1e5)}
    )
    half = np.where(np.arange(100) < 30, 2.0, 0.1).astype(np.float32)[None]
    statistics = observe(model, [{"x": half}], workdir=tmp_path)
    assert statistics.overflow("y") == pytest.approx(0.3, abs=0.01)
    assert statistics.overflow("x") == 0.0
    large = net("y = Neg (x)", "float[1,200000] x", "float[1,200000] y", {})
    rare = np.zeros((1, 200_000), np.float32)
    rare[0, 777] = 7e4
    assert observe(large, [{"x": rare}], workdir=tmp_path).overflow("x") >= 1 / 200_000


def test_observe_tensor_that_is_empty_in_some_samples_has_the_range_of_the_others(tmp_path):
    """Where a graph finds nothing there is nothing to count; the range 0..0 is for what never held a value."""
    model = net(
        "n = NonZero (x) i = Squeeze (n) y = Gather (w, i)",
        "float[3] x",
        "float[K] y",
        {"w": np.array([5, 7, 9], np.float32)},
    )
    nothing, two = np.zeros(3, np.float32), np.array([1, 0, 1], np.float32)
    ranges = observe(model, [{"x": nothing}, {"x": two}, {"x": nothing}], workdir=tmp_path).ranges
    assert (ranges["y"].minimum, ranges["y"].maximum, ranges["y"].count) == (5.0, 9.0, 2)
    assert observe(model, [{"x": nothing}], workdir=tmp_path).ranges["y"] == TensorRange(0.0, 0.0, 0.0, 0)


def test_observe_graph_without_floats_has_no_ranges(tmp_path):
    """A model of integers alone runs and gives nothing to quantize."""
    model = net("y = Neg (x)", "int64[2] x", "int64[2] y", {})
    statistics = observe(model, [{"x": np.ones(2, np.int64)}], workdir=tmp_path)
    assert (statistics.ranges, statistics.samples) == ({}, 1)


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_observe_other_floats_are_observed_like_float32(dtype, tmp_path):
    """Half precision does not overflow in its sums, and double precision has histograms too."""
    model = net("y = MatMul (x, w)", f"{dtype}[1,1000] x", f"{dtype}[1,2] y", {"w": np.ones((1000, 2), dtype)})
    statistics = observe(model, [{"x": np.full((1, 1000), 60.0, dtype)}], workdir=tmp_path)
    assert statistics.ranges["y"].maximum == 60_000.0
    assert statistics.channels["x"].mean.tolist() == [60.0] * 1000
    spread = observe(model, [{"x": np.linspace(0, 1, 1000, dtype=dtype)[None]}], workdir=tmp_path)
    assert spread.histograms["x"].counts.sum() == 1000


def test_observe_channels_whose_sum_overflows_are_left_out(tmp_path):
    """A mean that is no number is not given."""
    model = net("y = MatMul (x, w)", "float[4,2] x", "float[4,2] y", {"w": np.eye(2, dtype=np.float32)})
    statistics = observe(model, [{"x": np.full((4, 2), 3e38, np.float32)}], workdir=tmp_path)
    assert "x" in statistics.ranges
    assert "x" not in statistics.channels


def test_observe_sum_that_overflows_is_no_nan(tmp_path):
    """A mask of the least float32 has a sum of -infinity and a finite range; huge values of both signs are no NaN."""
    least = float(np.finfo(np.float32).min)
    model = net("z = Add (x, m)", "float[1,4] x", "float[1,4] z", {"m": np.array([0, 0, least, least], np.float32)})
    assert observe(model, [{"x": normal(1, 4)}], workdir=tmp_path).ranges["z"].minimum == least
    both = np.array([3e38, 3e38, -3e38, -3e38] * 16, np.float32)
    model = net("z = Mul (x, m)", "float[1,64] x", "float[1,64] z", {"m": both})
    assert "x" in observe(model, [{"x": np.ones((1, 64), np.float32)}], workdir=tmp_path).ranges


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
    observe(conv_net(), images(2), workdir=tmp_path, progress=lambda *now: seen.append(now))
    assert seen == [(1, 2), (2, 2)]


def test_calibrate_constants_are_not_observed(tmp_path):
    """Only what changes with the input is measured."""
    model = net("c = Constant <value_float = 2.0> () y = Mul (x, c)", "float[1,4] x", "float[1,4] y", {})
    assert set(ranges_of(model, [{"x": normal(1, 4)}], tmp_path)) == {"x", "y"}


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
