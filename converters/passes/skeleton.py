"""A model as a protobuf without its large weights, for the onnx library's C++ functions.

One protobuf message cannot exceed 2 GB, so large weights of the main graph stay behind: in the message they are extra
graph inputs of the same name, type and shape. Weights of up to `KEEP_BYTES` stay in, because shape inference and
version adapters read them. Weights inside subgraphs stay where they are: `lift_constants` runs first.
"""

import onnx
import onnx_ir as ir

KEEP_BYTES = 1024


def skeleton(model: ir.Model) -> tuple[onnx.ModelProto, frozenset[str]]:
    """Return the protobuf and the names of the weights that it does not hold; the model is unchanged afterwards."""
    left_behind: dict[str, ir.Value] = {}
    tensors: dict[str, ir.TensorProtocol] = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > KEEP_BYTES and not tensor.dtype.is_string():
            left_behind[name], tensors[name] = value, tensor
            value.const_value = ir.ExternalTensor(
                "", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
            )
    try:
        proto = ir.to_proto(model)
    finally:
        for name, value in left_behind.items():
            value.const_value = tensors[name]
    kept = [tensor for tensor in proto.graph.initializer if tensor.name not in left_behind]
    inputs = {value.name for value in proto.graph.input}
    absent = [tensor for tensor in proto.graph.initializer if tensor.name in left_behind]
    proto.graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in absent
        if tensor.name not in inputs
    )
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return proto, frozenset(left_behind)
