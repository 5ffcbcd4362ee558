"""The wire types of protobuf that Sparkplug B uses, read and written, bounded by the bytes that are there.

The library `protobuf` is not used: it would be a dependency with native code on every device, for two messages, and it
builds whatever a payload names before its counts can be looked at. What the fields mean is left to `sparkplug_payload`.
"""

from collections.abc import Iterator

from edgert.columns import encode_varints
from edgert.errors import BadInput

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

_FIXED = {FIXED64: 8, FIXED32: 4}
_REMEDY = "the sender does not follow the Sparkplug B specification"

Field = tuple[int, int, int | bytes]
"""Number, wire type, and an integer for VARINT, else bytes."""


def read_fields(data: bytes, what: str) -> Iterator[Field]:
    """Yield the fields of a message; BadInput for bytes that are none, groups, and lengths past the end."""
    place = 0
    while place < len(data):
        key, place = _read_varint(data, place, what)
        number, kind = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise bad(f"{what} has a field of number {number}")
        if kind == VARINT:
            value, place = _read_varint(data, place, what)
            yield number, kind, value
            continue
        if kind == BYTES:
            size, place = _read_varint(data, place, what)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise bad(f"{what} has a field of wire type {kind}")
        if size > len(data) - place:
            raise bad(f"{what} claims {size} bytes with {len(data) - place} left")
        yield number, kind, data[place : place + size]
        place += size


def varint_field(number: int, value: int) -> bytes:
    """Return a field that holds an unsigned number below 2^64."""
    return encode_varints((number << 3 | VARINT, value))


def bytes_field(number: int, data: bytes) -> bytes:
    """Return a field that holds bytes, a text or a message."""
    return encode_varints((number << 3 | BYTES, len(data))) + data


def fixed_field(number: int, data: bytes) -> bytes:
    """Return a field that holds four or eight bytes."""
    return encode_varints((number << 3 | (FIXED64 if len(data) == 8 else FIXED32),)) + data


def bad(what: str) -> BadInput:
    """Return the error for a message that is none."""
    return BadInput(what, _REMEDY)


def _read_varint(data: bytes, place: int, what: str) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise bad(f"{what} ends within a number")
        byte = data[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            if number >= 1 << 64:
                break
            return number, place
    raise bad(f"{what} has a number of more than 64 bits")
