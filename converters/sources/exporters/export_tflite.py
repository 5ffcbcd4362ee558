"""Turn a TFLite model into ONNX with tf2onnx, scales and zero points as they are; LiteRT runs the original."""

import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
import tf_flatbuffer
import tf_graph
import tf_streaming
from protocol import Failed, Request, answer, progress, samples, serve, tools
from tf2onnx.handler import tf_op, tfl_op

MAX_LABELS_BYTES = 1 << 20


def export(request: Request) -> None:
    """Write `model.onnx`, and `labels.json` where the file carries the names of its classes."""
    path, out = Path(request["path"]), Path(request["out"])
    progress("reading the TFLite model")
    model = tf_flatbuffer.read(path)
    _open(path)
    notes = _prepare(model)
    _require_known(model)
    quantized = tf_flatbuffer.is_quantized(model)
    progress("converting TFLite to ONNX")
    wide = "INT16" in tf_flatbuffer.integer_types(model)
    with tempfile.TemporaryDirectory(dir=out) as folder:
        prepared = Path(folder) / "prepared.tflite"
        tf_flatbuffer.write(model, prepared)
        opset = tf_graph.OPSET_16_BIT if wide else tf_graph.OPSET
        converted = tf_graph.to_onnx(tflite_path=str(prepared), opset=opset)
    tf_graph.finish(converted, out / "model.onnx", request["options"]["dynamic"])
    members: dict[str, Any] = {"quantized": quantized, "warnings": list(notes)}
    labels = _labels(path)
    if labels:
        (out / "labels.json").write_text(json.dumps(labels, ensure_ascii=False), encoding="utf-8")
        members["files"] = ["labels.json"]
    answer(
        request,
        model="model.onnx",
        framework=f"LiteRT {tf.__version__}",
        tools=tools("tensorflow-cpu", "tensorflow", "tf2onnx", "onnx", "numpy"),
        **members,
    )


def run(request: Request) -> None:
    """Run the model itself in LiteRT on each sample."""
    path = Path(request["path"])
    names = _interface(path)
    with tempfile.TemporaryDirectory(dir=request["out"]) as folder:
        interpreter = _open(_runnable(path, Path(folder)))
    inputs = {names[detail["index"]]: detail for detail in interpreter.get_input_details()}
    outputs = {names[detail["index"]]: detail["index"] for detail in interpreter.get_output_details()}
    for file, feeds in samples(request):
        for name, array in feeds.items():
            if tuple(inputs[name]["shape"]) != array.shape:
                interpreter.resize_tensor_input(inputs[name]["index"], array.shape)
                inputs[name]["shape"] = np.asarray(array.shape)
        interpreter.allocate_tensors()
        for name, array in feeds.items():
            interpreter.set_tensor(inputs[name]["index"], array)
        interpreter.invoke()
        np.savez(file, **{name: interpreter.get_tensor(index) for name, index in outputs.items()})


def _prepare(model: Any) -> tuple[str, ...]:
    """Rewrite the model into what tf2onnx converts as it is meant; returns what the user should know of it."""
    return tf_streaming.state_as_inputs(model) + tf_flatbuffer.prepare(model)


def _runnable(path: Path, folder: Path) -> Path:
    """Return what LiteRT runs: the file itself, but for two kinds of model.

    Of a streaming model a copy whose state is given and returned. Of one with 8-bit weights and float activations a
    copy with those weights as real numbers: LiteRT would round the activations to 8 bits as it goes, anew in each run.
    """
    model = tf_flatbuffer.read(path)
    if not (tf_streaming.state_as_inputs(model) or tf_flatbuffer.real_weights(model)):
        return path
    tf_flatbuffer.write(model, folder / "runnable.tflite")
    return folder / "runnable.tflite"


def _interface(path: Path) -> dict[int, str]:
    """Return place of a tensor of the main graph -> its name in the ONNX model."""
    model = tf_flatbuffer.read(path)
    _prepare(model)
    return {place: tensor.name.decode() for place, tensor in enumerate(model.subgraphs[0].tensors)}


def _open(path: Path) -> Any:
    """Return an interpreter for a file that has been read; BadInput where LiteRT does not take it."""
    try:
        return tf.lite.Interpreter(model_path=str(path))
    except ValueError as exc:
        said = str(exc).strip().splitlines()[-1] if str(exc).strip() else "no reason given"
        raise Failed(
            f"{path}: LiteRT does not open this model: {said}", "download or export the model again; it may be cut off"
        ) from exc


def _require_known(model: Any) -> None:
    """Raise Failed that names every operator for which tf2onnx has no handler."""
    known = set(tfl_op.create_tfl_to_tf_mapping())
    for version in tf_op.get_opsets()[""]:
        known |= set(version)
    strange = [
        operator
        for operator in tf_flatbuffer.operators(model)
        if f"TFL_{operator.name}" not in known and operator.name.removeprefix("Flex") not in known
    ]
    if strange:
        shown = "\n".join(f"  {operator}" for operator in strange[: tf_graph.TOLD])
        raise Failed(
            f"{len(strange)} operators of this TFLite model have no form in ONNX:\n{shown}",
            "export the model without them: a streaming model in another form, a custom operator as built-in ones",
            "GateFailed",
        )


def _labels(path: Path) -> list[str]:
    """Return the class names of a text file in the zip archive that TFLite metadata appends to a model."""
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith(".txt") and "label" in entry.filename and entry.file_size <= MAX_LABELS_BYTES:
                lines = archive.read(entry).decode("utf-8", errors="replace").splitlines()
                return [line.strip() for line in lines if line.strip()]
    return []


if __name__ == "__main__":
    serve(export=export, run=run)
