"""What ONNX Runtime's documentation asks for before quantization: opset 17, and its own preprocessing.

https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html: "pre-processing" is symbolic shape
inference, ONNX Runtime's graph optimization and ONNX shape inference. Opsets before 13 have no per-axis
DequantizeLinear, which `quantize_static` writes all the same.
"""

import contextlib
from pathlib import Path

import onnx
from onnx import version_converter
from onnxruntime.quantization.shape_inference import quant_pre_process

from tests.bench_peers.protocol import Task

OPSET = 17


def preprocessed(task: Task) -> tuple[Path, str]:
    """Return the file to quantize and what was done to it, in words."""
    raised, notes = raise_opset(task)
    path = task.work / "preprocessed.onnx"
    raised, path = raised.resolve(), path.resolve()
    with contextlib.chdir(task.work):  # it leaves files where it stands
        try:
            quant_pre_process(str(raised), str(path))
            notes.append("quant_pre_process")
        except Exception as exc:  # noqa: BLE001 symbolic shape inference raises bare Exception
            quant_pre_process(str(raised), str(path), skip_symbolic_shape=True)
            notes.append(f"quant_pre_process without symbolic shapes ({type(exc).__name__})")
    return path, ", ".join(notes)


def raise_opset(task: Task) -> tuple[Path, list[str]]:
    """Return the original, converted to opset 17 where it is older."""
    model = onnx.load(task.model)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset >= OPSET:
        return task.model, []
    path = task.work / "raised.onnx"
    onnx.save(version_converter.convert_version(model, OPSET), path)
    return path, [f"opset {opset} to {OPSET}"]
