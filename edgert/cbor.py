"""CBOR as docs/wire-format.md allows it: one item, definite lengths, no tags, bounded. cbor2 does the rest.

The bytes are walked before cbor2 sees them, so that nothing is allocated by a length that the payload cannot hold.
"""

from collections.abc import Iterator
from types import ModuleType

from edgert.errors import BadInput, MissingExtra

MAX_DEPTH = 8
MAX_PAYLOAD = 65_536

_NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _OTHER = range(1, 8)
_SIMPLE = {20: 0, 21: 0, 22: 0, 25: 2, 26: 4, 27: 8}
"""Additional information of false, true, null and the three floats -> the bytes that follow."""

_REMEDY = "the sender does not follow docs/wire-format.md"


def dumps(document: object) -> bytes:
    """Return `document` in core deterministic encoding (RFC 8949, 4.2.1). MissingExtra where cbor2 is not there."""
    return bytes(_cbor2().dumps(document, canonical=True))


def loads(payload: bytes, what: str, limit: int = MAX_PAYLOAD) -> object:
    """Return the one item that `payload` holds; `what` names it in the BadInput that any defect raises."""
    if len(payload) > limit:
        raise BadInput(f"{what} has {len(payload)} bytes, more than the {limit} allowed", _REMEDY)
    pairs = _check(payload, what)
    try:
        document = _cbor2().loads(payload)
    except MissingExtra:
        raise
    except Exception as exc:  # cbor2 raises several kinds, also those of hash and decode
        raise BadInput(f"{what} is not CBOR: {exc}", _REMEDY) from exc
    if sum(len(one) for one in _maps(document)) != pairs:
        raise BadInput(f"{what} has a map with a key twice", _REMEDY)
    return document


def _cbor2() -> ModuleType:
    try:
        import cbor2
    except ImportError as exc:
        raise MissingExtra("the link needs cbor2, which is not installed", "pip install 'edgert[mqtt]'") from exc
    return cbor2


def _check(payload: bytes, what: str) -> int:
    """Walk the items and return how many pairs all maps have; BadInput for what the format does not allow."""
    place, pairs, left = 0, 0, [1]
    while left:
        if left[-1] == 0:
            left.pop()
            continue
        left[-1] -= 1
        major, size, place = _head(payload, place, what)
        if major in (_BYTES, _TEXT):
            place += size
        elif major in (_ARRAY, _MAP):
            pairs += size if major == _MAP else 0
            left.append(size * 2 if major == _MAP else size)
        if len(left) > MAX_DEPTH + 1:
            raise BadInput(f"{what} is nested deeper than {MAX_DEPTH}", _REMEDY)
    if place != len(payload):
        raise BadInput(f"{what} has {len(payload) - place} bytes behind its end", _REMEDY)
    return pairs


def _head(payload: bytes, place: int, what: str) -> tuple[int, int, int]:
    """Return an item's major type, its size or number, and where it goes on; a size never exceeds the bytes left."""
    if place >= len(payload):
        raise BadInput(f"{what} ends too early, after {len(payload)} bytes", _REMEDY)
    major, info = payload[place] >> 5, payload[place] & 31
    if major == _OTHER:
        if info not in _SIMPLE:
            raise BadInput(f"{what} has a simple value {info} at byte {place}", _REMEDY)
        return major, 0, place + 1 + _SIMPLE[info]
    if major == _TAG or info > 27:
        kind = "a tag" if major == _TAG else "an indefinite or reserved length"
        raise BadInput(f"{what} has {kind} at byte {place}", _REMEDY)
    width = 1 << (info - 24) if info > 23 else 0
    following = place + 1 + width
    size = int.from_bytes(payload[place + 1 : following], "big") if width else info
    if major == _NEGATIVE and size >= 1 << 63:
        raise BadInput(f"{what} has an integer below -2^63 at byte {place}", _REMEDY)
    left = len(payload) - following
    if left < 0 or (major in (_BYTES, _TEXT, _ARRAY, _MAP) and size > left):
        raise BadInput(f"{what} claims {size} at byte {place}, with {max(left, 0)} bytes left", _REMEDY)
    return major, size, following


def _maps(document: object) -> Iterator[dict[object, object]]:
    waiting = [document]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
