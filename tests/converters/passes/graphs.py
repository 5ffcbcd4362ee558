"""Small graphs for the tests of passes: written as ONNX text, run by ONNX Runtime, compared before and after."""

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime

from converters.passes.check import check_model
from converters.passes.infer_shapes import infer_shapes
from converters.passes.lift_constants import lift_constants
from converters.passes.result import PassResult
from edgert.profile import DeviceProfile, load_profile

CPU = load_profile("x86-avx512-vnni")
ARM = load_profile("raspberry-pi-5")
NPU = load_profile("snapdragon-8-gen-3")

Pass = Callable[[ir.Model, DeviceProfile], PassResult]


def model(text: str, opset: int = 17, ir_version: int = 8, **weights: np.ndarray) -> ir.Model:
    """Parse `g (inputs) => (outputs) { nodes }`, add the weights as initializers, lift constants, infer shapes."""
    parsed = proto(text, opset, ir_version, **weights)
    graph = ir.from_proto(parsed)
    lift_constants(graph, CPU)
    infer_shapes(graph, CPU)
    return graph


def proto(text: str, opset: int = 17, ir_version: int = 8, **weights: np.ndarray) -> onnx.ModelProto:
    """Parse the same text into a protobuf, untouched."""
    header = f'<ir_version: {ir_version}, opset_import: ["": {opset}, "com.microsoft": 1]>\n'
    parsed = onnx.parser.parse_model(header + text)
    parsed.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return parsed


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    """A float32 array around 0 that holds no 0 and no 1."""
    return np.random.default_rng(seed).uniform(0.2, 0.9, shape).astype(np.float32) * np.float32(-1) ** seed


def feeds(graph: ir.Model, seed: int = 1) -> dict[str, np.ndarray]:
    """Random inputs; an unknown dimension becomes 2, a bool is True."""
    random = np.random.default_rng(seed)
    values: dict[str, np.ndarray] = {}
    for value in graph.graph.inputs:
        shape = [dim if isinstance(dim, int) else 2 for dim in value.shape or ()]
        if value.dtype == ir.DataType.BOOL:
            values[str(value.name)] = np.full(shape, True)
        else:
            values[str(value.name)] = (random.standard_normal(shape) * 3).astype(np.float32)
    return values


def run(graph: ir.Model, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run the graph as it is, without ONNX Runtime's own optimisations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = ir.to_proto(graph).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(inputs)))


def ops(graph: ir.Model) -> Counter[str]:
    """Count the operators, subgraphs included."""
    return Counter(node.op_type for node in graph.graph.all_nodes())


def interface(graph: ir.Model) -> tuple[list[str | None], list[str | None]]:
    """The names of inputs and outputs, in order."""
    return [value.name for value in graph.graph.inputs], [value.name for value in graph.graph.outputs]


def apply(fuse: Pass, graph: ir.Model, profile: DeviceProfile = CPU, changes: int | None = None) -> PassResult:
    """Run a pass and check what holds for each: same results, same interface, valid graph, nothing left to do."""
    inputs = feeds(graph)
    before, names = run(graph, inputs), interface(graph)
    result = fuse(graph, profile)
    check_model(graph)
    assert interface(graph) == names
    for expected, actual in zip(before, run(graph, inputs), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
        assert actual.shape == expected.shape
    assert changes is None or result.changes == changes
    assert fuse(graph, profile).changes == 0, "a second run finds nothing"
    return result
