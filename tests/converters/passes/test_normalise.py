"""Constants, opset and shapes are in one form before any other pass looks at a model."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from converters.passes.check import check_model
from converters.passes.infer_shapes import infer_shapes
from converters.passes.lift_constants import lift_constants
from converters.passes.raise_opset import raise_opset
from converters.passes.set_shapes import set_input_shapes, unresolved
from converters.passes.skeleton import skeleton
from edgert.errors import BadInput
from tests.converters.passes.graphs import CPU, apply, feeds, interface, model, ops, proto, run, weight

BRANCHES = """g (bool c, float[2, 1, 3] x) => (float[2, 3] y, float[2, 1, 3] z) {
    y = If(c) <then_branch = t () => (float[2, 3] p) { s = Squeeze<axes = [1]>(x)
                   k = Constant<value = float[3] {1, 2, 3}>() p = Mul(s, k) },
               else_branch = e () => (float[2, 3] q) { s2 = Squeeze<axes = [1]>(x)
                   k2 = Constant<value = float {5.0}>() q = Mul(s2, k2) }>
    z = com.microsoft.Gelu(x) }"""


def test_constants_everywhere_become_initializers_of_the_main_graph():
    """Constant nodes of the main graph and of branches are lifted, by any attribute."""
    graph = ir.from_proto(proto(BRANCHES, opset=11))
    apply(lift_constants, graph, changes=2)
    assert "Constant" not in ops(graph)
    assert set(graph.graph.initializers) == {"k", "k2"}


@pytest.mark.parametrize(
    "value",
    ["value_float = 2.0", "value_floats = [2.0, 3.0]", "value = float[2] {2, 3}"],
    ids=["one", "many", "tensor"],
)
def test_constant_in_each_form_is_lifted(value):
    """Numbers may be attributes of their own."""
    graph = ir.from_proto(proto(f"g (float[2] x) => (float[2] y) {{ k = Constant<{value}>() y = Mul(x, k) }}"))
    apply(lift_constants, graph, changes=1)
    assert ops(graph) == {"Mul": 1}


def test_integer_and_text_constants_are_lifted():
    """Every plain kind of constant becomes a weight."""
    text = """g (float[2] x) => (float[a, b] y) { i = Constant<value_ints = [1, 2]>() j = Constant<value_int = 1>()
        s = Constant<value_strings = ["a", "b"]>() t = Constant<value_string = "c">() e = Equal(s, t)
        y = Reshape(x, i) }"""
    graph = ir.from_proto(proto(text, opset=19))
    assert lift_constants(graph, CPU).changes == 4
    assert ops(graph) == {"Equal": 1, "Reshape": 1}
    check_model(graph)


def test_initializer_of_a_branch_gets_a_name_of_its_own_in_the_main_graph():
    """A name that another graph uses is not taken again."""
    parsed = proto(BRANCHES.replace("k2", "k"), opset=11)
    graph = ir.from_proto(parsed)
    apply(lift_constants, graph, changes=2)
    assert len(graph.graph.initializers) == 2


def test_initializers_that_are_inputs_too_stop_being_inputs():
    """IR version 3 lists every weight as an input; onnxruntime asks for none of them."""
    parsed = proto("g (float[2, 3] x) => (float[2, 4] y) { y = MatMul(x, w) }", opset=8, ir_version=3, w=weight(3, 4))
    parsed.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [3, 4]))
    graph = ir.from_proto(parsed)
    assert lift_constants(graph, CPU).changes == 1
    assert interface(graph) == (["x"], ["y"])


def test_constant_that_is_an_output_is_declined_by_name():
    """The output must be made by a node."""
    graph = ir.from_proto(proto("g (float[1] x) => (float[1] y) { y = Constant<value_floats = [1.0]>() }"))
    assert "y" in apply(lift_constants, graph, changes=0).declined[0]


@pytest.mark.parametrize("opset", [7, 9, 11, 12])
def test_opset_is_raised_with_the_same_results(opset):
    """Operators whose form changed (Squeeze, ReduceMean, Softmax, Clip) are converted, in branches too."""
    text = """g (bool c, float[2, 1, 3] x) => (float[2, 3] y, float[2, 1, 3] z) {
        y = If(c) <then_branch = t () => (float[2, 3] p) { p = Squeeze<axes = [1]>(x) },
                   else_branch = e () => (float[2, 3] q) { q = ReduceMean<axes = [1], keepdims = 0>(x) }>
        s = Softmax<axis = 2>(x) z = Transpose<perm = [0, 1, 2]>(s) }"""
    graph = ir.from_proto(proto(text, opset=opset, ir_version=4))
    apply(raise_opset, graph, changes=1)
    assert graph.opset_imports[""] == CPU.opset


def test_opset_raise_keeps_metadata_other_domains_and_descriptions():
    """What the converter drops is put back."""
    graph = ir.from_proto(proto(BRANCHES, opset=11))
    graph.metadata_props["character"] = "abc"
    graph.graph.doc_string = "a graph"
    graph.graph.inputs[1].doc_string = "an input"
    graph.graph.inputs[1].shape = ir.Shape(["batch", 1, 3])
    next(node for node in graph.graph if node.op_type == "If").metadata_props["source"] = "line 3"
    apply(lift_constants, graph)
    apply(raise_opset, graph)
    assert graph.metadata_props == {"character": "abc"}
    assert (graph.graph.doc_string, graph.graph.inputs[1].doc_string) == ("a graph", "an input")
    assert str(graph.graph.inputs[1].shape) == "[batch,1,3]"
    assert next(node for node in graph.graph if node.op_type == "If").metadata_props == {"source": "line 3"}
    assert graph.opset_imports["com.microsoft"] == 1
    assert graph.ir_version >= 9


def test_opset_newer_than_the_profile_is_never_lowered():
    """The reason says both numbers."""
    graph = ir.from_proto(proto("g (float[1] x) => (float[1] y) { y = Relu(x) }", opset=22, ir_version=10))
    result = apply(raise_opset, graph, changes=0)
    assert "22" in result.declined[0]
    assert str(CPU.opset) in result.declined[0]


def test_opset_below_7_is_refused_with_a_remedy():
    """There is no way up from there."""
    graph = ir.from_proto(proto("g (float[1] x) => (float[1] y) { y = Relu(x) }", opset=6))
    with pytest.raises(BadInput, match="opset is 6") as caught:
        raise_opset(graph, CPU)
    assert "export" in caught.value.remedy


def test_operator_without_a_way_up_is_refused_with_a_remedy():
    """An operator that no later opset has cannot be converted: the reason names it."""
    text = "g (float[2] x) => (float[2] y) { y = Unheard(x) }"
    with pytest.raises(BadInput, match=r"cannot be raised from opset 9.*Unheard") as caught:
        raise_opset(ir.from_proto(proto(text, opset=9)), CPU)
    assert "export" in caught.value.remedy


def test_large_weights_never_pass_through_the_converter():
    """The message for the C++ functions holds only small weights; afterwards the very same tensor is there."""
    graph = ir.from_proto(
        proto("g (float[2, 600] x) => (float[2, 4] y) { y = MatMul(x, w) }", opset=9, w=weight(600, 4))
    )
    tensor = graph.graph.initializers["w"].const_value
    message, absent = skeleton(graph)
    assert absent == {"w"}
    assert message.ByteSize() < 1000
    apply(raise_opset, graph, changes=1)
    assert graph.graph.initializers["w"].const_value is tensor
    assert interface(graph) == (["x"], ["y"])


def test_local_functions_are_inlined_before_the_opset_is_raised():
    """A function carries an opset of its own."""
    text = """<ir_version: 9, opset_import: ["": 14, "own": 1]> g (float[2] x) => (float[2] y) { y = own.twice(x) }
        <domain: "own", opset_import: ["": 14]> twice (a) => (b) { b = Add(a, a) }"""
    graph = ir.from_proto(onnx.parser.parse_model(text))
    apply(raise_opset, graph, changes=1)
    assert ops(graph) == {"Add": 1}


PAIR = "g (float[n, 3, h, w] x, float[n, 4] u) => (float[n, 3, h, w] y, float[n, 4] z) { y = Relu(x) z = Relu(u) }"


def test_shapes_bind_dimensions_of_the_same_name():
    """n of x is n of u."""
    graph = model(PAIR)
    assert unresolved(graph) == [("x", 0, "n"), ("x", 2, "h"), ("x", 3, "w"), ("u", 0, "n")]
    assert set_input_shapes(graph, {"x": (2, 3, 5, 6)}).changes == 2
    assert unresolved(graph) == []
    infer_shapes(graph, CPU)
    assert [str(value.shape) for value in graph.graph.outputs] == ["[2,3,5,6]", "[2,4]"]
    assert set_input_shapes(graph, {"x": (2, 3, 5, 6)}).changes == 0


def test_question_marks_are_not_one_dimension():
    """PaddlePaddle writes '?' for each unknown dimension."""
    graph = model(PAIR)
    graph.graph.inputs[0].shape = ir.Shape(["?", 3, "?", "?"])
    set_input_shapes(graph, {"x": (1, 3, 48, 320)})
    assert str(graph.graph.inputs[0].shape) == "[1,3,48,320]"
    assert unresolved(graph) == [("u", 0, "n")]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"xx": (1,)}, "no input 'xx'"),
        ({"x": (1, 3)}, "2 dimensions"),
        ({"x": (1, 4, 5, 6)}, "dimension 1 is 3"),
        ({"x": (0, 3, 5, 6)}, "below 1"),
        ({"x": (2, 3, 5, 6), "u": (3, 4)}, "'n' is 2 in x"),
    ],
)
def test_contradictory_shapes_are_refused_by_name(shapes, message):
    """A wrong request raises, it is never repaired."""
    with pytest.raises(BadInput, match=message) as caught:
        set_input_shapes(model(PAIR), shapes)
    assert caught.value.remedy


def test_declared_shapes_that_are_wrong_are_forgotten():
    """silero-vad declares its input as [0, 0] and its output as [0, 1]."""
    parsed = proto("g (float[0, 0] x) => (float[0, 1] y) { r = Relu(x) y = Transpose(r) }")
    parsed.graph.value_info.append(onnx.helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, [7, 7]))
    graph = ir.from_proto(parsed)
    infer_shapes(graph, CPU)
    assert graph.graph.inputs[0].shape is not None
    assert unresolved(graph) == [("x", 0, None), ("x", 1, None)]
    shapes = [value.shape for node in graph.graph for value in node.outputs]
    assert all(not isinstance(dim, int) for shape in shapes for dim in shape)
    np.testing.assert_equal(run(graph, feeds(graph))[0].shape, (2, 2))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda graph: graph.graph.outputs.clear(), "no outputs"),
        (lambda graph: setattr(graph.graph[0].outputs[0], "name", "x"), "two values"),
        (lambda graph: graph.graph.remove(graph.graph[0]), "nothing before it makes"),
        (lambda graph: setattr(graph.graph[0], "op_type", "Reluu"), "Reluu"),
    ],
)
def test_broken_graph_fails_the_check(damage, message):
    """The check after each pass finds lost values, double names, unknown operators."""
    graph = model("g (float[2] x) => (float[2] y) { r = Relu(x) y = Neg(r) }")
    check_model(graph)
    damage(graph)
    with pytest.raises(BadInput, match=message):
        check_model(graph)
