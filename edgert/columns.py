"""Columns of a batch of metrics as bytes, and varints: docs/wire-format.md, "Metrics". Pure, no library."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgert.errors import BadInput

INTEGERS, FLOAT32, FLOAT64 = "int", "f32", "f64"
MOST_SAMPLES = 4096

Values = tuple[int | float | None, ...]

_DENSE = {INTEGERS: 0, FLOAT32: 2, FLOAT64: 4}
_KINDS = {code: kind for kind, code in _DENSE.items()}
_CONSTANT = 6
_FORMATS = {FLOAT32: "f", FLOAT64: "d"}
_MODULUS = 1 << 64


@dataclass(frozen=True)
class Column:
    """The values of one metric, None where a sample has none: integers before scaling in [-2^63, 2^63), or floats."""

    kind: str
    values: Values


def encode_column(column: Column) -> bytes:
    """Return the bytes of a column; a constant one and one without gaps are the shortest."""
    values, present = column.values, [value for value in column.values if value is not None]
    if column.kind == INTEGERS and present and len(present) == len(values) and len({*present}) == 1:
        return bytes([_CONSTANT]) + encode_varints([_zigzag(int(present[0]))])
    has_gaps = len(present) < len(values)
    head = bytes([_DENSE[column.kind] + has_gaps]) + (_bitmap(values) if has_gaps else b"")
    if column.kind == INTEGERS:
        return head + encode_varints(_differences([int(value) for value in present]))
    return head + struct.pack(f"<{len(present)}{_FORMATS[column.kind]}", *present)


def decode_column(data: bytes, count: int) -> Column:
    """Return the column of `count` samples; BadInput for bytes that are none."""
    if not data or data[0] > _CONSTANT:
        raise _bad(f"of kind {data[0]}" if data else "without bytes")
    code, body = data[0], data[1:]
    if code == _CONSTANT:
        (value,) = _differenced(decode_varints(body, 1))
        return Column(INTEGERS, (value,) * count)
    kind, there = _KINDS[code & ~1], [True] * count
    if code & 1:
        there, body = _read_bitmap(body, count)
    number = sum(there)
    if kind == INTEGERS:
        values: Iterable[int | float] = _differenced(decode_varints(body, number))
    else:
        size = struct.calcsize(f"<{number}{_FORMATS[kind]}")
        if len(body) != size:
            raise _bad(f"with {len(body)} bytes of floats where {size} belong")
        values = struct.unpack(f"<{number}{_FORMATS[kind]}", body)
    following = iter(values)
    return Column(kind, tuple(next(following) if one else None for one in there))


def encode_varints(numbers: Iterable[int]) -> bytes:
    """Return unsigned numbers below 2^64, seven bits a byte, the lowest first."""
    out = bytearray()
    for number in numbers:
        rest = number
        while rest > 127:
            out.append(rest & 127 | 128)
            rest >>= 7
        out.append(rest)
    return bytes(out)


def decode_varints(data: bytes, count: int) -> list[int]:
    """Return exactly `count` unsigned numbers; BadInput for fewer, more, or a number that is too long."""
    if len(data) < count:
        raise _bad(f"with {len(data)} bytes for {count} numbers")
    numbers, number, shift = list[int](), 0, 0
    for byte in data:
        number |= (byte & 127) << shift
        if byte & 128:
            shift += 7
            if shift > 63:
                raise _bad("with a number of more than 10 bytes")
            continue
        if number >= _MODULUS or (byte == 0 and shift):
            raise _bad("with a number that is too large or longer than needed")
        numbers.append(number)
        number = shift = 0
    if shift or len(numbers) != count:
        raise _bad(f"with {len(numbers)} whole numbers where {count} belong")
    return numbers


def _differences(values: Sequence[int]) -> list[int]:
    """Return each value's difference to the one before, modulo 2^64, in zigzag."""
    return [_zigzag(_signed(new - old)) for old, new in zip((0, *values), values, strict=False)]


def _differenced(numbers: Sequence[int]) -> list[int]:
    values, value = list[int](), 0
    for number in numbers:
        value = _signed(value + ((number >> 1) ^ -(number & 1)))
        values.append(value)
    return values


def _zigzag(value: int) -> int:
    return (value << 1) ^ (value >> 63)


def _signed(value: int) -> int:
    return (value + (_MODULUS >> 1)) % _MODULUS - (_MODULUS >> 1)


def _bitmap(values: Values) -> bytes:
    bits = bytearray((len(values) + 7) // 8)
    for place, value in enumerate(values):
        bits[place >> 3] |= (value is None) << (place & 7)
    return bytes(bits)


def _read_bitmap(body: bytes, count: int) -> tuple[list[bool], bytes]:
    size = (count + 7) // 8
    if len(body) < size or (count % 8 and body[size - 1] >> (count % 8)):
        raise _bad("whose null bitmap is too short or has spare bits")
    return [not body[place >> 3] >> (place & 7) & 1 for place in range(count)], body[size:]


def _bad(what: str) -> BadInput:
    return BadInput(f"a column {what}", "the sender does not follow docs/wire-format.md")
