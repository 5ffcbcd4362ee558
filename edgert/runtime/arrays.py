"""Arrays in `.npy` and `.npz` files, read without trust: no pickle, and no more memory than the file can fill.

What the arrays are for is left to `inputs`, `golden` and the samples of the converter.
"""

import math
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgert.errors import BadInput, EnvironmentFailed

Array = np.ndarray[Any, Any]

# What numpy and zipfile raise for damaged files; RuntimeError is an encrypted member, NotImplementedError a method.
_DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,
    NotImplementedError,
    OverflowError,
    tokenize.TokenError,
    SyntaxError,
    AttributeError,
    TypeError,
)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MOST_DEFLATED = 1032  # bytes that one byte of deflate can stand for (zlib's technical notes)


def read_npy(path: Path, *, mapped: bool = False) -> Array:
    """Return the array of a `.npy` file, mapped where asked for; BadInput names a file that holds none."""
    with _reading(path, "numpy.save"):
        with path.open("rb") as file:
            if file.read(4) == b"PK\x03\x04":
                raise ValueError("it holds several arrays; name it .npz")
            file.seek(0)
            _check_header(file, path.stat().st_size)
            file.seek(0)
            array: Array = np.load(path if mapped else file, mmap_mode="r" if mapped else None, allow_pickle=False)
        return array


def read_npz(path: Path, names: Collection[str] | None = None) -> dict[str, Array]:
    """Return the arrays of a `.npz` file by name, only those in `names` where given; BadInput names the file."""
    with _reading(path, "numpy.savez"), zipfile.ZipFile(path) as archive:
        members = _members(archive, path.stat().st_size)
        for name in names or ():
            if name not in members:
                raise ValueError(f"there is no array '{name}'")
        return {name: _read_member(archive, members[name]) for name in (members if names is None else names)}


def storable(array: Array, name: str) -> Array:
    """Return the array with text as text: numpy stores Python strings (kind `O`) only as `U`."""
    array = np.asarray(array)
    if array.dtype.kind != "O":
        return array
    if not all(isinstance(value, str) for value in array.flat):
        raise BadInput(f"'{name}' holds objects that are not text, which no array file can hold", "leave it out")
    return array.astype(np.str_)


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Return the members by array name; ValueError if they claim more than a file of `size` bytes can hold."""
    members: dict[str, zipfile.ZipInfo] = {}
    room = size
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        room -= info.compress_size
        if name in members:
            raise ValueError(f"'{name}' is there twice")
        if info.compress_type not in _METHODS:
            raise NotImplementedError(f"'{name}' is compressed by method {info.compress_type}")
        most = info.compress_size * (1 if info.compress_type == zipfile.ZIP_STORED else _MOST_DEFLATED)
        if room < 0 or info.file_size > most:
            raise ValueError(f"'{name}' claims {info.file_size} bytes, more than the file can hold")
        members[name] = info
    return members


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    with archive.open(info) as file:
        _check_header(file, info.file_size)
    with archive.open(info) as file:
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
        file.read()  # numpy stops before the end, where zipfile compares the checksum
        return array


def _check_header(file: IO[bytes], size: int) -> None:
    """Raise ValueError unless a `.npy` of `size` bytes can hold the array that its header claims."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of the format is not known")
    shape, _, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    claimed, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if any(length < 0 for length in shape) or dtype.itemsize == 0 or claimed > there:
        raise ValueError(f"its header claims {dtype} of shape {list(shape)}, {there} bytes follow")


@contextmanager
def _reading(path: Path, written_by: str) -> Iterator[None]:
    """Turn what a missing or damaged file raises into BadInput."""
    try:
        yield
    except FileNotFoundError as exc:
        raise BadInput(f"there is no file '{path}'", "check the path") from exc
    except MemoryError as exc:
        raise EnvironmentFailed(f"there is not enough memory for '{path}'", "free memory, or split the file") from exc
    except _DAMAGE as exc:
        reason = (exc.strerror if isinstance(exc, OSError) else "") or str(exc) or type(exc).__name__
        message = f"'{path}' cannot be read as {path.suffix.lower() or 'arrays'}: {reason}"
        raise BadInput(message, f"write it with {written_by}, without objects") from exc
