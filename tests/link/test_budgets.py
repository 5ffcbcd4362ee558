"""What the link may cost, by counts that no machine's speed changes: bytes on the wire, bytes on flash."""

import pytest

from edgert.errors import MissingDevice
from edgert.wire import decode, encode
from tests.bench_link_data import Samples, recorded, sketches, synthetic
from tests.bench_link_flash import MOST_BYTES_PER_DAY, Plan, trace
from tests.bench_link_wire import MOST_BYTES, MOST_BYTES_PER_POINT, encodings, uncompressed


@pytest.mark.parametrize("samples", [synthetic(), recorded()], ids=["made", "recorded"])
def test_sixty_samples_of_twenty_metrics_keep_to_their_bytes(samples: Samples) -> None:
    """At most 1,500 bytes before compression and 1.25 a point; what is sent is no larger, and is what was measured."""
    record = samples.record()
    raw, sent = uncompressed(record), encode(record)
    assert (len(samples.rows), len(samples.schema)) == (60, 20)
    assert len(raw) <= MOST_BYTES
    assert len(raw) / 1200 <= MOST_BYTES_PER_POINT
    assert len(sent) <= len(raw)
    assert decode(sent, "tel") == decode(raw, "tel") == record


@pytest.mark.parametrize("samples", [synthetic(), recorded()], ids=["made", "recorded"])
def test_wire_format_is_smaller_than_the_others(samples: Samples) -> None:
    """Than JSON and plain CBOR before compression and behind it, for a batch and for a single sample."""
    for some in (samples, samples.first(1)):
        *others, own = encodings(some)
        assert own.name == "edgert"
        assert own.sent is not None
        assert all(3 * len(own.raw) < len(one.raw) for one in others)
        assert all(len(own.sent) < one.packed for one in others)


def test_record_of_sketches_stays_small() -> None:
    """All that a classifier tells of a window of thousands of calls."""
    record = synthetic(1).record()
    body = sketches()
    assert len(encode(type(record)(record.epoch, 1, 1, record.at, body))) < 700


def test_day_of_reports_writes_at_most_ten_megabytes() -> None:
    """288 transactions with a batch and sketches, each acknowledged: every byte that a system call hands over."""
    try:
        traced = trace(Plan())
    except MissingDevice as exc:
        pytest.skip(f"{exc.message}; {exc.remedy}")
    assert 288 * 4096 < traced.total <= MOST_BYTES_PER_DAY
    assert set(traced.bytes) >= {"-wal", "database", ".numbers"}
    assert traced.syncs < 288
