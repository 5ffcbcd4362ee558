"""What a `.pt2` and a TorchScript file may hold, checked before torch loads them.

torch 2.13 says of `torch.export.load` itself: never load data from an untrusted source. In its source one finds why: it
unpickles weights and constants that the file marks so, and everything that a first, safe attempt cannot read; it
evaluates symbolic sizes and guards as Python; it looks up operators by walking attributes from the module `torch`
(`torch.os.system` is found); names go into generated Python code. So a file is read here first, with torch's own
archive reader, and must hold nothing but plain tensors and the known operators. A TorchScript file is a program too, in
a language whose only reach outside is a few operators that read and write files.
"""

import ast
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import torch
from protocol import Failed

OPERATORS = re.compile(
    r"torch\.ops\.(aten|prims|quantized|quantized_decomposed|torchvision|onnx)\.(?!from_file\b|save\b|load\b)\w+\.\w+"
    r"|torch\.ops\.higher_order\.(cond|while_loop|scan|associative_scan|map_impl|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|xor|not_|getitem)"
    r"|math\.(ceil|floor|trunc|sqrt|log2)"
    r"|torch\.sym_(float|int|ite|max|min|not|sum|sqrt)|torch\._sym_\w+"
)
"""Operators that compute; a `.pt2` names them as a path from a module."""

FUNCTIONS = frozenset(
    "Symbol Integer Float Rational Add Mul Pow Max Min Mod Abs Eq Ne Equality Unequality Lt Le Gt Ge LessThan "
    "GreaterThan StrictLessThan StrictGreaterThan And Or Not Piecewise ceiling floor FloorDiv ModularIndexing Where "
    "PythonMod CleanDiv CeilToInt FloorToInt CeilDiv LShift RShift PowByNatural FloatPow FloatTrueDiv IntTrueDiv "
    "IsNonOverlappingAndDenseIndicator TruncToFloat TruncToInt RoundToInt RoundDecimal ToFloat Identity".split()
)
"""What a symbolic size may call; their text arguments are names of symbols and digits."""

_PLAIN = (
    ast.Expression,
    ast.Load,
    ast.UnaryOp,
    ast.BinOp,
    ast.BoolOp,
    ast.Compare,
    ast.operator,
    ast.unaryop,
    ast.boolop,
)
_TEXT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|-?[0-9.]+(e[+-]?[0-9]+)?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|")
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
_FILE_CALLS = re.compile(rb"(?:torch|ops\.\w+|aten)\s*\.\s*(save|load|from_file)\s*\(")

_TRUST = "if you trust who made it, add --trust-pickle; otherwise take the model's module and its state_dict"


def check_program(path: str) -> None:
    """Raise Failed unless the `.pt2` file holds only plain tensors and operators that compute.

    The error for an operator outside of the list names it with its layer; its kind is GateFailed, for it is mostly the
    innocent operator of a library that is not here.
    """
    reader = torch._C.PyTorchFileReader(path)
    for name in reader.get_all_records():
        if name.startswith("data/aotinductor") or name.endswith(".so"):
            raise _refused(path, f"machine code, '{name}'")
        if name.endswith(".json"):
            _check_json(path, name, _loads(path, name, reader.get_record(name)))
        elif name.endswith(".pt"):
            _check_tensors(path, name, reader.get_record(name))


def check_script(path: str) -> None:
    """Raise Failed when the code of a TorchScript file reads or writes files."""
    reader = torch._C.PyTorchFileReader(path)
    for name in reader.get_all_records():
        if not name.endswith(".py"):
            continue
        if found := _FILE_CALLS.search(reader.get_record(name)):
            call = found.group().decode(errors="replace").rstrip("( ")
            raise _refused(path, f"code that reaches for files: '{call}' in {name}")


def _refused(path: str, what: str) -> Failed:
    return Failed(f"{path}: not loaded, for it holds {what}, and loading it could run any code", _TRUST)


def _loads(path: str, name: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise Failed(f"{path}: '{name}' in it is not valid JSON: {exc}", "copy or export the file again") from exc


def _check_tensors(path: str, name: str, data: bytes) -> None:
    if not data:
        return
    try:
        torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as exc:  # whatever the reader raises here, the loader would answer with an unsafe second attempt
        raise _refused(path, f"a pickle of more than tensors, '{name}'") from exc


def _check_json(path: str, record: str, document: Any) -> None:
    for key, value in _members(document):
        if key == "nodes" and isinstance(value, list):
            for node in value:
                _check_operator(path, node.get("target"), node.get("metadata") or {})
        elif key == "as_operator":
            _check_operator(path, value, {})
        elif key == "use_pickle" and value is not False:
            raise _refused(path, f"pickled tensors in '{record}'")
        elif isinstance(value, str) and (fault := _fault(key, value)):
            raise _refused(path, f"{fault} in '{record}': {value[:60]!r}")


def _fault(key: str, text: str) -> str:
    """Return what is wrong with a text of the program, "" for nothing."""
    if not all(sign.isprintable() or sign in "\n\t" for sign in text):
        return "control characters"
    match key:
        case "path_name":
            return "" if re.fullmatch(r"(weight|tensor)_\w+", text) else "something that is no tensor"
        case "expr_str":
            return "" if is_arithmetic(text) else "code in the place of a size"
        case "in_spec" | "out_spec":
            return "" if not text or _is_plain_spec(text) else "inputs or outputs of a class of their own"
        case "name":
            return "" if _NAME.fullmatch(text) else "a name that is none"
    return ""


def _members(document: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key with its value, at any depth."""
    waiting = [document]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield from item.items()
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _check_operator(path: str, target: Any, metadata: dict[str, str]) -> None:
    if isinstance(target, str) and OPERATORS.fullmatch(target):
        return
    layer = str(metadata.get("nn_module_stack", "")).rpartition(";")[2].split(",")
    where = f" of layer '{layer[1]}' ({layer[2].rpartition('.')[2]})" if len(layer) > 2 else ""
    raise Failed(
        f"{path}: operator '{target}'{where} is none of PyTorch's own, so there is no ONNX for it",
        "replace that layer, or write it with PyTorch's own operators, and export the model again",
        "GateFailed",
    )


def is_arithmetic(text: str) -> bool:
    """Return whether an expression only computes: symbols, numbers, operators and the known functions."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return len(text) < 2000 and all(_is_plain(node) for node in ast.walk(tree))


def _is_plain(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=name), args=_, keywords=keywords):
            return name in FUNCTIONS and all(word.arg is not None for word in keywords)
        case ast.Constant(value=str() as value):
            return _TEXT.fullmatch(value) is not None
        case ast.Constant(value=value):
            return isinstance(value, bool | int | float)
        case ast.Name(id=name):
            return "__" not in name
        case ast.keyword() | ast.cmpop():
            return True
    return isinstance(node, _PLAIN)


def _is_plain_spec(text: str) -> bool:
    """Return whether a tree specification has only tuples, lists and dicts: other classes are imported by name."""
    try:
        waiting = [json.loads(text)[1]]
        while waiting:
            spec = waiting.pop()
            context = json.loads(spec["context"]) if isinstance(spec["context"], str) else spec["context"]
            plain = context is None or (
                isinstance(context, list) and all(isinstance(key, str | int) for key in context)
            )
            if spec["type"] not in _CONTAINERS or not plain:
                return False
            waiting.extend(spec["children_spec"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return False
    return True
