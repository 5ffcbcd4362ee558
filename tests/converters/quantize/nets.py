"""Small graphs for the tests of quantization, and what the tests share to calibrate and run them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from converters.quantize.calibrate import calibrate
from converters.quantize.observers import TensorRange
from edgert.profile import Quantization
from edgert.runtime.providers import ProviderDevice
from edgert.runtime.session import Session

CPU = ProviderDevice("CPUExecutionProvider", "cpu")
CPU_OPS = ("Conv", "MatMul", "Gemm", "Add", "Mul", "Concat", "Sigmoid", "MaxPool", "Reshape", "Transpose")
U8S8 = Quantization("uint8", "int8", ("Conv", "MatMul", "Gemm"), True, False, False, CPU_OPS)
NPU = Quantization("uint8", "int8", ("Conv", "ConvTranspose"), True, False, False, ("*",))

Array = NDArray[Any]


def net(body: str, inputs: str, outputs: str, weights: Mapping[str, Array], opset: int = 20) -> ir.Model:
    """Return a graph written in ONNX text, with its weights as initializers and its types inferred."""
    text = (
        f'<ir_version: 10, opset_import: ["" : {opset}, "ai.onnx.ml" : 3]> small ({inputs}) => ({outputs}) {{ {body} }}'
    )
    model = onnx.parser.parse_model(text)
    for name, array in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{index}"
    return ir.from_proto(onnx.shape_inference.infer_shapes(model, strict_mode=True))


def normal(*shape: int, seed: int = 0) -> Array:
    """Return float32 noise."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def conv_net(opset: int = 20) -> ir.Model:
    """Return Conv, Relu, Conv, residual Add, Sigmoid gate, pooling and a classifier: x [1,3,16,16] to y [1,5]."""
    return net(
        """a = Conv <pads = [1,1,1,1]> (x, w1, b1)
        r = Relu (a)
        c = Conv <pads = [1,1,1,1]> (r, w2, b2)
        d = Add (c, r)
        s = Sigmoid (d)
        e = Mul (d, s)
        p = MaxPool <kernel_shape = [4,4], strides = [4,4]> (e)
        f = Reshape (p, shape)
        y = Gemm (f, w3, b3)""",
        "float[1,3,16,16] x",
        "float[1,5] y",
        {
            "w1": normal(8, 3, 3, 3) / 3,
            "b1": normal(8, seed=1) / 9,
            "w2": normal(8, 8, 3, 3, seed=2) / 6,
            "b2": normal(8, seed=3) / 9,
            "shape": np.array([1, -1]),
            "w3": normal(128, 5, seed=4) / 11,
            "b3": normal(5, seed=5),
        },
        opset,
    )


def images(count: int = 8) -> list[dict[str, Array]]:
    """Return inputs of `conv_net`."""
    return [{"x": normal(1, 3, 16, 16, seed=100 + index)} for index in range(count)]


def ranges_of(model: ir.Model, samples: Sequence[Mapping[str, Array]], workdir: Path) -> dict[str, TensorRange]:
    """Calibrate with the full ranges."""
    return calibrate(model, samples, workdir=workdir, threads=1)


def run(model: ir.Model, feeds: Mapping[str, Array], workdir: Path) -> dict[str, Array]:
    """Save, check and run a model on the CPU provider."""
    path = workdir / "run.onnx"
    ir.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    with Session.open(path, CPU, threads=1) as session:
        return session.run(feeds)


def cosine(one: Array, other: Array) -> float:
    """Return the cosine of two arrays."""
    a, b = one.ravel().astype(np.float64), other.ravel().astype(np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
