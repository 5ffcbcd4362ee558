"""A quantized graph in other integer types stands for the same real numbers."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from converters.passes.between_dq_and_q import between_dq_and_q
from converters.passes.check import check_model
from converters.passes.integer_types import integer_types
from edgert.profile import load_profile
from tests.converters.passes import quantized_graphs
from tests.converters.passes.graphs import ARM, CPU, NPU, interface

AVX2 = load_profile("x86-avx2")


def types(graph: ir.Model) -> tuple[set[str], set[str]]:
    """Return the types of the activations and of a constant beside them, and of the weight of the convolution."""
    activations, weights = set(), set()
    for node in graph.graph:
        if node.op_type == "QuantizeLinear" and not node.outputs[0].is_graph_output():
            activations.add(str(node.outputs[0].dtype))
        if node.op_type == "Add":
            activations.update(str(value.producer().inputs[0].dtype) for value in node.inputs)
        if node.op_type == "DequantizeLinear" and {user.op_type for user in node.outputs[0].consumers()} == {"Conv"}:
            source = node.inputs[0]
            if source is not None and source.is_initializer() and len(source.shape or ()) == 4:
                weights.add(str(source.dtype))
    return activations, weights


@pytest.mark.parametrize("inside", ["float", "integer"])
@pytest.mark.parametrize(
    ("kind", "profile", "expected"),
    [
        (np.int8, NPU, ({"UINT8"}, {"INT8"})),
        (np.int8, CPU, ({"UINT8"}, {"INT8"})),
        (np.int8, AVX2, ({"UINT8"}, {"UINT8"})),
        (np.int8, ARM, ({"INT8"}, {"INT8"})),
        (np.uint8, ARM, ({"INT8"}, {"INT8"})),
        (np.int16, NPU, ({"UINT16"}, {"INT8"})),
        (np.int16, CPU, ({"INT16"}, {"INT8"})),
    ],
)
def test_types_become_those_of_the_profile_and_results_stay(kind, profile, expected, inside):
    """Whatever the graph came with, the profile's types are inside; inputs, outputs and every result are the same."""
    graph = quantized_graphs.net(kind, interface=inside)
    between_dq_and_q(graph, profile)
    inputs, names = quantized_graphs.feeds(graph), interface(graph)
    before = quantized_graphs.run(graph, inputs)
    result = integer_types(graph, profile)
    check_model(graph)
    assert result.declined == ()
    assert interface(graph) == names
    assert types(graph) == expected
    (after,) = quantized_graphs.run(graph, inputs)
    assert after.dtype == before[0].dtype
    np.testing.assert_array_equal(after, before[0])
    assert integer_types(graph, profile).changes == 0


def test_weights_of_uint8_keep_an_int8_profile_from_changing_anything():
    """There are no kernels for int8 times uint8, and uint8 weights may have any zero point."""
    graph = quantized_graphs.net(np.uint8, np.uint8)
    result = integer_types(graph, ARM)
    assert result.changes == 0
    assert "int8 activations and uint8 weights" in result.declined[0]


def test_processor_whose_mixed_sums_saturate_keeps_equal_types():
    """Where weights would have to be 7 bits wide beside uint8, those of a finished model stay beside int8."""
    careful = replace(CPU, quantization=replace(CPU.quantization, reduce_range=True))
    graph = quantized_graphs.net(np.int8)
    assert integer_types(graph, careful).changes == 0
    assert types(graph) == ({"INT8"}, {"INT8"})


def test_integers_that_another_node_reads_are_named_and_stay():
    """A Transpose among the integers, not yet put between DQ and Q, keeps its Q as it is."""
    graph = quantized_graphs.net(np.int8)
    inputs = quantized_graphs.feeds(graph)
    before = quantized_graphs.run(graph, inputs)
    result = integer_types(graph, NPU)
    assert len(result.declined) == 1
    check_model(graph)
    np.testing.assert_array_equal(quantized_graphs.run(graph, inputs), before)
