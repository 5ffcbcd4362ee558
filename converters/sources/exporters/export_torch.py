"""Export PyTorch models to ONNX, and run them: `.pt2`, TorchScript, state_dict with a factory, `module:function`.

Modules and programs go through `torch.export` and `torch.onnx.export(dynamo=True)`. TorchScript goes through the older
exporter, `dynamo=False`: `torch.export` refuses a ScriptModule in torch 2.13, for it reads Python, and there is none.
"""

import dataclasses
import re
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from protocol import Failed, Request, answer, progress, samples, serve, tools
from torch.utils import _pytree as pytree
from torch_files import Opened, open_model, output_names

OPSET = 18
EXTERNAL_BYTES = 64 << 20
"""Weights beyond this lie in a file of their own, which the converter maps instead of reading it."""

THREADS = 1
"""Several spin while they wait for each other: on a busy machine of two cores, two took twelve times as long as one."""

Dims = Mapping[str, list[str]]


def export(request: Request) -> None:
    """Write `model.onnx` and the answer."""
    torch.set_num_threads(THREADS)
    progress("loading the PyTorch model")
    opened = open_model(request)
    dims: Dims = request["options"]["dynamic"]
    _check_names(opened, dims, request["options"]["shapes"])
    opened = _widened(opened, dims)
    names = output_names(_first_run(opened), opened.names)
    progress("exporting to ONNX")
    target = Path(request["out"]) / "model.onnx"
    if opened.form == "script":
        _export_script(opened, dims, names, target)
    else:
        _export_program(opened, dims, names, target)
    answer(
        request,
        model=target.name,
        framework=f"torch {torch.__version__.partition('+')[0]}",
        tools=tools("torch", "onnx", "onnxscript"),
        warnings=list(opened.warnings),
    )


def run(request: Request) -> None:
    """Run the model itself on the samples."""
    torch.set_num_threads(THREADS)
    opened = open_model(request)
    for file, sample in samples(request):
        outputs = opened.run({name: torch.from_numpy(array.copy()) for name, array in sample.items()})
        named = zip(output_names(outputs, opened.names), _tensors(outputs), strict=True)
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in named}
        np.savez(file, **arrays)


def _tensors(outputs: Any) -> list[torch.Tensor]:
    return [leaf.detach() for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]


def _check_names(opened: Opened, dims: Dims, shapes: Mapping[str, list[int]]) -> None:
    """Raise Failed for an option that names an input there is not, or that has another rank."""
    examples = opened.examples()
    for option, given in (("--dynamic", dims), ("--shape", shapes)):
        for name, values in given.items():
            if name not in examples:
                raise Failed(
                    f"{option} names '{name}', but the inputs are {', '.join(examples)}", "correct it", "UsageError"
                )
            if len(values) != examples[name].dim():
                raise Failed(
                    f"{option} {name} has {len(values)} dimensions; the example has {tuple(examples[name].shape)}",
                    "give a name, or nothing, for each dimension",
                    "UsageError",
                )


def _widened(opened: Opened, dims: Dims) -> Opened:
    """Return the model with examples of at least 2 along free dimensions: torch.export takes a 1 for a constant."""
    wide = opened.examples()
    for name, words in dims.items():
        for axis, word in enumerate(words):
            if word and wide[name].shape[axis] == 1:
                wide[name] = torch.cat([wide[name]] * 2, dim=axis)
    return dataclasses.replace(opened, arguments=opened.bound(wide).arguments)


def _first_run(opened: Opened) -> Any:
    """Run the model once, to learn its outputs."""
    try:
        outputs = opened.run(opened.examples())
    except Exception as exc:  # it is the model's own code, which may raise anything
        shapes = ", ".join(f"{name}{list(value.shape)}" for name, value in opened.examples().items())
        raise Failed(
            f"the model does not run on its example inputs {shapes}: {type(exc).__name__}: {_gist(exc, 'Error:')}",
            "correct the shapes (--shape), or let the factory return the example inputs, with their dtypes",
        ) from exc
    if not _tensors(outputs):
        raise Failed(f"the model gives {type(outputs).__name__} without any tensor", "let forward return tensors")
    return outputs


def _export_program(opened: Opened, dims: Dims, names: tuple[str, ...], target: Path) -> None:
    program = opened.program or _traced(opened, dims)
    try:
        made = torch.onnx.export(program, dynamo=True, opset_version=OPSET, optimize=True, verbose=False)
    except Exception as exc:  # torch documents OnnxExporterError, and lets others through
        raise _unsupported(program, exc) from exc
    assert made is not None
    graph = made.model.graph
    if len(graph.inputs) != len(opened.names) or len(graph.outputs) != len(names):
        raise Failed(
            f"the ONNX graph has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs, "
            f"the module {len(opened.names)} and {len(names)}",
            "let forward take and return each tensor once, and nothing else",
            "GateFailed",
        )
    made.rename_axes(_axis_names(opened, dims, graph.inputs))
    for value, name in (*zip(graph.inputs, opened.names, strict=True), *zip(graph.outputs, names, strict=True)):
        value.name = name
    size = sum(value.const_value.nbytes for value in graph.initializers.values() if value.const_value is not None)
    made.save(target, external_data=size > EXTERNAL_BYTES)


def _traced(opened: Opened, dims: Dims) -> torch.export.ExportedProgram:
    bound = opened.bound(opened.examples())
    shapes = _dynamic_shapes(opened, dims)
    try:
        return torch.export.export(opened.call, bound.args, dict(bound.kwargs), dynamic_shapes=shapes, strict=False)
    except Exception as exc:  # what the module raises while it is traced comes through as well
        text = str(exc)
        if dims and ("specialized" in text or "onstraint" in text):
            free = ", ".join(f"{name}={','.join(words)}" for name, words in dims.items())
            raise Failed(
                f"a dimension of --dynamic {free} cannot be free: {_gist(exc, 'pecialized')}",
                "leave it out of --dynamic, or change the module so that it takes any size",
                "GateFailed",
            ) from exc
        raise Failed(
            f"torch.export cannot follow the module: {type(exc).__name__}: {_gist(exc)}{_place(exc)}",
            "rewrite that place (it may branch on values of tensors), or save the module with torch.jit.script or "
            "torch.jit.trace and convert that file",
            "GateFailed",
        ) from exc


def _dynamic_shapes(opened: Opened, dims: Dims) -> Any:
    """Return what torch.export wants: the arguments with {axis: DYNAMIC} in the place of each tensor."""
    names = iter(opened.names)

    def free(leaf: Any) -> dict[int, Any] | None:
        if not isinstance(leaf, torch.Tensor):
            return None
        words = dims.get(next(names), [])
        return {axis: torch.export.Dim.DYNAMIC for axis, word in enumerate(words) if word}

    return pytree.tree_map(free, dict(opened.arguments)) if dims else None


def _axis_names(opened: Opened, dims: Dims, inputs: Any) -> dict[Any, str]:
    """Return the names for the symbols that torch gave the free dimensions."""
    found: dict[Any, str] = {}
    for value, name in zip(inputs, opened.names, strict=True):
        for axis, word in enumerate(dims.get(name, [])):
            size = value.shape[axis]
            if word and isinstance(size, int):
                raise Failed(
                    f"dimension {axis} of '{name}' cannot be '{word}': the program was exported with {size} there",
                    "export it again with dynamic_shapes, or leave it out of --dynamic",
                    "GateFailed",
                )
            if word:
                found[str(size.value)] = word
    return found


def _unsupported(program: torch.export.ExportedProgram, exc: BaseException) -> Failed:
    """Return the error for an operator without ONNX, with the layer it stands in."""
    text = "\n".join(str(error) for error in _chain(exc))
    named = re.search(r"OpOverload\(op='([\w.]+)', overload='(\w+)'\)", text)
    if named is None:
        return Failed(
            f"torch.onnx cannot convert the model: {_gist(exc, 'Error>', 'rror:')}",
            "try a newer export of the model, or replace the layer",
            "GateFailed",
        )
    operator = f"{named[1]}.{named[2]}".replace(".", "::", 1)
    nodes = [node for node in program.graph.nodes if str(node.target) == f"{named[1]}.{named[2]}"] or _nodes_at(exc)
    layers = [_layer(node) for node in nodes]
    return Failed(
        f"there is no ONNX for operator '{operator}'{' of ' + ', '.join(dict.fromkeys(layers)) if layers else ''}",
        "replace that layer, or write it with operators that ONNX has",
        "GateFailed",
    )


def _nodes_at(exc: BaseException) -> list[torch.fx.Node]:
    """Return the node that was being translated: of an operator made by a decomposition the program knows nothing."""
    for error in reversed(_chain(exc)):
        trace = error.__traceback__
        while trace is not None:
            node = trace.tb_frame.f_locals.get("node")
            if isinstance(node, torch.fx.Node):
                return [node]
            trace = trace.tb_next
    return []


def _layer(node: Any) -> str:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return f"node '{node.name}'"
    path, kind = stack[-1][:2]
    kind = kind if isinstance(kind, str) else kind.__name__
    return f"layer '{path}' ({kind.rpartition('.')[2]})" if path else f"the module itself ({kind.rpartition('.')[2]})"


def _export_script(opened: Opened, dims: Dims, names: tuple[str, ...], target: Path) -> None:
    bound = opened.bound(opened.examples())
    axes = {name: {axis: word for axis, word in enumerate(words) if word} for name, words in dims.items() if any(words)}
    try:
        torch.onnx.export(
            opened.call,
            bound.args,
            str(target),
            kwargs=dict(bound.kwargs) or None,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(opened.names),
            output_names=list(names),
            dynamic_axes=axes or None,
        )
    except Exception as exc:  # torch documents OnnxExporterError; its passes raise RuntimeError as well
        raise _script_error(opened.call, exc) from exc
    _declare_outputs(opened, dims, target)


def _declare_outputs(opened: Opened, dims: Dims, target: Path) -> None:
    """Write the shapes of the outputs anew: the older exporter takes those of the examples for fixed ones.

    A size that follows a free dimension gets its name; one that changes otherwise stays without.
    """
    first, second = _sizes(opened, dims, 0), _sizes(opened, dims, 1)
    model = onnx.load(target, load_external_data=False)
    for value, one, two in zip(model.graph.output, first.outputs, second.outputs, strict=True):
        shape = onnx.TensorShapeProto()
        for size, other in zip(one, two, strict=True):
            dim = shape.dim.add()
            words = [word for word, sizes in first.free.items() if (sizes, second.free[word]) == (size, other)]
            if size == other:
                dim.dim_value = size
            elif words:
                dim.dim_param = words[0]
        value.type.tensor_type.shape.CopyFrom(shape)
    onnx.save(model, target)


@dataclass(frozen=True)
class _Sizes:
    """The sizes of the free dimensions, by name, in one run, and the shapes of its outputs."""

    free: dict[str, int]
    outputs: list[tuple[int, ...]]


def _sizes(opened: Opened, dims: Dims, more: int) -> _Sizes:
    """Run the model with `more` added to every free dimension; sizes it does not take leave the shapes as they are."""
    wide, free = opened.examples(), {}
    for name, words in dims.items():
        for axis, word in enumerate(words):
            if word:
                extra = wide[name].narrow(axis, 0, 1).repeat_interleave(more, dim=axis)
                wide[name] = torch.cat([wide[name], extra], dim=axis)
                free[word] = wide[name].shape[axis]
    try:
        return _Sizes(free, [tuple(tensor.shape) for tensor in _tensors(opened.run(wide))])
    except RuntimeError:
        return _sizes(opened, {}, 0)


def _script_error(module: Any, exc: BaseException) -> Failed:
    """Return the error with the operator, the submodule and the line of the TorchScript source."""
    text = str(exc)
    operator = re.search(r"operator '([\w:]+)'", text)
    line = re.search(r'File "([^"]+)", line (\d+)', text)
    where = f" at {Path(line[1]).name}:{line[2]}" if line else ""
    if operator and not line:
        for name, part in module.named_modules():
            for node in part.graph.findAllNodes(operator[1]) if hasattr(part, "graph") else ():
                place = re.search(r'File "([^"]+)", line (\d+)', node.sourceRange())
                where = (
                    f" in submodule '{name or '(the whole)'}'{f' at {Path(place[1]).name}:{place[2]}' if place else ''}"
                )
    what = f"operator '{operator[1]}'" if operator else "the TorchScript module"
    return Failed(
        f"{what}{where} cannot be exported: {_gist(exc).partition(' [Caused')[0]}",
        "name a part that keeps no state in itself with --submodule, or save the Python module with torch.export.save",
        "GateFailed",
    )


def _chain(exc: BaseException | None) -> list[BaseException]:
    """Return the error and its causes."""
    found: list[BaseException] = []
    while exc is not None and exc not in found:
        found.append(exc)
        exc = exc.__cause__
    return found


def _gist(exc: BaseException, *words: str) -> str:
    """Return the first line of the error that says something, or that holds one of the words."""
    lines = [re.sub(r"\x1b\[\d+m", "", line).strip() for line in str(exc).splitlines()]
    lines = [line for line in lines if line]
    chosen = next((line for line in lines for word in words if word in line), lines[0] if lines else type(exc).__name__)
    return chosen[:400]


def _place(exc: BaseException) -> str:
    """Return where in the user's own code the error arose, if torch's message or the traceback tells."""
    trace, found = exc.__traceback__, ""
    library = (*sysconfig.get_paths().values(), str(Path(__file__).parent))
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file.endswith(".py") and not file.startswith(library):
            found = f" at {Path(file).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


if __name__ == "__main__":
    serve(export=export, run=run)
