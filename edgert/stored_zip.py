"""The zip form of a bundle: uncompressed, and with exactly one valid byte sequence for given members.

The writer lays the members out; the reader lays them out again and compares, so that compressed, encrypted,
linked, overlapping, hidden or doubled members cannot be there. Opening files, and what the members hold, is
left to `edgert.bundle_contents` and `edgert.bundle_write`. Source: PKWARE APPNOTE 6.3.10.
"""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from edgert.errors import BadInput, VerificationFailed
from edgert.json_fields import MAX_NAME, name_defect
from edgert.manifest import MANIFEST_NAME, MAX_FILES, OUTSIDE_DIGEST

MAX_MEMBERS = MAX_FILES + 1 + len(OUTSIDE_DIGEST)

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_64 = struct.Struct("<4sIQI")
_FULL = 0xFFFFFFFF  # a 32-bit field that sends the reader to the 64-bit one
_DATE = 0x0021  # 1980-01-01, the first that zip knows
_UNIX = 3 << 8
_MODE = 0o100644 << 16
_MAX_DIRECTORY = MAX_MEMBERS * (_CENTRAL.size + MAX_NAME + 28)
_REMEDY = "take a fresh copy of the bundle"


@dataclass(frozen=True)
class Entry:
    """One member: its size in bytes and its CRC-32."""

    name: str
    size: int
    crc32: int


@dataclass(frozen=True)
class Layout:
    """Where everything goes: `headers` before each member's data, in order, and `tail` after the last."""

    headers: tuple[bytes, ...]
    data_offsets: tuple[int, ...]
    tail_offset: int
    tail: bytes


def in_order(names: Sequence[str]) -> list[str]:
    """Return the order of the members: the manifest first, the others sorted."""
    return sorted(names, key=lambda name: (name != MANIFEST_NAME, name))


def lay_out(entries: Sequence[Entry]) -> Layout:
    """Return the layout of a zip file with `entries` in the given order; 64-bit fields only where needed."""
    offset, headers, data_offsets, directory = 0, [], [], []
    for entry in entries:
        header = _local_header(entry)
        directory.append(_central_header(entry, offset))
        headers.append(header)
        data_offsets.append(offset + len(header))
        offset += len(header) + entry.size
    return Layout(tuple(headers), tuple(data_offsets), offset, _tail(directory, offset))


def _local_header(entry: Entry) -> bytes:
    large = entry.size >= _FULL
    size = _FULL if large else entry.size
    extra = struct.pack("<2H2Q", 1, 16, entry.size, entry.size) if large else b""
    name = entry.name.encode("ascii")
    head = (b"PK\3\4", 45 if large else 20, 0, 0, 0, _DATE, entry.crc32, size, size, len(name), len(extra))
    return _LOCAL.pack(*head) + name + extra


def _central_header(entry: Entry, offset: int) -> bytes:
    wide = [entry.size, entry.size] if entry.size >= _FULL else []
    wide += [offset] if offset >= _FULL else []
    extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    need, name, size = 45 if wide else 20, entry.name.encode("ascii"), min(entry.size, _FULL)
    versions = (b"PK\1\2", _UNIX | need, need, 0, 0, 0, _DATE)
    rest = (entry.crc32, size, size, len(name), len(extra), 0, 0, 0, _MODE, min(offset, _FULL))
    return _CENTRAL.pack(*versions, *rest) + name + extra


def _tail(directory: Sequence[bytes], offset: int) -> bytes:
    """Return the directory and the end records."""
    block = b"".join(directory)
    count, size = len(directory), len(block)
    end = _END.pack(b"PK\5\6", 0, 0, count, count, size, min(offset, _FULL), 0)
    if offset < _FULL:
        return block + end
    end_64 = _END_64.pack(b"PK\6\6", 44, _UNIX | 45, 45, 0, 0, count, count, size, offset)
    return block + end_64 + _LOCATOR_64.pack(b"PK\6\7", 0, offset + size, 1) + end


def read_entries(file: BinaryIO, what: str) -> tuple[tuple[Entry, ...], Layout]:
    """Return the members of an open zip file; `what` names it.

    BadInput if it is no zip file; VerificationFailed if it is not exactly what `lay_out` says.
    """
    total = file.seek(0, os.SEEK_END)
    if _read(file, 0, 4) != b"PK\3\4":
        raise BadInput(f"{what} is not a bundle: it does not begin as a zip file", "name a .edgert file or a folder")
    count, size, offset = _find_directory(file, total, what)
    if count > MAX_MEMBERS or size > _MAX_DIRECTORY:
        raise _wrong(what, f"its directory declares {count} members in {size} bytes, at most {MAX_MEMBERS} are allowed")
    if offset + size > total:
        raise _wrong(what, f"its directory is declared beyond its {total} bytes: truncated")
    directory = _read(file, offset, size)
    entries = _parse_directory(directory, count, what)
    _check_names([entry.name for entry in entries], what)
    if sum(entry.size for entry in entries) > total:
        raise _wrong(what, f"its members declare more bytes than its own {total}")
    layout = lay_out(entries)
    if layout.tail_offset != offset or layout.tail_offset + len(layout.tail) != total:
        raise _wrong(what, f"its members and directory do not fill its {total} bytes: truncated, or bytes were added")
    if _read(file, layout.tail_offset, len(layout.tail)) != layout.tail:
        raise _wrong(what, "its directory is not in the form that bundles have")
    for entry, header, data_offset in zip(entries, layout.headers, layout.data_offsets, strict=True):
        if _read(file, data_offset - len(header), len(header)) != header:
            raise _wrong(what, f"the header of '{entry.name}' is not the one that its directory calls for")
    return entries, layout


def _find_directory(file: BinaryIO, total: int, what: str) -> tuple[int, int, int]:
    """Return the number of members and the size and offset of the directory, as declared."""
    end = _read(file, max(0, total - _END.size), _END.size)
    if len(end) < _END.size or not end.startswith(b"PK\5\6") or not end.endswith(b"\0\0"):
        raise _wrong(what, "it does not end with a zip directory: truncated, or bytes were added")
    _, _, _, _, count, size, offset, _ = _END.unpack(end)
    if offset != _FULL:
        return count, size, offset
    start = max(0, total - _END.size - _LOCATOR_64.size - _END_64.size)
    end_64 = _read(file, start, _END_64.size)
    if len(end_64) < _END_64.size or not end_64.startswith(b"PK\6\6"):
        raise _wrong(what, "its 64-bit end record is missing")
    count, size, offset = _END_64.unpack(end_64)[-3:]
    return count, size, offset


def _parse_directory(directory: bytes, count: int, what: str) -> tuple[Entry, ...]:
    entries: list[Entry] = []
    position = 0
    for _ in range(count):
        record = directory[position : position + _CENTRAL.size]
        if len(record) < _CENTRAL.size or not record.startswith(b"PK\1\2"):
            raise _wrong(what, f"its directory ends after {len(entries)} of {count} members")
        head = _CENTRAL.unpack(record)
        name_end = position + _CENTRAL.size + head[10]
        raw, extra = directory[position + _CENTRAL.size : name_end], directory[name_end : name_end + head[11]]
        name = raw.decode("ascii", "backslashreplace")
        defect = name_defect(name) or _member_defect(head)
        if defect:
            raise _wrong(what, f"its member {name[:MAX_NAME]!a} {defect}")
        entries.append(Entry(name, _wide_size(head[9], extra), head[7]))
        position = name_end + head[11] + head[12]
    return tuple(entries)


def _member_defect(head: tuple[int, ...]) -> str | None:
    """Return in the user's words why a member is refused; the comparison with the layout catches all else."""
    flags, method, packed, size, mode = head[3], head[4], head[8], head[9], head[15] >> 16
    if flags & 0x2041:
        return "is encrypted"
    if method != 0:
        return "is compressed; the members of a bundle are stored as they are"
    if packed != size:
        return f"declares {size} bytes, but stores {packed}"
    if mode & 0o170000 == 0o120000:
        return "is a symbolic link"
    return None


def _wide_size(size: int, extra: bytes) -> int:
    """Return the size in bytes, from the 64-bit field if the 32-bit one is full."""
    return int.from_bytes(extra[4:12], "little") if size == _FULL and len(extra) >= 12 else size


def _check_names(names: Sequence[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise _wrong(what, f"it holds '{name}' twice")
    if list(names) != in_order(names):
        raise _wrong(what, f"its members are not in order: {MANIFEST_NAME} first, the others sorted")


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _wrong(what: str, message: str) -> VerificationFailed:
    return VerificationFailed(f"{what} is damaged or forged: {message}", _REMEDY)
