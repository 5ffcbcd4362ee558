"""CBOR as docs/wire-format.md allows it: the bytes are walked before cbor2 sees them."""

from typing import Any

import cbor2

MAX_DEPTH = 8
_WIDTHS = {24: 1, 25: 2, 26: 4, 27: 8}
_SIMPLE = {20: 0, 21: 0, 22: 0, 25: 2, 26: 4, 27: 8}


def loads(payload: bytes) -> Any:
    """Return the one item that `payload` holds; ValueError for what the format does not allow."""
    place, pairs = _walk(payload, 0, 0)
    if place != len(payload):
        raise ValueError("bytes behind the item")
    document = cbor2.loads(payload)
    if _pairs(document) != pairs:
        raise ValueError("a key twice")
    return document


def _walk(payload: bytes, place: int, depth: int) -> tuple[int, int]:
    """Return where the item ends that begins at `place`, and how many pairs the maps in it have."""
    if depth > MAX_DEPTH or place >= len(payload):
        raise ValueError("cut, or nested too deep")
    major, info = payload[place] >> 5, payload[place] & 31
    if major == 7:
        if info not in _SIMPLE:
            raise ValueError("a simple value")
        return place + 1 + _SIMPLE[info], 0
    if major == 6 or info > 27:
        raise ValueError("a tag or an indefinite length")
    width = _WIDTHS.get(info, 0)
    size = int.from_bytes(payload[place + 1 : place + 1 + width], "big") if width else info
    place += 1 + width
    if major == 1 and size >= 1 << 63:
        raise ValueError("an integer below -2^63")
    if major < 2:
        return place, 0
    if size > len(payload) - place:
        raise ValueError("a length that the payload cannot hold")
    if major < 4:
        return place + size, 0
    pairs = size if major == 5 else 0
    for _ in range(2 * size if major == 5 else size):
        place, inner = _walk(payload, place, depth + 1)
        pairs += inner
    return place, pairs


def _pairs(document: Any) -> int:
    if isinstance(document, dict):
        return len(document) + sum(map(_pairs, document.values()))
    return sum(map(_pairs, document)) if isinstance(document, list) else 0
