"""Is the imported graph the model that was given? The framework itself answers, on the calibration samples.

Running the framework is left to the source's `rerun`; this writes the samples for it and compares.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from converters.request import Check, Progress
from converters.sources.imported import Imported
from converters.verify.parity import OutputParity, ParityMeter, below
from edgert.errors import EnvironmentFailed, GateFailed
from edgert.runtime.arrays import read_npz

FLOAT_DB = 40.0
"""The least SQNR of a float model: rounding in another order of sums stays far above it, a wrong operator far below."""

QUANTIZED_DB = 20.0
"""The least for a model that came quantized: a value between two steps may round to either of them in each layer."""

REPLAYED = 8
"""How many samples each variant of a bundle is compared with the source on."""

CPU = "CPUExecutionProvider"


class Runner(Protocol):
    """What a comparison needs of a session."""

    def run(self, feeds: Mapping[str, np.ndarray], /) -> dict[str, np.ndarray]:
        """Run once."""


@dataclass(frozen=True)
class SourceCheck:
    """What the source itself gave: `outputs` holds an `.npz` per sample, `samples` the inputs; the graph's parity."""

    framework: str
    samples: Path
    outputs: Path
    parity: Mapping[str, OutputParity]
    count: int

    def replay(self, session: Runner, limit: int = REPLAYED) -> Check:
        """Compare a variant on the CPU with what the source gave, on the first `limit` samples."""
        meter = ParityMeter()
        count = 0
        for feeds, expected in _pairs(self.samples, self.outputs, limit):
            meter.add(expected, session.run(feeds))
            count += 1
        return Check(CPU, "host", count, meter.result(), reference="source", note=self.framework)

    def to_json(self) -> dict[str, object]:
        """Return the check of the imported graph as it stands in `measurements.json`."""
        return Check(CPU, "host", self.count, self.parity, reference="source", note=self.framework).to_json()


def check_source(
    imported: Imported,
    part: str,
    original: Runner,
    samples: Iterator[Mapping[str, np.ndarray]],
    scratch: Path,
    least_db: float | None,
    progress: Progress,
) -> SourceCheck | None:
    """Run the source on `samples` and compare the imported graph with it; None where the model came as ONNX.

    Raises GateFailed that names each output whose SQNR is below `least_db` (None: 40 dB, or 20 dB where the source is
    quantized), or whose labels differ.
    """
    if imported.rerun is None:
        return None
    folder = scratch / f"source-{part or 'main'}"
    inputs, outputs = folder / "samples", folder / "outputs"
    inputs.mkdir(parents=True)
    outputs.mkdir()
    count = 0
    for count, feeds in enumerate(samples, start=1):
        np.savez(inputs / f"{count - 1:04d}.npz", allow_pickle=False, **feeds)
    progress(f"running the source itself ({imported.framework})", 0, 0)
    imported.rerun(inputs, outputs, part)
    meter = ParityMeter()
    for feeds, expected in _pairs(inputs, outputs, count):
        meter.add(expected, original.run(feeds))
    parity = meter.result()
    least = least_db if least_db is not None else QUANTIZED_DB if imported.quantized else FLOAT_DB
    wrong = below(parity, least)
    if wrong:
        what = f"the part '{part}' of the imported graph" if part else "the imported graph"
        raise GateFailed(
            f"{what} is not what {imported.framework} runs: {'; '.join(wrong)} ({least:g} dB are asked)",
            "if your own function makes the model, fix its seed: it is called again to compare; else try another "
            "version of the exporter, or ONNX made by hand; --parity N lowers the bar, at your own risk",
        )
    return SourceCheck(imported.framework, inputs, outputs, parity, count)


def _pairs(samples: Path, outputs: Path, limit: int) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    for file in sorted(samples.glob("*.npz"))[:limit]:
        answer = outputs / file.name
        if not answer.is_file():
            raise EnvironmentFailed(
                f"the source gave nothing for sample {file.stem}", "try again; report it if it stays"
            )
        yield read_npz(file), read_npz(answer)
