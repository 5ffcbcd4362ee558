"""Small ONNX models and bundles of them, for the tests of the runtime."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgert.bundle import write_bundle
from edgert.manifest import Golden, Manifest, Placement, TensorSpec, Variant
from edgert.runtime.golden import GoldenVector, write_golden
from edgert.runtime.providers import Absent, ProviderDevice
from edgert.runtime.session import Session

CPU = ProviderDevice("CPUExecutionProvider", "cpu")
SHAPE = [1, 3, 16, 16]


def present(found: ProviderDevice | Absent, skip: Callable[[str], Any]) -> ProviderDevice:
    """Return the device, or skip the test with the reason why it is absent."""
    if isinstance(found, Absent):
        skip(f"{found.provider}: {found.reason}; {found.remedy}")
    assert isinstance(found, ProviderDevice)
    return found


def image(seed: int = 0) -> np.ndarray[Any, Any]:
    """Return one input of the convolution nets: float32 [1, 3, 16, 16]."""
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def _save(path: Path, nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], weights: Any) -> Path:
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "small", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def _value(name: str, shape: Sequence[int | str | None], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def save_conv_net(path: Path, last: str = "Relu", gain: float = 1.0) -> Path:
    """Save a float net of three convolutions, x[1,3,16,16] -> y[1,8,16,16]; `last` is its last op."""
    random = np.random.default_rng(0)
    weights: dict[str, Any] = {}
    nodes = []
    value, channels = "x", 3
    for index in range(3):
        weight = random.integers(-60, 60, (8, channels, 3, 3)) * np.float32(0.004 * gain)
        weights[f"weight{index}"] = weight.astype(np.float32)
        nodes.append(
            helper.make_node("Conv", [value, f"weight{index}"], [f"c{index}"], name=f"conv{index}", pads=[1] * 4)
        )
        value, channels = f"c{index}", 8
    nodes.append(helper.make_node(last, [value], ["y"], name="last"))
    return _save(path, nodes, [_value("x", SHAPE)], [_value("y", [1, 8, 16, 16])], weights)


def save_qdq_net(path: Path, refused: str = "") -> Path:
    """Save the net of `save_conv_net` in QDQ form, without its last op; `refused` appends an op after it."""
    random = np.random.default_rng(0)
    weights: dict[str, Any] = {"scale": np.float32(0.03), "zero": np.uint8(128)}
    nodes = []

    def pair(value: str, result: str, name: str) -> None:
        nodes.append(helper.make_node("QuantizeLinear", [value, "scale", "zero"], [f"{name}_q"], name=f"{name}_Q"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", "scale", "zero"], [result], name=f"{name}_DQ"))

    pair("x", "d", "in")
    value, channels = "d", 3
    for index in range(3):
        weights |= {
            f"weight{index}": random.integers(-60, 60, (8, channels, 3, 3)).astype(np.int8),
            f"weight_scale{index}": np.float32(0.004),
            f"weight_zero{index}": np.int8(0),
        }
        names = [f"weight{index}", f"weight_scale{index}", f"weight_zero{index}"]
        nodes.append(helper.make_node("DequantizeLinear", names, [f"w{index}"], name=f"w{index}_DQ"))
        nodes.append(helper.make_node("Conv", [value, f"w{index}"], [f"c{index}"], name=f"conv{index}", pads=[1] * 4))
        value, channels = (f"d{index}" if index < 2 or refused else "y"), 8
        pair(f"c{index}", value, f"a{index}")
    if refused:
        nodes.append(helper.make_node(refused, [value], ["y"], name="refuse_me"))
    return _save(path, nodes, [_value("x", SHAPE)], [_value("y", [1, 8, 16, 16])], weights)


def save_tiny_net(path: Path) -> Path:
    """Save one 1x1 convolution, x[1,3,16,16] -> y[1,8,16,16]: a few microseconds a run."""
    weights = {"weight": np.full((8, 3, 1, 1), 0.5, np.float32)}
    node = helper.make_node("Conv", ["x", "weight"], ["y"], name="conv")
    return _save(path, [node], [_value("x", SHAPE)], [_value("y", [1, 8, 16, 16])], weights)


def save_add(path: Path, rows: int | str | None = "n") -> Path:
    """Save left[rows,2] + right[rows,2] -> sum, float32."""
    node = helper.make_node("Add", ["left", "right"], ["sum"], name="add")
    shape = [rows, 2]
    return _save(path, [node], [_value("left", shape), _value("right", shape)], [_value("sum", shape)], {})


def save_gather(path: Path) -> Path:
    """Save table[8,2][index] -> row; an index out of range makes the run fail. Input int64 [1]."""
    node = helper.make_node("Gather", ["table", "index"], ["row"], name="gather")
    index = _value("index", [1], TensorProto.INT64)
    return _save(path, [node], [index], [_value("row", [1, 2])], {"table": np.zeros((8, 2), np.float32)})


def save_slow(path: Path, repeats: int = 60) -> Path:
    """Save a chain of matrix products, x[256,256] -> y, that takes tens of milliseconds on one core."""
    nodes = [
        helper.make_node("MatMul", [f"v{i}" if i else "x", "weight"], [f"v{i + 1}" if i < repeats - 1 else "y"])
        for i in range(repeats)
    ]
    shape = [256, 256]
    weight = (np.eye(256) * 0.5).astype(np.float32)
    return _save(path, nodes, [_value("x", shape)], [_value("y", shape)], {"weight": weight})


def write_conv_bundle(
    folder: Path,
    placements: Sequence[Placement],
    *,
    models: dict[str, Callable[[Path], Path]] | None = None,
    min_cosine: float = 0.98,
    golden_of: Callable[[Path], Path] | None = None,
) -> Path:
    """Write a bundle folder of the convolution net and return its path.

    `models` makes the ONNX file of each variant (default: `fp32` only); the golden outputs are those of `golden_of`
    on the CPU (default: the QDQ net's float counterpart).
    """
    models = models or {"fp32": save_identity_net}
    staging = folder / "staging"
    staging.mkdir()
    for name, save in models.items():
        save(staging / f"{name}.onnx")
    original = (golden_of or save_identity_net)(folder / "original.onnx")
    with Session.open(original, CPU, threads=1) as session:
        vectors = [GoldenVector({"x": image(seed)}, session.run({"x": image(seed)})) for seed in (1, 2)]
    write_golden(staging / "golden.npz", vectors)
    (staging / "reference.json").write_text("{}", encoding="utf-8")
    manifest = Manifest(
        name="convs",
        version="1",
        license="Apache-2.0",
        profile="x86-avx2",
        arch="x86_64",
        isa=(),
        inputs=(TensorSpec("x", "float32", tuple(SHAPE)),),
        outputs=(TensorSpec("y", "float32", (1, 8, 16, 16)),),
        variants=tuple(Variant(name, "fp32", f"{name}.onnx") for name in models),
        chosen=placements[0].variant,
        placements=tuple(placements),
        golden=Golden("golden.npz", 2, dict.fromkeys(models, min_cosine)),
        reference="reference.json",
    )
    write_bundle(staging, manifest, folder / "convs")
    return folder / "convs"


def save_identity_net(path: Path) -> Path:
    """Save the float net that `save_qdq_net` approximates."""
    return save_conv_net(path, last="Identity")
