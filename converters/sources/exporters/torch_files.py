"""Open what a PyTorch user has, as one thing: a callable, its arguments, and the names of its inputs.

How it becomes ONNX is left to `export_torch`, what a file may hold to `torch_safety`.
"""

import dataclasses
import importlib
import inspect
import pickle
import re
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from protocol import Failed, Request
from torch.utils import _pytree as pytree
from torch_safety import check_program, check_script

CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
NESTED_KEYS = ("state_dict", "model_state_dict", "model")
"""Under these keys training scripts keep the state_dict in a checkpoint."""

_AGAIN = "copy or save the file again"


@dataclass(frozen=True)
class Opened:
    """A model that can be called as `call(*args, **kwargs)` with the `arguments` bound to its `signature`.

    `form` is program, script or module. `names`: the input names, one for each tensor of `arguments` as pytree walks
    them. `program` is set for form program only.
    """

    form: str
    call: Any
    signature: inspect.Signature
    arguments: Mapping[str, Any]
    names: tuple[str, ...]
    program: torch.export.ExportedProgram | None = None
    warnings: tuple[str, ...] = ()

    def bound(self, tensors: Mapping[str, torch.Tensor]) -> inspect.BoundArguments:
        """Return the arguments with `tensors`, by input name, in the places of the examples."""
        leaves, spec = pytree.tree_flatten(dict(self.arguments))
        fed = iter(self.names)
        changed = [tensors[next(fed)] if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        return inspect.BoundArguments(self.signature, OrderedDict(pytree.tree_unflatten(changed, spec)))

    def examples(self) -> dict[str, torch.Tensor]:
        """Return the example of each input."""
        leaves = [leaf for leaf in pytree.tree_leaves(dict(self.arguments)) if isinstance(leaf, torch.Tensor)]
        return dict(zip(self.names, leaves, strict=True))

    def run(self, tensors: Mapping[str, torch.Tensor]) -> Any:
        """Return what the model itself gives; dataclasses in it become known to pytree, and so to torch.export."""
        bound = self.bound(tensors)
        with torch.no_grad():
            outputs = self.call(*bound.args, **bound.kwargs)
        for leaf in pytree.tree_leaves(outputs):
            if dataclasses.is_dataclass(leaf) and type(leaf) not in pytree.SUPPORTED_NODES:
                torch.export.register_dataclass(type(leaf))
        return outputs


def open_model(request: Request) -> Opened:
    """Open the model that the request names.

    Raises Failed for a damaged file, one that holds code that would run unasked, a factory that does not give what is
    needed, and a model whose example inputs are not known.
    """
    path, options = request["path"], request["options"]
    is_callable = not Path(path).exists() and CALLABLE.fullmatch(path) is not None
    if is_callable or options["factory"] or options["trust_pickle"]:
        sys.path.insert(0, options["folder"])  # only then: a model's folder may hold a file named like a package
    form = "callable" if is_callable else form_of(path)
    if options["submodule"] and form != "script":
        raise Failed("--submodule is for TorchScript files", "take it away", "UsageError")
    if form == "callable":
        return _from_factory(path, options)
    if form == "program":
        return _from_program(path, options)
    if form == "script":
        return _from_script(path, options)
    return _from_checkpoint(path, options)


def form_of(path: str) -> str:
    """Return program, script or checkpoint, by what the file holds."""
    if not zipfile.is_zipfile(path):
        with Path(path).open("rb") as file:
            head = file.read(4)
        if head == b"PK\x03\x04":
            raise Failed(f"{path}: the archive is cut off or damaged", _AGAIN)
        return "checkpoint"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    inner = {name.partition("/")[2] for name in names}
    if "serialized_exported_program.json" in {*names, *inner} or "version" in names:
        raise Failed(f"{path}: a .pt2 of torch before 2.8", "export it again with the torch of today")
    if any(name.startswith("models/") for name in inner) and "archive_format" in inner:
        return "program"
    if "constants.pkl" in inner:
        return "script"
    return "checkpoint"


def _from_program(path: str, options: Mapping[str, Any]) -> Opened:
    if not options["trust_pickle"]:
        _guarded(path, check_program, path)
    program = _guarded(path, torch.export.load, path)
    program._guards_code = []  # they would be run as Python; the samples have the right shapes anyway
    if program.example_inputs is None:
        raise Failed(f"{path}: the program was saved without example inputs", "export it again with torch.export.save")
    module = program.module()
    args, kwargs = program.example_inputs
    signature = inspect.signature(module.forward)
    arguments = signature.bind(*args, **kwargs).arguments
    return Opened("program", module, signature, arguments, input_names(arguments), program)


def _from_script(path: str, options: Mapping[str, Any]) -> Opened:
    if not options["trust_pickle"]:
        _guarded(path, check_script, path)
    module = _guarded(path, torch.jit.load, path, map_location="cpu")
    if options["submodule"]:
        module = _submodule(path, module, options["submodule"])
    module.eval()
    schema = module.forward.schema
    signature = inspect.Signature([_parameter(argument) for argument in schema.arguments[1:]])
    given = _call_factory(options) if options["factory"] else None
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], torch.nn.Module):
        given = given[1]  # the module is in the file already
    arguments = _arguments(_title(path, options), signature, given, options["shapes"])
    arguments = _with_numbers(signature, arguments)
    return Opened("script", module, signature, arguments, input_names(arguments))


def _submodule(path: str, module: Any, name: str) -> Any:
    known = dict(module.named_modules())
    if name in known and hasattr(known[name], "forward"):
        return known[name]
    parts = [part for part in known if part and part.count(".") < 2]
    raise Failed(f"{path}: there is no submodule '{name}'", f"choose one of {', '.join(parts[:12])}", "UsageError")


def _title(path: str, options: Mapping[str, Any]) -> str:
    return f"{path} (submodule {options['submodule']})" if options["submodule"] else path


def _parameter(argument: Any) -> inspect.Parameter:
    """Return a TorchScript argument as Python's `inspect` has it; numbers without a default get 0."""
    kind, name = str(argument.type), re.sub(r"\W", "_", argument.name)
    zero = {"int": 0, "float": 0.0, "bool": False}
    if argument.has_default_value() and not isinstance(argument.default_value, torch.Tensor):
        default = argument.default_value
    else:
        default = zero.get(kind, inspect.Parameter.empty)
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)


def _with_numbers(signature: inspect.Signature, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with all defaults, and numbers as tensors: the exporter makes inputs of them."""
    filled = inspect.BoundArguments(signature, OrderedDict(arguments))
    filled.apply_defaults()
    numbers = (bool, int, float)
    return {name: torch.tensor(item) if isinstance(item, numbers) else item for name, item in filled.arguments.items()}


def _from_checkpoint(path: str, options: Mapping[str, Any]) -> Opened:
    content = _load_checkpoint(path, options)
    if isinstance(content, torch.nn.Module):
        return _from_module(content, path, None, options["shapes"])
    weights = _state_dict(path, content)
    if not options["factory"]:
        names = ", ".join(list(weights)[:3])
        raise Failed(
            f"{path}: a state_dict of {len(weights)} tensors ({names}, …) has no code, so it cannot run by itself",
            "add --factory module:function, a function that returns the torch.nn.Module these weights are for",
        )
    module, example = _module_of(options["factory"], _call_factory(options))
    warnings = _load_weights(path, module, weights)
    return _from_module(module, options["factory"], example, options["shapes"], warnings)


def _load_checkpoint(path: str, options: Mapping[str, Any]) -> Any:
    safe = not options["trust_pickle"]
    try:
        return torch.load(path, map_location="cpu", weights_only=safe)
    except pickle.UnpicklingError as exc:
        named = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose)", str(exc))
        what = f"it names '{named.group(1)}'" if named else _first_line(exc)
        raise Failed(
            f"{path}: this pickle holds more than tensors ({what}), and unpickling runs code of the file's author",
            "save only the weights, torch.save(model.state_dict(), …), and give --factory; or save the model with "
            "torch.export.save; if you trust who made it, add --trust-pickle",
        ) from exc
    except Exception as exc:  # a damaged file raises nearly anything, from EOFError to AttributeError
        raise Failed(f"{path}: cannot be read as a PyTorch file: {_first_line(exc)}", _AGAIN) from exc


def _state_dict(path: str, content: Any) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint, which may lie beside other things under one of the usual keys."""
    for found in (content, *(content.get(key) for key in NESTED_KEYS if isinstance(content, dict))):
        if isinstance(found, dict) and found and all(isinstance(value, torch.Tensor) for value in found.values()):
            return dict(found)
    keys = (
        f"a dict with {', '.join(map(str, list(content)[:5]))}" if isinstance(content, dict) else type(content).__name__
    )
    raise Failed(f"{path}: this is no state_dict, but {keys}", "save model.state_dict() alone")


def _load_weights(path: str, module: torch.nn.Module, weights: dict[str, torch.Tensor]) -> tuple[str, ...]:
    """Put the weights into the module, every one; a leading `module.` of DataParallel is taken away and reported."""
    warnings: tuple[str, ...] = ()
    if all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
        warnings = ("the names of the weights began with 'module.', as DataParallel makes them; it was taken away",)
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as exc:
        lines = [line.strip() for line in str(exc).splitlines()[1:] if line.strip()]
        raise Failed(
            f"{path}: the weights do not fit the module of the factory: {' '.join(lines)[:300]}",
            "give the factory that makes the module these weights were saved from",
        ) from exc
    return warnings


def _from_factory(name: str, options: Mapping[str, Any]) -> Opened:
    module, example = _module_of(name, _call_factory({**options, "factory": name}))
    return _from_module(module, name, example, options["shapes"])


def _call_factory(options: Mapping[str, Any]) -> Any:
    name = options["factory"]
    if not CALLABLE.fullmatch(name):
        raise Failed(f"'{name}' is not module:function", "write for example --factory my_model:build", "UsageError")
    module_name, _, function_name = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as exc:
        raise Failed(
            f"factory '{name}' cannot be imported: {exc}",
            f"run edgert in the folder that holds {module_name.split('.')[0]}; packages it needs can be added with "
            "`edgert sources install torch --with PACKAGE`",
        ) from exc
    try:
        return function()
    except Exception as exc:  # it is the user's own code, which may raise anything
        raise Failed(
            f"factory '{name}' raised {type(exc).__name__}: {_first_line(exc)}", "correct that function"
        ) from exc


def _module_of(name: str, made: Any) -> tuple[torch.nn.Module, Any]:
    """Return the module that a factory made, and its example inputs or None."""
    module, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, torch.nn.Module):
        raise Failed(
            f"factory '{name}' returns {type(module).__name__}, and not a torch.nn.Module",
            "return the module, or (module, example_inputs)",
        )
    return module, example


def _from_module(
    module: torch.nn.Module, title: str, given: Any, shapes: Mapping[str, Any], warnings: tuple[str, ...] = ()
) -> Opened:
    module.eval()
    signature = inspect.signature(module.forward)
    arguments = _arguments(title, signature, given, shapes)
    return Opened("module", module, signature, arguments, input_names(arguments), None, warnings)


def _arguments(title: str, signature: inspect.Signature, given: Any, shapes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return example arguments: what was given, or random numbers of the given shapes."""
    random = torch.Generator().manual_seed(0)
    if given is None:
        missing = [name for name, item in signature.parameters.items() if _is_required(item) and name not in shapes]
        if missing:
            takes = ", ".join(signature.parameters)
            raise Failed(
                f"{title}: the shapes of its inputs are not known; forward takes {takes}",
                f"add {' '.join(f'--shape {name}=DIMS' for name in missing)}, or let the factory return the example "
                "inputs as well (for inputs of integers only that will do)",
            )
        made = {name: torch.rand(tuple(dims), generator=random) for name, dims in shapes.items()}
        return _bind(title, signature, (), made)
    args, kwargs = (
        ((), given) if isinstance(given, dict) else (given if isinstance(given, tuple | list) else (given,), {})
    )
    arguments = _bind(title, signature, args, kwargs)
    names = iter(input_names(arguments))

    def reshaped(leaf: Any) -> Any:
        dims = shapes.get(next(names)) if isinstance(leaf, torch.Tensor) else None
        if dims is None or tuple(dims) == tuple(leaf.shape):
            return leaf
        return torch.rand(tuple(dims), generator=random).to(leaf.dtype)

    made_anew: dict[str, Any] = pytree.tree_map(reshaped, arguments)
    return made_anew


def _is_required(parameter: inspect.Parameter) -> bool:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is inspect.Parameter.empty and parameter.kind not in variadic


def _bind(title: str, signature: inspect.Signature, args: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as exc:
        takes = ", ".join(signature.parameters)
        raise Failed(
            f"{title}: {exc}; forward takes {takes}", "correct the names or the example inputs", "UsageError"
        ) from exc
    return dict(bound.arguments)


def input_names(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a name for each tensor of the arguments: the parameter's, with an index or key where it holds several."""
    leaves, _ = pytree.tree_flatten_with_path(dict(arguments))
    return unique([joined(path) for path, leaf in leaves if isinstance(leaf, torch.Tensor)])


def output_names(outputs: Any, inputs: tuple[str, ...]) -> tuple[str, ...]:
    """Return a name for each tensor of the outputs: keys and fields where there are, otherwise output, output_1, …"""
    leaves, _ = pytree.tree_flatten_with_path(outputs)
    names = []
    for path, leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            name = joined(path)
            plain = name.replace("_", "").isdigit() or not name
            names.append(f"output_{name}" if plain and name not in ("", "0") else "output" if plain else name)
    taken = set(inputs)
    return unique([f"{name}_out" if name in taken else name for name in names])


def joined(path: Any) -> str:
    """Return the keys, fields and indices on the way to a leaf as one plain name."""
    parts = [str(getattr(step, "key", getattr(step, "name", getattr(step, "idx", "")))) for step in path]
    return re.sub(r"\W+", "_", "_".join(parts)).strip("_")


def unique(names: list[str]) -> tuple[str, ...]:
    """Return the names, with a number behind each that is there already."""
    found: list[str] = []
    for name in names:
        number, fresh = 1, name or "input"
        while fresh in found:
            fresh, number = f"{name}_{number}", number + 1
        found.append(fresh)
    return tuple(found)


def _guarded(path: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except Failed:
        raise
    except Exception as exc:  # torch's readers raise RuntimeError, KeyError, AssertionError and more for damaged files
        raise Failed(f"{path}: cannot be loaded: {_first_line(exc)}", _AGAIN) from exc


def _first_line(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return (lines[0] if lines else type(exc).__name__)[:300]
