"""The workbench of one conversion: what all profiles of a call share, and what one profile's candidates need.

Deciding which candidate wins is left to `converters.candidates`; the order of the steps to `converters.pipeline`.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import onnx_ir as ir

from converters.generation import Generation
from converters.graphs import FloatGraph, float_graph
from converters.quantize.calibrate import calibrate
from converters.quantize.observers import TensorRange
from converters.request import Request
from converters.samples import Samples
from converters.source_parity import SourceCheck
from converters.sources.imported import Imported
from converters.variants import WeightsFile, variant_bytes, write_variant
from converters.verify.parity import OutputParity, ParityMeter, gate_value
from edgert.errors import BadInput
from edgert.host import HostFacts
from edgert.manifest import TensorSpec
from edgert.profile import DeviceProfile
from edgert.runtime.placement import where
from edgert.runtime.providers import ProviderDevice
from edgert.runtime.session import Session
from edgert.runtime.timing import TURN_S, Latency, interleave, summarise

TIMING_ROUNDS = 12


@dataclass(frozen=True)
class Written:
    """A variant in the scratch folder: its model, its file, and its size in bytes with the tensors it uses."""

    model: ir.Model
    path: Path
    bytes: int


@dataclass
class Shared:
    """What all profiles of one call share: the original, the samples, and what was already worked out.

    `part` names the graph of `imported` that is converted, "" the main one; `generation` judges it where it generates
    tokens one after the other.
    """

    request: Request
    original: Session
    samples: Samples
    inputs: tuple[TensorSpec, ...]
    host: HostFacts
    cpu: ProviderDevice
    scratch: Path
    imported: Imported
    part: str
    generation: Generation | None
    source_check: SourceCheck | None
    static_shapes: Mapping[str, tuple[int, ...]]
    graphs: dict[object, FloatGraph] = field(default_factory=dict)
    ranges: dict[object, Mapping[str, TensorRange]] = field(default_factory=dict)
    written: int = 0


@dataclass
class Job:
    """One profile's conversion on the shared workbench."""

    shared: Shared
    profile: DeviceProfile

    @property
    def path(self) -> Path:
        """The ONNX file that is converted: the imported model's main graph, or one of its parts."""
        return self.shared.imported.parts[self.shared.part] if self.shared.part else self.shared.imported.path

    @property
    def request(self) -> Request:
        """The request this job is part of."""
        return self.shared.request

    def progress(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Report a stage of this profile."""
        self.request.progress(f"{self.profile.id}: {stage}", done, total)

    def feeds(self, limit: int | None = None) -> Iterator[Mapping[str, np.ndarray]]:
        """Iterate over the samples, at most `limit` of them."""
        return islice(iter(self.shared.samples), limit)

    def float_graph(self, processor: str, *, speed: bool = True) -> FloatGraph:
        """Return the float graph for `processor` ("npu", "gpu", "cpu"), made once per call and kind.

        Where the samples' shapes make the graph invalid (a branch for another input size that never runs), only the
        shapes asked for are fixed.
        """
        key = (processor, speed, self.profile.opset, tuple(sorted(self.shapes.items())))
        if key not in self.shared.graphs:
            self.progress(f"graph passes for {processor}")
            profile = replace(self.profile, processor=processor)
            graph = float_graph(self.path, profile, self.shapes, speed=speed)
            if self.shapes != self.request.shapes and not self._loads(graph):
                graph = float_graph(self.path, profile, self.request.shapes, speed=speed)
            self.shared.graphs[key] = graph
        return self.shared.graphs[key]

    def _loads(self, graph: FloatGraph) -> bool:
        try:
            self.open_cpu(self.write(graph.model, "shapes").path).close()
        except BadInput:
            return False
        return True

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The input shapes to fix: those asked for, and all of them where the profile takes only static ones."""
        return self.shared.static_shapes if self.profile.shapes == "static" else self.request.shapes

    def ranges(self, processor: str, method: str) -> Mapping[str, TensorRange]:
        """Return the ranges of all float tensors of the float graph for `processor`, calibrated once per call."""
        key = (processor, self.profile.opset, tuple(sorted(self.shapes.items())), method)
        if key not in self.shared.ranges:
            self.shared.ranges[key] = calibrate(
                self.float_graph(processor).model,
                self.shared.samples,
                method=method,
                workdir=self.shared.scratch,
                progress=lambda done, total: self.progress(f"calibrating ({method})", done, total),
            )
        return self.shared.ranges[key]

    def write(self, model: ir.Model, name: str) -> Written:
        """Write a candidate into a scratch folder of its own."""
        self.shared.written += 1
        folder = self.shared.scratch / f"{self.shared.written:02d}-{name}"
        folder.mkdir()
        path = write_variant(model, name, WeightsFile(folder), folder)
        return Written(model, path, variant_bytes(model, path))

    def open_cpu(self, path: Path) -> Session:
        """Open a variant on this machine's CPU, through the session that a device uses."""
        return Session.open(path, self.shared.cpu, threads=self.request.threads)

    def where(self, device: ProviderDevice) -> str:
        """Say what a figure taken on `device` is: "host", "device" or "emulated"."""
        return where(device, self.profile.arch, self.profile.isa, self.shared.host)

    def compare(
        self, sessions: Mapping[str, "Session | _Timed"], stage: str, limit: int | None = None
    ) -> dict[str, dict[str, OutputParity]]:
        """Run the samples through the original and all `sessions`, and return the parity of each of them."""
        meters = {name: ParityMeter() for name in sessions}
        total = min(self.shared.samples.count, limit or self.shared.samples.count)
        for done, feeds in enumerate(self.feeds(limit)):
            self.progress(stage, done, total)
            expected = self.shared.original.run(feeds)
            for name, session in sessions.items():
                meters[name].add(expected, session.run(feeds))
        if self.shared.generation and limit is None:
            for name, session in sessions.items():
                self.progress(f"generating with {name}")
                self.shared.generation.judge(session.run, meters[name])
        return {name: meter.result() for name, meter in meters.items()}

    def gate(self, parity: Mapping[str, OutputParity]) -> float:
        """Return the value that `--max-drop` judges."""
        return gate_value(parity, self.request.metric)

    def holds(self, value: float) -> bool:
        """Say whether a gate value is within `--max-drop` of the original, which has 1.0."""
        return value >= 1.0 - self.request.max_drop

    def run_on(
        self, device: ProviderDevice, session: Session, name: str
    ) -> tuple[dict[str, OutputParity], int, Latency]:
        """Compare and time a session on an accelerator; returns the parity, over how many samples, and the latency.

        An emulator takes seconds for a sample and its time is not the device's: it gets only the first few samples,
        and no runs of their own for timing.
        """
        limit = self.request.emulator_samples if device.emulated else self.shared.samples.count
        timed = _Timed(session)
        parity = self.compare({name: timed}, f"running {name} on {device.provider}", limit)[name]
        samples = min(self.shared.samples.count, limit)
        if device.emulated:
            return parity, samples, summarise([timed.milliseconds], [timed.milliseconds])
        return parity, samples, self.time({"original": self.shared.original, name: session}, rounds=10)[name]

    def time(
        self,
        sessions: Mapping[str, Session],
        *,
        rounds: int = TIMING_ROUNDS,
        warmup: int = 1,
        turn_s: float = TURN_S,
    ) -> dict[str, Latency]:
        """Time `sessions` against each other on the first sample; the first of them is the baseline."""
        self.progress("timing in interleaved turns")
        feeds = next(self.feeds(1))
        calls = {name: (lambda session=session: session.run(feeds)) for name, session in sessions.items()}
        return interleave(calls, rounds=rounds, budget_s=self.request.budget_s, warmup=warmup, turn_s=turn_s)


class _Timed:
    """A session that notes how long each run took, in milliseconds."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.milliseconds: list[float] = []

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        start = time.perf_counter()
        outputs = self._session.run(feeds)
        self.milliseconds.append((time.perf_counter() - start) * 1000)
        return outputs
