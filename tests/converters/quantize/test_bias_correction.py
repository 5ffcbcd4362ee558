"""Bias correction: shifts of the mean are measured layer by layer and taken off the biases."""

import numpy as np
import pytest

from converters.quantize.bias_correction import correct_bias
from converters.quantize.calibrate import observe
from converters.quantize.observers import TensorRange
from converters.quantize.plan import plan_quantization
from converters.quantize.qdq import apply_qdq
from edgert.errors import BadInput
from tests.converters.quantize.nets import CPU, U8S8, conv_net, images, net, normal, run

BODY = "a = Conv (x, w1) y = Conv (a, w2, b2)"
WEIGHTS = {
    "w1": np.abs(normal(4, 3, 3, 3)),
    "w2": np.abs(normal(5, 4, 1, 1, seed=1)),
    "b2": normal(5, seed=2),
}


def _model():
    return net(BODY, "float[1,3,16,16] x", "float[1,5,14,14] y", WEIGHTS)


def _clipped_plan(model, tmp_path):
    """Return a plan whose encoding of x cuts off what is above 1."""
    ranges = observe(model, images(), workdir=tmp_path, threads=1).choose()
    ranges["x"] = TensorRange(ranges["x"].minimum, 1.0, ranges["x"].absmax, ranges["x"].count)
    return ranges, plan_quantization(model, ranges, U8S8, 8)


def test_correct_bias_takes_the_shift_of_clipping_off(tmp_path):
    """Inputs cut off on one side lower every mean; with corrected biases the integers' means are the float ones."""
    model = _model()
    ranges, plan = _clipped_plan(model, tmp_path)
    corrected = correct_bias(model, plan, images(), workdir=tmp_path, device=CPU, threads=1)
    again = plan_quantization(corrected.model, ranges, U8S8, 8)
    errors = []
    for one, its_plan in ((model, plan), (corrected.model, again)):
        integers = apply_qdq(one, its_plan)
        pairs = [(run(integers, s, tmp_path)["y"], run(model, s, tmp_path)["y"]) for s in images()]
        errors.append(np.abs(np.mean([got - real for got, real in pairs], axis=(0, 1, 3, 4))))
    assert (errors[1] < 0.3 * errors[0]).all()


def test_correct_bias_measures_each_layer_by_itself(tmp_path):
    """Only the layer behind the clipped tensor has a shift; what it hands on is not counted again in the next one."""
    corrected = correct_bias(
        _model(), _clipped_plan(_model(), tmp_path)[1], images(), workdir=tmp_path, device=CPU, threads=1
    )
    assert (corrected.shifts["a"] < -0.1).all()
    assert (np.abs(corrected.shifts["y"]) < 0.05 * np.abs(corrected.shifts["a"]).max()).all()


def test_correct_bias_gives_a_bias_to_a_layer_without_one_and_leaves_the_model(tmp_path):
    """The correction is the bias where there was none; the model that was given keeps its own."""
    model = _model()
    corrected = correct_bias(
        model, _clipped_plan(model, tmp_path)[1], images(), workdir=tmp_path, device=CPU, threads=1
    )
    first, second = corrected.model.graph[0], corrected.model.graph[1]
    assert np.allclose(first.inputs[2].const_value.numpy(), -corrected.shifts["a"])
    assert np.allclose(second.inputs[2].const_value.numpy(), WEIGHTS["b2"] - corrected.shifts["y"])
    assert len(model.graph[0].inputs) == 2
    assert set(run(corrected.model, images(1)[0], tmp_path)) == {"y"}


def test_correct_bias_of_sixteen_bits_needs_no_new_opset(tmp_path):
    """Activations of 16 bits shift no mean; the weights still do, and an opset without uint16 is enough."""
    model = conv_net(opset=17)
    ranges = observe(model, images(), workdir=tmp_path, threads=1).choose()
    plan = plan_quantization(model, ranges, U8S8, 16)
    shifts = correct_bias(model, plan, images(), workdir=tmp_path, device=CPU, threads=1).shifts
    assert set(shifts) == {"a", "c", "y"}


def test_correct_bias_without_samples_is_refused(tmp_path):
    """No sample, no mean."""
    model = _model()
    with pytest.raises(BadInput, match="no sample"):
        correct_bias(model, _clipped_plan(model, tmp_path)[1], [], workdir=tmp_path, device=CPU, threads=1)


def test_correct_bias_of_a_model_without_convolutions_changes_nothing(tmp_path):
    """A MatMul has no bias: the copy computes what the model does."""
    model = net("y = MatMul (x, w)", "float[1,4] x", "float[1,4] y", {"w": normal(4, 4)})
    sample = {"x": normal(1, 4, seed=1)}
    plan = plan_quantization(model, observe(model, [sample], workdir=tmp_path, threads=1).choose(), U8S8, 8)
    corrected = correct_bias(model, plan, [sample], workdir=tmp_path, device=CPU, threads=1)
    assert not corrected.shifts
    assert np.array_equal(run(corrected.model, sample, tmp_path)["y"], run(model, sample, tmp_path)["y"])
