"""Array files that are damaged, forged or no arrays at all, one of each kind."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np

TERABYTES = (1_000_000_000_000, 1, 8)
BEYOND_64_BITS = (99_999_999_999_999_999_999, 8)


def _header(text: str) -> bytes:
    padded = text.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded


def _claiming(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    return _header(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}")


_NPY = {
    "empty": b"",
    "text": b"hello",
    "terabytes": _claiming(TERABYTES),
    "beyond-64-bits": _claiming(BEYOND_64_BITS),
    "of-nothing": _claiming((1_000_000_000_000,), "|V0"),
    "negative": _claiming((-1, -8)) + bytes(32),
    "brackets": _header("{[[[[[[[[[[[[[[[["),
    "open-quote": _header("{'descr': '<f4"),
    "not-closed": _header("("),
    "no-table": _header("3"),
    "deep": _header("(" * 100 + ")" * 100),
    "version-9": b"\x93NUMPY\x09\x00" + _claiming((1,))[8:] + bytes(4),
}


def _patched(data: bytes, changes: dict[int, int]) -> bytes:
    """Return the bytes with some of them replaced; a negative place counts from the directory of the zip."""
    result, directory = bytearray(data), data.find(b"PK\x01\x02")
    for place, value in changes.items():
        result[directory - place if place < 0 else place] = value
    return bytes(result)


def _zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _bytes_of(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def damaged_files() -> dict[str, bytes]:
    """Return the bytes of each file by its name, which ends in `.npy` or `.npz`."""
    array = np.arange(32, dtype=np.float32).reshape(1, 32)
    pickled = _bytes_of(np.array([{}], dtype=object), allow_pickle=True)
    npy = {**_NPY, "short": _bytes_of(array)[:140], "pickled": pickled, "zip": _zipped({"x.npy": _bytes_of(array)})}
    good = _zipped({"x.npy": _bytes_of(array)})
    deflated = _zipped({"x.npy": _bytes_of(array)}, zipfile.ZIP_DEFLATED)
    npz = {
        "empty": b"",
        "text": b"hello",
        "array": _bytes_of(array),
        "short": good[: len(good) // 2],
        "method": _patched(good, {-10: 99, 8: 99}),
        "encrypted": _patched(good, {-8: 1, 6: 1}),
        "checksum": _patched(good, {200: 255}),
        "deflate": _patched(deflated, dict.fromkeys(range(40, 60), 255)),
        "long-member": _patched(good, {-27: 127}),
        "long-deflated-member": _patched(deflated, {-27: 127}),
        "lzma": _zipped({"x.npy": _bytes_of(array)}, zipfile.ZIP_LZMA),
        "twice": _zipped({"x.npy": _bytes_of(array), "x": _bytes_of(array)}),
        **{f"member-{name}": _zipped({"x.npy": data}) for name, data in npy.items()},
    }
    return {f"{name}.npy": data for name, data in npy.items()} | {f"{name}.npz": data for name, data in npz.items()}


def write_damaged(folder: Path, name: str) -> Path:
    """Write one of the files and return its path."""
    path = folder / name
    path.write_bytes(damaged_files()[name])
    return path
