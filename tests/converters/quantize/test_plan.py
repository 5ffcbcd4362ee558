"""What the plan decides."""

import numpy as np
import pytest

from converters.quantize.observers import TensorRange
from converters.quantize.plan import plan_quantization, variant_class
from edgert.errors import UsageError
from edgert.profile import Quantization
from tests.converters.quantize.nets import CPU_OPS, NPU, U8S8, Array, conv_net, images, net, normal, ranges_of


def _ranges(**bounds: tuple[float, float]) -> dict[str, TensorRange]:
    return {name: TensorRange(low, high, max(-low, high), 1) for name, (low, high) in bounds.items()}


def _plan_of(body: str, weights: dict[str, Array], bits: int = 8, **bounds: tuple[float, float]):
    model = net(body, "float[1,4,8,8] x", "float[1,N,H,W] y", weights)
    return plan_quantization(model, _ranges(**bounds), NPU, bits)


def test_variant_class_names_the_number_formats():
    """16-bit activations have one class; 8-bit ones are named by the profile; other widths are refused."""
    assert variant_class(NPU, 16) == "qdq-a16w8"
    assert variant_class(U8S8, 8) == "qdq-u8s8"
    with pytest.raises(UsageError, match="4 bits"):
        variant_class(NPU, 4)


def test_plan_for_an_npu_encodes_every_tensor(tmp_path):
    """Every float tensor between nodes has an encoding, except the one that an absorbed Relu replaces."""
    model = conv_net()
    plan = plan_quantization(model, ranges_of(model, images(), tmp_path), NPU, 8)
    assert set(plan.activations) == set("xrcdsepfy")
    assert plan.absorbed == {"r"}
    assert plan.left == ()


def test_plan_relu_that_others_read_before_is_not_absorbed():
    """Where the value before the Relu has another reader, both need an encoding."""
    plan = _plan_of("r = Relu (x) y = Add (x, r)", {}, x=(-1, 1), r=(0, 1), y=(-1, 2))
    assert not plan.absorbed
    assert set(plan.activations) == {"x", "r", "y"}


def test_plan_clip_to_six_is_absorbed_only_when_the_encoding_ends_there():
    """Clip(0, 6) after a Conv is absorbed when its calibrated range stays within 0..6, and Clip(1, 6) is not."""
    weights = {"w": normal(4, 4, 1, 1), "lo": np.float32(0), "one": np.float32(1), "hi": np.float32(6)}
    bounds = {"x": (-1.0, 1.0), "a": (-9.0, 9.0)}
    body = "a = Conv (x, w) y = Clip (a, {}, hi)"
    assert _plan_of(body.format("lo"), weights, **bounds, y=(0, 6)).absorbed == {"y"}
    assert not _plan_of(body.format("one"), weights, **bounds, y=(1, 6)).absorbed


def test_plan_pass_through_nodes_share_the_encoding_of_their_input():
    """Transpose and MaxPool copy values, so they hand on the encoding and round nothing twice."""
    body = "a = Transpose <perm = [0,1,3,2]> (x) y = MaxPool <kernel_shape = [2,2]> (a)"
    plan = _plan_of(body, {}, x=(-3, 5), a=(-3, 5), y=(-1, 5))
    assert plan.activations["x"] is plan.activations["a"] is plan.activations["y"]


def test_plan_concat_joins_inputs_only_where_nothing_else_reads_them():
    """An input that only the Concat reads takes the joint encoding; one read elsewhere keeps its own; 8 bits warn."""
    weights = {"w": normal(4, 4, 1, 1)}
    body = "a = Conv (x, w) b = Conv (x, w) c = Concat <axis = 1> (a, b) d = Add (b, x) y = Concat <axis = 1> (c, d)"
    plan = _plan_of(body, weights, x=(-1, 1), a=(-500, 500), b=(-1, 1), c=(-500, 500), d=(-2, 2), y=(-500, 500))
    assert plan.activations["a"].same_as(plan.activations["c"])
    assert not plan.activations["b"].same_as(plan.activations["c"])
    assert any("unequal size" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("bits", "sigmoid", "tanh"), [(8, (2**-8, 0), (2**-7, 128)), (16, (2**-16, 0), (2**-15, 32768))]
)
def test_plan_sigmoid_and_tanh_have_the_ranges_of_their_mathematics(bits, sigmoid, tanh):
    """Whatever was seen, sigmoid is stored over 0..1 and tanh over -1..1, with the scales that QNN demands."""
    plan = _plan_of("a = Sigmoid (x) y = Tanh (a)", {}, bits, x=(-1, 1), a=(0.3, 0.6), y=(0.2, 0.5))
    for name, expected in (("a", sigmoid), ("y", tanh)):
        encoding = plan.activations[name]
        assert (float(encoding.scale), int(encoding.zero_point)) == expected


def test_plan_matmul_weights_follow_the_profile():
    """MatMul weights are per tensor for QNN, which knows no other, and per output column on the CPU."""
    model = net("y = MatMul (x, w)", "float[1,4] x", "float[1,3] y", {"w": normal(4, 3)})
    ranges = _ranges(x=(-1, 1), y=(-1, 1))
    assert plan_quantization(model, ranges, NPU, 8).constants["y", 1].axis is None
    assert plan_quantization(model, ranges, U8S8, 8).constants["y", 1].axis == 1


def test_plan_for_a_cpu_leaves_what_has_no_integer_kernel_in_float(tmp_path):
    """Erf between two MatMul stays float with the reason, and no Q/DQ is spent on what only it reads."""
    model = net("a = MatMul (x, w) b = Erf (a) y = MatMul (b, w)", "float[1,4] x", "float[1,4] y", {"w": normal(4, 4)})
    plan = plan_quantization(model, ranges_of(model, [{"x": normal(1, 4)}], tmp_path), U8S8, 8)
    assert [(one.node, one.op_type) for one in plan.left] == [("Erf_1", "Erf")]
    assert "no integer kernel" in plan.left[0].reason
    assert set(plan.activations) == {"x", "b"}


def test_plan_integers_and_booleans_are_left_alone():
    """Indices and shapes get no encoding and are not reported as left in float."""
    model = net(
        "s = Shape (x) h = Gather (s, i) r = Reshape (x, t) y = Identity (r)",
        "float[1,4] x",
        "float[2,2] y",
        {"i": np.array(0), "t": np.array([2, 2])},
    )
    plan = plan_quantization(model, _ranges(x=(-1, 1), r=(-1, 1), y=(-1, 1)), NPU, 8)
    assert set(plan.activations) == {"x", "r", "y"}
    assert plan.left == ()


def test_plan_kept_uncalibrated_and_infinite_nodes_are_named_with_the_reason():
    """Each node left in float says why: asked for, never calibrated, or an infinite constant."""
    model = net(
        "a = Relu (x) b = Abs (a) y = Max (b, m)",
        "float[1,4] x",
        "float[1,4] y",
        {"m": np.array([-np.inf], np.float32)},
    )
    plan = plan_quantization(model, _ranges(x=(-1, 1), a=(0, 1), y=(0, 1)), NPU, 8, keep_float={"Relu_0"})
    reasons = {one.node: one.reason for one in plan.left}
    assert "on request" in reasons["Relu_0"]
    assert "not calibrated" in reasons["Abs_1"]
    assert set(reasons) == {"Relu_0", "Abs_1", "Max_2"}


def test_plan_zero_beside_a_tensor_takes_its_encoding():
    """The HTP's Max of a tensor and 0 is all zeros where the scales differ by much; 0 is exact in any encoding."""
    plan = _plan_of("y = Max (x, k)", {"k": np.float32(0)}, 16, x=(-1e-3, 1e-3), y=(0, 1e-3))
    assert plan.constants["y", 1].same_as(plan.activations["x"])
    other = _plan_of("y = Max (x, k)", {"k": np.float32(0.5)}, 16, x=(-1e-3, 1e-3), y=(0, 0.5))
    assert not other.constants["y", 1].same_as(other.activations["x"])


def _gated(body: str) -> dict[str, tuple[float, float]]:
    """Return the bounds of the encodings in a graph whose tensors all reach from -100 to 100."""
    ops = (*CPU_OPS, "HardSigmoid")
    quantization = Quantization("uint8", "int8", ("Conv",), True, False, False, ops)
    model = net(body, "float[1,4,8,8] x", "float[1,N,H,W] y", {"w": normal(4, 4, 1, 1), "k": np.float32(2)})
    plan = plan_quantization(model, _ranges(**dict.fromkeys("xagshy", (-100.0, 100.0))), quantization, 8)
    return {name: affine.bounds for name, affine in plan.activations.items()}


def test_plan_hard_swish_needs_no_steps_where_it_is_zero():
    """x * HardSigmoid(x) is 0 below -3: the encoding of x starts there, so its steps are half as wide."""
    gate = "g = HardSigmoid <alpha = 0.16666667, beta = 0.5> (a)"
    low, high = _gated(f"a = Conv (x, w) {gate} s = Mul (a, g) y = Conv (s, w)")["a"]
    assert low == pytest.approx(-3, abs=0.4)
    assert high == pytest.approx(100, abs=0.4)


def test_plan_hard_sigmoid_alone_needs_only_its_slope():
    """Where only HardSigmoid reads x, both ends are cut."""
    low, high = _gated("a = Conv (x, w) g = HardSigmoid <alpha = 0.16666667, beta = 0.5> (a) y = Conv (g, w)")["a"]
    assert (low, high) == pytest.approx((-3, 3), abs=0.03)


def test_plan_hard_sigmoid_beside_another_reader_cuts_nothing():
    """A further reader sees the values that the product would not: the whole range stays."""
    gate = "g = HardSigmoid <alpha = 0.16666667, beta = 0.5> (a)"
    low, _ = _gated(f"a = Conv (x, w) {gate} s = Mul (a, g) h = Add (s, a) y = Conv (h, w)")["a"]
    assert low == pytest.approx(-100, abs=0.5)
    low, _ = _gated(f"a = Conv (x, w) {gate} s = Mul (a, k) h = Mul (s, g) y = Conv (h, w)")["a"]
    assert low == pytest.approx(-100, abs=0.5)


def _wide_plan(body: str, weights: dict[str, Array], wide: set[str], output: str = "float[1,4,8,8] y", **bounds):
    model = net(body, "float[1,4,8,8] x", output, weights)
    return plan_quantization(model, _ranges(**bounds), NPU, 8, wide=wide)


def test_plan_wide_node_gets_sixteen_bits_and_converts_at_its_edges():
    """The wide node reads its input as uint16 and gives uint16; the 8-bit reader after it converts back."""
    ranges = {"x": (-1.0, 1.0), "a": (-2.0, 2.0), "b": (0.0, 4.0), "y": (0.0, 4.0)}
    plan = _wide_plan("a = Abs (x) b = Neg (a) y = Abs (b)", {}, {"b"}, **ranges)
    assert {name: affine.dtype for name, affine in plan.activations.items()} == {
        **dict.fromkeys("xay", "uint8"),
        "b": "uint16",
    }
    assert {place: affine.dtype for place, affine in plan.converted.items()} == {("b", 0): "uint16", ("y", 0): "uint8"}
    assert plan.converted["b", 0].bounds == pytest.approx(plan.activations["a"].bounds)
    assert plan.converted["y", 0].bounds == pytest.approx(plan.activations["b"].bounds)
    assert plan.variant == "qdq-u8s8"
    assert plan.needs_opset_21


def test_plan_nothing_wide_converts_nothing():
    """Without wide nodes there is one width, and opset 21 is not needed."""
    plan = _wide_plan("a = Abs (x) y = Neg (a)", {}, set(), x=(-1, 1), a=(0, 1), y=(-1, 0))
    assert not plan.converted
    assert not plan.needs_opset_21


def test_plan_wide_conv_stores_its_bias_for_the_input_as_it_reads_it():
    """The scale of a bias is that of the converted input times that of the weights."""
    weights = {"w": normal(4, 4, 1, 1), "b": normal(4, seed=1)}
    plan = _wide_plan("a = Abs (x) y = Conv (a, w, b)", weights, {"y"}, x=(-1, 1), a=(0, 1), y=(-9, 9))
    expected = plan.converted["y", 0].scale * plan.constants["y", 1].scale
    assert plan.constants["y", 1].dtype == "int8"
    np.testing.assert_allclose(plan.constants["y", 2].scale, expected, rtol=1e-6)


def test_plan_wide_operand_constants_have_the_width_of_their_node():
    """A number beside a 16-bit tensor has 16 bits; zeros take the encoding that the node reads beside them."""
    weights = {"c": np.array(3.0, np.float32), "zero": np.array(0.0, np.float32)}
    ranges = {"x": (-1.0, 1.0), "a": (-3.0, 3.0), "y": (0.0, 3.0)}
    plan = _wide_plan("a = Mul (x, c) y = Max (a, zero)", weights, {"y"}, **ranges)
    assert plan.constants["a", 1].dtype == "uint8"
    assert plan.constants["y", 1] is plan.converted["y", 0]


@pytest.mark.parametrize("wide", [{"a"}, {"a", "r", "y"}])
def test_plan_what_copies_or_is_absorbed_has_the_width_of_its_input(wide):
    """A Relu that is absorbed and a Reshape follow the node before them, whatever they are named themselves."""
    weights = {"w": normal(4, 4, 1, 1), "shape": np.array([1, -1])}
    body = "a = Conv (x, w) r = Relu (a) y = Reshape (r, shape)"
    bounds = {"x": (-1.0, 1.0), "a": (-1.0, 6.0), "r": (0.0, 6.0), "y": (0.0, 6.0)}
    plan = _wide_plan(body, weights, wide, "float[1,256] y", **bounds)
    assert plan.absorbed == {"r"}
    assert plan.activations["r"].dtype == plan.activations["y"].dtype == "uint16"
    alone = _wide_plan(body, weights, {"r", "y"}, "float[1,256] y", **bounds)
    assert alone.activations["r"].dtype == alone.activations["y"].dtype == "uint8"


def test_plan_graph_input_is_as_wide_as_its_widest_reader():
    """An input that a 16-bit node reads is stored with 16 bits, and the 8-bit reader converts it."""
    body = "a = Abs (x) b = Neg (x) y = Add (a, b)"
    plan = _wide_plan(body, {}, {"b"}, x=(-1, 1), a=(0, 1), b=(-1, 1), y=(-1, 2))
    assert plan.activations["x"].dtype == "uint16"
    assert {place: affine.dtype for place, affine in plan.converted.items()} == {("a", 0): "uint8", ("y", 1): "uint8"}


def test_plan_concat_joins_inputs_of_its_own_width_and_converts_the_others_to_its_encoding():
    """So that the Concat only copies."""
    body = "a = Abs (x) b = Neg (x) y = Concat <axis = 1> (a, b)"
    plan = _wide_plan(body, {}, {"b"}, "float[1,8,8,8] y", x=(-1, 1), a=(0, 1), b=(-1, 1), y=(-1, 3))
    assert plan.activations["a"] is plan.activations["y"]
    assert plan.activations["b"].dtype == "uint16"
    assert plan.converted["y", 1] is plan.activations["y"]


def test_plan_wide_sigmoid_has_the_sixteen_bit_range_that_the_provider_takes():
    """QNN refuses any other scale than 1/65536 of a 16-bit Sigmoid."""
    plan = _wide_plan("a = Sigmoid (x) y = Neg (a)", {}, {"a"}, x=(-1, 1), a=(0.2, 0.8), y=(-1, 0))
    assert plan.activations["a"].scale == np.float32(1 / 65536)
    assert plan.converted["y", 0].bounds == pytest.approx((0.0, 65535 / 65536))
