"""`edgert record`: a payload of the wire format as JSON for eyes, and back."""

import sys
from collections.abc import Callable
from pathlib import Path

import click

from edgert import strict_json
from edgert.cbor import MAX_PAYLOAD
from edgert.disk import disk_failed, read_failed
from edgert.errors import BadInput, UsageError
from edgert.record import Presence, Record, Watermark
from edgert.wire import decode, decode_presence, decode_watermark, encode, encode_presence, encode_watermark
from edgert.wire_json import MESSAGES, Message, message_from_json, message_to_json
from edgert.wire_orders import KINDS as ORDERS
from edgert.wire_orders import decode_order, encode_order


@click.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--kind", type=click.Choice(MESSAGES), help="The last token of the payload's topic.")
@click.option("--from-json", is_flag=True, help="FILE is JSON; write the payload.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where a payload goes; default stdout.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, which is done anyway.")
def record(file: Path, kind: str | None, from_json: bool, output: Path | None, as_json: bool) -> None:
    """Print a payload of docs/wire-format.md as JSON, or with --from-json the payload of such JSON; - is stdin.

    \b
    Example:
      edgert record payload.bin --kind tel
      edgert record edited.json --from-json -o payload.bin
    """
    if from_json == (kind is not None) or (from_json and as_json) or (output and not from_json):
        raise UsageError(
            "a payload needs --kind, and --from-json takes none",
            "edgert record payload.bin --kind tel, or edgert record edited.json --from-json -o payload.bin",
        )
    if kind is not None:
        click.echo(message_to_json(_decode(_read(file, MAX_PAYLOAD), kind)))
        return
    message = message_from_json(_read(file, strict_json.MAX_BYTES))
    payload = _encode(message)
    _decode(payload, _kind(message))  # what a receiver would refuse is not written
    _put(payload, output)


def _read(file: Path, most: int) -> bytes:
    """Return at most one byte more than a file may have."""
    if str(file) == "-":
        return sys.stdin.buffer.read(most + 1)
    try:
        with file.open("rb") as opened:
            return opened.read(most + 1)
    except FileNotFoundError as exc:
        raise BadInput(f"{file}: no such file", "name a file, or - for stdin") from exc
    except OSError as exc:
        raise read_failed(exc, file) from exc


def _put(payload: bytes, output: Path | None) -> None:
    if output is None:
        sys.stdout.buffer.write(payload)
        sys.stdout.buffer.flush()
        return
    try:
        output.write_bytes(payload)
    except OSError as exc:
        raise disk_failed(exc, output, len(payload)) from exc


def _kind(message: Message) -> str:
    if isinstance(message, Watermark | Presence):
        return "ack" if isinstance(message, Watermark) else "st"
    return message.kind


def _decode(payload: bytes, kind: str) -> Message:
    if kind in ORDERS:
        return decode_order(payload, kind)
    readers: dict[str, Callable[[bytes], Message]] = {"ack": decode_watermark, "st": decode_presence}
    return readers[kind](payload) if kind in readers else decode(payload, kind)


def _encode(message: Message) -> bytes:
    if isinstance(message, Record):
        return encode(message)
    if isinstance(message, Watermark):
        return encode_watermark(message)
    return encode_presence(message) if isinstance(message, Presence) else encode_order(message)
