"""A small real bundle for tests: a staging folder and its manifest, and a zip writer that breaks the rules."""

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgert.manifest import Golden, Manifest, Placement, TensorSpec, Variant
from edgert.stored_zip import in_order

BUNDLE_FILES = ("fp32.onnx", "relu.onnx", "weights.bin", "golden.npz", "reference.json", "license.txt")


def small_model(location: str = "weights.bin") -> onnx.ModelProto:
    """Return x[1,64] -> MatMul -> y[1,32] whose weights, 8192 bytes of zeros, are external data at `location`."""
    weight = numpy_helper.from_array(np.zeros((64, 32), np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"], name="matmul")],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 32])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location, offset=0, length=8192)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    return model


def stage(folder: Path) -> Path:
    """Fill `folder` with what `convert` leaves there, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    relu = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], name="relu")],
        "relu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])],
    )
    (folder / "fp32.onnx").write_bytes(small_model().SerializeToString(deterministic=True))
    (folder / "relu.onnx").write_bytes(helper.make_model(relu).SerializeToString(deterministic=True))
    (folder / "weights.bin").write_bytes(bytes(8192))
    golden = io.BytesIO()
    np.savez(golden, x=np.ones((1, 64), np.float32))
    (folder / "golden.npz").write_bytes(golden.getvalue())
    (folder / "reference.json").write_text('{"inputs": {}}\n', encoding="utf-8")
    (folder / "license.txt").write_text("Free to use.\n", encoding="utf-8")
    (folder / "measurements.json").write_text('{"latency_ms": {"p50": 1.5}}\n', encoding="utf-8")
    return folder


def small_manifest(**changes: object) -> Manifest:
    """Return the manifest of `stage`, without its files."""
    values: dict[str, object] = {
        "name": "small",
        "version": "1.0.0",
        "license": "Apache-2.0",
        "profile": "x86-avx2",
        "arch": "x86_64",
        "isa": ("avx2",),
        "inputs": (TensorSpec("x", "float32", (1, 64)),),
        "outputs": (TensorSpec("y", "float32", (1, "n", None)),),
        "variants": (Variant("fp32", "fp32", "fp32.onnx"), Variant("relu", "fp32", "relu.onnx")),
        "chosen": "fp32",
        "placements": (
            Placement("relu", "QNNExecutionProvider", "npu", {"htp_performance_mode": "burst"}, {}),
            Placement("fp32", "CPUExecutionProvider", "cpu"),
        ),
        "golden": Golden("golden.npz", 1, {"fp32": 0.999}),
        "reference": "reference.json",
        "recipe": {"passes": ["fold_constants"], "seed": 0},
        "warnings": ("random calibration data",),
    }
    return Manifest(**{**values, **changes})  # type: ignore[arg-type]


def read_manifest(folder: Path) -> dict[str, object]:
    """Return `manifest.json` of a bundle folder as plain JSON."""
    document = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def write_manifest(folder: Path, document: object) -> None:
    """Replace `manifest.json` of a bundle folder."""
    (folder / "manifest.json").write_text(json.dumps(document), encoding="utf-8")


def zip_members(path: Path) -> dict[str, bytes]:
    """Return the members of a zip file by name, as the standard library reads them."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def forge_zip(
    path: Path, members: Mapping[str, bytes], change: Callable[[zipfile.ZipInfo], None] = lambda info: None
) -> Path:
    """Write a zip file as the standard library does, in bundle order, after `change` of each member's record."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in in_order(list(members)):
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o100644 << 16
            change(info)
            archive.writestr(info, members[name])
    return path
