"""What one call of the converter is asked for and what it answers: plain data, no work."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from converters.verify.parity import OutputParity
from edgert.image_spec import ImageSpec
from edgert.json_fields import flat_name
from edgert.runtime.timing import Latency

if TYPE_CHECKING:
    from converters.recipe import Recipe

Progress = Callable[[str, int, int], None]
"""Called as progress(stage, done, total); total 0 means that the end is not known."""

PRECISIONS = ("auto", "fp32", "fp16", "int8", "mixed", "w8a16", "w8", "int4")


def no_progress(stage: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Request:
    """One conversion: a model file, the profiles it is for, and how far a variant may fall behind the original.

    `shapes`: input name -> static shape. `calibration`: a folder, file, `module:function` or `random`.
    `max_drop`: largest allowed fall of `metric` from the original's. `emulator_samples`: how many samples run on an
    emulated accelerator, which takes seconds each. `budget_s`: seconds spent on timing one profile's variants.
    `memory_budget`: bytes that calibration may hold at once beside the weights; an eighth as much keeps what the
    original gives for the samples.
    `metric`: a word of `converters.verify.metrics`, "" for the one that suits. `labels`: a file of right answers;
    `evaluate`: a `module:function` that scores a model.

    `source` to `trust_pickle` say how a model that is not ONNX is imported, see `converters.sources.imported.Options`.
    `parity_db`: the least SQNR of the imported graph against the source itself; None for the default. `classes`: a file
    of class names. An image rule for "" is for the only input. `replay`: the recipe whose candidate is built, without a
    search.
    """

    model: Path
    profiles: tuple[str, ...]
    output: Path
    calibration: str | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    images: Mapping[str, ImageSpec] = field(default_factory=dict)
    precision: str = "auto"
    max_drop: float = 0.01
    metric: str = ""
    labels: Path | None = None
    evaluate: str | None = None
    license: str | None = None
    name: str | None = None
    version: str = "1"
    folder: bool = False
    threads: int = 0
    samples: int = 64
    emulator_samples: int = 2
    budget_s: float = 6.0
    memory_budget: float = 1e9
    source: str | None = None
    task: str | None = None
    dynamic: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    factory: str | None = None
    submodule: str | None = None
    trust_pickle: bool = False
    parity_db: float | None = None
    classes: Path | None = None
    time_budget_s: float | None = None
    replay: "Recipe | None" = None
    progress: Progress = no_progress

    @property
    def bundle_name(self) -> str:
        """The name that bundles get: the one asked for, else the model's file, folder or function."""
        plain = self.model.name if self.model.is_dir() else self.model.stem
        function = str(self.model).rpartition(":")[2] if not self.model.exists() else ""
        return flat_name(self.name or function or plain)


@dataclass(frozen=True)
class Check:
    """One parity measurement of a variant: where it ran, on which provider, over how many samples."""

    provider: str
    where: str
    samples: int
    outputs: Mapping[str, OutputParity]
    reference: str = "onnx"
    note: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the entry as it stands in `measurements.json`."""
        return {
            "provider": self.provider,
            "where": self.where,
            "samples": self.samples,
            "reference": self.reference,
            "note": self.note,
            "outputs": {name: parity.to_json() for name, parity in self.outputs.items()},
        }


@dataclass(frozen=True)
class VariantReport:
    """What was measured of one variant that is in the bundle.

    `checks[0]` is the one on `provider` itself; `bytes` counts the graph file and its tensors, shared or not.
    """

    name: str
    precision: str
    bytes: int
    provider: str
    where: str
    nodes: Mapping[str, int]
    checks: Sequence[Check]
    latency: Latency | None
    note: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the entry of `convert --json`."""
        first = self.checks[0]
        return {
            "name": self.name,
            "precision": self.precision,
            "bytes": self.bytes,
            "provider": self.provider,
            "where": self.where,
            "nodes": dict(self.nodes),
            "parity": {name: parity.to_json() for name, parity in first.outputs.items()},
            "checks": [check.to_json() for check in self.checks],
            "latency_ms": self.latency.to_json(self.where) if self.latency else None,
            "speedup": self.latency.speedup if self.latency and self.where != "emulated" else None,
            "note": self.note,
        }


@dataclass(frozen=True)
class LayerDecision:
    """What one layer of an integer variant costs, and what was decided about it.

    `layer` is the name of the tensor that the node gives, which is unique. `error` is what rounding it alone adds to
    the error of the outputs, as a fall of the cosine; where `alone` is false it is its share of a group that was not
    worth splitting. `decision` is "int8", "16-bit" or "float".
    """

    layer: str
    node: str
    op_type: str
    error: float
    alone: bool
    decision: str

    def to_json(self) -> dict[str, object]:
        """Return the entry of the table of layers."""
        return {
            "layer": self.layer,
            "node": self.node,
            "op_type": self.op_type,
            "error": self.error,
            "alone": self.alone,
            "decision": self.decision,
        }


@dataclass(frozen=True)
class TensorHistogram:
    """Where the values of one tensor lie, and the range that its encoding holds.

    `counts` are those of equally wide bins from `minimum` to `maximum`. `cut` is the share of the values outside the
    chosen range. `stored` is the integer type; "float" where the tensor stays in float, and the range is what it would
    have got.
    """

    name: str
    minimum: float
    maximum: float
    chosen_minimum: float
    chosen_maximum: float
    cut: float
    stored: str
    counts: tuple[int, ...]

    def to_json(self) -> dict[str, object]:
        """Return the entry of `convert --json`."""
        return {**asdict(self), "counts": list(self.counts)}


@dataclass(frozen=True)
class StageTime:
    """How many seconds one stage of a conversion took, all its turns together."""

    stage: str
    seconds: float

    def to_json(self) -> dict[str, object]:
        """Return the entry of `convert --json`."""
        return asdict(self)


@dataclass(frozen=True)
class Candidate:
    """One candidate that was tried for a profile, and what became of it.

    `gate` is 1.0 for what is as good as the original, `speedup` against the original where the time is real, `bytes` of
    the graph and its tensors. `variant` tells candidates of one precision apart.
    """

    precision: str
    variant: str
    gate: float | None
    speedup: float | None
    outcome: str
    bytes: int | None = None

    def to_json(self) -> dict[str, object]:
        """Return the entry of the table of candidates."""
        return {
            "precision": self.precision,
            "variant": self.variant,
            "gate": self.gate,
            "speedup": self.speedup,
            "outcome": self.outcome,
            "bytes": self.bytes,
        }


@dataclass(frozen=True)
class BundleReport:
    """One bundle that was written.

    `histograms` are those of the tensors that the chosen variant stores worst. `passes` says what each graph pass did,
    and `recipe` is that of the manifest.
    """

    path: Path
    profile: str
    digest: str
    bytes: int
    chosen: str
    reason: str
    variants: Sequence[VariantReport]
    candidates: Sequence[Candidate]
    warnings: Sequence[str]
    parts: Mapping[str, "BundleReport"] = field(default_factory=dict)
    layers: Sequence[LayerDecision] = ()
    histograms: Sequence[TensorHistogram] = ()
    passes: Sequence[Mapping[str, object]] = ()
    recipe: Mapping[str, object] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Return the entry of `convert --json`."""
        return {
            "path": str(self.path),
            "profile": self.profile,
            "digest": self.digest,
            "bytes": self.bytes,
            "chosen": self.chosen,
            "reason": self.reason,
            "variants": [variant.to_json() for variant in self.variants],
            "candidates": [candidate.to_json() for candidate in self.candidates],
            "warnings": list(self.warnings),
            "layers": [layer.to_json() for layer in self.layers],
            "histograms": [histogram.to_json() for histogram in self.histograms],
            "passes": [dict(entry) for entry in self.passes],
            "recipe": dict(self.recipe),
            "parts": {name: {**part.to_json(), "path": None} for name, part in self.parts.items()},
        }


@dataclass(frozen=True)
class ProfileFailure:
    """One profile for which no bundle was written, and why."""

    profile: str
    message: str
    remedy: str
    exit_code: int
    refused: Sequence[Mapping[str, str]] = ()
    candidates: Sequence[Candidate] = ()
    layers: Sequence[LayerDecision] = ()

    def to_json(self) -> dict[str, object]:
        """Return the entry of `convert --json`."""
        return {
            "path": None,
            "profile": self.profile,
            "digest": None,
            "chosen": None,
            "error": {"message": self.message, "remedy": self.remedy, "refused_nodes": list(self.refused)},
            "candidates": [candidate.to_json() for candidate in self.candidates],
            "layers": [layer.to_json() for layer in self.layers],
        }


@dataclass(frozen=True)
class Conversion:
    """The answer: one entry per profile, in the order asked for.

    `command` is the command line that does the same again; `calibration` says what was calibrated with, `tools` has the
    versions of all that took part, `host` is this machine. `stages` are in the order in which they began.
    """

    model: str
    bundles: Sequence[BundleReport | ProfileFailure]
    report: Path | None = None
    source: Mapping[str, object] = field(default_factory=dict)
    evaluation: Mapping[str, object] = field(default_factory=dict)
    max_drop: float = 0.01
    calibration: Mapping[str, object] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    host: Mapping[str, object] = field(default_factory=dict)
    command: str = ""
    stages: Sequence[StageTime] = ()

    @property
    def exit_code(self) -> int:
        """0 when every profile has its bundle, else the exit code of the first failure."""
        return next((entry.exit_code for entry in self.bundles if isinstance(entry, ProfileFailure)), 0)

    def to_json(self) -> dict[str, object]:
        """Return the document of `convert --json`."""
        return {
            "model": self.model,
            "source": dict(self.source),
            "evaluation": dict(self.evaluation),
            "max_drop": self.max_drop,
            "calibration": dict(self.calibration),
            "tools": dict(self.tools),
            "host": dict(self.host),
            "command": self.command,
            "stages": [stage.to_json() for stage in self.stages],
            "report": str(self.report) if self.report else None,
            "bundles": [entry.to_json() for entry in self.bundles],
        }
