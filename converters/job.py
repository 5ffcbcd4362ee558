"""The workbench of one conversion: what all profiles of a call share, and what one profile's candidates need.

Deciding which candidate wins is left to `converters.candidates`; the order of the steps to `converters.pipeline`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime

from converters.answers import Answers, Pair
from converters.calibrations import Calibrations, CalibrationSettings
from converters.generation import Generation
from converters.graphs import INTEGERS, SPEED, FloatGraph, Normalised, Pass, Step, float_graph, for_integers, normalised
from converters.passes.blocked_layout import block_of, has_blocked_layout
from converters.quantize.bias_correction import correct_bias
from converters.quantize.calibrate import Statistics
from converters.quantize.equalise import equalise
from converters.quantize.graph_digest import graph_digest
from converters.quantize.observers import TensorRange
from converters.quantize.plan import Plan
from converters.quantize.weight_rounding import round_weights
from converters.request import Request
from converters.samples import Samples
from converters.search_cache import SearchCache, file_digest
from converters.source_parity import SourceCheck
from converters.sources.imported import Imported
from converters.variants import WeightsFile, variant_bytes, write_variant
from converters.verify.evaluation import AGREEMENT, Evaluation, Run
from converters.verify.parity import PARITY_METRICS, OutputParity, ParityMeter, gate_value
from edgert import __version__
from edgert.errors import BadInput
from edgert.host import HostFacts
from edgert.manifest import TensorSpec
from edgert.profile import DeviceProfile, is_of_class
from edgert.runtime.placement import where
from edgert.runtime.providers import ProviderDevice
from edgert.runtime.session import RunFailed, Session
from edgert.runtime.timing import TURN_S, Latency, interleave, summarise

TIMING_ROUNDS = 12
ROUNDING_SAMPLES = 16
"""How many samples weights are rounded for: the moments of a layer settle with few."""

ANSWERS_SHARE = 0.125
"""The share of --memory-budget that what the original gives for the samples may take."""

LEAST_AGREEMENT = 0.9999
"""The least cosine, or share of equal labels, that the float graph must have: passes change rounding, nothing else."""


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
    evaluation: Evaluation | None = None
    reference_score: float | None = None
    distributions: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    limited_scores: dict[int, float] = field(default_factory=dict)
    normalised: dict[object, Normalised] = field(default_factory=dict)
    graphs: dict[object, FloatGraph] = field(default_factory=dict)
    calibrations: Calibrations = field(default_factory=Calibrations)
    ranges: dict[object, Mapping[str, TensorRange]] = field(default_factory=dict)
    rankings: dict[object, Any] = field(default_factory=dict)
    hints: dict[object, Any] = field(default_factory=dict)
    findings: dict[object, Any] = field(default_factory=dict)
    latencies: dict[str, Latency] = field(default_factory=dict)
    cache: SearchCache = field(default_factory=SearchCache)
    begun_s: float = field(default_factory=time.monotonic)
    written: int = 0
    answers: Answers = field(init=False)

    def __post_init__(self) -> None:
        self.answers = Answers(self.original.run, self.samples, int(self.request.memory_budget * ANSWERS_SHARE))

    def evaluation_json(self) -> dict[str, object]:
        """Return what the variants are judged by, and what the original itself has."""
        if self.evaluation is not None:
            return {**self.evaluation.recipe_json(), "original": self.reference_score, "note": self.evaluation.note}
        said = {"metric": self.request.metric, "kind": "agreement", "samples": self.samples.count, "digest": ""}
        return {**said, "original": 1.0, "note": AGREEMENT}

    def host_json(self) -> dict[str, object]:
        """Return what this machine is."""
        return {"system": self.host.system, "arch": self.host.arch, "cpu": self.host.cpu_name, "cores": self.host.cores}

    def original_score(self, limit: int | None) -> float:
        """Return the score of the original over at most `limit` samples, measured once for each limit."""
        assert self.evaluation is not None
        everything = limit is None or (self.evaluation.samples is not None and limit >= self.evaluation.samples)
        if everything and self.reference_score is not None:
            return self.reference_score
        key = 0 if limit is None else limit
        if key not in self.limited_scores:
            self.limited_scores[key] = self.evaluation.original_score(self.original.run, limit)
        return self.limited_scores[key]


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

    def pairs(self, limit: int | None = None) -> Iterator[Pair]:
        """Iterate over the samples, at most `limit` of them, with what the original gives for each."""
        return self.shared.answers.pairs(limit)

    @property
    def graph_processor(self) -> str:
        """The kind of processor whose float graph the profile's candidates are made of: a GPU gets that of the CPU."""
        return "npu" if self.profile.processor == "npu" else "cpu"

    def float_graph(self, processor: str, *, speed: bool = True) -> FloatGraph:
        """Return the float graph for `processor` ("npu", "gpu", "cpu"), made once per call and kind.

        Where the samples' shapes make the graph invalid (a branch for another input size that never runs), only the
        shapes asked for are fixed.
        """
        return self._graph(replace(self.profile, processor=processor), SPEED, speed=speed)

    @property
    def integer_graph(self) -> FloatGraph:
        """The float graph that integer candidates are made of; that of all CPU profiles is one."""
        if self.graph_processor == "npu":
            return self.float_graph("npu")
        return self._graph(for_integers(self.profile), INTEGERS)

    def _graph(self, profile: DeviceProfile, passes: Sequence[Pass], *, speed: bool = True) -> FloatGraph:
        layout = block_of(profile) if has_blocked_layout(profile) else 0
        key = (profile.processor, speed, passes, profile.opset, layout, tuple(sorted(self.shapes.items())))
        if key not in self.shared.graphs:
            self.progress(f"graph passes for {profile.processor}")
            passes, agrees = (passes, self._agrees) if speed else ((), None)
            graph = float_graph(self._normalised(self.shapes, speed=speed), profile, passes=passes, agrees=agrees)
            if self.shapes != self.request.shapes and not self._loads(graph):
                begin = self._normalised(self.request.shapes, speed=speed)
                graph = float_graph(begin, profile, passes=passes, agrees=agrees)
            self.shared.graphs[key] = self._known(graph)
        return self.shared.graphs[key]

    def _normalised(self, shapes: Mapping[str, tuple[int, ...]], *, speed: bool) -> Normalised:
        """Return the model with these input shapes, in the profile's opset unless it stays as it came."""
        key = (self.profile.opset if speed else None, tuple(sorted(shapes.items())))
        if key not in self.shared.normalised:
            self.shared.normalised[key] = normalised(self.path, self.profile, shapes, speed=speed)
        return self.shared.normalised[key]

    def _known(self, graph: FloatGraph) -> FloatGraph:
        """Return the equal graph of another profile where there is one: all that is learnt of it serves both."""
        digest = ("digest", graph_digest(graph.model, {}), graph.steps)
        return self.shared.graphs.setdefault(digest, graph)

    def _agrees(self, model: ir.Model) -> bool:
        """Say whether a graph gives on the first sample what the original does; one that does not load is no answer."""
        feeds, expected = next(self.pairs(1))
        try:
            with self.open_cpu(self.write(model, "agrees").path) as session:
                meter = ParityMeter()
                meter.add(expected, session.run(feeds))
        except (BadInput, RunFailed):
            return True
        return all(one.cosine_min >= LEAST_AGREEMENT for one in meter.result().values())

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

    def statistics_of(self, graph: FloatGraph) -> Statistics:
        """Return what the samples make of every tensor of a float graph; each graph is calibrated at most once."""
        settings = CalibrationSettings(
            self.shared.scratch,
            self.request.memory_budget,
            self.request.threads,
            lambda done, total: self.progress("calibrating", done, total),
        )
        return self.shared.calibrations.statistics(
            graph.model, self.shared.samples, self.shared.static_shapes, settings
        )

    def ranges(self, graph: FloatGraph, method: str, levels: int = 256) -> Mapping[str, TensorRange]:
        """Return the ranges of all float tensors of a float graph, for encodings of `levels` steps."""
        statistics = self.statistics_of(graph)
        key = (id(statistics), method, levels)  # statistics live as long as the call
        if key not in self.shared.ranges:
            self.shared.ranges[key] = statistics.choose(method, levels)
        return self.shared.ranges[key]

    def equalised(self) -> FloatGraph | None:
        """Return the integer graph with channels of more equal size; None where none were worth it."""
        graph = self.integer_graph
        key = ("equalised", id(graph))
        if key not in self.shared.graphs:
            result = equalise(graph.model, self.statistics_of(graph))
            steps = (*graph.steps, Step("equalise", len(result.scaled), result.notes))
            self.shared.graphs[key] = replace(graph, model=result.model, steps=steps)
        found = self.shared.graphs[key]
        return found if found.changes()["equalise"] else None

    def rounded(self, graph: FloatGraph, plan: Plan) -> FloatGraph:
        """Return a copy of a float graph whose weights are rounded to `plan` for the inputs that samples give them."""
        shared, feeds = self.shared, _Repeated(lambda: self.feeds(ROUNDING_SAMPLES))
        result = round_weights(
            graph.model, plan, feeds, workdir=shared.scratch, device=shared.cpu, threads=self.request.threads
        )
        return replace(graph, model=result.model, steps=(*graph.steps, Step("round_weights", len(result.layers), ())))

    def corrected(self, graph: FloatGraph, plan: Plan) -> FloatGraph:
        """Return a copy of a float graph whose biases make up for the rounding that `plan` does."""
        shared = self.shared
        result = correct_bias(
            graph.model, plan, self.feeds(), workdir=shared.scratch, device=shared.cpu, threads=self.request.threads
        )
        return replace(graph, model=result.model, steps=(*graph.steps, Step("correct_bias", len(result.shifts), ())))

    def write(self, model: ir.Model, name: str) -> Written:
        """Write a candidate into a scratch folder of its own."""
        self.shared.written += 1
        folder = self.shared.scratch / f"{self.shared.written:02d}-{name}"
        folder.mkdir()
        path = write_variant(model, name, WeightsFile(folder), folder)
        return Written(model, path, variant_bytes(path))

    def open_cpu(self, path: Path) -> Session:
        """Open a variant on this machine's CPU, through the session that a device uses."""
        return Session.open(path, self.shared.cpu, threads=self.request.threads)

    def where(self, device: ProviderDevice) -> str:
        """Say what a figure taken on `device` is: "host", "device" or "emulated", as on a newer class of CPU."""
        found = where(device, self.profile.arch, self.profile.isa, self.shared.host)
        return "emulated" if found == "host" and not is_of_class(self.profile, self.shared.host) else found

    def compare(
        self, session: "Session | _Timed", name: str, stage: str, limit: int | None = None, *, whole: bool = True
    ) -> dict[str, OutputParity]:
        """Run the samples through the original and `session`, and return the parity.

        Unless it must be `whole`, it ends with the sample after which the gate cannot hold, whatever the others give.
        """
        meter, generation = ParityMeter(), self.shared.generation
        total = min(self.shared.samples.count, limit or self.shared.samples.count)
        may_stop = not whole and self.shared.evaluation is None and generation is None
        may_stop = may_stop and self.request.metric == "cosine"
        for done, (feeds, expected) in enumerate(self.pairs(limit)):
            self.progress(stage, done, total)
            meter.add(expected, session.run(feeds))
            if may_stop and not self.holds(meter.highest_cosine(total)):
                return meter.result()
        if generation and limit is None:
            self.progress(f"generating with {name}")
            generation.judge(session.run, meter)
        return meter.result()

    def is_out_of_time(self) -> bool:
        """Say whether the time for this call is used up, so that no further candidate is begun."""
        budget = self.request.time_budget_s
        return budget is not None and time.monotonic() - self.shared.begun_s > budget

    def parity_of(self, name: str, written: Written, session: Session) -> dict[str, OutputParity]:
        """Return the parity of what was written, open as `session` on the CPU; it is measured once for all time.

        It is that of fewer samples where these are enough to say that the gate does not hold, see `seen`.
        """
        parts = self.measured_of("parity", file_digest(written.path))
        found = self.shared.cache.get(parts)
        if found is not None:
            kept = {output: OutputParity(**entry) for output, entry in found.items() if isinstance(entry, dict)}
            if not self.seen(kept) or not self.holds(self.gate(kept)):
                return kept
        parity = self.compare(session, name, f"comparing {name}", whole=False)
        self.shared.cache.put(parts, {output: asdict(entry) for output, entry in parity.items()})
        return parity

    def measured_of(self, what: str, file: str) -> dict[str, object]:
        """Return all that an accuracy depends on, for a variant whose files have the digest `file`."""
        shared = self.shared
        return {
            "what": what,
            "file": file,
            "original": shared.imported.sha256,
            "part": shared.part,
            "tools": dict(shared.imported.tools),
            "samples": shared.samples.digest,
            "threads": self.request.threads,
            "cpu": shared.host.cpu_name,
            "onnxruntime": onnxruntime.__version__,
            "edgert": __version__,
        }

    def evaluate(self, run: Run, limit: int | None = None) -> float | None:
        """Return the score of a model over at most `limit` samples, None where the parity of its outputs is judged."""
        if self.shared.evaluation is None:
            return None
        self.progress(f"scoring by {self.shared.evaluation.metric}")
        return self.shared.evaluation.measure(run, limit)

    def gate(self, parity: Mapping[str, OutputParity], score: float | None = None, limit: int | None = None) -> float:
        """Return the value that `--max-drop` judges: with a score 1 - how much worse it is than the original's.

        Without one it is the parity's metric, the cosine where the metric is none that a parity answers. `limit` is
        the one that the score was measured with.
        """
        if self.shared.evaluation is not None and score is not None:
            return self.shared.evaluation.gate_value(score, self.shared.original_score(limit))
        return gate_value(parity, self.request.metric if self.request.metric in PARITY_METRICS else "cosine")

    def holds(self, value: float) -> bool:
        """Say whether a gate value is within `--max-drop` of the original, which has 1.0."""
        return value >= 1.0 - self.request.max_drop

    def seen(self, parity: Mapping[str, OutputParity]) -> str:
        """Say of how many samples a parity is, with a space in front; "" where it is of all."""
        samples, every = min((one.samples for one in parity.values()), default=0), self.shared.samples.count
        return f" after {samples} of {every} samples" if 0 < samples < every else ""

    def run_on(
        self, device: ProviderDevice, session: Session, name: str
    ) -> tuple[dict[str, OutputParity], int, Latency]:
        """Compare and time a session on an accelerator; returns the parity, over how many samples, and the latency.

        An emulator takes seconds for a sample and its time is not the device's: it gets only the first few samples,
        and no runs of their own for timing.
        """
        limit = self.request.emulator_samples if device.emulated else self.shared.samples.count
        timed = _Timed(session)
        parity = self.compare(timed, name, f"running {name} on {device.provider}", limit)
        samples = min(self.shared.samples.count, limit)
        if device.emulated:
            return parity, samples, summarise([timed.milliseconds], [timed.milliseconds])
        return parity, samples, self.time({"original": self.shared.original, name: session}, rounds=10)[name]

    def time_alone(self, name: str, written: Written, session: Session, rounds: int) -> Latency:
        """Time a variant against the original where the time is not the device's: once per call for equal files."""
        digest = file_digest(written.path)
        if digest not in self.shared.latencies:
            times = self.time({"original": self.shared.original, name: session}, rounds=rounds)
            self.shared.latencies[digest] = times[name]
        return self.shared.latencies[digest]

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


class _Repeated:
    """An iterable that starts anew each time."""

    def __init__(self, begin: Callable[[], Iterator[Mapping[str, np.ndarray]]]) -> None:
        self._begin = begin

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
        return self._begin()


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
