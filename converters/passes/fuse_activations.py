"""Activation functions that an exporter spelled out become the one or two nodes that providers know.

| function | spelled | becomes |
|---|---|---|
| hard-sigmoid | clip(a x + b, 0, h) x f, with h f = 1 | HardSigmoid |
| hard-swish | x clip(x + 3, 0, 6) / 6, the factors in any order | HardSigmoid and Mul; on an NPU HardSwish |
| ReLU | max(x, 0) | Relu |
| sigmoid, SiLU | 1 / (1 + exp(-x)), x / (1 + exp(-x)) | Sigmoid; Sigmoid and Mul |
| GELU | 0.5 x (1 + erf(x / sqrt 2)), and its tanh form | Gelu (opset 20) |

ONNX Runtime fuses HardSigmoid and Mul into convolutions on the CPU and has no HardSwish kernel there; QNN has one. A
result that still needs a factor keeps it as a Mul behind, which `fold_affine` moves on.
"""

import math
from dataclasses import dataclass

import onnx_ir as ir

from converters.passes.matching import (
    attribute_float,
    is_op,
    is_private,
    keeps_rank,
    label,
    nodes_of,
    only_consumer,
    producer,
    scalar,
    scaled,
    shifted,
)
from converters.passes.products import Product, read_product
from converters.passes.result import PassResult
from converters.passes.rewriting import add_initializer, add_node, replace_output
from edgert.profile import DeviceProfile

_TOLERANCE = 1e-6
_HARD_SWISH_OPSET = 14
_GELU_OPSET = 20
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class _Gate:
    """height x clip(alpha x source + beta, 0, 1)."""

    source: ir.Value
    alpha: float
    beta: float
    height: float


def fuse_activations(model: ir.Model, profile: DeviceProfile) -> PassResult:
    """Replace spelled-out hard-sigmoid, hard-swish, ReLU, sigmoid, SiLU and GELU, in any order of their factors.

    Only where no value inside the pattern is used elsewhere. A GELU below opset 20 is declined: there is no operator.
    """
    opset = model.graph.opset_imports.get("", 0)
    use_hard_swish = profile.processor == "npu" and opset >= _HARD_SWISH_OPSET
    changes, declined = 0, list[str]()
    for node in nodes_of(model):
        if node.graph is None:
            continue
        gelu = _gelu(node)
        if gelu is not None and opset < _GELU_OPSET:
            declined.append(f"{label(node)}: a GELU needs opset {_GELU_OPSET}, this graph has {opset}")
        elif gelu is not None:
            _write_gelu(model, node, *gelu)
            changes += 1
        else:
            changes += _hard_swish(model, node, use_hard_swish) or _sigmoid(model, node) or _silu(model, node)
    for node in nodes_of(model):
        changes += node.graph is not None and (_hard_sigmoid(model, node) or _relu(model, node))
    return PassResult(changes, tuple(declined))


def _is(left: float | None, right: float) -> bool:
    return left is not None and math.isclose(left, right, rel_tol=_TOLERANCE, abs_tol=1e-12)


def _clipped(value: ir.Value) -> tuple[ir.Value, float, float] | None:
    """Read a value as clip(source, low, high): Clip, or Min of Max or Relu."""
    node = producer(value, "Clip", "Min")
    if node is None or node.inputs[0] is None:
        return None
    if node.op_type == "Clip":
        low, high = _clip_limits(node)
        return None if low is None or high is None else (node.inputs[0], low, high)
    inner, high = _with_scalar(node)
    lower = producer(inner, "Relu", "Max") if inner is not None and is_private(inner) else None
    if lower is None or high is None:
        return None
    if lower.op_type == "Relu" and lower.inputs[0] is not None:
        return lower.inputs[0], 0.0, high
    source, low = _with_scalar(lower)
    return None if source is None or low is None else (source, low, high)


def _clip_limits(node: ir.Node) -> tuple[float | None, float | None]:
    if len(node.inputs) == 3:
        return scalar(node.inputs[1]), scalar(node.inputs[2])
    if len(node.inputs) == 1 and "min" in node.attributes and "max" in node.attributes:
        return attribute_float(node, "min", 0.0), attribute_float(node, "max", 0.0)
    return None, None


def _with_scalar(node: ir.Node) -> tuple[ir.Value | None, float | None]:
    """Split a commutative two-input node into its variable and its scalar."""
    if len(node.inputs) != 2:
        return None, None
    left, right = node.inputs
    number = scalar(right)
    return (left, number) if number is not None else (right, scalar(left))


def _gate(value: ir.Value) -> _Gate | None:
    """Read a private value as a gate: a HardSigmoid, or a clip from 0."""
    node = producer(value, "HardSigmoid")
    if node is not None and node.inputs[0] is not None:
        return _Gate(node.inputs[0], attribute_float(node, "alpha", 0.2), attribute_float(node, "beta", 0.5), 1.0)
    clip = _clipped(value)
    if clip is None or clip[1] != 0.0 or clip[2] <= 0.0:
        return None
    source, _, height = clip
    moved = shifted(source) if is_private(source) else None
    source, beta = moved or (source, 0.0)
    grown = scaled(source) if moved and is_private(source) else None
    source, alpha = grown or (source, 1.0)
    return _Gate(source, alpha / height, beta / height, height)


def _hard_swish(model: ir.Model, node: ir.Node, use_hard_swish: bool) -> bool:
    """Rewrite number x source x gate(source)."""
    if not is_op(node, "Mul", "Div") or _is_scaled_later(node):
        return False
    product = read_product(node.outputs[0])
    found = _gate_in(product)
    if found is None:
        return False
    gate, value = found
    factor = product.number * gate.height
    is_swish = use_hard_swish and _is(gate.alpha, 1 / 6) and _is(gate.beta, 0.5)
    if producer(value, "HardSigmoid") is not None and not is_swish:
        return False  # it is what it would become
    _write_product(model, node, _swish(model, node, gate, is_swish), factor)
    return True


def _is_scaled_later(node: ir.Node) -> bool:
    """Whether a factor follows that belongs to the same product."""
    follower = only_consumer(node.outputs[0])
    return follower is not None and scaled(follower.outputs[0]) is not None


def _gate_in(product: Product) -> tuple[_Gate, ir.Value] | None:
    if len(product.factors) != 2:
        return None
    for source, value in (product.factors, product.factors[::-1]):
        gate = _gate(value) if is_private(value) else None
        if gate is None:
            continue
        if gate.source is source and gate.beta != 0.0:
            return gate, value
    return None


def _swish(model: ir.Model, node: ir.Node, gate: _Gate, is_swish: bool) -> ir.Value:
    output = node.outputs[0]
    if is_swish:
        return add_node(model, node, "HardSwish", [gate.source], like=output)
    attributes: dict[str, float] = {"alpha": gate.alpha, "beta": gate.beta}
    curve = add_node(model, node, "HardSigmoid", [gate.source], attributes, like=output)
    return add_node(model, node, "Mul", [gate.source, curve], like=output)


def _write_product(model: ir.Model, node: ir.Node, value: ir.Value, factor: float) -> None:
    """Let `value` x `factor` replace the node's output."""
    if not _is(factor, 1.0):
        dtype = node.outputs[0].dtype or ir.DataType.FLOAT
        number = add_initializer(model, f"{node.outputs[0].name}_factor", ir.tensor(factor, dtype=dtype))
        value = add_node(model, node, "Mul", [value, number], like=node.outputs[0])
    replace_output(node, value)


def _hard_sigmoid(model: ir.Model, node: ir.Node) -> bool:
    """Rewrite a gate of height 1, or one that is divided by its height."""
    if not is_op(node, "Mul", "Div", "Clip", "Min"):
        return False
    output = node.outputs[0]
    source, factor = (scaled(output) or (None, 1.0)) if is_op(node, "Mul", "Div") else (output, 1.0)
    if (
        source is None
        or (source is not output and not is_private(source))
        or producer(source, "HardSigmoid") is not None
    ):
        return False
    gate = _gate(source)
    if gate is None or not _is(gate.height * factor, 1.0) or (gate.alpha == 1.0 and gate.beta == 0.0):
        return False
    attributes: dict[str, float] = {"alpha": gate.alpha, "beta": gate.beta}
    replace_output(node, add_node(model, node, "HardSigmoid", [gate.source], attributes, like=output))
    return True


def _relu(model: ir.Model, node: ir.Node) -> bool:
    """Rewrite max(x, 0)."""
    source, low = _with_scalar(node) if is_op(node, "Max") else (None, None)
    floor = next((value for value in node.inputs if value is not None and value is not source), None)
    if source is None or floor is None or low != 0.0 or source.dtype not in _FLOATS or not keeps_rank(source, floor):
        return False
    replace_output(node, add_node(model, node, "Relu", [source], like=node.outputs[0]))
    return True


def _logistic_denominator(value: ir.Value | None) -> ir.Value | None:
    """Read 1 + exp(-x) and return x."""
    moved = shifted(value) if value is not None and is_private(value) else None
    exp = producer(moved[0], "Exp") if moved and moved[1] == 1.0 and is_private(moved[0]) else None
    inner = exp.inputs[0] if exp is not None else None
    if inner is None or not is_private(inner):
        return None
    negative = producer(inner, "Neg")
    if negative is not None:
        return negative.inputs[0]
    times = scaled(inner)
    return times[0] if times and times[1] == -1.0 else None


def _sigmoid(model: ir.Model, node: ir.Node) -> bool:
    """Rewrite 1 / (1 + exp(-x)) and Reciprocal of it."""
    if is_op(node, "Reciprocal"):
        source = _logistic_denominator(node.inputs[0])
    elif is_op(node, "Div") and len(node.inputs) == 2 and scalar(node.inputs[0]) == 1.0:
        source = _logistic_denominator(node.inputs[1])
    else:
        return False
    if source is None:
        return False
    replace_output(node, add_node(model, node, "Sigmoid", [source], like=node.outputs[0]))
    return True


def _silu(model: ir.Model, node: ir.Node) -> bool:
    """Rewrite x / (1 + exp(-x))."""
    source = _logistic_denominator(node.inputs[1]) if is_op(node, "Div") and len(node.inputs) == 2 else None
    if source is None or source is not node.inputs[0]:
        return False
    curve = add_node(model, node, "Sigmoid", [source], like=node.outputs[0])
    replace_output(node, add_node(model, node, "Mul", [source, curve], like=node.outputs[0]))
    return True


def _gelu(node: ir.Node) -> tuple[ir.Value, str] | None:
    """Read 0.5 x (1 + erf(x / sqrt 2)), or with tanh, as (x, approximate)."""
    if not is_op(node, "Mul", "Div"):
        return None
    product = read_product(node.outputs[0])
    if len(product.factors) != 2 or not _is(product.number, 0.5):
        return None
    for source, value in (product.factors, product.factors[::-1]):
        moved = shifted(value) if is_private(value) else None
        curve = producer(moved[0], "Erf", "Tanh") if moved and moved[1] == 1.0 and is_private(moved[0]) else None
        inner = curve.inputs[0] if curve is not None else None
        if curve is None or inner is None:
            continue
        if curve.op_type == "Erf" and _is_erf_argument(inner, source):
            return source, "none"
        if curve.op_type == "Tanh" and _is_tanh_argument(inner, source):
            return source, "tanh"
    return None


def _is_erf_argument(value: ir.Value, source: ir.Value) -> bool:
    parts = scaled(value) if is_private(value) else None
    return parts is not None and parts[0] is source and math.isclose(parts[1], math.sqrt(0.5), rel_tol=1e-5)


def _is_tanh_argument(value: ir.Value, source: ir.Value) -> bool:
    """Recognise sqrt(2 / pi) x (x + 0.044715 x^3), also with x or the constants taken out."""
    if not is_private(value):
        return False
    product = read_product(value, stop=source)
    if not math.isclose(product.number, math.sqrt(2 / math.pi), rel_tol=1e-4):
        return False
    sums = [factor for factor in product.factors if factor is not source]
    powers = len(product.factors) - len(sums)
    node = producer(sums[0], "Add") if len(sums) == 1 and is_private(sums[0]) else None
    if node is None or powers > 1 or len(node.inputs) != 2:
        return False
    for linear, cubic in (tuple(node.inputs), tuple(node.inputs)[::-1]):
        is_linear = linear is source if powers == 0 else scalar(linear) == 1.0
        if is_linear and cubic is not None and _is_power(cubic, source, 3 - powers):
            return True
    return False


def _is_power(value: ir.Value, source: ir.Value, exponent: int) -> bool:
    product = read_product(value, stop=source) if is_private(value) else None
    return (
        product is not None
        and math.isclose(product.number, 0.044715, rel_tol=1e-4)
        and len(product.factors) == exponent
        and all(factor is source for factor in product.factors)
    )


def _write_gelu(model: ir.Model, node: ir.Node, source: ir.Value, approximate: str) -> None:
    output = node.outputs[0]
    replace_output(node, add_node(model, node, "Gelu", [source], {"approximate": approximate}, like=output))
