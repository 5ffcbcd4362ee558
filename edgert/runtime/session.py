"""One model file on one provider, with no silent fallback: the session of the device and the converter.

Which provider to use is left to `placement`; golden vectors to `golden`.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort

from edgert.errors import BadInput, EdgertError, EnvironmentFailed, GateFailed, UsageError, nearest
from edgert.host import usable_cores
from edgert.manifest import TensorSpec
from edgert.runtime.providers import CPU, ProviderDevice

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class NodeAssignment:
    """One node and the provider that ONNX Runtime gave it; `domain` is "" for standard operators."""

    provider: str
    name: str
    op_type: str
    domain: str


class UnsupportedNodes(GateFailed):
    """The accelerator refuses nodes of the model.

    `refused` lists them all, real causes before the QuantizeLinear and DequantizeLinear around them; `nodes`
    counts nodes per provider as they would be with the CPU allowed.
    """

    def __init__(self, message: str, remedy: str, refused: tuple[NodeAssignment, ...], nodes: dict[str, int]) -> None:
        super().__init__(message, remedy)
        self.refused = refused
        self.nodes = nodes


class ProviderFailed(GateFailed):
    """The provider could not prepare the model, although it may have taken every node."""


class NotAModel(BadInput):
    """ONNX Runtime cannot load the file as a model."""


class RunFailed(EdgertError):
    """An inference failed although its inputs fit the model."""


class Session:
    """An open model; made by `open`. `run` may be called from several threads at once.

    `inputs` and `outputs` describe the model file; `nodes` counts nodes per provider and `assignments` lists
    them, as ONNX Runtime partitioned the graph: after its basic optimisations (constants folded, layout
    changed for an accelerator), before operators are fused, nodes of subgraphs included.
    """

    def __init__(self, inference: Any, device: ProviderDevice, threads: int) -> None:
        self._inference = inference
        # InferenceSession.run only checks what the session itself checks again: a microsecond or two of a short run.
        self._run = inference._sess.run
        self.device = device
        self.provider = device.provider
        self.threads = threads
        self.inputs: tuple[TensorSpec, ...] = tuple(tensor_spec(arg) for arg in inference.get_inputs())
        self.outputs: tuple[TensorSpec, ...] = tuple(tensor_spec(arg) for arg in inference.get_outputs())
        self.assignments = _assignments(inference)
        self.nodes: dict[str, int] = dict(Counter(node.provider for node in self.assignments))
        self._output_names = [spec.name for spec in self.outputs]

    @classmethod
    def open(
        cls,
        model_path: Path | str,
        device: ProviderDevice,
        *,
        options: Mapping[str, str] | None = None,
        threads: int = 0,
        spin: bool = True,
        allow_cpu_nodes: bool = False,
        session_config: Mapping[str, str] | None = None,
    ) -> Self:
        """Open the model at `model_path` on `device`.

        `options` are provider options, over those the device brings. `threads=0` means the usable cores.
        `allow_cpu_nodes` lets an accelerator leave nodes to the CPU. `session_config` are ONNX Runtime
        session configuration entries.

        `spin=False` stops ONNX Runtime's threads from waiting actively between and after runs: slower back to back,
        cheaper for a device that runs now and then (docs/adr/0031).

        Raises NotAModel, BadInput (the path is not valid UTF-8), UnsupportedNodes, ProviderFailed,
        EnvironmentFailed (out of memory).
        """
        if threads < 0:
            raise UsageError(f"threads={threads} is negative", "give 0 for the usable cores, or a positive number")
        path = Path(model_path)
        _check_path(path)
        plan = _Plan(threads or usable_cores(), spin, dict(options or {}), dict(session_config or {}))
        try:
            return cls(_create(path, device, plan, allow_cpu_nodes), device, plan.threads)
        except OPEN_ERRORS as exc:
            _raise_open_error(exc, path, device, plan)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once: input name to array in, output name to array out.

        Raises BadInput when the feeds do not fit (found out only after ONNX Runtime refused them), RunFailed,
        EnvironmentFailed (out of memory), UsageError (closed).
        """
        run = self._run
        if run is None:
            raise UsageError("the session is closed", "open it again")
        try:
            values = run(self._output_names, feeds, None)
        except RUN_ERRORS as exc:
            raise run_error(exc, feeds, self.inputs, self.provider) from exc
        return dict(zip(self._output_names, values, strict=True))

    def close(self) -> None:
        """Release the model; a run in another thread still ends well. Closing twice is harmless."""
        self._inference = self._run = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# ONNX Runtime's own exceptions share no base class below Exception.
ORT_ERRORS: tuple[type[Exception], ...] = (
    ort.EPFail,
    ort.EngineError,
    ort.Fail,
    ort.InvalidArgument,
    ort.InvalidGraph,
    ort.InvalidProtobuf,
    ort.ModelRequiresCompilation,
    ort.NoModel,
    ort.NoSuchFile,
    ort.NotFound,
    ort.NotImplemented,
    ort.RuntimeException,
    RuntimeError,
    MemoryError,
)
OPEN_ERRORS: tuple[type[Exception], ...] = (*ORT_ERRORS, ValueError)
RUN_ERRORS: tuple[type[Exception], ...] = (*ORT_ERRORS, ValueError, TypeError, AttributeError)
_MODEL_ERRORS = (ort.InvalidGraph, ort.InvalidProtobuf, ort.NoModel, ort.NoSuchFile)


@dataclass(frozen=True)
class _Plan:
    threads: int
    spin: bool
    options: Mapping[str, str]
    config: Mapping[str, str]


def _check_path(path: Path) -> None:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as exc:  # ONNX Runtime takes no other path
        raise BadInput(f"the path {str(path)!a} is not valid UTF-8", "rename the file or its folder") from exc


def _create(path: Path, device: ProviderDevice, plan: _Plan, allow_cpu_nodes: bool) -> Any:
    """Return a new InferenceSession; never one on another provider than asked."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4  # what goes wrong comes as an exception
    settings.intra_op_num_threads = plan.threads
    settings.inter_op_num_threads = 1
    for key, value in (_config(device, plan.spin, allow_cpu_nodes) | dict(plan.config)).items():
        settings.add_session_config_entry(key, value)
    options = {**device.options, **plan.options}
    if device.device is None:
        return onnxruntime.InferenceSession(path, settings, providers=[(device.provider, options)], enable_fallback=0)
    settings.add_provider_for_devices([device.device], options)
    return onnxruntime.InferenceSession(path, settings, enable_fallback=0)


def _config(device: ProviderDevice, spin: bool, allow_cpu_nodes: bool) -> dict[str, str]:
    config = {"session.record_ep_graph_assignment_info": "1"}
    if not spin:
        config["session.intra_op.allow_spinning"] = "0"
    if device.provider != CPU and not allow_cpu_nodes:  # with only the CPU provider this key is an error
        config["session.disable_cpu_ep_fallback"] = "1"
    return config


def _raise_open_error(exc: Exception, path: Path, device: ProviderDevice, plan: _Plan) -> NoReturn:
    if isinstance(exc, MemoryError) or "Failed to allocate memory" in str(exc):
        raise _out_of_memory(f"{path.name} on {device.provider}") from exc
    if isinstance(exc, _MODEL_ERRORS) or device.provider == CPU:
        raise NotAModel(
            f"{path} cannot be loaded: {_first_line(exc)}",
            "check that the file is a whole ONNX model, or export it again",
        ) from exc
    if "fallback to CPU EP has been explicitly disabled" in str(exc):
        raise _unsupported_nodes(path, device, plan) from exc
    raise ProviderFailed(
        f"{device.provider} cannot prepare {path.name}: {_first_line(exc)}",
        "use another variant or another processor",
    ) from exc


def _unsupported_nodes(path: Path, device: ProviderDevice, plan: _Plan) -> UnsupportedNodes:
    """Open once more with the CPU allowed, to learn which nodes the provider refuses."""
    try:
        assignments = _assignments(_create(path, device, plan, allow_cpu_nodes=True))
    except OPEN_ERRORS:
        assignments = ()
    nodes = dict(Counter(node.provider for node in assignments))
    on_cpu = [node for node in assignments if node.provider != device.provider]
    refused = tuple(sorted(on_cpu, key=lambda node: node.op_type in ("QuantizeLinear", "DequantizeLinear")))
    names = ", ".join(f"'{node.name}' ({node.op_type})" for node in refused[:5])
    more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
    count = f"{len(refused)} of {len(assignments)}" if assignments else "some"
    return UnsupportedNodes(
        f"{device.provider} refuses {count} nodes of {path.name}{': ' if names else ''}{names}{more}",
        "convert the model for this processor, or use the CPU variant",
        refused,
        nodes,
    )


def _assignments(inference: Any) -> tuple[NodeAssignment, ...]:
    return tuple(
        NodeAssignment(part.ep_name, node.name, node.op_type, node.domain)
        for part in inference.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    )


_DTYPES = {"float": "float32", "double": "float64", "string": "str"}


def tensor_spec(arg: Any) -> TensorSpec:
    """Return the TensorSpec of a NodeArg; what is no tensor keeps ONNX Runtime's words as its dtype."""
    inner = arg.type.removeprefix("tensor(").removesuffix(")") if arg.type.startswith("tensor(") else arg.type
    return TensorSpec(arg.name, _DTYPES.get(inner, inner), tuple(arg.shape))


def run_error(exc: Exception, feeds: object, inputs: Sequence[TensorSpec], provider: str) -> EdgertError:
    """Return the error that tells a user why a run was refused; the caller raises it from `exc`."""
    if isinstance(exc, MemoryError) or "Failed to allocate memory" in str(exc):
        return _out_of_memory(f"a run on {provider}")
    wrong = feeds_defect(feeds, inputs)
    if wrong:
        return BadInput(wrong, f"the model takes {', '.join(map(_words, inputs)) or 'no input'}")
    return RunFailed(f"the run on {provider} failed: {_first_line(exc)}", "check the values of the inputs")


def feeds_defect(feeds: object, inputs: Sequence[TensorSpec]) -> str:
    """Return what is wrong with `feeds` for a model with these inputs, or "" when they fit."""
    if not isinstance(feeds, Mapping):
        return f"the inputs are {type(feeds).__name__}, a dictionary of name to array is expected"
    known = [spec.name for spec in inputs]
    for name in feeds:
        if name not in known:
            near = nearest(str(name), known)
            return f"the model has no input '{name}'" + (f"; did you mean '{near}'?" if near else "")
    for spec in inputs:
        defect = _array_defect(feeds[spec.name], spec) if spec.name in feeds else "is missing"
        if defect:
            return f"input '{spec.name}' {defect}"
    return ""


def _array_defect(value: object, spec: TensorSpec) -> str:
    array = value if isinstance(value, np.ndarray) else np.asarray(value)
    if array.dtype == object and spec.dtype != "str":
        return f"is {type(value).__name__}, an array of {spec.dtype} is expected"
    dtype = "str" if array.dtype.kind in "USO" else array.dtype.name
    if dtype != spec.dtype and isinstance(value, np.ndarray):
        return f"has dtype {dtype}, {spec.dtype} is expected"
    fits = array.ndim == len(spec.shape) and all(
        seen == wanted for seen, wanted in zip(array.shape, spec.shape, strict=True) if isinstance(wanted, int)
    )
    return "" if fits else f"has shape {list(array.shape)}, {_shape_words(spec)} is expected"


def _words(spec: TensorSpec) -> str:
    return f"'{spec.name}' {spec.dtype} {_shape_words(spec)}"


def _shape_words(spec: TensorSpec) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in spec.shape) + "]"


def _out_of_memory(what: str) -> EnvironmentFailed:
    return EnvironmentFailed(f"there is not enough memory for {what}", "free memory, or use a smaller variant")


def _first_line(exc: Exception) -> str:
    """Return the sentence in an ONNX Runtime message, without its prefix of status numbers."""
    text = next((line for line in str(exc).splitlines() if line.strip()), type(exc).__name__)
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", text).strip()
