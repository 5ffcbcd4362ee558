"""From a graph of TensorFlow or TFLite to an ONNX file, by tf2onnx; what it cannot convert is named."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnx.version_converter
from protocol import Failed
from tf2onnx import optimizer
from tf2onnx.tfonnx import process_tf_graph

OPSET = 18
OPSET_16_BIT = 21
"""The first opset whose QuantizeLinear takes 16-bit integers; tf2onnx 1.17 stops at 18."""
OPTIMIZERS = {name: each for name, each in optimizer._get_optimizers().items() if name != "q_dq_optimizer"}
"""All but the one that moves Q and DQ past reshapes: providers want each node between DQ and Q, as TFLite has it."""
MAX_PROTO_BYTES = (1 << 31) - (1 << 20)
STANDARD = ("", "ai.onnx", "ai.onnx.ml")
TOLD = 20


def to_onnx(
    make: Callable[..., Any] = process_tf_graph, *, graph: Any = None, opset: int = OPSET, **arguments: Any
) -> onnx.ModelProto:
    """Convert `graph`, or what `arguments` of tf2onnx's process_tf_graph name, to ONNX.

    `opset` above OPSET is reached by ONNX's version converter. Raises Failed with every operator that is not standard
    ONNX afterwards, and its node.
    """
    with _complaints() as failed:
        try:
            converted = make(graph, continue_on_error=True, opset=OPSET, **arguments)
            if failed:
                raise _unconverted(failed)
            converted = optimizer.optimize_graph(converted, catch_errors=True, optimizers=OPTIMIZERS)
            model = converted.make_model("")
            if opset > OPSET:
                model = onnx.version_converter.convert_version(model, opset)
        except Failed:
            raise
        # tf2onnx raises whatever its handlers meet, from KeyError to AssertionError: all of it is about the model.
        except Exception as exc:
            raise _unconverted(failed, exc) from exc
    _require_standard(model)
    return model


def _unconverted(failed: Mapping[str, str], exc: Exception | None = None) -> Failed:
    named = "\n".join(f"  {node}: {why}" for node, why in list(failed.items())[:TOLD])
    what = f":\n{named}" if named else f": {type(exc).__name__}: {exc}"
    return Failed(
        f"tf2onnx does not convert this model{what}"[:2000],
        "replace these operators before export, or give the model as ONNX",
        "GateFailed",
    )


@contextmanager
def _complaints() -> Iterator[dict[str, str]]:
    """Collect node -> reason of what tf2onnx only logs: it goes on after a node that it cannot convert."""
    found: dict[str, str] = {}

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if isinstance(record.args, tuple) and record.msg.startswith("Failed to convert node"):
                reason = record.exc_info[1] if record.exc_info else ""
                operator = str(getattr(record.args[1], "__self__", "")) or str(record.args[1])
                found[f"node '{record.args[0]}'"] = f"{_summary(record.args[2]) or operator}: {reason}"

    handler, logger = Collect(logging.ERROR), logging.getLogger("tf2onnx.tfonnx")
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


def _summary(text: object) -> str:
    """Return the operator out of tf2onnx's description of a node."""
    for line in str(text).splitlines():
        if line.startswith("OP="):
            return line.removeprefix("OP=")
    return ""


def _require_standard(model: onnx.ModelProto) -> None:
    """Raise Failed that names each operator left which ONNX does not know."""
    opset = max(entry.version for entry in model.opset_import if entry.domain in STANDARD[:2])
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.since_version <= opset}
    strange = [
        node
        for graph in _graphs(model.graph)
        for node in graph.node
        if node.domain not in STANDARD or node.op_type not in known
    ]
    if not strange:
        return
    named = "\n".join(f"  {node.op_type} at node '{node.name}'" for node in strange[:TOLD])
    more = f"\n  and {len(strange) - TOLD} more" if len(strange) > TOLD else ""
    raise Failed(
        f"{len(strange)} operators of this model have no form in ONNX:\n{named}{more}",
        "replace these operators before export, or give the model as ONNX",
        "GateFailed",
    )


def finish(model: onnx.ModelProto, path: Path, dynamic: Mapping[str, Sequence[str]]) -> None:
    """Name the free dimensions of the inputs, work out the other shapes, and write the model.

    A free first dimension is 'batch' unless `dynamic` has another word for it; others carry their input's name.
    """
    for value in model.graph.input:
        words = dynamic.get(value.name, ())
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.dim_value:
                given = words[axis] if axis < len(words) else ""
                dim.dim_param = given or ("batch" if axis == 0 else f"{value.name}_{axis}")
    for graph in _graphs(model.graph):
        _forget_free_dimensions(graph.output)
        del graph.value_info[:]
    if model.ByteSize() < MAX_PROTO_BYTES:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        for graph in _graphs(model.graph):
            _forget_free_dimensions([*graph.output, *graph.value_info], "unk__")
        onnx.save(model, str(path))
        return
    onnx.save(model, str(path), save_as_external_data=True, location=f"{path.name}.data")


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _forget_free_dimensions(values: Iterable[onnx.ValueInfoProto], start: str = "") -> None:
    """Take the names that start with `start` off free dimensions: tf2onnx and shape inference make them up."""
    for value in values:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param and dim.dim_param.startswith(start):
                dim.Clear()
