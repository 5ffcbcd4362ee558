"""WAV files: PCM of 8, 16, 24 and 32 bits, floats, and the two telephone codes, A-law and mu-law (ITU-T G.711).

Other kinds of sound files, and other sample rates, are left to `audio` and `resample`.
"""

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from edgert.errors import BadInput

PCM, FLOAT, A_LAW, MU_LAW, EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_UNKNOWN_SIZE = (0, 0xFFFFFFFF)  # what a program writes that cannot go back to the header
_Decode = Callable[[bytes], NDArray[np.float32]]

_REMEDY = "give a whole WAV file"


class UnknownCode(BadInput):
    """The file is a WAV file, but its samples are in a code that is not read here."""


def is_wav(head: bytes) -> bool:
    """Return whether a file that begins with these 12 bytes is a WAV file."""
    return head[:4] == b"RIFF" and head[8:12] == b"WAVE"


def read_wav(path: Path, max_samples: int) -> tuple[NDArray[np.float32], int]:
    """Return the samples, float32 [frames, channels] with full scale -1..1, and the sample rate in Hz.

    BadInput when the file is damaged or holds more than `max_samples` in all channels; UnknownCode for other codes.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(12)
        form: tuple[int, int, int, int] | None = None
        while True:
            name, length = _next_chunk(file, path)
            here = file.tell()
            if name == b"fmt ":
                form = _form(file.read(min(length, 40)), path)
            if name == b"data":
                break
            file.seek(here + length + length % 2)
        if form is None:
            raise BadInput(f"'{path}' does not say how its samples are written", _REMEDY)
        left = size - here
        if length in _UNKNOWN_SIZE:
            length = left
        if length > left:
            raise BadInput(f"'{path}' is cut off: {length} bytes of samples are announced, {left} are there", _REMEDY)
        if length * 8 > max_samples * max(8, form[3]):
            message = f"'{path}' holds {length} bytes of samples, at most {max_samples} samples are read"
            raise BadInput(message, "cut it into pieces")
        return _samples(file.read(length), form, path), form[2]


def _next_chunk(file: IO[bytes], path: Path) -> tuple[bytes, int]:
    head = file.read(8)
    if len(head) < 8:
        raise BadInput(f"'{path}' ends before its samples", _REMEDY)
    return head[:4], int.from_bytes(head[4:], "little")


def _form(data: bytes, path: Path) -> tuple[int, int, int, int]:
    """Return the code, channels, sample rate and bits of a sample."""
    if len(data) < 16:
        raise BadInput(f"'{path}' has a header of {len(data)} bytes, at least 16 are expected", _REMEDY)
    code, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", data)
    if code == EXTENSIBLE and len(data) >= 26:
        code = int.from_bytes(data[24:26], "little")
    if not 1 <= channels <= 64:
        raise BadInput(f"'{path}' says that it has {channels} channels", _REMEDY)
    return code, channels, rate, bits


def _samples(data: bytes, form: tuple[int, int, int, int], path: Path) -> NDArray[np.float32]:
    code, channels, _, bits = form
    decode = _DECODERS.get((code, bits))
    if decode is None:
        raise UnknownCode(f"'{path}' has samples of {bits} bits in WAV code {code}", "save it as 16-bit PCM")
    frame = channels * bits // 8
    return decode(data[: len(data) // frame * frame]).reshape(-1, channels)


def _from_24_bits(data: bytes) -> NDArray[np.float32]:
    low, mid, high = np.frombuffer(data, np.uint8).reshape(-1, 3).T.astype(np.int32)
    whole = high.astype(np.int8).astype(np.int32) << 16 | mid << 8 | low
    values: NDArray[np.float32] = whole.astype(np.float32) / np.float32(1 << 23)
    return values


def _whole(dtype: str, offset: int, scale: float) -> _Decode:
    def decode(data: bytes) -> NDArray[np.float32]:
        values = np.frombuffer(data, dtype).astype(np.float32)
        values -= np.float32(offset)
        values /= np.float32(scale)
        return values

    return decode


def _mu_law_table() -> NDArray[np.float32]:
    """Return the value of each of the 256 codes (ITU-T G.711, table 2a)."""
    code = ~np.arange(256, dtype=np.uint8)
    magnitude = (((code & 15).astype(np.int32) << 3) + 0x84 << ((code >> 4) & 7).astype(np.int32)) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.float32) / np.float32(1 << 15)


def _a_law_table() -> NDArray[np.float32]:
    """Return the value of each of the 256 codes (ITU-T G.711, table 1a)."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    step, segment = (code & 15).astype(np.int32) << 4, ((code >> 4) & 7).astype(np.int32)
    magnitude = np.where(segment > 0, step + 0x108 << np.maximum(segment - 1, 0), step + 8)
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.float32) / np.float32(1 << 15)


def _by_table(table: NDArray[np.float32]) -> _Decode:
    return lambda data: table[np.frombuffer(data, np.uint8)]


_DECODERS: Mapping[tuple[int, int], _Decode] = {
    (PCM, 8): _whole("<u1", 128, 1 << 7),
    (PCM, 16): _whole("<i2", 0, 1 << 15),
    (PCM, 24): _from_24_bits,
    (PCM, 32): _whole("<i4", 0, 1 << 31),
    (FLOAT, 32): _whole("<f4", 0, 1.0),
    (FLOAT, 64): _whole("<f8", 0, 1.0),
    (A_LAW, 8): _by_table(_a_law_table()),
    (MU_LAW, 8): _by_table(_mu_law_table()),
}
