"""Equalisation: the same outputs from channels of more equal size, or a reason."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from converters.quantize.calibrate import observe
from converters.quantize.equalise import MOST_SPREAD, Equalised, equalise
from converters.quantize.plan import plan_quantization
from converters.quantize.qdq import apply_qdq
from tests.converters.quantize.nets import CPU_OPS, U8S8, Array, cosine, net, normal, run

INPUT = "float[1,3,12,12] x"
OUTLIER = np.array([60.0, 1.0, 1.0, 0.5, 1.0, 2.0, 1.0, 0.1], np.float32)
PICTURES = [{"x": normal(1, 3, 12, 12, seed=seed)} for seed in range(20, 28)]
WEIGHTS = {
    "w1": normal(8, 3, 3, 3) / 3 * OUTLIER.reshape(-1, 1, 1, 1),
    "b1": normal(8, seed=1) / 9,
    "wd": normal(8, 1, 3, 3, seed=2) / 3,
    "bd": normal(8, seed=3),
    "w2": normal(4, 8, 1, 1, seed=4) / OUTLIER.reshape(1, -1, 1, 1),
    "w3": normal(6, 8, 1, 1, seed=5) / OUTLIER.reshape(1, -1, 1, 1),
    "wt": normal(8, 4, 2, 2, seed=6) / OUTLIER.reshape(-1, 1, 1, 1),
    "v": normal(8, 1, 1, seed=7),
    "s": np.float32(1.5),
    "slope": np.full((8, 1, 1), 0.2, np.float32),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "flat": np.array([1, 8]),
    "wg": normal(8, 5, seed=8) / OUTLIER.reshape(-1, 1),
    "ws": normal(8, 8, 1, 1, seed=9) / OUTLIER.reshape(1, -1, 1, 1),
    "one": np.float32(1.0),
    "table": normal(12, 12, seed=10),
}
HEAD = "a = Conv <pads = [1,1,1,1]> (x, w1, b1) "


def _model(body: str, outputs: str = "float[1,N,H,W] y") -> ir.Model:
    names = {word.strip("(), ") for word in body.replace("(", " ").replace(",", " ").split()}
    return net(body, INPUT, outputs, {name: array for name, array in WEIGHTS.items() if name in names})


def _equalise(model: ir.Model, tmp_path: Path, feeds: list[dict[str, Array]], *, insert: bool = False) -> Equalised:
    return equalise(model, observe(model, feeds, workdir=tmp_path, threads=1), insert=insert)


def _assert_same(model: ir.Model, other: ir.Model, feeds: list[dict[str, Array]], tmp_path: Path) -> None:
    for sample in feeds:
        expected, got = run(model, sample, tmp_path), run(other, sample, tmp_path)
        for name, array in expected.items():
            assert np.abs(got[name] - array).max() <= 1e-5 * np.abs(array).max()


@pytest.mark.parametrize(
    "body",
    [
        HEAD + "r = Relu (a) y = Conv (r, w2)",
        HEAD + "r = LeakyRelu (a) d = Conv <group = 8, pads = [1,1,1,1]> (r, wd, bd) y = Conv (d, w2)",
        HEAD + "r = PRelu (a, slope) y = ConvTranspose <strides = [2,2]> (r, wt)",
        HEAD + "m = MaxPool <kernel_shape = [2,2]> (a) p = AveragePool <kernel_shape = [2,2]> (m) y = Conv (p, w2)",
        HEAD + "c = Mul (a, s) o = Add (v, c) q = Pad (o, pads) y = Conv (q, w2)",
        HEAD + "y1 = Conv (a, w2) r = Relu (a) y2 = Conv (r, w3) y = Concat <axis = 1> (y1, y2)",
        HEAD + "g = GlobalAveragePool (a) f = Conv (g, ws) t = Sigmoid (f) e = Mul (t, a) y = Conv (e, w2)",
        HEAD + "b = Conv <pads = [1,1,1,1]> (x, w1) r = Relu (b) c = Add (a, r) y = Conv (c, w3)",
        HEAD + "r = Relu (a) d = Conv <group = 8, pads = [1,1,1,1]> (r, wd) c = Add (d, r) y = Conv (c, w3)",
        HEAD + "h = HardSigmoid <alpha = 0.1666, beta = 0.5> (a) e = Mul (a, h) y = Conv (e, w2)",
    ],
)
def test_equalise_leaves_the_outputs_as_they_were(body, tmp_path):
    """Every function that keeps a factor lets channels be scaled; the outputs differ by rounding alone."""
    model = _model(body)
    before = run(model, PICTURES[0], tmp_path)
    result = _equalise(model, tmp_path, PICTURES)
    assert "a" in result.scaled
    _assert_same(model, result.model, PICTURES[:3], tmp_path)
    assert all(np.array_equal(run(model, PICTURES[0], tmp_path)[name], array) for name, array in before.items())


def test_equalise_follows_a_vector_through_reshape_and_gemm(tmp_path):
    """Channels keep their place from a pooled picture to a row, and a Gemm takes the factors in."""
    model = _model(HEAD + "g = GlobalMaxPool (a) f = Reshape (g, flat) y = Gemm (f, wg)", "float[1,5] y")
    result = _equalise(model, tmp_path, PICTURES)
    assert {"a", "g", "f"} <= set(result.scaled)
    _assert_same(model, result.model, PICTURES[:3], tmp_path)


def test_equalise_makes_the_channels_alike(tmp_path):
    """After it no channel of the tensor is ten times another, where one was hundreds of times another before."""
    model = _model(HEAD + "r = Relu (a) d = Conv <group = 8> (r, wd) y = Conv (d, w2)")
    result = _equalise(model, tmp_path, PICTURES)
    sizes = [observe(one, PICTURES, workdir=tmp_path, threads=1).channels["r"].maximum for one in (model, result.model)]
    assert sizes[0].max() > 200 * sizes[0].min()
    assert sizes[1].max() < 10 * sizes[1].min()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (HEAD + "r = Sigmoid (a) t = Relu (r) y = Conv (t, w2)", "Sigmoid"),
        (HEAD + "r = Clip (a, one) y = Conv (r, w2)", "Clip"),
        (HEAD + "c = Concat <axis = 2> (a, a) y = Conv (c, w2)", "Concat"),
        (HEAD + "c = Mul (a, a) y = Conv (c, w2)", "one shape|multiplies two"),
        (HEAD + "r = Relu (a) c = Mul (a, r) y = Conv (c, w2)", "one shape|multiplies two"),
        (HEAD + "h = HardSigmoid (a) e = Mul (a, h) f = Add (e, h) y = Conv (f, w2)", "bounds|no gate"),
        (HEAD + "h = HardSigmoid (a) r = Relu (a) e = Mul (r, h) y = Conv (e, w2)", "one shape"),
        (HEAD + "h = HardSigmoid (a) e = Mul (a, h) r = Relu (a) f = Add (e, r) y = Conv (f, w2)", "no gate"),
        (HEAD + "c = Add (a, table) y = Conv (c, w2)", "not one number per channel"),
    ],
)
def test_equalise_where_scaling_would_change_the_result_says_why(body, reason, tmp_path):
    """One node that is no function of the kind, and the tensor stays, with the node named."""
    result = _equalise(_model(body), tmp_path, PICTURES)
    assert "a" not in result.scaled
    assert any(re.search(reason, note) for note in result.notes)
    _assert_same(_model(body), result.model, PICTURES[:2], tmp_path)


def test_equalise_leaves_a_tensor_that_is_an_output_of_the_model(tmp_path):
    """Who reads an output must find the numbers that were there before."""
    model = _model(HEAD + "y = Conv (a, w2)", "float[1,N,H,W] y, float[1,8,H,W] a")
    result = _equalise(model, tmp_path, PICTURES)
    assert not result.scaled
    assert any("'a' is an input or output of the model" in note for note in result.notes)


def test_equalise_leaves_channels_that_are_alike(tmp_path):
    """Where nothing is gained, the graph stays as it was."""
    weights = {"w1": np.tile(normal(1, 3, 3, 3), (8, 1, 1, 1)), "w2": normal(4, 8, 1, 1, seed=4)}
    model = net("a = Conv (x, w1) r = Relu (a) y = Conv (r, w2)", INPUT, "float[1,4,10,10] y", weights)
    result = _equalise(model, tmp_path, PICTURES)
    assert not result.scaled
    assert any("alike enough" in note for note in result.notes)


def test_equalise_enlarges_no_channel_without_bound(tmp_path):
    """A channel that was all but silent in the samples is enlarged by MOST_SPREAD at most, a silent one not at all."""
    loud = np.array([1e4, 1.0, 1.0, 0.5, 1.0, 2.0, 1.0, 0.0], np.float32).reshape(-1, 1, 1, 1)
    weights = {**WEIGHTS, "w1": normal(8, 3, 3, 3) * loud}
    used = {name: weights[name] for name in ("w1", "wd", "w2")}
    model = net("a = Conv (x, w1) d = Conv <group = 8> (a, wd) y = Conv (d, w2)", INPUT, "float[1,4,8,8] y", used)
    divisors = _equalise(model, tmp_path, PICTURES).scaled["a"]
    assert divisors.min() >= 1 / MOST_SPREAD - 1e-9
    assert divisors[7] == divisors.max() == 1.0


def test_equalise_gives_convolutions_with_one_weight_their_own(tmp_path):
    """One weight of two convolutions is scaled for each of them by itself, also where only one is scaled."""
    body = HEAD + "r = Relu (a) t = Sigmoid (x) b = Conv <pads = [1,1,1,1]> (t, w1) u = Tanh (b) "
    body += "y1 = Conv (r, w2) y2 = Conv (u, w2) "
    model = _model(body + "y = Concat <axis = 2> (y1, y2)")
    result = _equalise(model, tmp_path, PICTURES)
    assert "r" in result.scaled
    _assert_same(model, result.model, PICTURES[:2], tmp_path)


@pytest.mark.parametrize(
    "body",
    [
        HEAD + "r = Relu (a) d = Conv <group = 8> (r, wd, bd) y = Conv (d, w2)",
        HEAD + "h = HardSigmoid <alpha = 0.1666, beta = 0.5> (a) e = Mul (a, h) y = Conv (e, w2)",
    ],
)
def test_equalise_of_an_outlier_channel_lowers_the_error_of_integers(body, tmp_path):
    """With one channel 60 times the others, 8 bits come at least twice as near to float after equalisation."""
    quantization = replace(U8S8, quantize_ops=(*CPU_OPS, "HardSigmoid"))
    model = _model(body)

    def error(one: ir.Model) -> float:
        statistics = observe(one, PICTURES, workdir=tmp_path, threads=1)
        integers = apply_qdq(one, plan_quantization(one, statistics.choose("minmax"), quantization, 8))
        return sum(1 - cosine(run(model, s, tmp_path)["y"], run(integers, s, tmp_path)["y"]) for s in PICTURES)

    assert error(_equalise(model, tmp_path, PICTURES).model) < 0.5 * error(model)


NORM = {
    "scale": np.where(np.arange(16) == 3, 40.0, 1.0).astype(np.float32),
    "shift": normal(16, seed=1),
    "wq": normal(16, 6, seed=2),
    "wk": normal(16, 6, seed=3),
}
ROWS = [{"x": normal(1, 10, 16, seed=seed)} for seed in range(40, 46)]


def _normed(tail: str) -> ir.Model:
    body = "n = LayerNormalization <axis = -1> (x, scale, shift) q = MatMul (n, wq) k = MatMul (n, wk) " + tail
    return net(body, "float[1,10,16] x", "float[1,10,N] y", NORM)


def test_equalise_scales_a_layer_norm_that_products_read(tmp_path):
    """SmoothQuant: the outlier channel goes from the scale of the layer norm into all the weights that read it."""
    model = _normed("y = Add (q, k)")
    result = _equalise(model, tmp_path, ROWS)
    assert result.scaled["n"].argmax() == 3
    assert all(node.op_type != "Mul" for node in result.model.graph)
    _assert_same(model, result.model, ROWS, tmp_path)


def test_equalise_of_a_layer_norm_in_a_residual_sum_needs_a_product(tmp_path):
    """Where a sum reads the layer norm too, it stays; a Mul in front of the products is put in when asked."""
    model = _normed("z = Add (n, x) u = Add (q, k) y = Concat <axis = 2> (z, u)")
    assert not _equalise(model, tmp_path, ROWS).scaled
    result = _equalise(model, tmp_path, ROWS, insert=True)
    assert [node.op_type for node in result.model.graph].count("Mul") == 1
    assert next(iter(result.scaled.values())).argmax() == 3
    _assert_same(model, result.model, ROWS, tmp_path)


def test_equalise_of_a_sum_with_its_own_layer_norm_declines(tmp_path):
    """x + norm(x) cannot be scaled, as the layer norm would take the scale out again."""
    body = "a = MatMul (x, w) n = LayerNormalization <axis = -1> (a, scale, shift) c = Add (a, n) y = MatMul (c, wq)"
    weights = {**NORM, "w": normal(16, 16, seed=9) * NORM["scale"]}
    used = {name: weights[name] for name in ("w", "scale", "shift", "wq")}
    model = net(body, "float[1,10,16] x", "float[1,10,6] y", used)
    result = _equalise(model, tmp_path, ROWS)
    assert not result.scaled
    assert any("normalises" in note for note in result.notes)
