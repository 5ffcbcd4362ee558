"""Places of a picture that lie in its channels: [N, channels * rows * columns, h, w] for [N, channels, H, W].

Channel (c * rows + i) * columns + j at (y, x) is channel c at (y * rows + i, x * columns + j).
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from converters.passes.matching import is_op, only_consumer
from converters.passes.rewriting import add_initializer, add_node, replace_output

FUSED = ("Relu", "Sigmoid", "Tanh", "HardSigmoid", "LeakyRelu")
"""What ONNX Runtime computes as part of the Conv before it, so that a shuffle comes after."""


@dataclass(frozen=True)
class Places:
    """How many rows and columns of neighbours lie in the channels, and the true (height, width) of the picture."""

    channels: int
    rows: int
    columns: int
    size: tuple[int, int]

    @property
    def steps(self) -> tuple[int, int]:
        """Height and width of the value that holds the places; where they do not divide the picture, it is larger."""
        return -(-self.size[0] // self.rows), -(-self.size[1] // self.columns)


def picture_size(value: ir.Value | None) -> tuple[int, int] | None:
    """Return height and width of a value [N, C, H, W] when they are numbers."""
    if value is None or value.shape is None or len(value.shape) != 4:
        return None
    height, width = value.shape[2:]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def fused_activation(value: ir.Value) -> ir.Node | None:
    """Return the activation that alone reads the value and is computed with the Conv that makes it."""
    node, made = only_consumer(value), value.producer()
    return node if made is not None and is_op(node, *FUSED) and node is not None and node.graph is made.graph else None


def same_activation(model: ir.Model, node: ir.Node, value: ir.Value) -> ir.Value:
    """Apply to another value what the activation `node` does, in front of it."""
    attributes = {name: attribute.as_float() for name, attribute in node.attributes.items()}
    result = add_node(model, node, node.op_type, [value], attributes)
    result.type = node.outputs[0].type
    return result


def put_in_place(model: ir.Model, node: ir.Node, packed: ir.Value, places: Places) -> None:
    """Let the picture whose places lie in the channels of `packed` stand for the output of `node`.

    An activation that alone reads it is applied first. Two plain transposes are faster than one of all dimensions.
    """
    activation = fused_activation(node.outputs[0])
    if activation is not None:
        node, packed = activation, same_activation(model, activation, packed)
    name, (down, across), height = str(node.outputs[0].name), places.steps, places.rows

    def reshape(value: ir.Value, *shape: int) -> ir.Value:
        return add_node(model, node, "Reshape", [value, add_initializer(model, f"{name}_shape", np.array(shape))])

    value = packed
    if places.columns > 1:
        apart = reshape(value, -1, places.columns, down * across)
        value = add_node(model, node, "Transpose", [apart], {"perm": (0, 2, 1)})
    if height > 1:
        apart = reshape(value, -1, height, down, across * places.columns)
        value = add_node(model, node, "Transpose", [apart], {"perm": (0, 2, 1, 3)})
    value = reshape(value, -1, places.channels, height * down, places.columns * across)
    if (height * down, places.columns * across) != places.size:
        bounds = {"starts": (0, 0), "ends": places.size, "axes": (2, 3)}
        parts = [add_initializer(model, f"{name}_{part}", np.array(numbers)) for part, numbers in bounds.items()]
        value = add_node(model, node, "Slice", [value, *parts])
    replace_output(node, value)
