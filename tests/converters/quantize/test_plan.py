"""What the plan decides."""

import numpy as np
import pytest

from converters.quantize.observers import TensorRange
from converters.quantize.plan import plan_quantization, variant_class
from edgert.errors import UsageError
from tests.converters.quantize.nets import NPU, U8S8, Array, conv_net, images, net, normal, ranges_of


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
