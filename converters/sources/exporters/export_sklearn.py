"""scikit-learn estimators, XGBoost and LightGBM models become ONNX, and predict beside it.

What each framework needs is in `skl_estimators` and `skl_boosters`; this file loads the model, gives the graph the
names that a caller sees, and writes what the converter asked for.
"""

import importlib
import json
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from protocol import Failed, Request, answer, progress, samples, serve, tools
from skl_columns import examples_of
from skl_source import Source

PACKAGES = ("scikit-learn", "skl2onnx", "onnxmltools", "xgboost", "xgboost-cpu", "lightgbm", "joblib", "numpy", "onnx")
CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
BATCH = "N"
OPSET = 17
"""For a graph of trees alone, which says none."""
MOST_EXAMPLES = 256
"""Rows of example inputs that are kept: they calibrate, they do not train."""


def export(request: Request) -> None:
    """Write model.onnx, labels.json for a classifier, and examples.npz where the function gave inputs too."""
    out = Path(request["out"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, examples = _load(request)
        source = _source(model, examples, request["path"])
        told = [str(one.message) for one in caught if one.category.__name__ == "InconsistentVersionWarning"]
    progress(f"converting {source.name}")
    proto = _finished(_converted(source), source)
    onnx.save(proto, out / "model.onnx")
    members: dict[str, Any] = {"files": []}
    if source.labels is not None:
        (out / "labels.json").write_text(json.dumps(list(source.labels), ensure_ascii=False), encoding="utf-8")
        members["files"].append("labels.json")
        members["task"] = {"kind": "classification", "output": source.outputs[1], "labels": "labels.json"}
    if examples is not None:
        arrays = examples_of(examples, source.columns, MOST_EXAMPLES)
        np.savez(out / "examples.npz", allow_pickle=False, **arrays)
        members["examples"] = "examples.npz"
    answer(
        request,
        model="model.onnx",
        framework=source.framework,
        tools=tools(*PACKAGES),
        warnings=list(dict.fromkeys(told)),
        **members,
    )


def run(request: Request) -> None:
    """Write what the source framework itself predicts for each sample."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, examples = _load(request)
        source = _source(model, examples, request["path"])
        for file, feeds in samples(request):
            try:
                outputs = source.predict(feeds)
            except (ValueError, TypeError, KeyError) as exc:
                raise Failed(
                    f"{source.name} cannot predict sample {file.stem}: {str(exc).splitlines()[0]}",
                    "give samples that the source itself takes",
                ) from exc
            np.savez(file, allow_pickle=False, **outputs)


def _load(request: Request) -> tuple[Any, Any]:
    """Return the model and, where a function gave them, its example inputs."""
    options, path = request["options"], Path(request["path"])
    if not path.exists() and CALLABLE.fullmatch(request["path"]):
        return _from_function(request["path"], options["folder"])
    head = path.open("rb").read(64)
    if head.lstrip()[:1] == b"{":
        return _booster("xgboost", path), None
    if head.startswith(b"tree\n"):
        return _booster("lightgbm", path), None
    if not options["trust_pickle"]:
        raise Failed(f"'{path}' is a pickle, which runs code when it is read", "give --trust-pickle")
    return _unpickled(path, options["folder"]), None


def _from_function(spec: str, folder: str) -> tuple[Any, Any]:
    module_name, _, name = spec.partition(":")
    sys.path.insert(0, folder)
    os.chdir(folder)
    try:
        made = getattr(importlib.import_module(module_name), name)()
    except (Exception, SystemExit) as exc:  # the user's code may raise anything
        raise Failed(
            f"'{spec}' raised {type(exc).__name__}: {exc}",
            "name a function without arguments that returns a fitted estimator, or (estimator, example inputs)",
        ) from exc
    return made if isinstance(made, tuple) and len(made) == 2 else (made, None)


def _booster(framework: str, path: Path) -> Any:
    try:
        library = importlib.import_module(framework)
        return library.Booster(model_file=str(path))
    except ImportError as exc:
        raise Failed(
            f"{framework} is not installed beside scikit-learn", f"pip install {framework}", "MissingExtra"
        ) from exc
    except Exception as exc:  # LightGBMError shares no base class with any other
        raise _damaged(path, exc) from exc


def _damaged(path: Path, exc: BaseException) -> Failed:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip() and "Stack trace" not in line]
    reason = re.sub(r"^\[[\d:]+\] \S+: ", "", lines[0]) if lines else type(exc).__name__
    return Failed(f"'{path}' cannot be read: {reason[:300]}", "write the file again, and compare its size")


def _unpickled(path: Path, folder: str) -> Any:
    import joblib

    sys.path.insert(0, folder)
    try:
        return joblib.load(path)
    except (ModuleNotFoundError, AttributeError) as exc:
        message = f"'{path}' holds an object whose code is not here: {exc}"
        remedy = "run this in the folder of that module, or install its package beside scikit-learn"
        raise Failed(message, remedy) from exc
    except Exception as exc:  # a pickle runs code, which may raise anything
        reason = str(exc).splitlines()[0][:300] if str(exc) else "no reason given"
        raise Failed(
            f"'{path}' cannot be unpickled: {type(exc).__name__}: {reason}",
            "write it again with the scikit-learn that is installed here, and compare its size",
        ) from exc


def _source(model: Any, examples: Any, path: str) -> Source:
    """Return how to convert and run the model; Failed where it is no fitted estimator."""
    module = type(model).__module__.partition(".")[0]
    if type(model).__name__ == "Booster" or (module in ("xgboost", "lightgbm") and hasattr(model, "get_params")):
        import skl_boosters

        return skl_boosters.lightgbm(model) if module == "lightgbm" else skl_boosters.xgboost(model)
    import skl_estimators

    return skl_estimators.source(model, path)


def _converted(source: Source) -> onnx.ModelProto:
    try:
        return source.convert()
    except Failed:
        raise
    except Exception as exc:  # converters are many small pieces of code, which raise anything
        reason = " ".join(str(exc).split())[:300] or type(exc).__name__
        raise Failed(f"{source.name} cannot be converted: {reason}", "give the model as ONNX", "GateFailed") from exc


def _finished(proto: onnx.ModelProto, source: Source) -> onnx.ModelProto:
    """Give the graph the source's output names, a first dimension called N, and every node a name."""
    graph = proto.graph
    kinds = [value.type.WhichOneof("value") for value in graph.output]
    if len(kinds) != len(source.outputs) or set(kinds) != {"tensor_type"}:
        raise Failed(
            f"{source.name} became a graph with the outputs {[value.name for value in graph.output]}",
            "give an estimator that predicts one target",
            "GateFailed",
        )
    _rename(graph, dict(zip([value.name for value in graph.output], source.outputs, strict=True)))
    if len(graph.input) == len(source.columns):  # skl2onnx keeps their order, not their spaces
        _rename(graph, {value.name: one.name for value, one in zip(graph.input, source.columns, strict=True)})
    if "label" in source.outputs:
        _flatten(graph, "label")
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims):
            dims[0].Clear()
            dims[0].dim_param = BATCH
    if not any(entry.domain == "" for entry in proto.opset_import):
        proto.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    for index, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    proto.doc_string = ""
    return proto


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename values of the graph; another value that has one of the new names steps aside."""
    taken = {name for node in graph.node for name in node.output} | {one.name for one in graph.initializer}
    names = {old: new for old, new in names.items() if old != new}
    names = {**{new: f"{new}_inner" for new in names.values() if new in taken - set(names)}, **names}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)


def _flatten(graph: onnx.GraphProto, name: str) -> None:
    """Make the labels one axis, as scikit-learn gives them: some converters make a row or a column."""
    value = next(value for value in graph.output if value.name == name)
    _rename(graph, {name: f"{name}_any"})
    value.name = name
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1], np.int64), "label_shape"))
    graph.node.append(onnx.helper.make_node("Reshape", [f"{name}_any", "label_shape"], [name], name="label_flat"))
    del value.type.tensor_type.shape.dim[1:]


if __name__ == "__main__":
    serve(export=export, run=run)
