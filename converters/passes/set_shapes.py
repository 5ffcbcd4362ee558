"""The inputs get the shapes that the user or the calibration samples gave."""

from collections.abc import Mapping

import onnx_ir as ir

from converters.passes.result import PassResult
from edgert.errors import BadInput, nearest


def unresolved(model: ir.Model) -> list[tuple[str, int, str | None]]:
    """Return (input, index of the dimension, its symbolic name or None) of every dimension that is no known number."""
    return [
        (value.name or "", index, _symbol(dim))
        for value in model.graph.inputs
        for index, dim in enumerate(value.shape or ())
        if not _is_known(dim)
    ]


def set_input_shapes(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> PassResult:
    """Set the named inputs' dimensions, and every other input dimension of the same symbolic name to the same number.

    A dimension declared as 0 or less counts as unknown: exporters write that where they mean "any". Shapes of other
    values are left to `infer_shapes`, which forgets the old ones. Raises BadInput for an unknown input, another number
    of dimensions, a number that contradicts the model's own, and two numbers for one symbolic name.
    """
    inputs = {value.name or "": value for value in model.graph.inputs}
    symbols: dict[str, tuple[int, str]] = {}
    for name, dims in shapes.items():
        if name not in inputs:
            near = nearest(name, inputs)
            raise BadInput(
                f"the model has no input '{name}'",
                remedy=f"did you mean '{near}'?" if near else f"inputs: {', '.join(inputs)}",
            )
        _check_dims(name, inputs[name], dims)
        _bind(name, inputs[name], dims, symbols)
    changes = 0
    for name, value in inputs.items():
        before = value.shape
        value.shape = _new_shape(value, shapes.get(name), symbols)
        changes += before != value.shape
    return PassResult(changes)


def _is_known(dim: int | ir.SymbolicDim) -> bool:
    return isinstance(dim, int) and dim > 0


def _symbol(dim: int | ir.SymbolicDim) -> str | None:
    """Return a symbolic name that says which dimension is meant; PaddlePaddle writes '?' for each unknown one."""
    text = None if isinstance(dim, int) or dim.value is None else str(dim.value)
    return text if text is not None and any(letter.isalnum() for letter in text) else None


def _check_dims(name: str, value: ir.Value, dims: tuple[int, ...]) -> None:
    wanted = ",".join(map(str, dims))
    if any(dim <= 0 for dim in dims):
        raise BadInput(f"shape {name}={wanted} has a dimension below 1", remedy="give positive numbers only")
    if value.shape is None:
        return
    if len(dims) != len(value.shape):
        raise BadInput(
            f"shape {name}={wanted} has {len(dims)} dimensions; the model's has {len(value.shape)}: {value.shape}",
            remedy=f"give {len(value.shape)} numbers",
        )
    for index, (dim, declared) in enumerate(zip(dims, value.shape, strict=True)):
        if _is_known(declared) and dim != declared:
            raise BadInput(
                f"shape {name}={wanted}: dimension {index} is {declared} in the model", remedy=f"give {declared} there"
            )


def _bind(name: str, value: ir.Value, dims: tuple[int, ...], symbols: dict[str, tuple[int, str]]) -> None:
    for index, (dim, declared) in enumerate(zip(dims, value.shape or (), strict=False)):
        symbol = _symbol(declared)
        if symbol is None:
            continue
        known, where = symbols.setdefault(symbol, (dim, f"{name}[{index}]"))
        if known != dim:
            raise BadInput(
                f"dimension '{symbol}' is {known} in {where} and {dim} in {name}[{index}]",
                remedy="give both the same number: they are one dimension in the model",
            )


def _new_shape(
    value: ir.Value, dims: tuple[int, ...] | None, symbols: Mapping[str, tuple[int, str]]
) -> ir.Shape | None:
    if dims is not None:
        return ir.Shape(dims)
    if value.shape is None:
        return None
    known = ((symbols.get(_symbol(dim) or "", (dim, ""))[0]) for dim in value.shape)
    return ir.Shape(list(known))
