"""Archives are looked through before a framework unpacks them: a small file may claim to be a very large one.

Zip (`.pt`, `.pt2`, `.pth`, `.keras`, `.npz`) is judged by its table of contents, a compressed stream (`.joblib`, `.gz`)
by inflating it without keeping anything. What the members mean is left to the sources.
"""

import bz2
import lzma
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

from edgert.errors import BadInput

MAX_MEMBERS = 30_000
MAX_BYTES = 64 << 30
"""More than any model that fits an edge device, less than what fills a disk."""

MAX_RATIO = 100
RATIO_FROM_BYTES = 100 << 20
"""Weights hardly compress: what grows a hundredfold beyond this size is no model."""

MAX_NESTED = 2
"""A `.pt2` file holds `.pt` files; nothing holds archives deeper than that."""

CHUNK_BYTES = 1 << 20
_ZIP_MAGIC = b"PK\x03\x04"
_STREAMS: tuple[tuple[bytes, Callable[[], Any]], ...] = (
    (b"\x1f\x8b", lambda: zlib.decompressobj(wbits=31)),
    *((bytes((0x78, level)), zlib.decompressobj) for level in (0x01, 0x5E, 0x9C, 0xDA)),
    (b"BZh", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\x00", lzma.LZMADecompressor),
    (b"\x5d\x00\x00", lzma.LZMADecompressor),
)
"""How a compressed stream begins, and what inflates it: gzip, zlib, bzip2, xz, lzma."""


def check_archive(path: Path) -> None:
    """Raise BadInput where the file is an archive that is damaged, or that no model would be; other files pass."""
    with path.open("rb") as file:
        head = file.read(len(_ZIP_MAGIC) + 4)
        file.seek(0)
        if head.startswith(_ZIP_MAGIC):
            _check_zip(file, str(path), 0)
            return
        for magic, decompressor in _STREAMS:
            if head.startswith(magic):
                _check_stream(file, path, decompressor)
                return


def _check_zip(file: IO[bytes], where: str, depth: int) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            _check_members(archive.infolist(), where, _size(file))
            for info in archive.infolist():
                _check_nested(archive, info, where, depth)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as exc:
        raise BadInput(f"{where}: this archive is damaged: {exc}", "copy or download the file again") from exc


def _check_members(members: list[zipfile.ZipInfo], where: str, size: int) -> None:
    if len(members) > MAX_MEMBERS:
        raise _suspect(where, f"it has {len(members)} members, more than {MAX_MEMBERS}")
    names = set()
    for info in members:
        _check_name(info, where)
        if info.filename in names:
            raise _suspect(where, f"the name '{info.filename}' occurs twice")
        names.add(info.filename)
    packed = sum(info.compress_size for info in members)
    if packed > size:
        raise _suspect(where, f"its members overlap: they take {packed} bytes of a file of {size}")
    _check_growth(where, sum(info.file_size for info in members), packed)


def _check_name(info: zipfile.ZipInfo, where: str) -> None:
    """Raise BadInput for a name that leads out of the folder it is unpacked into, and for a link."""
    name = info.filename
    parts = PurePosixPath(name).parts
    if (
        not parts
        or name.startswith("/")
        or ".." in parts
        or "\\" in name
        or ":" in parts[0]
        or "\0" in info.orig_filename
    ):
        raise _suspect(where, f"a member is called {info.orig_filename!r}")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise _suspect(where, f"the member '{name}' is a link")
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        raise _suspect(
            where, f"the member '{name}' is stored as {info.compress_size} bytes and claims {info.file_size}"
        )


def _check_nested(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str, depth: int) -> None:
    with archive.open(info) as member:
        if member.read(len(_ZIP_MAGIC)) != _ZIP_MAGIC:
            return
        inner = f"{where}: {info.filename}"
        if info.compress_type != zipfile.ZIP_STORED:
            raise _suspect(inner, "it is an archive that was compressed once more")
        if depth + 1 > MAX_NESTED:
            raise _suspect(inner, f"archives lie in one another more than {MAX_NESTED} deep")
        member.seek(0)
        _check_zip(member, inner, depth + 1)


def _check_stream(file: IO[bytes], path: Path, decompressor: Callable[[], Any]) -> None:
    """Inflate the stream piece by piece and count; a file may hold several streams, one after the other."""
    packed, inflated = path.stat().st_size, 0
    try:
        pending = b""
        while pending or (pending := file.read(CHUNK_BYTES)):
            stream = decompressor()
            while not stream.eof:
                inflated += len(stream.decompress(pending, CHUNK_BYTES))
                _check_growth(str(path), inflated, packed)
                pending = getattr(stream, "unconsumed_tail", b"")
                if not stream.eof and not pending and getattr(stream, "needs_input", True):
                    pending = file.read(CHUNK_BYTES)
                    if not pending:
                        raise EOFError("the compressed data end too early")
            pending = stream.unused_data
    except (zlib.error, lzma.LZMAError, EOFError, OSError) as exc:
        raise BadInput(f"{path}: this compressed file is damaged: {exc}", "copy or download the file again") from exc


def _check_growth(where: str, inflated: int, packed: int) -> None:
    if inflated > MAX_BYTES:
        raise _suspect(
            where, f"it would unpack to {inflated >> 30} GB or more, and at most {MAX_BYTES >> 30} GB are read"
        )
    if inflated > RATIO_FROM_BYTES and inflated > MAX_RATIO * packed:
        raise _suspect(
            where, f"its {packed} bytes would unpack to {inflated >> 20} MB or more, over {MAX_RATIO} times as much"
        )


def _size(file: IO[bytes]) -> int:
    size = file.seek(0, 2)
    file.seek(0)
    return size


def _suspect(where: str, why: str) -> BadInput:
    return BadInput(
        f"{where}: no model is an archive like this: {why}", "do not use it; get the model from its publisher"
    )
