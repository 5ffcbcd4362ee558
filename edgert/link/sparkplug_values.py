"""Values of Sparkplug B as fields of protobuf, by their datatype, and back; BadInput for what is none.

Read are numbers, booleans, texts, bytes and arrays of numbers. Data sets and templates are refused.
"""

import struct
from enum import IntEnum
from typing import Any, TypeVar

from edgert.link.protobuf import BYTES, FIXED32, FIXED64, VARINT, bad, bytes_field, fixed_field, varint_field

Kind = TypeVar("Kind")

Value = bool | int | float | str | bytes | tuple[int | float, ...]


class Datatype(IntEnum):
    """The datatypes of Sparkplug B that are read and written here."""

    INT8 = 1
    INT16 = 2
    INT32 = 3
    INT64 = 4
    UINT8 = 5
    UINT16 = 6
    UINT32 = 7
    UINT64 = 8
    FLOAT = 9
    DOUBLE = 10
    BOOLEAN = 11
    STRING = 12
    DATETIME = 13
    TEXT = 14
    UUID = 15
    BYTES = 17
    FILE = 18
    INT8_ARRAY = 22
    INT16_ARRAY = 23
    INT32_ARRAY = 24
    INT64_ARRAY = 25
    UINT8_ARRAY = 26
    UINT16_ARRAY = 27
    UINT32_ARRAY = 28
    UINT64_ARRAY = 29
    FLOAT_ARRAY = 30
    DOUBLE_ARRAY = 31
    DATETIME_ARRAY = 34


_INT, _LONG, _FLOAT, _DOUBLE, _BOOLEAN, _TEXT, _RAW = range(10, 17)
"""The numbers of the fields of a metric that hold its value; those of a property are 7 lower, and have no bytes."""

_WIRE = {_INT: VARINT, _LONG: VARINT, _FLOAT: FIXED32, _DOUBLE: FIXED64, _BOOLEAN: VARINT, _TEXT: BYTES, _RAW: BYTES}
TO_PROPERTY = 7
LAST_PROPERTY = _TEXT - TO_PROPERTY

_INTEGERS = {
    Datatype.INT8: (_INT, 8, True),
    Datatype.INT16: (_INT, 16, True),
    Datatype.INT32: (_INT, 32, True),
    Datatype.INT64: (_LONG, 64, True),
    Datatype.UINT8: (_INT, 8, False),
    Datatype.UINT16: (_INT, 16, False),
    Datatype.UINT32: (_INT, 32, False),
    Datatype.UINT64: (_LONG, 64, False),
    Datatype.DATETIME: (_LONG, 64, False),
}
_FIELDS = {
    **{kind: number for kind, (number, _, _) in _INTEGERS.items()},
    Datatype.FLOAT: _FLOAT,
    Datatype.DOUBLE: _DOUBLE,
    Datatype.BOOLEAN: _BOOLEAN,
    Datatype.STRING: _TEXT,
    Datatype.TEXT: _TEXT,
    Datatype.UUID: _TEXT,
    Datatype.BYTES: _RAW,
    Datatype.FILE: _RAW,
}
_ARRAYS = dict(zip(range(Datatype.INT8_ARRAY, Datatype.DOUBLE_ARRAY + 1), "bhiqBHIQfd", strict=True)) | {
    int(Datatype.DATETIME_ARRAY): "Q"
}


def keep_only(values: dict[int, int | bytes], number: int, kind: int, value: int | bytes) -> None:
    """Keep the one value of a metric or property."""
    if values or _WIRE.get(number) != kind:
        raise bad(f"a value in field {number} of wire type {kind}, or a second one")
    values[number] = value


def write_value(datatype: Datatype, value: Value) -> bytes:
    """Return the field of a metric that holds a value; BadInput for one that its datatype cannot hold."""
    try:
        return _write_as(datatype, value)
    except (struct.error, OverflowError, TypeError, UnicodeEncodeError) as exc:
        raise bad(f"{str(value)[:40]!r} is no {datatype.name}: {exc}") from exc


def _write_as(datatype: Datatype, value: Value) -> bytes:
    if datatype in _ARRAYS:
        numbers: tuple[Any, ...] = _of(value, tuple)
        return bytes_field(_RAW, struct.pack(f"<{len(numbers)}{_ARRAYS[datatype]}", *numbers))
    number = _FIELDS[datatype]
    if datatype in _INTEGERS:
        bits, signed = _INTEGERS[datatype][1:]
        filled = _of(value, int).to_bytes(bits // 8, "big", signed=signed)
        return varint_field(number, int.from_bytes(filled, "big"))
    if number in (_FLOAT, _DOUBLE):
        return fixed_field(number, struct.pack("<f" if number == _FLOAT else "<d", value))
    if number == _BOOLEAN:
        return varint_field(number, int(_of(value, bool)))
    return bytes_field(number, _of(value, str).encode() if number == _TEXT else _of(value, bytes))


def _of(value: Value, kind: type[Kind]) -> Kind:
    if not isinstance(value, kind):
        raise TypeError(f"not {kind.__name__}")
    return value


def read_value(datatype: Datatype | None, number: int, raw: int | bytes) -> Value:
    """Return the value in field `number` of a metric; without a datatype, as the field has it."""
    if datatype in _ARRAYS and number == _RAW and isinstance(raw, bytes):
        letter = _ARRAYS[datatype]
        if len(raw) % struct.calcsize(f"<{letter}"):
            raise bad(f"an array of datatype {datatype} has {len(raw)} bytes")
        return tuple(one for (one,) in struct.iter_unpack(f"<{letter}", raw))
    if datatype is not None and _FIELDS.get(datatype) != number:
        raise bad(f"a value of datatype {datatype} is in field {number}")
    if isinstance(raw, int):
        if number == _BOOLEAN:
            return as_boolean(raw)
        return _integer(datatype, number, raw)
    if number in (_FLOAT, _DOUBLE):
        return float(struct.unpack("<f" if number == _FLOAT else "<d", raw)[0])
    return as_text(raw) if number == _TEXT else raw


def _integer(datatype: Datatype | None, number: int, raw: int) -> int:
    """Return an integer; a small negative one may fill its own bits or, as some senders have it, the field's."""
    if number == _INT and raw >= 1 << 32:
        raise bad(f"the number {raw} is in a field of 32 bits")
    if datatype is None:
        return raw
    _, bits, signed = _INTEGERS[datatype]
    if signed and bits < 32 and raw >= (1 << 32) - (1 << bits - 1):
        return raw - (1 << 32)
    if raw >= 1 << bits:
        raise bad(f"the number {raw} is no {datatype.name}")
    return raw - (1 << bits) if signed and raw >= 1 << bits - 1 else raw


def keep_once(found: dict[int, int] | dict[int, bytes], number: int, value: int | bytes) -> None:
    """Keep a field that may be there once."""
    if number in found:
        raise bad(f"field {number} is there twice")
    found[number] = value  # type: ignore[assignment]


def read_datatype(number: int) -> Datatype:
    """Return a datatype by its number."""
    try:
        return Datatype(number)
    except ValueError as exc:
        raise bad(f"datatype {number} is not read here") from exc


def as_number(kind: int, value: int | bytes, what: str) -> int:
    """Return the number that a field holds."""
    if kind != VARINT or not isinstance(value, int):
        raise bad(f"{what} has the wire type {kind}")
    return value


def as_bytes(kind: int, value: int | bytes, what: str) -> bytes:
    """Return the bytes that a field holds."""
    if kind != BYTES or not isinstance(value, bytes):
        raise bad(f"{what} has the wire type {kind}")
    return value


def as_boolean(value: int) -> bool:
    """Return a number as a boolean: 0 or 1."""
    if value > 1:
        raise bad(f"a boolean is {value}")
    return bool(value)


def as_text(data: bytes) -> str:
    """Return bytes as a text."""
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise bad("a text is not UTF-8") from exc
