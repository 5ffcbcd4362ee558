"""What lies in a bundle, before anything is believed: names, sizes and bytes, of a folder or a zip file.

Whether it is what the manifest says is left to `edgert.bundle_check`.
"""

import os
import stat
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from edgert.disk import read_failed
from edgert.errors import BadInput, VerificationFailed
from edgert.stored_zip import MAX_MEMBERS, Entry, read_entries

CHUNK_BYTES = 1 << 20
_REMEDY = "take a fresh copy of the bundle"


class Contents(Protocol):
    """The files of a bundle: where it is, sizes in bytes by name, and the bytes."""

    @property
    def path(self) -> Path: ...

    @property
    def sizes(self) -> Mapping[str, int]: ...

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of one file; VerificationFailed if they are not as many as `sizes` says."""
        ...


@dataclass(frozen=True)
class FolderContents:
    """A bundle in folder form."""

    path: Path
    sizes: Mapping[str, int]

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of one file."""
        path = self.path / name
        try:
            with os.fdopen(_open_no_link(path), "rb") as file:
                yield from _bounded(file, self.sizes[name], f"'{path}'")
                if file.read(1):
                    raise VerificationFailed(f"'{path}' grew while it was read", _REMEDY)
        except OSError as exc:
            raise read_failed(exc, path) from exc


@dataclass(frozen=True)
class ZipContents:
    """A bundle in zip form; `entries` and `offsets` say where each member is."""

    path: Path
    entries: Mapping[str, Entry]
    offsets: Mapping[str, int]

    @property
    def sizes(self) -> Mapping[str, int]:
        """Sizes in bytes by name."""
        return {name: entry.size for name, entry in self.entries.items()}

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of one member; VerificationFailed at the end if the CRC-32 differs."""
        entry, crc32 = self.entries[name], 0
        try:
            with self.path.open("rb") as file:
                file.seek(self.offsets[name])
                for chunk in _bounded(file, entry.size, f"'{self.path}': '{name}'"):
                    crc32 = zlib.crc32(chunk, crc32)
                    yield chunk
        except OSError as exc:
            raise read_failed(exc, self.path) from exc
        if crc32 != entry.crc32:
            raise VerificationFailed(f"'{self.path}': '{name}' is damaged: its CRC-32 differs", _REMEDY)


def scan(path: Path) -> FolderContents | ZipContents:
    """List what lies at `path`; BadInput if it is nothing, VerificationFailed on a link or a bad zip."""
    try:
        return scan_folder(path) if path.is_dir() else _scan_zip(path)
    except FileNotFoundError as exc:
        raise BadInput(f"there is no bundle at '{path}'", "check the path") from exc
    except OSError as exc:
        raise read_failed(exc, path) from exc


def scan_folder(path: Path) -> FolderContents:
    """List the files of a folder; OSError passes through."""
    sizes: dict[str, int] = {}
    with os.scandir(path) as entries:
        for entry in entries:
            info = entry.stat(follow_symlinks=False)
            if not stat.S_ISREG(info.st_mode):
                kind = "a symbolic link" if stat.S_ISLNK(info.st_mode) else "not a plain file"
                raise VerificationFailed(f"'{path}' holds {entry.name!a}, which is {kind}", _REMEDY)
            if len(sizes) == MAX_MEMBERS:
                raise VerificationFailed(f"'{path}' holds more than the {MAX_MEMBERS} files allowed", _REMEDY)
            sizes[entry.name] = info.st_size
    return FolderContents(path, sizes)


def _scan_zip(path: Path) -> ZipContents:
    if not path.is_file():
        path.stat()
        raise BadInput(f"'{path}' is not a file or a folder", "name a .edgert file or a bundle's folder")
    with path.open("rb") as file:
        entries, layout = read_entries(file, f"'{path}'")
    offsets = {entry.name: offset for entry, offset in zip(entries, layout.data_offsets, strict=True)}
    return ZipContents(path, {entry.name: entry for entry in entries}, offsets)


def read_whole(contents: Contents, name: str) -> bytes:
    """Return all bytes of a file whose size has been checked."""
    return b"".join(contents.chunks(name))


def _bounded(file: BinaryIO, size: int, what: str) -> Iterator[bytes]:
    """Yield exactly `size` bytes."""
    left = size
    while left:
        chunk = file.read(min(left, CHUNK_BYTES))
        if not chunk:
            raise VerificationFailed(f"{what} ends {left} bytes early", _REMEDY)
        left -= len(chunk)
        yield chunk


def _open_no_link(path: Path) -> int:
    """Open a file to read, but never through a link that has taken its place since the folder was listed."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0))
