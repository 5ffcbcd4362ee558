"""Statistics kept from call to call, so that the same graph is calibrated on the same samples once.

A file holds a SHA-256 over its content, then an npz of plain arrays. What is damaged is deleted and made anew: nothing
is read from a file that is not whole. A cache that cannot be written is no failure: the caller is told and goes on.
"""

import contextlib
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from converters.quantize.calibrate import Statistics
from converters.quantize.observers import BINS, ChannelStatistics, Extremes, Histogram, TensorRange
from converters.quantize.probes import SAMPLED
from edgert.disk import disk_failed, replaced_file
from edgert.errors import EnvironmentFailed

FORMAT = 1
MOST_BYTES = 200_000_000
_SUFFIX = ".stats"
_DIGEST_BYTES = 32

Array = NDArray[Any]


def statistics_key(graph: str, samples: str) -> str:
    """Return the name under which the statistics of a graph on samples are kept; both are digests in hex."""
    made_by = (FORMAT, SAMPLED, BINS, onnxruntime.__version__, np.__version__)
    return hashlib.sha256(repr((graph, samples, made_by)).encode()).hexdigest()


def load_statistics(folder: Path, key: str) -> Statistics | None:
    """Return what is kept under `key`, or None; a file that is damaged, or of another key, is deleted."""
    path = folder / f"{key}{_SUFFIX}"
    try:
        data = path.read_bytes()
    except OSError:
        return None
    try:
        statistics = _decode(data, key)
    except (ValueError, KeyError, TypeError, IndexError, OSError, EOFError, zipfile.BadZipFile):
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # the oldest files go first
    return statistics


def store_statistics(folder: Path, key: str, statistics: Statistics) -> str:
    """Keep `statistics` under `key`; return "" or, where that fails, a sentence that says why.

    The oldest files go until at most MOST_BYTES are left; what is larger alone is not kept.
    """
    data = _encode(statistics, key)
    path = folder / f"{key}{_SUFFIX}"
    if len(data) > MOST_BYTES:
        return f"the statistics of this calibration are not kept: {len(data)} bytes are more than {MOST_BYTES}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_room(folder, MOST_BYTES - len(data))
        with replaced_file(path) as file:
            file.write(data)
    except OSError as exc:
        return f"the statistics of this calibration are not kept: {disk_failed(exc, path, len(data)).message}"
    except EnvironmentFailed as exc:
        return f"the statistics of this calibration are not kept: {exc.message}"
    return ""


def _make_room(folder: Path, room: int) -> None:
    """Delete the files used longest ago until the rest has at most `room` bytes."""
    found: list[tuple[float, int, Path]] = []
    for path in folder.glob(f"*{_SUFFIX}*"):
        with contextlib.suppress(OSError):  # another process may delete it first
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= room:
            return
        path.unlink(missing_ok=True)
        total -= size


def _encode(statistics: Statistics, key: str) -> bytes:
    names = list(statistics.ranges)
    counted = [name for name in names if name in statistics.histograms]
    told_apart = [name for name in names if name in statistics.channels]
    ranges = [statistics.ranges[name] for name in names]
    histograms = [statistics.histograms[name] for name in counted]
    channels = [statistics.channels[name] for name in told_apart]
    header = {
        "key": key,
        "samples": statistics.samples,
        "names": names,
        "histograms": counted,
        "channels": told_apart,
        "axes": [one.axis for one in channels],
    }
    arrays: dict[str, Array] = {
        "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
        "ranges": np.array([(one.minimum, one.maximum, one.absmax) for one in ranges], np.float64).reshape(-1, 3),
        "elements": np.array([one.count for one in ranges], np.int64),
        "counts": np.array([one.counts for one in histograms], np.int64).reshape(-1, BINS),
        "places": np.array([(one.exponent, one.first) for one in histograms], np.int64).reshape(-1, 2),
        "bounds": np.array([(one.extremes.minimum, one.extremes.maximum) for one in histograms], np.float64).reshape(
            -1, 2
        ),
        "widths": np.array([one.mean.size for one in channels], np.int64),
    }
    for what in ("minimum", "maximum", "mean"):
        vectors = [getattr(one, what) for one in channels]
        arrays[f"channel_{what}"] = np.concatenate([np.zeros(0, np.float32), *vectors])
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    content = file.getvalue()
    return hashlib.sha256(content).digest() + content


def _decode(data: bytes, key: str) -> Statistics:
    """Return the statistics in a file; ValueError and the like for anything but what `_encode` wrote under `key`."""
    content = data[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != data[:_DIGEST_BYTES]:
        raise ValueError("the content is not the one that was written")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        header: Mapping[str, Any] = json.loads(arrays["header"].tobytes())
        if header["key"] != key:
            raise ValueError("the file holds other statistics")
        return Statistics(
            ranges=dict(zip(header["names"], _ranges(arrays), strict=True)),
            histograms=dict(zip(header["histograms"], _histograms(arrays), strict=True)),
            samples=int(header["samples"]),
            channels=dict(zip(header["channels"], _channels(arrays, header["axes"]), strict=True)),
        )


def _ranges(arrays: Mapping[str, Array]) -> Iterator[TensorRange]:
    for (minimum, maximum, absmax), count in zip(arrays["ranges"].tolist(), arrays["elements"].tolist(), strict=True):
        yield TensorRange(minimum, maximum, absmax, count)


def _histograms(arrays: Mapping[str, Array]) -> Iterator[Histogram]:
    rows = zip(arrays["counts"], arrays["places"].tolist(), arrays["bounds"].tolist(), strict=True)
    for counts, (exponent, first), (minimum, maximum) in rows:
        yield Histogram(counts.copy(), exponent, first, Extremes(minimum, maximum, 1))


def _channels(arrays: Mapping[str, Array], axes: Sequence[int]) -> Iterator[ChannelStatistics]:
    ends = np.cumsum(arrays["widths"])[:-1]
    parts = [np.split(arrays[f"channel_{what}"], ends) if axes else [] for what in ("minimum", "maximum", "mean")]
    for minimum, maximum, mean, axis in zip(*parts, axes, strict=True):
        yield ChannelStatistics(minimum, maximum, mean, axis)
