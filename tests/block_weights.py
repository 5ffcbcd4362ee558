"""Read stored blocks of `com.microsoft::MatMulNBits` back, as its operator document describes them."""

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


def unpack(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return the values in the bytes of the last axis, one after the other; the first of two is in the low half."""
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def dequantize(node: onnx.NodeProto, tensors: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    """Return the weights [K, N] of a MatMulNBits node, whose initializers are in `tensors` by name."""
    numbers = {attribute.name: attribute.i for attribute in node.attribute}
    rows, columns, bits = numbers["K"], numbers["N"], numbers["bits"]
    codes = unpack(tensors[node.input[1]], bits).astype(np.float32)  # [N, blocks, block_size]
    scales = tensors[node.input[2]].astype(np.float32).reshape(columns, -1)
    zero_points = np.full(scales.shape, 1 << (bits - 1), np.float32)
    if len(node.input) > 3 and node.input[3]:
        stored = tensors[node.input[3]].reshape(columns, -1)
        zero_points = unpack(stored, bits)[:, : scales.shape[1]].astype(np.float32)
    real = (codes - zero_points[..., None]) * scales[..., None]
    return np.ascontiguousarray(real.reshape(columns, -1)[:, :rows].T)


def stored_weights(model: onnx.ModelProto) -> Iterator[NDArray[np.float32]]:
    """Yield the weights [K, N] of each MatMulNBits node of the main graph, in order."""
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    yield from (dequantize(node, tensors) for node in model.graph.node if node.op_type == "MatMulNBits")
