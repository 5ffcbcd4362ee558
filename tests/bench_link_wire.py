"""Bytes of the same metrics in edgert's wire format, JSON, CBOR and Sparkplug B: a table, and the two bars.

Sparkplug's bytes come from pysparkplug, which needs another paho-mqtt and so has an environment of its own.
"""

import json
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path

import cbor2

from edgert import cbor
from edgert.commands.printing import table
from edgert.record import Record
from edgert.wire import DEFLATED, MAX_BODY, encode
from tests.bench_link_data import WALL_MS, Samples, recorded, synthetic
from tests.bench_peers.install import python_of

MOST_BYTES = 1_500
MOST_BYTES_PER_POINT = 1.25
SPARKPLUG = "sparkplug"
_CHILD = Path(__file__).parent / "bench_peers" / "sparkplug.py"


@dataclass(frozen=True)
class Encoded:
    """One encoding of some samples; `sent` are the bytes that travel where the format says so itself."""

    name: str
    raw: bytes
    sent: bytes | None = None

    @property
    def packed(self) -> int:
        """The bytes behind zlib at its default level."""
        return len(zlib.compress(self.raw))


def uncompressed(record: Record) -> bytes:
    """Return the payload of a record as if no sender could compress."""
    fields = cbor.loads(encode(record), "a record")
    assert isinstance(fields, list)
    if fields[7] & DEFLATED:
        fields[8] = cbor.loads(zlib.decompress(fields[8], wbits=-15), "a body", MAX_BODY)
        fields[7] &= ~DEFLATED
    return cbor.dumps(fields)


def encodings(samples: Samples) -> list[Encoded]:
    """Return the samples in each format that needs no other environment; JSON without spaces, times in ms."""
    names, values = [one.name for one in samples.schema], samples.values()
    times = [WALL_MS + after for after in samples.after_ms]
    rows = [{"t": at, **dict(zip(names, row, strict=True))} for at, row in zip(times, values, strict=True)]
    columns = {
        "t": times,
        **{name: list(column) for name, column in zip(names, zip(*values, strict=True), strict=True)},
    }
    floats = [{key: float(value) if key != "t" else value for key, value in row.items()} for row in rows]
    record = samples.record()
    return [
        Encoded("JSON rows", _json(rows)),
        Encoded("JSON columns", _json(columns)),
        Encoded("CBOR rows, names, numbers as they are", cbor2.dumps(rows)),
        Encoded("CBOR rows, names, float64", cbor2.dumps(floats)),
        Encoded("edgert", uncompressed(record), encode(record)),
    ]


def sparkplug(samples: Samples) -> list[Encoded]:
    """Return what pysparkplug makes of them: one DDATA with aliases; [] where it is not installed.

    Of one sample there is the DBIRTH with its names, too.
    """
    python = python_of(SPARKPLUG)
    if python is None:
        return []
    asked = {
        "names": [one.name for one in samples.schema],
        "whole": [one.scale <= 0 for one in samples.schema],
        "times": [WALL_MS + after for after in samples.after_ms],
        "rows": samples.values(),
    }
    done = subprocess.run(
        [str(python), str(_CHILD)], input=json.dumps(asked), capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout)
    kinds = ("DDATA", "DBIRTH") if len(samples.rows) == 1 else ("DDATA",)
    return [Encoded(f"Sparkplug B {kind}", bytes.fromhex(answer[kind])) for kind in kinds]


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def row_of(one: Encoded, points: int) -> tuple[str, ...]:
    """Return a row of the table."""
    return (
        one.name,
        f"{len(one.raw):,}",
        f"{one.packed:,}",
        "" if one.sent is None else f"{len(one.sent):,}",
        f"{len(one.raw) / points:.2f}",
        f"{one.packed / points:.2f}",
        "" if one.sent is None else f"{len(one.sent) / points:.2f}",
    )


def main() -> bool:
    """Print the tables; whether both bars hold on both data."""
    held = True
    for title, samples, counts in (
        ("made-up gauges", synthetic(), (60, 1)),
        ("a recorded host", recorded(), (60, 1)),
        ("gauges twice as noisy, no bar", synthetic(noise=2), (60,)),
    ):
        for count in counts:
            some = samples.first(count)
            found = [*encodings(some), *sparkplug(some)]
            points = count * len(some.schema)
            head = (
                f"{count} x {len(some.schema)}, {title}",
                "raw",
                "zlib",
                "sent",
                "raw/point",
                "zlib/point",
                "sent/point",
            )
            print(table(head, [row_of(one, points) for one in found]), end="\n\n", flush=True)
            if len(counts) == 2 and count == 60:
                own = next(one for one in found if one.name == "edgert")
                held &= len(own.raw) <= MOST_BYTES and len(own.raw) / points <= MOST_BYTES_PER_POINT
    if python_of(SPARKPLUG) is None:
        print("Sparkplug B is missing: python -m tests.bench_peers.install sparkplug")
    return held


if __name__ == "__main__":
    main()
