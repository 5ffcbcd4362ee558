"""`edgert record`: bytes of the wire to JSON and back, by files and pipes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgert import cbor, cli
from edgert.columns import INTEGERS, Column
from edgert.record import Batch, Presence, Record, Stamp, Watermark
from edgert.wire import encode, encode_presence, encode_watermark
from edgert.wire_orders import Order, encode_order

EPOCH = bytes(8)
PAYLOADS = {
    "tel": encode(Record(EPOCH, 3, 1, Stamp(9), Batch(EPOCH, (0, 1), (Column(INTEGERS, (1, 2)),)))),
    "ack": encode_watermark(Watermark(EPOCH, 9, ((2, 3),), 5)),
    "st": encode_presence(Presence(True, EPOCH, 1)),
    "cmd": encode_order(Order("cmd", cbor.dumps({"id": "a"}), ((EPOCH, bytes(64)),))),
}


def call(capfdbinary, *arguments: object) -> tuple[int, bytes, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["record", *map(str, arguments)])
    captured = capfdbinary.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err.decode()


@pytest.mark.parametrize("kind", PAYLOADS)
def test_payload_goes_to_json_and_back_to_the_same_bytes(kind, capfdbinary, tmp_path):
    """To stdout as one line; back to a file, or to stdout."""
    payload, document, back = tmp_path / "payload", tmp_path / "message.json", tmp_path / "back"
    payload.write_bytes(PAYLOADS[kind])
    code, out, err = call(capfdbinary, payload, "--kind", kind, "--json")
    assert (code, out.count(b"\n")) == (0, 1), err
    assert json.loads(out)["kind"] == kind
    document.write_bytes(out)
    assert call(capfdbinary, document, "--from-json", "-o", back)[0] == 0
    assert back.read_bytes() == PAYLOADS[kind]
    assert call(capfdbinary, document, "--from-json")[1] == PAYLOADS[kind]


def test_record_reads_from_a_pipe():
    """`-` is stdin, as after a subscriber's output."""
    command = [sys.executable, "-m", "edgert", "record", "-", "--kind", "tel"]
    done = subprocess.run(command, input=PAYLOADS["tel"], capture_output=True, check=True)
    assert json.loads(done.stdout)["seq"] == 3


@pytest.mark.parametrize(
    ("content", "arguments", "says"),
    [
        (b"\xff", ["--kind", "tel"], "a record"),
        (PAYLOADS["tel"], ["--kind", "st"], "a presence"),
        (bytes(70_000), ["--kind", "tel"], "65536"),
        (PAYLOADS["tel"], [], "--kind"),
        (b"{}", ["--from-json"], "kind"),
        (b"{}", ["--from-json", "--kind", "tel"], "--from-json takes none"),
        (PAYLOADS["tel"], ["--kind", "tel", "-o", "x"], "--from-json"),
    ],
)
def test_record_given_what_it_cannot_read_exits_2_and_says_why(content, arguments, says, capfdbinary, tmp_path):
    """Garbage, another kind, too much, or a call that contradicts itself."""
    (tmp_path / "file").write_bytes(content)
    code, out, err = call(capfdbinary, tmp_path / "file", *arguments)
    assert (code, out) == (2, b"")
    assert says in err
    assert "remedy:" in err


def test_record_refuses_json_that_no_receiver_would_take(capfdbinary, tmp_path):
    """A state that is nested deeper than CBOR may be here is not written."""
    state: object = 1
    for _ in range(9):
        state = [state]
    head = {"version": 1, "epoch": {"hex": "00" * 8}, "seq": 1, "boot": 1, "coarse": False}
    at = {"mono_ms": 0, "wall_ms": 0, "sync": 0}
    (tmp_path / "deep.json").write_text(
        json.dumps(head | at | {"kind": "rep", "body": {"version": 1, "state": {"a": state}}})
    )
    code, _, err = call(capfdbinary, tmp_path / "deep.json", "--from-json", "-o", tmp_path / "out")
    assert code == 2
    assert "deeper" in err
    assert not Path(tmp_path / "out").exists()


def test_record_of_a_file_that_is_not_there_exits_2(capfdbinary, tmp_path):
    """It is named."""
    code, _, err = call(capfdbinary, tmp_path / "nowhere", "--kind", "tel")
    assert code == 2
    assert "nowhere" in err
