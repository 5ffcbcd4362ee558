"""Checked reading of decoded CBOR: each function returns what its name says, or BadInput names the field."""

from collections.abc import Sequence
from typing import Any, TypeVar

from edgert.errors import BadInput

REMEDY = "the sender does not follow docs/wire-format.md"

Kind = TypeVar("Kind")


def typed(item: object, kind: type[Kind], what: str) -> Kind:
    if not isinstance(item, kind):
        raise BadInput(f"{what} is {type(item).__name__}, not {kind.__name__}", REMEDY)
    return item


def integer(item: object, what: str) -> int:
    if isinstance(item, bool):
        raise BadInput(f"{what} is a boolean, not an integer", REMEDY)
    return typed(item, int, what)


def uint(item: object, what: str, *, least: int = 0, most: int = (1 << 64) - 1) -> int:
    number = integer(item, what)
    if not least <= number <= most:
        raise BadInput(f"{what} is {number}, not in [{least}, {most}]", REMEDY)
    return number


def text(item: object, what: str) -> str:
    return typed(item, str, what)


def sized_bytes(item: object, what: str, size: int | None = None) -> bytes:
    data = typed(item, bytes, what)
    if size is not None and len(data) != size:
        raise BadInput(f"{what} has {len(data)} bytes, not {size}", REMEDY)
    return data


def array(item: object, what: str, lengths: range = range(1 << 16)) -> Sequence[object]:
    entries = typed(item, list, what)
    if len(entries) not in lengths:
        raise BadInput(f"{what} has {len(entries)} entries, not {lengths.start} to {lengths.stop - 1}", REMEDY)
    return entries


def mapping(item: object, what: str) -> dict[str, Any]:
    document = typed(item, dict, what)
    wrong = next((key for key in document if not isinstance(key, str)), None)
    if wrong is not None:
        raise BadInput(f"{what} has the key {str(wrong)[:40]!r}, which is not text", REMEDY)
    return document
