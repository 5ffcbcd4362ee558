"""Write the ONNX files of a bundle so that all variants share one `weights.bin`, each distinct tensor in it once.

Which variants there are is left to `converters.pipeline`.
"""

import hashlib
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx_ir as ir

WEIGHTS_FILE = "weights.bin"
INLINE_BELOW_BYTES = 1024
PAGE = 4096
SMALL_ALIGNMENT = 64


class WeightsFile:
    """Appends tensors to one file and remembers by content what is already in it.

    Tensors of a page or more start on a page, so that ONNX Runtime can map them; smaller ones on 64 bytes. A tensor
    that lies in another file is copied in small parts and never taken into memory.
    """

    def __init__(self, folder: Path, name: str = WEIGHTS_FILE) -> None:
        self._folder, self._name = folder, name
        self._path = folder / name
        self._offsets: dict[tuple[str, str], int] = {}
        self._size = 0

    @property
    def used(self) -> bool:
        """Whether any tensor was placed."""
        return bool(self._offsets)

    def store(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        """Return what a graph file should hold of `tensor`: itself where it is small, else its place in this file."""
        if tensor.nbytes < INLINE_BELOW_BYTES or tensor.dtype == ir.DataType.STRING or self._holds(tensor):
            return tensor
        return self.place(tensor)

    def place(self, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
        """Return an external tensor with the content of `tensor`, appending its bytes if they are new."""
        seen = _Digest()
        _write(tensor, seen)
        key = (tensor.dtype.name, seen.sha256.hexdigest())
        if key not in self._offsets:
            self._offsets[key] = self._append(tensor, seen.length)
        return ir.ExternalTensor(
            location=self._name,
            offset=self._offsets[key],
            length=seen.length,
            dtype=tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "",
            base_dir=self._folder,
        )

    def _holds(self, tensor: ir.TensorProtocol) -> bool:
        return isinstance(tensor, ir.ExternalTensor) and Path(tensor.path) == self._path

    def _append(self, tensor: ir.TensorProtocol, length: int) -> int:
        alignment = PAGE if length >= PAGE else SMALL_ALIGNMENT
        offset = -(-self._size // alignment) * alignment
        with self._path.open("r+b" if self._size else "wb") as file:
            file.seek(self._size)
            file.write(bytes(offset - self._size))
            _write(tensor, file)
        self._size = offset + length
        return offset


class _Digest:
    """A file to write to that keeps the length and the SHA-256 of what is written."""

    def __init__(self) -> None:
        self.sha256, self.length = hashlib.sha256(), 0

    def write(self, data: bytes | memoryview) -> None:
        self.sha256.update(data)
        self.length += len(data)


def _write(tensor: ir.TensorProtocol, file: BinaryIO | _Digest) -> None:
    """Write the bytes of `tensor`; those of an external file in small parts, those of an array without a copy."""
    if isinstance(tensor, ir.ExternalTensor):
        tensor.tofile(file)
        return
    array = tensor.numpy() if isinstance(tensor, ir.Tensor) else None
    plain = array is not None and array.flags.c_contiguous and array.nbytes == tensor.nbytes
    if array is not None and plain and sys.byteorder == "little":
        file.write(array.reshape(-1).view(np.uint8).data)
    else:
        file.write(tensor.tobytes())


def write_variant(model: ir.Model, name: str, weights: WeightsFile, folder: Path) -> Path:
    """Write `model` as `<name>.onnx` in `folder` with its larger initializers in the shared weights file.

    The model itself is left as it was.
    """
    path = folder / f"{name}.onnx"
    kept: list[tuple[ir.Value, ir.TensorProtocol]] = []
    try:
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None:
                kept.append((value, tensor))
                value.const_value = weights.store(tensor)
        path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
    finally:
        for value, tensor in kept:
            value.const_value = tensor
    return path


def variant_bytes(path: Path) -> int:
    """Return what the variant takes on disk: its graph file and its own tensors, shared or not, in bytes."""
    graph = onnx.load(path, load_external_data=False).graph
    places = [{entry.key: entry.value for entry in tensor.external_data} for tensor in graph.initializer]
    own = {place["offset"]: int(place["length"]) for place in places if place}
    return path.stat().st_size + sum(own.values())


def model_bytes(path: Path) -> int:
    """Return what any ONNX model takes on disk: its file and the files that hold its weights, in bytes."""
    graph = onnx.load(path, load_external_data=False).graph
    entries = [entry for tensor in graph.initializer for entry in tensor.external_data]
    files = {path, *(path.parent / entry.value for entry in entries if entry.key == "location")}
    return sum(file.stat().st_size for file in files)
