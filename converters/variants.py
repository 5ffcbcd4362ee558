"""Write the ONNX files of a bundle so that all variants share one `weights.bin`, each distinct tensor in it once.

Which variants there are is left to `converters.pipeline`.
"""

import hashlib
from pathlib import Path

import onnx_ir as ir

WEIGHTS_FILE = "weights.bin"
INLINE_BELOW_BYTES = 1024
PAGE = 4096
SMALL_ALIGNMENT = 64


class WeightsFile:
    """Appends tensors to one file and remembers by content what is already in it.

    Tensors of a page or more start on a page, so that ONNX Runtime can map them; smaller ones on 64 bytes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / WEIGHTS_FILE
        self._offsets: dict[tuple[str, str], int] = {}
        self._size = 0

    @property
    def used(self) -> bool:
        """Whether any tensor was placed."""
        return bool(self._offsets)

    def place(self, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
        """Return an external tensor with the content of `tensor`, appending its bytes if they are new."""
        data = tensor.tobytes()
        key = (tensor.dtype.name, hashlib.sha256(data).hexdigest())
        if key not in self._offsets:
            self._offsets[key] = self._append(data)
        return ir.ExternalTensor(
            location=WEIGHTS_FILE,
            offset=self._offsets[key],
            length=len(data),
            dtype=tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "",
            base_dir=self._folder,
        )

    def _append(self, data: bytes) -> int:
        alignment = PAGE if len(data) >= PAGE else SMALL_ALIGNMENT
        offset = -(-self._size // alignment) * alignment
        with self._path.open("ab") as file:
            file.write(bytes(offset - self._size))
            file.write(data)
        self._size = offset + len(data)
        return offset


def write_variant(model: ir.Model, name: str, weights: WeightsFile, folder: Path) -> Path:
    """Write `model` as `<name>.onnx` in `folder` with its larger initializers in the shared weights file.

    The model itself is left as it was.
    """
    path = folder / f"{name}.onnx"
    kept: list[tuple[ir.Value, ir.TensorProtocol]] = []
    try:
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.nbytes >= INLINE_BELOW_BYTES and tensor.dtype != ir.DataType.STRING:
                kept.append((value, tensor))
                value.const_value = weights.place(tensor)
        path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
    finally:
        for value, tensor in kept:
            value.const_value = tensor
    return path


def variant_bytes(model: ir.Model, path: Path) -> int:
    """Return what the variant takes on disk: its graph file and its own tensors, shared or not, in bytes."""
    tensors = {
        hashlib.sha256(value.const_value.tobytes()).digest(): value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None and value.const_value.nbytes >= INLINE_BELOW_BYTES
    }
    return path.stat().st_size + sum(tensors.values())
