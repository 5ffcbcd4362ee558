"""Matrices of weights that are read in parts: arrays in memory, and tensors in external files.

A file is read and not memory-mapped: mapped pages count as memory of the process for as long as the map lives, and a
file that gets shorter meanwhile would end the process instead of raising an error.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converters.quantize.blocks import Matrix
from edgert.disk import read_failed
from edgert.errors import BadInput


def open_matrix(tensor: ir.TensorProtocol) -> Matrix:
    """Return a tensor of two dimensions as a matrix; `onnx_file.read_model` has checked where its file lies."""
    rows, columns = map(int, tensor.shape.numpy())
    if isinstance(tensor, ir.ExternalTensor):
        dtype = np.dtype(tensor.dtype.numpy()).newbyteorder("<")
        return FileMatrix(Path(tensor.path), int(tensor.offset or 0), (rows, columns), dtype)
    return ArrayMatrix(tensor.numpy().reshape(rows, columns))


@dataclass(frozen=True)
class ArrayMatrix:
    """A matrix in memory."""

    array: NDArray[np.floating]

    @property
    def shape(self) -> tuple[int, int]:
        """Return the rows and columns."""
        return self.array.shape[0], self.array.shape[1]

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """Return the type of the elements."""
        return self.array.dtype

    def read(self, rows: slice, columns: slice) -> NDArray[np.floating]:
        """Return a part, which is not copied."""
        return self.array[rows, columns]


@dataclass(frozen=True)
class FileMatrix:
    """A matrix that lies in a file from `offset` on, row by row."""

    path: Path
    offset: int
    shape: tuple[int, int]
    dtype: np.dtype[np.floating]

    def read(self, rows: slice, columns: slice) -> NDArray[np.floating]:
        """Read a part. Raises BadInput where the file ends before it, EnvironmentFailed where it cannot be read."""
        part = np.empty((rows.stop - rows.start, columns.stop - columns.start), self.dtype)
        whole_rows = part.shape[1] == self.shape[1]
        start = (rows.start * self.shape[1] + columns.start) * self.dtype.itemsize + self.offset
        try:
            with self.path.open("rb", buffering=0) as file:
                for number, run in enumerate([part.reshape(-1)] if whole_rows else part):
                    file.seek(start + number * self.shape[1] * self.dtype.itemsize)
                    if file.readinto(run.view(np.uint8)) != run.nbytes:
                        raise self._cut_off()
        except OSError as exc:
            raise read_failed(exc, self.path) from exc
        return part

    def _cut_off(self) -> BadInput:
        size = self.path.stat().st_size
        return BadInput(
            f"external data file '{self.path}' has {size} bytes, fewer than when the model was opened",
            f"copy '{self.path.name}' again: it is cut off",
        )
