"""What the passes for every model do to one that is quantized: nothing to its numbers."""

import numpy as np
import onnx_ir as ir
import pytest

from converters.graphs import NORMALISE, SPEED
from converters.passes.check import check_model
from tests.converters.passes import quantized_graphs
from tests.converters.passes.graphs import ARM, CPU, NPU, interface, ops


@pytest.mark.parametrize("profile", [CPU, ARM, NPU], ids=["x86", "arm", "npu"])
@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_passes_for_every_model_keep_all_scales_and_integers(kind, profile):
    """Each Q and DQ, its scale, zero point and axis, and each integer weight is there afterwards as it was before."""
    graph = quantized_graphs.net(kind)
    before, count, integers = quantized_graphs.steps(graph), ops(graph), _integers(graph)
    inputs = quantized_graphs.feeds(graph)
    expected = quantized_graphs.run(graph, inputs)
    for one in (*NORMALISE, *SPEED):
        one(graph, profile)
        check_model(graph)
        assert quantized_graphs.steps(graph) == before, one.__name__
        assert _integers(graph) == integers, one.__name__
    assert ops(graph) == count
    assert interface(graph) == (["x"], ["y"])
    np.testing.assert_array_equal(quantized_graphs.run(graph, inputs), expected)


def _integers(graph: ir.Model) -> set[bytes]:
    """Return the bytes of all weights of 8 and 32 bits that are not single numbers."""
    return {
        value.const_value.tobytes()
        for value in graph.graph.initializers.values()
        if value.const_value is not None and value.const_value.size > 1 and value.dtype != ir.DataType.FLOAT
    }
