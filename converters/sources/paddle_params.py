"""Is a `.pdiparams` file whole? Paddle 3.3 loads one whose last tensor is cut off, with whatever is in memory.

The file is a row of tensors, each as Paddle's `SerializeToStream` writes it (paddle/phi/core/framework/
dense_tensor_tostream.cc): uint32 version, uint64 levels of LoD with their bytes, uint32 version, int32 length of a
TensorDesc message, the message, the data. Only the lengths are read; names are in the program.
"""

import math
import os
import struct
from pathlib import Path
from typing import IO

from edgert.errors import BadInput

BYTES_OF_TYPE = {0: 1, 1: 2, 2: 4, 3: 8, 4: 2, 5: 4, 6: 8, 20: 1, 21: 1, 22: 2, 23: 8, 24: 16, 32: 1, 33: 1}
"""Number of the type in Paddle's `framework.proto` -> bytes of one element."""

MAX_DESC_BYTES = 1 << 12
MAX_LOD_LEVELS = 16


def check_params(path: Path) -> None:
    """Raise BadInput where the file does not end with the last byte of its last tensor."""
    size = path.stat().st_size
    number = 0
    with path.open("rb") as file:
        while file.tell() < size:
            number += 1
            start = file.tell()
            try:
                end = _skip_tensor(file)
            except (struct.error, ValueError, OverflowError) as exc:
                raise _damaged(path, f"at byte {start} there is no tensor {number}") from exc
            if end > size:
                raise _damaged(path, f"tensor {number} needs {end} bytes and the file ends after {size}")
    if not number:
        raise _damaged(path, "it is empty")


def _skip_tensor(file: IO[bytes]) -> int:
    """Move to the end of the tensor that begins here, and return that place; ValueError where there is none."""
    if _read(file, "<I") != 0:
        raise ValueError("unknown version")
    levels = _read(file, "<Q")
    if levels > MAX_LOD_LEVELS:
        raise ValueError("no tensor has so many levels")
    for _ in range(levels):
        file.seek(_read(file, "<Q"), os.SEEK_CUR)
    if _read(file, "<I") != 0:
        raise ValueError("unknown version")
    length = _read(file, "<i")
    if not 0 < length <= MAX_DESC_BYTES:
        raise ValueError("no description")
    kind, dims = _read_desc(file.read(length))
    return file.seek(math.prod(dims) * BYTES_OF_TYPE[kind], os.SEEK_CUR)


def _read(file: IO[bytes], form: str) -> int:
    (number,) = struct.unpack(form, file.read(struct.calcsize(form)))
    return int(number)


def _read_desc(message: bytes) -> tuple[int, list[int]]:
    """Return type and dimensions of a TensorDesc: field 1 is the type, each field 2 a dimension."""
    kind, dims, place = -1, [], 0
    while place < len(message):
        tag = message[place]
        number, place = _varint(message, place + 1)
        if tag == 0x08:
            kind = number
        elif tag == 0x10:
            dims.append(number)
        else:
            raise ValueError("unknown field")
    if kind not in BYTES_OF_TYPE:
        raise ValueError("unknown type")
    return kind, dims


def _varint(message: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while place < len(message) and shift < 64:
        number |= (message[place] & 0x7F) << shift
        place += 1
        if not message[place - 1] & 0x80:
            return number, place
        shift += 7
    raise ValueError("a number without an end")


def _damaged(path: Path, why: str) -> BadInput:
    return BadInput(
        f"{path}: these Paddle parameters are damaged: {why}", "copy the file again from where it was saved"
    )
