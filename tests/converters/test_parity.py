"""Parity: the figures are what their definitions say, and the gate takes the worst output."""

import json

import numpy as np
import pytest

from converters.verify.parity import ParityMeter, below, gate_value
from edgert.errors import BadInput, GateFailed


def measure(expected: np.ndarray, seen: np.ndarray):
    meter = ParityMeter()
    meter.add({"y": expected}, {"y": seen})
    return meter.result()["y"]


def test_parity_of_equal_outputs_is_exact_and_has_no_decibels():
    """Equal arrays have cosine 1, no error and sqnr None."""
    values = np.array([[0.1, 0.9]], np.float32)
    parity = measure(values, values.copy())
    assert (parity.sqnr_db, parity.cosine, parity.max_abs_error, parity.top1_agreement) == (None, 1.0, 0.0, 1.0)


def test_parity_sqnr_is_signal_over_noise_in_decibels():
    """A signal of energy 100 with an error of energy 1 has 20 dB."""
    parity = measure(np.array([10.0, 0.0]), np.array([10.0, 1.0]))
    assert parity.sqnr_db == pytest.approx(20.0)
    assert parity.max_abs_error == 1.0


def test_parity_top1_counts_rows_whose_argmax_agrees():
    """Two of three rows keep their class."""
    expected = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], np.float32)
    seen = np.array([[0.8, 0.2], [0.1, 0.9], [0.4, 0.6]], np.float32)
    assert measure(expected, seen).top1_agreement == pytest.approx(2 / 3)


def test_parity_over_samples_adds_energies_and_keeps_the_smallest_cosine():
    """One good and one opposite sample give mean cosine 0 and smallest -1."""
    meter = ParityMeter()
    meter.add({"y": np.array([1.0, 0.0])}, {"y": np.array([1.0, 0.0])})
    meter.add({"y": np.array([1.0, 0.0])}, {"y": np.array([-1.0, 0.0])})
    parity = meter.result()["y"]
    assert (parity.cosine, parity.cosine_min, parity.samples) == (0.0, -1.0, 2)


def test_parity_of_nan_outputs_is_bad_not_undefined():
    """A variant that gives NaN fails the gate and stays valid JSON."""
    parity = measure(np.array([1.0, 2.0], np.float32), np.array([np.nan, 2.0], np.float32))
    assert np.isfinite(parity.cosine)
    assert parity.cosine < 0.99
    infinite = measure(np.array([1.0, 2.0], np.float32), np.array([np.inf, 2.0], np.float32))
    assert infinite.cosine < 0.99


def test_parity_of_another_shape_is_refused():
    """A conversion must not change an output's shape."""
    with pytest.raises(GateFailed, match="shape"):
        measure(np.zeros((1, 2)), np.zeros((2, 1)))


def test_gate_takes_the_worst_output():
    """The gate value is that of the output that suffers most."""
    meter = ParityMeter()
    good, bad = np.array([1.0, 0.0]), np.array([1.0, 1.0])
    meter.add({"a": good, "b": good}, {"a": good, "b": bad})
    assert gate_value(meter.result(), "cosine") == pytest.approx(1 / np.sqrt(2))


def test_gate_with_unknown_metric_names_the_nearest():
    """A typo in --metric is answered with the metric that was meant."""
    with pytest.raises(BadInput) as caught:
        gate_value({}, "cosin")
    assert "cosine" in caught.value.remedy


def test_gate_on_classes_without_classes_is_refused():
    """top1_agreement needs an output with two or more entries on its last axis."""
    meter = ParityMeter()
    meter.add({"y": np.zeros((1, 1), np.float32)}, {"y": np.zeros((1, 1), np.float32)})
    with pytest.raises(BadInput):
        gate_value(meter.result(), "top1_agreement")


def test_parity_of_equal_infinities_and_nan_compares_the_rest():
    """What both sides hold alike, even NaN, is no error; what is left decides."""
    expected = np.array([np.nan, -np.inf, 3.0, 4.0], np.float32)
    assert measure(expected, expected.copy()).cosine == 1.0
    parity = measure(expected, np.array([np.nan, -np.inf, 4.0, -3.0], np.float32))
    assert parity.cosine == pytest.approx(0.0)
    assert parity.max_abs_error == 7.0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("expected", "seen"),
    [
        (1.0, np.nan),
        (1.0, -np.inf),
        (np.inf, 1.0),
        (np.nan, 1.0),
        (np.inf, -np.inf),
        (np.inf, np.nan),
        (1e300, -1e300),
    ],
)
def test_parity_of_one_number_that_is_not_the_same_fails_the_gate(expected, seen):
    """One infinity or NaN on one side alone is an error, however many numbers are right beside it."""
    many = np.ones(1000)
    parity = measure(np.append(many, expected), np.append(many, seen))
    assert parity.cosine < 0.9
    json.dumps(parity.to_json(), allow_nan=False)


@pytest.mark.filterwarnings("error")
def test_parity_of_float64_beyond_the_square_root_is_finite():
    """Numbers whose squares overflow are compared all the same."""
    values = np.array([1e200, 2e200])
    assert measure(values, values * 1.0001).cosine == pytest.approx(1.0)
    json.dumps(measure(values, -values).to_json(), allow_nan=False)


@pytest.mark.parametrize("dtype", [object, np.str_, np.int64, np.int32, np.bool_])
def test_parity_of_labels_is_the_share_of_equal_ones(dtype):
    """Labels have no distance: three of four equal ones are 0.75, whatever their numbers, and the gate sees it."""
    expected = np.array(["1", "0", "1", "1"]).astype(int).astype(dtype)
    seen = np.array(["1", "0", "1", "0"]).astype(int).astype(dtype)
    parity = measure(expected, seen)
    assert (parity.agreement, parity.cosine, parity.cosine_min, parity.sqnr_db) == (0.75, 0.75, 0.75, None)
    assert parity.max_abs_error == 1.0
    assert parity.to_json()["agreement"] == 0.75
    assert gate_value({"label": parity}, "cosine") == 0.75
    assert measure(expected, expected.copy()).agreement == 1.0
    assert measure(expected, expected.copy()).max_abs_error == 0.0


def test_parity_of_text_does_not_depend_on_how_numpy_holds_it():
    """ONNX Runtime gives objects, a file holds text of a fixed width: equal words are equal."""
    assert measure(np.array(["a", "bc"], "<U9"), np.array(["a", "bc"], object)).agreement == 1.0


def test_parity_of_small_integers_is_a_distance():
    """Bytes are pixels or quantized numbers: one step off is near, not another label."""
    parity = measure(np.array([100, 200], np.uint8), np.array([101, 200], np.uint8))
    assert parity.agreement is None
    assert parity.cosine > 0.999
    assert measure(np.array([1.0]), np.array([1.0])).agreement is None


def test_below_names_what_is_not_near_enough():
    """Floats need the SQNR asked for, labels 99 of 100; what is equal is near, however much is asked."""
    meter = ParityMeter()
    far, labels = np.array([10.0, 1.0]), np.arange(100)
    outputs = {"equal": far, "near": far, "far": far, "label": labels, "most": labels}
    seen = {"near": far + 1e-6, "far": far + 1.0, "label": np.where(labels < 2, -1, labels)}
    meter.add(outputs, {**outputs, **seen, "most": np.where(labels < 1, -1, labels)})
    assert below(meter.result(), 40.0) == ["'far' has 17.0 dB", "'label' has 98.0% equal labels"]
    assert below(meter.result(), 10.0) == ["'label' has 98.0% equal labels"]
    assert below({}, 40.0) == []


def test_equal_outputs_have_a_cosine_of_exactly_one():
    """Rounding in the product would give a little less, and a gate of --max-drop 0 refuse the original itself."""
    for seed in range(50):
        outputs = {"y": np.random.default_rng(seed).normal(size=(3, 37)).astype(np.float32)}
        meter = ParityMeter()
        meter.add(outputs, outputs)
        assert meter.result()["y"].cosine == meter.result()["y"].cosine_min == 1.0
