"""Attacks on the search for external data: bytes that ONNX Runtime reads as another field than a naive reader."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edgert.errors import VerificationFailed
from edgert.external_data import check_external_data, external_locations

LOCATION = b"measurements.json"
WEIGHT = np.ones((8, 4), np.float32)


def varint(value: int) -> bytes:
    """Return `value` as a protobuf number, in as few bytes as it takes."""
    head = b""
    while value > 127:
        head, value = head + bytes([value & 127 | 128]), value >> 7
    return head + bytes([value])


def field(number: int, data: bytes, tag: bytes = b"") -> bytes:
    """Return a length-delimited field, with another tag where one is given."""
    return (tag or varint(number << 3 | 2)) + varint(len(data)) + data


def number(at: int, value: int) -> bytes:
    """Return a field that holds a whole number."""
    return varint(at << 3) + varint(value)


def pair(key_tag: bytes = b"", value_tag: bytes = b"", extra: bytes = b"") -> bytes:
    """Return the entry that names the file."""
    return field(1, b"location", key_tag) + field(2, LOCATION, value_tag) + extra


def value_info(name: bytes, size: int) -> bytes:
    """Return the ValueInfoProto of a float32 [1, size]."""
    shape = b"".join(field(1, number(1, dim)) for dim in (1, size))
    return field(1, name) + field(2, field(1, number(1, 1) + field(2, shape)))


def model(entry: bytes, tag: bytes = b"", *, graph_extra: bytes = b"", graph_tag: bytes = b"") -> bytes:
    """Return a model y = x @ w, its weight in the file that `entry` names; `tag` is the entry's own."""
    tensor = number(1, 8) + number(1, 4) + number(2, 1) + field(8, b"w") + number(14, 1) + field(13, entry, tag)
    node = field(1, b"x") + field(1, b"w") + field(2, b"y") + field(4, b"MatMul")
    graph = field(1, node) + field(2, b"g") + field(5, tensor) + graph_extra
    graph += field(11, value_info(b"x", 8)) + field(12, value_info(b"y", 4))
    return number(1, 8) + field(7, graph, graph_tag) + field(8, number(2, 17))


def runs(data: bytes, folder: Path) -> bool:
    """Return whether ONNX Runtime takes the weight from the file: the reason why the bytes are an attack."""
    (folder / LOCATION.decode()).write_bytes(WEIGHT.tobytes())
    (folder / "model.onnx").write_bytes(data)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return bool(np.all(session.run(None, {"x": np.ones((1, 8), np.float32)})[0] == 8))


BIT_32, BIT_33, HIGH_BITS = (b"\xea\x80\x80\x80" + last for last in (b"\x10", b"\x20", b"\x70"))
DISGUISED = {
    "tag, bit 32": model(pair(), BIT_32),
    "tag, bit 33": model(pair(), BIT_33),
    "tag, all high bits": model(pair(), HIGH_BITS),
    "tag, one zero byte more": model(pair(), b"\xea\x00"),
    "tag, zero bytes to the fifth": model(pair(), b"\xea\x80\x80\x80\x00"),
    "key": model(pair(key_tag=b"\x8a\x80\x80\x80\x10")),
    "value": model(pair(value_tag=b"\x92\x80\x80\x80\x10")),
    "graph": model(pair(), graph_tag=b"\xba\x80\x80\x80\x10"),
}


def test_plain_location_is_found_and_used(tmp_path: Path) -> None:
    """The model of these tests names the file openly, ONNX Runtime takes it, and the search finds it."""
    assert runs(model(pair()), tmp_path)
    assert external_locations(model(pair()), "model.onnx") == {LOCATION.decode()}
    with pytest.raises(VerificationFailed, match="which the manifest does not list"):
        check_external_data(model(pair()), (), "model.onnx")


@pytest.mark.parametrize("case", DISGUISED)
def test_disguised_location_that_onnxruntime_takes_is_refused(tmp_path: Path, case: str) -> None:
    """A tag that ONNX Runtime shortens to 32 bits is refused at every level, not passed over as unknown."""
    assert runs(DISGUISED[case], tmp_path)
    with pytest.raises(VerificationFailed, match="is not an ONNX model that can be read"):
        external_locations(DISGUISED[case], "model.onnx")


MALFORMED = {
    "tag of ten bytes": b"\xea" + b"\x80" * 8 + b"\x01" + field(1, b"")[1:],
    "tag of six bytes": b"\xea" + b"\x80" * 4 + b"\x00" + field(1, b"")[1:],
    "field number 0": b"\x02\x00",
    "tag 0": b"\x00",
    "group": b"\x0b\x0c",
    "end of a group": b"\x0c",
    "wire type 6": b"\x0e",
    "wire type 7": b"\x0f",
    "size of six bytes": b"\x52\x80\x80\x80\x80\x80\x00",
    "number cut by the end": b"\x08\x80",
    "fixed number cut by the end": b"\x55\x00",
}


@pytest.mark.parametrize("case", MALFORMED)
@pytest.mark.parametrize("level", ["model", "graph", "pair"])
def test_malformed_field_is_refused_at_every_level(case: str, level: str) -> None:
    """What readers may take for different things, or for the end of a message, is refused wherever it lies."""
    extra = MALFORMED[case]
    data = {
        "model": model(pair()) + extra,
        "graph": model(pair(), graph_extra=extra),
        "pair": model(pair(extra=extra)),
    }[level]
    with pytest.raises(VerificationFailed, match="is not an ONNX model that can be read"):
        check_external_data(data, (LOCATION.decode(),), "model.onnx")
