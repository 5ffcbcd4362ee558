"""CBOR items as JSON values and back, without loss: docs/wire-format.md, "JSON".

What they mean is left to `wire_json`.
"""

import math
import re
from collections.abc import Mapping

from edgert.errors import BadInput
from edgert.wire_fields import REMEDY, array, text

_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_MARKS = ("hex", "float", "map")
_HEX = re.compile(r"([0-9a-f]{2})*")
_LEAST, _MOST = -(1 << 63), (1 << 64) - 1


def as_json(item: object) -> object:
    """Return the JSON value of an item: bytes, floats that JSON lacks and some maps are objects of one member."""
    if isinstance(item, bytes):
        return {"hex": item.hex()}
    if isinstance(item, float):
        return item if math.isfinite(item) else {"float": repr(float(item))}
    if isinstance(item, Mapping):
        if _is_plain(item):
            return {key: as_json(value) for key, value in item.items()}
        return {"map": [[as_json(key), as_json(value)] for key, value in item.items()]}
    if isinstance(item, list | tuple):
        return [as_json(one) for one in item]
    if item is None or isinstance(item, bool | int | str):
        return item
    raise BadInput(f"{type(item).__name__} is no item of CBOR", "tell it as text, number, bytes, array or map")


def from_json(value: object) -> object:
    """Return the item of a JSON value; BadInput for what is none."""
    if isinstance(value, list):
        return [from_json(one) for one in value]
    if isinstance(value, int) and not _LEAST <= value <= _MOST:
        raise BadInput(f"the integer {value} is not in [-2^63, 2^64)", REMEDY)
    if not isinstance(value, dict):
        return value
    return _marked(*value.items()) if _is_mark(value) else {key: from_json(one) for key, one in value.items()}


def _is_plain(item: Mapping[object, object]) -> bool:
    return all(isinstance(key, str) for key in item) and not _is_mark(item)


def _is_mark(item: Mapping[object, object]) -> bool:
    return len(item) == 1 and next(iter(item)) in _MARKS


def _marked(pair: tuple[str, object]) -> object:
    mark, value = pair
    if mark == "map":
        return _map(value)
    word = text(value, mark)
    if mark == "hex" and _HEX.fullmatch(word):
        return bytes.fromhex(word)
    if mark == "float" and word in _FLOATS:
        return _FLOATS[word]
    raise BadInput(f"{word[:40]!r} is no {mark}", "bytes are pairs of 0-9 a-f, floats are nan, inf and -inf")


def _map(value: object) -> dict[object, object]:
    """Return a map told as pairs; keys are text, integers, floats, bytes, booleans or null."""
    found = dict[object, object]()
    for pair in array(value, "a map"):
        key, one = (from_json(part) for part in array(pair, "a pair of a map", range(2, 3)))
        if isinstance(key, list | dict) or key in found:
            raise BadInput(f"a map has the key {str(key)[:40]}, twice or as an array or map", REMEDY)
        found[key] = one
    if _is_plain(found):
        raise BadInput("a map is told as pairs that an object can tell", REMEDY)
    return found
