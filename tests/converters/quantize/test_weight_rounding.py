"""Weights rounded for their inputs: the layer errs less on the samples, and the encodings stay what they were."""

import numpy as np
import onnx_ir as ir
import pytest

from converters.quantize.affine import quantize_weights
from converters.quantize.plan import constant_array, node_key, output_axis, plan_quantization
from converters.quantize.weight_rounding import MOST_COLUMNS, round_rows, round_weights
from edgert.errors import BadInput
from edgert.runtime.session import Session
from tests.converters.quantize.nets import CPU, U8S8, net, normal, ranges_of


def _correlated(rows, columns, seed=0):
    """Return inputs whose columns move together, as neighbouring pixels do."""
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, 3)) @ random.normal(size=(3, columns)) + 0.1 * random.normal(size=(rows, columns))


def test_round_rows_errs_less_than_nearest_where_inputs_are_correlated():
    """The output error on the inputs falls to less than a third of that of rounding to nearest."""
    x, rows = _correlated(400, 24), np.random.default_rng(1).normal(size=(1, 6, 24)) * 9
    rounded = round_rows(rows, (x.T @ x)[None])
    assert np.array_equal(rounded, np.rint(rounded))
    errors = [np.square(x @ (one - rows)[0].T).sum() for one in (rounded, np.rint(rows))]
    assert errors[0] < errors[1] / 3


def test_round_rows_is_rounding_to_nearest_where_columns_are_independent():
    """With moments on the diagonal alone no column can make up for another."""
    rows = np.random.default_rng(2).normal(size=(2, 3, 8)) * 20
    moments = np.stack([np.diag(np.arange(1.0, 9.0)), np.zeros((8, 8))])
    assert np.array_equal(round_rows(rows, moments), np.rint(rows))


def test_round_rows_keeps_the_largest_weight_and_exceeds_it_nowhere():
    """127 stays 127, so the encoding that is planned from the rounded weights is the same."""
    rows = np.random.default_rng(3).normal(size=(4, 5, 9))
    rows *= 127 / np.abs(rows).max(-1, keepdims=True)
    x = _correlated(200, 9, seed=4)
    rounded = round_rows(rows, np.repeat((x.T @ x)[None], 4, axis=0))
    assert np.array_equal(np.abs(rounded).max(-1), np.full((4, 5), 127.0))
    largest = np.abs(rows) == 127
    assert np.array_equal(rounded[largest], rows[largest])
    whole = round_rows(rows, np.repeat((x.T @ x)[None], 4, axis=0), per_row=False)
    assert np.abs(whole).max() == 127


@pytest.fixture
def small():
    """Return a net with a padded, strided, a grouped, a depthwise and a dilated Conv, and a Gemm; and its samples."""
    weights = {
        "w0": normal(8, 3, 3, 3, seed=1),
        "w1": normal(8, 4, 3, 3, seed=2) / 4,
        "w2": normal(8, 1, 3, 3, seed=3) / 2,
        "w3": normal(4, 8, 3, 3, seed=4) / 5,
        "w4": normal(5, 64, seed=5) / 8,
    }
    body = """
    a = Conv <pads = [1,1,1,1], strides = [2,1]> (x, w0)
    b = Conv <pads = [1,0,1,2], group = 2> (a, w1)
    c = Conv <pads = [1,1,1,1], group = 8> (b, w2)
    d = Conv <dilations = [2,2], pads = [2,2,2,2]> (c, w3)
    s = Reshape (d, shape)
    y = Gemm <transB = 1> (s, w4)
    """
    model = net(body, "float[1,3,8,4] x", "float[1,5] y", {**weights, "shape": np.array([1, 64])})
    pixels = [np.repeat(normal(1, 3, 8, 1, seed=50 + number), 4, axis=3) for number in range(6)]
    return model, [{"x": (one + 0.1 * normal(1, 3, 8, 4, seed=9)).astype(np.float32)} for one in pixels]


def _plan(model, samples, tmp_path):
    return plan_quantization(model, ranges_of(model, samples, tmp_path), U8S8)


def test_round_weights_makes_whole_steps_that_survive_the_writer(small, tmp_path):
    """All five weights are rounded; planned again they have the same scales, and the writer stores them as they are."""
    model, samples = small
    plan = _plan(model, samples, tmp_path)
    result = round_weights(model, plan, samples, workdir=tmp_path, device=CPU)
    assert set(result.layers) == {"a", "b", "c", "d", "y"}
    again = _plan(result.model, samples, tmp_path)
    for node in result.model.graph:
        before, after = plan.constants.get((node_key(node), 1)), again.constants.get((node_key(node), 1))
        if before is None or after is None or node_key(node) not in result.layers:
            continue
        np.testing.assert_allclose(after.scale, before.scale, rtol=1e-6)
        array, axis = constant_array(node.inputs[1]), output_axis(node)
        stored = quantize_weights(array, after, axis)
        shape = [-1 if dim == axis % array.ndim else 1 for dim in range(array.ndim)]
        steps = array / np.asarray(before.scale).reshape(shape)
        np.testing.assert_allclose(stored, steps, atol=1e-3)


def test_round_weights_moments_are_those_of_the_convolution(small, tmp_path):
    """With weights rounded coarsely, each layer's own output is nearer on the samples than by the writer's rounding."""
    model, samples = small
    plan = _plan(model, samples, tmp_path)
    rounded = round_weights(model, plan, samples, workdir=tmp_path, device=CPU).model
    values = {value.name: value for node in model.graph for value in node.outputs}
    inputs = {value.name: value for value in model.graph.inputs}
    better = 0
    for node, twin in zip(model.graph, rounded.graph, strict=True):
        encoding = plan.constants.get((node_key(node), 1))
        if encoding is None or node.op_type not in ("Conv", "Gemm"):
            continue
        exact = np.asarray(constant_array(node.inputs[1]), np.float32)
        errors = []
        for array in (constant_array(twin.inputs[1]), _stored(exact, encoding, node)):
            errors.append(_layer_error(model, node, values | inputs, np.asarray(array) - exact, samples, tmp_path))
        better += errors[0] < errors[1]
        assert errors[0] < 1.3 * errors[1], node.name
    assert better >= 4


def _stored(exact, encoding, node):
    axis = output_axis(node)
    shape = [-1 if dim == axis % exact.ndim else 1 for dim in range(exact.ndim)]
    return quantize_weights(exact, encoding, axis) * np.asarray(encoding.scale).reshape(shape)


def _layer_error(model, node, values, difference, samples, tmp_path):
    """Return the squared sum of what a layer gives for the difference of its weights alone."""
    copy = model.clone()
    twin = next(one for one in copy.graph if node_key(one) == node_key(node))
    array = ir.Value(name="difference", const_value=ir.tensor(difference.astype(np.float32), name="difference"))
    array.dtype, array.shape = ir.DataType.FLOAT, ir.Shape(difference.shape)
    copy.graph.register_initializer(array)
    twin.replace_input_with(1, array)
    copy.graph.outputs[:] = [twin.outputs[0]]
    path = tmp_path / f"error-{len(list(tmp_path.iterdir()))}.onnx"
    ir.save(copy, path)
    with Session.open(path, CPU) as session:
        return sum(float(np.square(next(iter(session.run(one).values()))).sum()) for one in samples)


def test_round_weights_leaves_what_it_cannot_round(tmp_path):
    """A layer of too many columns, a computed weight and a ConvTranspose stay; without samples there is no result."""
    weights = {"w0": normal(MOST_COLUMNS + 1, 2), "t": normal(1, 2, 2, 2), "shape": np.array([1, 1, 1, 2])}
    body = "h = MatMul (x, w0) v = Reshape (h, shape) y = ConvTranspose (v, t)"
    model = net(body, f"float[1,{MOST_COLUMNS + 1}] x", "float[1,2,2,3] y", weights)
    samples = [{"x": normal(1, MOST_COLUMNS + 1)}]
    plan = _plan(model, samples, tmp_path)
    assert round_weights(model, plan, samples, workdir=tmp_path, device=CPU).layers == ()
    small = net("y = MatMul (x, w0)", "float[1,3] x", "float[1,2] y", {"w0": normal(3, 2)})
    plan = _plan(small, [{"x": normal(1, 3)}], tmp_path)
    with pytest.raises(BadInput, match="no sample"):
        round_weights(small, plan, [], workdir=tmp_path, device=CPU)
