"""Which files an ONNX model takes weights from, found without any ONNX library.

A location such as `../../secret` would have the runtime read outside the bundle; one in memory would have
it read anywhere. Walks the protobuf fields of ModelProto that lead to a tensor (onnx.proto3, IR version 13)
and nothing else.
"""

from collections.abc import Collection, Iterator

from edgert.errors import VerificationFailed

# message -> {field number: message that it holds}
_FIELDS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "External"},
}
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_REMEDY = "make the bundle again with `edgert convert`"


def check_external_data(model: bytes, listed: Collection[str], what: str) -> None:
    """Raise VerificationFailed if the model names a file that is not `listed`; `what` names the model."""
    for location in external_locations(model, what):
        if location not in listed:
            raise VerificationFailed(
                f"{what} takes weights from {location[:200]!a}, which the manifest does not list", _REMEDY
            )


def external_locations(model: bytes, what: str) -> set[str]:
    """Return the external data locations of a serialized ModelProto; VerificationFailed if it is malformed."""
    if b"location" not in model:  # the key is always spelled out, so most models need no walk
        return set()
    locations: set[str] = set()
    todo = [("Model", 0, len(model))]
    try:
        while todo:
            message, start, end = todo.pop()
            if message == "External":
                locations |= _location(model, start, end)
                continue
            children = _FIELDS[message]
            todo += [(children[n], a, b) for n, a, b in _byte_fields(model, start, end) if n in children]
    except (IndexError, UnicodeDecodeError) as exc:
        raise VerificationFailed(f"{what} is not an ONNX model that can be read", _REMEDY) from exc
    return locations


def _location(model: bytes, start: int, end: int) -> set[str]:
    """Return the value of a pair (fields 1 and 2; the last of each counts) if its key is "location"."""
    pair = {number: model[a:b] for number, a, b in _byte_fields(model, start, end)}
    return {pair.get(2, b"").decode("utf-8")} if pair.get(1) == b"location" else set()


def _byte_fields(model: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of the length-delimited fields of a message; IndexError if it is malformed."""
    position = start
    while position < end:
        tag, position = _tag(model, position)
        wire = tag & 7
        if wire == _VARINT:
            _, position = _varint(model, position, 10)
        elif wire == _BYTES:
            size, position = _varint(model, position, 5)
            if position + size > end:
                raise IndexError(position)
            yield tag >> 3, position, position + size
            position += size
        elif wire in (_FIXED_32, _FIXED_64):
            position += 4 if wire == _FIXED_32 else 8
        else:
            raise IndexError(position)
    if position != end:
        raise IndexError(position)


def _tag(model: bytes, position: int) -> tuple[int, int]:
    """Return a tag and the position after it; IndexError unless every reader takes it for the same field.

    Readers differ in what they do with bits above 32, which ONNX Runtime drops, and with zero bytes at the end.
    """
    tag, after = _varint(model, position, 5)
    padded = after - position > 1 and model[after - 1] == 0
    if padded or not 8 <= tag < 1 << 32:  # below 8 is field number 0
        raise IndexError(position)
    return tag, after


def _varint(model: bytes, position: int, most: int) -> tuple[int, int]:
    """Return a variable-length number of at most `most` bytes and the position after it."""
    value = 0
    for shift in range(0, 7 * most, 7):
        byte = model[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise IndexError(position)
