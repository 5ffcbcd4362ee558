"""The numbers of records: an epoch and a seq that are never given twice, whatever happens to the outbox.

A small file beside the outbox says up to which number of which epoch some may have been given. It is made once and then
written in place, which a full disk allows, once for a thousand numbers.
"""

import os
import secrets
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

BLOCK = 1000
"""Numbers reserved at a time: a flash write for so many records."""

EPOCH_BYTES = 8
MOST_EPOCHS = 16

_ENTRY = struct.Struct("<8sQ")
_HALF = 512
_HEAD = struct.Struct("<II")
"""Each half of the file: CRC-32 of what follows in it, how often the file was written, then the entries."""


def mint_epoch() -> bytes:
    """Return a new random epoch."""
    return secrets.token_bytes(EPOCH_BYTES)


class NumbersFile:
    """Epoch -> the highest number that may have been given. Two halves are written in turn, so one is always whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count, self.upto = _newest(path)

    def write(self, upto: Mapping[bytes, int]) -> None:
        """Make it say this for good. OSError where that is not possible; of too many epochs the oldest go."""
        entries = list(upto.items())[-MOST_EPOCHS:]
        body = struct.pack("<I", self._count + 1) + b"".join(_ENTRY.pack(*entry) for entry in entries)
        body = body.ljust(_HALF - 4, b"\0")
        if not self._path.exists():
            self._path.write_bytes(bytes(2 * _HALF))
        with self._path.open("r+b") as file:
            file.seek(_HALF * ((self._count + 1) % 2))
            file.write(struct.pack("<I", zlib.crc32(body)) + body)
            file.flush()
            os.fsync(file.fileno())
        self._count += 1
        self.upto = dict(entries)


def _newest(path: Path) -> tuple[int, dict[bytes, int]]:
    """Return the count and the entries of the newest whole half; nothing where there is none."""
    try:
        data = path.read_bytes()
    except OSError:
        return 0, {}
    found = [(0, dict[bytes, int]())]
    for half in (data[:_HALF], data[_HALF : 2 * _HALF]):
        if len(half) < _HALF or zlib.crc32(half[4:]) != int.from_bytes(half[:4], "little"):
            continue
        entries = (_ENTRY.unpack_from(half, place) for place in range(_HEAD.size, _HALF - _ENTRY.size + 1, _ENTRY.size))
        found.append((int.from_bytes(half[4:8], "little"), {epoch: upto for epoch, upto in entries if upto}))
    return max(found, key=lambda one: one[0])


class Numbers:
    """Gives the numbers of one epoch, each once; `file` None where nothing outlives the process.

    Where the records are `durable` the file must be; else it is written where that is possible.
    """

    def __init__(self, epoch: bytes, following: int, file: NumbersFile | None, *, durable: bool) -> None:
        self.epoch = epoch
        self.following = following
        self._file, self._durable = file, durable

    def take(self) -> int:
        """Return a number that was never given before. OSError where that could not outlive the process."""
        if self._file is not None and self.following > self._file.upto.get(self.epoch, 0):
            self._reserve(self._file)
        number = self.following
        self.following += 1
        return number

    def _reserve(self, file: NumbersFile) -> None:
        upto = {epoch: last for epoch, last in file.upto.items() if epoch != self.epoch}
        try:
            file.write({**upto, self.epoch: self.following + BLOCK - 1})
        except OSError:
            if self._durable:
                raise
            self._file = None
