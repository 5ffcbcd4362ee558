"""Turn a SavedModel, a Keras model or a frozen graph into ONNX with tf2onnx; TensorFlow itself runs the original."""

import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
import tf_graph

# Not used here: a SavedModel made by Keras 2 only loads where it has registered its optimizers (tensorflow 2.21).
import tf_keras
import tf_safety
from google.protobuf.message import DecodeError
from protocol import Failed, Request, answer, progress, samples, serve, tools
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tf2onnx import tf_loader

SIGNATURE = "serving_default"
IGNORED_ENDS = ("NoOp", "Const", "Assert", "SaveV2", "RestoreV2", "MergeV2Checkpoints")
UNREADABLE = (ValueError, TypeError, NotImplementedError, AttributeError, ImportError, NameError)
"""What Keras raises for a configuration that it does not understand."""

_AGAIN = "export the model again, or copy it again and compare its size"


@dataclass(frozen=True)
class Loaded:
    """A model as one function: tensors in the order of `inputs` to tensors in the order of `outputs`.

    `owner` keeps variables and tables alive.
    """

    call: Callable[..., Sequence[tf.Tensor]]
    inputs: Mapping[str, tf.TensorSpec]
    outputs: Sequence[str]
    owner: Any
    framework: str


def export(request: Request) -> None:
    """Write `model.onnx`."""
    progress("loading the TensorFlow model")
    loaded = _load(Path(request["path"]), request["options"])
    specs = _specs(loaded, request["options"])
    progress("tracing")
    function = _trace(loaded, specs)
    progress("converting TensorFlow to ONNX")
    model = _convert(loaded, function, specs)
    tf_graph.finish(model, Path(request["out"]) / "model.onnx", request["options"]["dynamic"])
    answer(
        request,
        model="model.onnx",
        framework=loaded.framework,
        tools=tools("tensorflow-cpu", "tensorflow", "keras", "tf_keras", "tf2onnx", "onnx", "numpy"),
    )


def run(request: Request) -> None:
    """Run the model itself in TensorFlow on each sample."""
    loaded = _load(Path(request["path"]), request["options"])
    for file, feeds in samples(request):
        tensors = [tf.constant(feeds[name], spec.dtype) for name, spec in loaded.inputs.items()]
        results = loaded.call(*tensors)
        np.savez(file, **{name: tensor.numpy() for name, tensor in zip(loaded.outputs, results, strict=True)})


def _load(path: Path, options: Mapping[str, Any]) -> Loaded:
    if path.is_dir():
        return _load_saved_model(path)
    with path.open("rb") as file:
        is_hdf5 = file.read(4) == b"\x89HDF"
    if is_hdf5 or zipfile.is_zipfile(path):
        return _load_keras(path, bool(options["trust_pickle"]))
    return _load_graph(path)


# SavedModel


def _load_saved_model(path: Path) -> Loaded:
    proto = SavedModel()
    try:
        proto.ParseFromString((path / "saved_model.pb").read_bytes())
    except DecodeError as exc:
        raise Failed(f"{path}/saved_model.pb is cut off or damaged", _AGAIN) from exc
    for graph in proto.meta_graphs:
        tf_safety.check_graph(str(path), graph.graph_def)
    try:
        owner = tf.saved_model.load(str(path))
    except (OSError, ValueError, tf.errors.OpError) as exc:
        raise Failed(f"{path}: TensorFlow does not load this SavedModel: {_first_line(exc)}", _AGAIN) from exc
    function = _signature(path, owner)
    inputs = function.structured_input_signature[1]
    outputs = sorted(function.structured_outputs)

    def call(*tensors: tf.Tensor) -> Sequence[tf.Tensor]:
        results = function(**dict(zip(inputs, tensors, strict=True)))
        return [results[name] for name in outputs]

    return Loaded(call, inputs, outputs, owner, f"tensorflow {tf.__version__}")


def _signature(path: Path, owner: Any) -> Any:
    names = [name for name in owner.signatures if not name.startswith("_")]
    if SIGNATURE in names:
        return owner.signatures[SIGNATURE]
    if len(names) != 1:
        found = f"it has {', '.join(sorted(names))}" if names else "it has none"
        raise Failed(
            f"{path}: no signature '{SIGNATURE}'; {found}",
            "save the model with one signature: tf.saved_model.save(model, folder, signatures=function)",
        )
    return owner.signatures[names[0]]


# Keras


def _load_keras(path: Path, trusted: bool) -> Loaded:
    try:
        tf_safety.check_keras(path, trusted)
        model, framework = _open_keras(path, trusted)
    except (OSError, KeyError, zipfile.BadZipFile) as exc:
        raise Failed(f"{path}: this Keras file is cut off or damaged: {_first_line(exc)}", _AGAIN) from exc
    if not getattr(model, "inputs", None):
        raise Failed(
            f"{path}: the model does not say what its inputs are", "build it before saving, or export a SavedModel"
        )
    names = _distinct([tensor.name for tensor in model.inputs])
    inputs = {
        name: tf.TensorSpec(tensor.shape, tensor.dtype, name) for name, tensor in zip(names, model.inputs, strict=True)
    }
    outputs = _output_names(model)

    def call(*tensors: tf.Tensor) -> Sequence[tf.Tensor]:
        structure = getattr(model, "input", tensors[0])
        results = model(tf.nest.pack_sequence_as(structure, list(tensors)), training=False)
        return list(tf.nest.flatten(results))

    return Loaded(call, inputs, outputs, model, framework)


def _output_names(model: Any) -> list[str]:
    """Return the keys of a model that gives a dict, else the names of its last layers, in their order."""
    structure = getattr(model, "output", None)
    if isinstance(structure, dict) and all(not isinstance(value, dict | list | tuple) for value in structure.values()):
        return sorted(structure)
    names = getattr(model, "output_names", None) or [f"output_{place}" for place in range(len(model.outputs))]
    return _distinct(list(names))


def _open_keras(path: Path, trusted: bool) -> tuple[Any, str]:
    """Return the model and the Keras that read it: 3, or 2 for a file that only it understands."""
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=not trusted), f"keras {keras.__version__}"
    except UNREADABLE as first:
        try:
            model = tf_keras.models.load_model(path, compile=False, safe_mode=not trusted)
        except (*UNREADABLE, OSError) as second:
            raise Failed(
                f"{path}: Keras {keras.__version__} does not load this model: {_first_line(first)}; "
                f"Keras {tf_keras.__version__} neither: {_first_line(second)}",
                "a model with classes of your own: export it as a SavedModel (model.export('folder'))",
            ) from first
        return model, f"tf_keras {tf_keras.__version__}"


def _distinct(names: list[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name}_{place}" for place, name in enumerate(names)]


# frozen graphs


def _load_graph(path: Path) -> Loaded:
    graph_def = GraphDef()
    try:
        graph_def.ParseFromString(path.read_bytes())
    except DecodeError as exc:
        raise Failed(f"{path}: the frozen graph is cut off or damaged", _AGAIN) from exc
    tf_safety.check_graph(str(path), graph_def)
    starts = [node.name for node in graph_def.node if node.op == "Placeholder"]
    read = {source.lstrip("^").split(":")[0] for node in graph_def.node for source in node.input}
    ends = [node.name for node in graph_def.node if node.name not in read and node.op not in IGNORED_ENDS]
    if not starts or not ends:
        raise Failed(f"{path}: the graph has no Placeholder or no result", "freeze it with its inputs and outputs")

    def imported() -> None:
        tf.graph_util.import_graph_def(graph_def, name="")

    try:
        function = tf.compat.v1.wrap_function(imported, []).prune([f"{n}:0" for n in starts], [f"{n}:0" for n in ends])
    except (ValueError, KeyError) as exc:
        raise Failed(f"{path}: the graph is not valid: {_first_line(exc)}", _AGAIN) from exc
    inputs = {
        name: tf.TensorSpec(tensor.shape, tensor.dtype, name)
        for name, tensor in zip(starts, function.inputs, strict=True)
    }
    return Loaded(function, inputs, ends, function, f"tensorflow {tf.__version__}")


# conversion


def _specs(loaded: Loaded, options: Mapping[str, Any]) -> list[tf.TensorSpec]:
    """Return what the function is traced with: the model's own input shapes, and those that the user fixes or frees."""
    known = loaded.inputs
    for name in (*options["shapes"], *options["dynamic"]):
        if name not in known:
            raise Failed(f"the model has no input '{name}'", f"its inputs are {', '.join(known)}")
    specs = []
    for name, spec in known.items():
        shape = spec.shape
        if name in options["dynamic"] and shape.rank == len(options["dynamic"][name]):
            words = options["dynamic"][name]
            shape = tf.TensorShape([None if word else size for word, size in zip(words, shape, strict=True)])
        if name in options["shapes"]:
            given = tf.TensorShape(options["shapes"][name])
            if not given.is_compatible_with(spec.shape):
                raise Failed(
                    f"--shape {name}={','.join(map(str, given))} contradicts the model, which has {spec.shape}",
                    "give a shape that fits, or change the model",
                )
            shape = given
        specs.append(tf.TensorSpec(shape, spec.dtype, name))
    return specs


def _trace(loaded: Loaded, specs: Sequence[tf.TensorSpec]) -> Any:
    try:
        return tf.function(loaded.call).get_concrete_function(*specs)
    except (ValueError, TypeError, tf.errors.OpError) as exc:
        raise Failed(
            f"TensorFlow cannot trace the model with {', '.join(f'{s.name}{s.shape}' for s in specs)}: "
            f"{_first_line(exc)}",
            "leave out --shape and --dynamic, or give shapes that fit the model",
        ) from exc


def _convert(loaded: Loaded, function: Any, specs: Sequence[tf.TensorSpec]) -> Any:
    captured = {tensor.name for tensor in function.graph.internal_captures}
    starts = [tensor.name for tensor in function.inputs if tensor.name not in captured]
    ends = [tensor.name for tensor in function.outputs]
    with tf.device("/cpu:0"):
        try:
            frozen, tables = tf_loader.from_trackable(loaded.owner, function, starts, ends, False)
        except (ValueError, tf.errors.OpError) as exc:
            raise Failed(
                f"tf2onnx cannot freeze this model: {_first_line(exc)}", "give the model as ONNX", "GateFailed"
            ) from exc
        with tf.Graph().as_default() as graph:
            tf.graph_util.import_graph_def(frozen, name="")
            return tf_graph.to_onnx(
                graph=graph,
                input_names=starts,
                output_names=ends,
                initialized_tables=tables,
                tensors_to_rename=dict(zip(starts, [spec.name for spec in specs], strict=True))
                | dict(zip(ends, loaded.outputs, strict=True)),
            )


def _first_line(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return f"{type(exc).__name__}: {lines[0]}"[:400] if lines else type(exc).__name__


if __name__ == "__main__":
    serve(export=export, run=run)
