"""The engine "quantize_static": ONNX Runtime's post-training quantization, min-max, QDQ, per-channel, u8 x s8.

These are the documentation's words for x86-64 with VNNI: QDQ format, U8S8, per-channel where accuracy counts.
"""

from collections.abc import Iterator
from pathlib import Path

from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from tests.bench_peers.ort_preprocess import preprocessed
from tests.bench_peers.ort_session import open_session
from tests.bench_peers.protocol import Arrays, Prepared, Task, samples, serve

SETTINGS = {
    "quant_format": QuantFormat.QDQ,
    "activation_type": QuantType.QUInt8,
    "weight_type": QuantType.QInt8,
    "calibrate_method": CalibrationMethod.MinMax,
}


class Reader(CalibrationDataReader):
    """The samples of a folder, one at a time."""

    def __init__(self, folder: Path) -> None:
        self._samples: Iterator[Arrays] = samples(folder)

    def get_next(self) -> Arrays | None:
        """Return the next sample, None after the last."""
        return next(self._samples, None)


def prepare(task: Task) -> Prepared:
    """Quantize per channel, and per tensor where that cannot be written or opened."""
    source, notes = preprocessed(task)
    told = f"{notes}, quantize_static QDQ U8S8 MinMax"
    try:
        return open_session(_quantize(source, task, per_channel=True), task, f"{told} per-channel")
    except Exception as exc:  # noqa: BLE001 it raises what it likes; the table says which settings worked
        path = _quantize(source, task, per_channel=False)
        return open_session(path, task, f"{told} per-tensor (per-channel: {type(exc).__name__})")


def _quantize(source: Path, task: Task, per_channel: bool) -> Path:
    path = task.work / f"static-{per_channel}.onnx"
    quantize_static(str(source), str(path), Reader(task.calibration), per_channel=per_channel, **SETTINGS)
    return path


if __name__ == "__main__":
    serve(prepare)
