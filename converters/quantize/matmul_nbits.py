"""Graph edits of weight-only quantization: a product with constant weights becomes `com.microsoft::MatMulNBits`.

Nothing is computed here: the new initializers get their tensors afterwards, one weight after the other.
"""

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from converters.passes.matching import attribute_float, attribute_int, is_op, nodes_of, static_shape
from converters.quantize.blocks import BlockFormat, BlockWeights

DOMAIN = "com.microsoft"
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


@dataclass(frozen=True)
class StoredWeight:
    """A weight of the model, how it lies in `tensor`, and the initializers that take its place.

    `tensor` has the shape [K, N], or [N, K] where it is `transposed`.
    """

    name: str
    tensor: ir.TensorProtocol
    transposed: bool
    packed: ir.Value
    scales: ir.Value
    zero_points: ir.Value | None

    @property
    def values(self) -> tuple[ir.Value, ...]:
        """Return the initializers, in the order in which `tensors` gives what belongs into them."""
        values = (self.packed, self.scales, self.zero_points)
        return tuple(value for value in values if value is not None)

    def tensors(self, weights: BlockWeights) -> list[ir.TensorProtocol]:
        """Return the tensors for `values`."""
        arrays = [array for array in (weights.packed, weights.scales, weights.zero_points) if array is not None]
        return [ir.Tensor(array, name=value.name) for value, array in zip(self.values, arrays, strict=True)]


@dataclass(frozen=True)
class _Product:
    """What one node computes: data x weights (+ bias), where `weights` lies as `StoredWeight.tensor` does."""

    weights: ir.Value
    tensor: ir.TensorProtocol
    transposed: bool
    bias: ir.Value | None

    @property
    def sizes(self) -> tuple[int, int]:
        """Return K and N."""
        first, second = map(int, self.tensor.shape.numpy())
        return (second, first) if self.transposed else (first, second)


def replace_products(
    model: ir.Model, form: BlockFormat, accuracy_level: int, keep: Collection[str] = ()
) -> list[StoredWeight]:
    """Replace the products of `model` in place and return their weights, each once however many nodes share it.

    Left as they are: nodes that `keep` names (by name or first output), weights that a caller may override, a Gemm that
    scales or that transposes its data, and weights that would not get smaller.
    """
    writer = _Writer(model, form, accuracy_level)
    for node in nodes_of(model):
        found = _product(node)
        if found is not None and not {node.name, node.outputs[0].name} & set(keep) and _shrinks(found, form):
            writer.replace(node, found)
    if writer.stored:
        for imports in (model.opset_imports, model.graph.opset_imports):
            imports.setdefault(DOMAIN, 1)
    return list(writer.stored.values())


def _product(node: ir.Node) -> _Product | None:
    if not is_op(node, "MatMul", "Gemm"):
        return None
    weights, tensor = node.inputs[1], _constant_matrix(node.inputs[1])
    if weights is None or tensor is None:
        return None
    if node.op_type == "MatMul":
        return _Product(weights, tensor, False, None)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    scales = attribute_float(node, "alpha", 1.0) != 1 or (bias and attribute_float(node, "beta", 1.0) != 1)
    if scales or attribute_int(node, "transA", 0):
        return None
    return _Product(weights, tensor, bool(attribute_int(node, "transB", 0)), bias)


def _constant_matrix(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor of a constant matrix of floats; `get_const_tensor` would load it from its file."""
    if value is None or value.is_graph_input() or value.const_value is None:
        return None
    tensor = value.const_value
    fits = len(tensor.shape) == 2 and tensor.size > 0 and tensor.dtype in _FLOATS
    return tensor if fits and (value.is_initializer() or is_op(value.producer(), "Constant")) else None


def _shrinks(found: _Product, form: BlockFormat) -> bool:
    return form.nbytes(*found.sizes, int(found.tensor.dtype.itemsize)) < found.tensor.nbytes


class _Writer:
    """Puts nodes and initializers into one model; remembers which weights it has stored."""

    def __init__(self, model: ir.Model, form: BlockFormat, accuracy_level: int) -> None:
        self._model, self._form, self._accuracy_level = model, form, accuracy_level
        self._names = {str(value.name) for value in model.graph.inputs} | set(model.graph.initializers)
        self._names |= {str(value.name) for node in nodes_of(model) for value in node.outputs}
        self.stored: dict[tuple[ir.Value, bool], StoredWeight] = {}

    def replace(self, node: ir.Node, found: _Product) -> None:
        stored = self._stored(found)
        rows, columns = found.sizes
        fused = found.bias if static_shape(found.bias) == (columns,) else None
        inputs = [node.inputs[0], stored.packed, stored.scales, stored.zero_points, None, fused]
        while inputs[-1] is None:
            inputs.pop()
        attributes = {"K": rows, "N": columns, "bits": self._form.bits, "block_size": self._form.block_size}
        if self._accuracy_level:
            attributes["accuracy_level"] = self._accuracy_level
        nodes = [ir.node("MatMulNBits", inputs, attributes, domain=DOMAIN, name=node.name)]
        if found.bias is not None and fused is None:
            nodes[0].outputs[0].name = self._unused(f"{node.outputs[0].name}_without_bias")
            nodes.append(ir.node("Add", [nodes[0].outputs[0], found.bias]))
        self._swap(node, nodes)
        _drop_if_unused(found.weights)

    def _swap(self, node: ir.Node, nodes: list[ir.Node]) -> None:
        before, after = node.outputs[0], nodes[-1].outputs[0]
        name, after.type, after.shape = before.name, before.type, before.shape
        assert node.graph is not None
        ir.convenience.replace_nodes_and_values(node.graph, node, [node], nodes, [before], [after])
        after.name = name

    def _stored(self, found: _Product) -> StoredWeight:
        key = (found.weights, found.transposed)
        if key not in self.stored:
            self.stored[key] = self._store(found)
        return self.stored[key]

    def _store(self, found: _Product) -> StoredWeight:
        form, (rows, columns) = self._form, found.sizes
        blocks, name = form.blocks(rows), str(found.weights.name)
        kind = f"{name}_Q{form.bits}"
        packed = (columns, blocks, form.block_size * form.bits // 8)
        zero_points = (columns, -(-blocks * form.bits // 8))
        return StoredWeight(
            name,
            found.tensor,
            found.transposed,
            self._initializer(kind, ir.DataType.UINT8, packed),
            self._initializer(f"{kind}_scales", found.tensor.dtype, (columns, blocks)),
            None if form.symmetric else self._initializer(f"{kind}_zero_points", ir.DataType.UINT8, zero_points),
        )

    def _initializer(self, name: str, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.Value:
        """Return an initializer of the main graph, which subgraphs see too, with a tensor that cannot be read yet."""
        name, dims = self._unused(name), ir.Shape(shape)
        tensor = ir.LazyTensor(_not_yet, dtype, dims, name=name)
        value = ir.Value(name=name, shape=dims, type=ir.TensorType(dtype), const_value=tensor)
        self._model.graph.register_initializer(value)
        return value

    def _unused(self, name: str) -> str:
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name


def _not_yet() -> ir.TensorProtocol:
    raise AssertionError("a weight is read before it was quantized")


def _drop_if_unused(value: ir.Value) -> None:
    if value.uses() or value.is_graph_output():
        return
    producer = value.producer()
    if producer is not None and producer.graph is not None:
        producer.graph.remove(producer, safe=True)
    elif value.graph is not None:
        value.graph.initializers.pop(str(value.name), None)
