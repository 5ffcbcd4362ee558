"""What a conversion would do, told without calibrating, quantizing or emulating anything, and without leaving a file.

The model is imported, the samples are read, the graph passes run, and the original is run once to be timed.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from converters.candidates import npu
from converters.candidates.planned import Planned, planned
from converters.estimate import Estimate, Measured, estimate
from converters.graphs import Step
from converters.job import Job, Shared
from converters.passes.infer_shapes import infer_shapes
from converters.passes.set_shapes import set_input_shapes
from converters.pipeline import (
    bundle_path,
    calibration_json,
    check_output,
    checked,
    opened,
    report_path,
    source_json,
)
from converters.quantize.calibrate import CalibrationCost, calibration_cost
from converters.report.command_line import command_line
from converters.request import Request
from edgert.errors import BadInput, EdgertError, EnvironmentFailed
from edgert.profile import ProviderChoice
from edgert.runtime.providers import Absent, find_device

Clock = Callable[[], float]


@dataclass(frozen=True)
class ProviderPlan:
    """One provider of a profile: `state` is "device", "host", "emulated" or "absent", `detail` says why."""

    provider: str
    processor: str
    state: str
    detail: str
    remedy: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the entry of `convert --dry-run --json`."""
        return asdict(self)


@dataclass(frozen=True)
class ProfilePlan:
    """What would be done for one profile.

    `error` is what would end it: an accelerator that is not here, or what leaves nothing to try, and all else empty.
    """

    profile: str
    processor: str
    providers: Sequence[ProviderPlan]
    writes: Path
    replaces: bool
    passes: Sequence[Step] = ()
    candidates: Sequence[Planned] = ()
    calibration: CalibrationCost | None = None
    estimate: Estimate | None = None
    error: EdgertError | None = None

    def to_json(self) -> dict[str, object]:
        """Return the entry of `convert --dry-run --json`."""
        cost = self.calibration
        return {
            "profile": self.profile,
            "processor": self.processor,
            "providers": [provider.to_json() for provider in self.providers],
            "writes": str(self.writes),
            "replaces": self.replaces,
            "passes": [
                {"name": step.name, "changes": step.changes, "declined": list(step.declined)} for step in self.passes
            ],
            "candidates": [candidate.to_json() for candidate in self.candidates],
            "calibration": None if cost is None else asdict(cost),
            "estimate": self.estimate.to_json() if self.estimate else None,
            "error": {"message": self.error.message, "remedy": self.error.remedy} if self.error else None,
        }


@dataclass(frozen=True)
class ConversionPlan:
    """What one call would do. `run_ms`: one run of the original on this machine's CPU, in milliseconds."""

    model: str
    source: Mapping[str, object]
    inputs: Sequence[Mapping[str, object]]
    evaluation: Mapping[str, object]
    calibration: Mapping[str, object]
    run_ms: float
    profiles: Sequence[ProfilePlan]
    parts: Sequence[str]
    report: Path
    command: str
    exit_code: int = field(default=0, init=False)

    def to_json(self) -> dict[str, object]:
        """Return the document of `convert --dry-run --json`."""
        return {
            "model": self.model,
            "source": dict(self.source),
            "inputs": [dict(entry) for entry in self.inputs],
            "evaluation": dict(self.evaluation),
            "calibration": dict(self.calibration),
            "run_ms": self.run_ms,
            "profiles": [profile.to_json() for profile in self.profiles],
            "parts": list(self.parts),
            "report": str(self.report),
            "command": self.command,
        }


def plan_conversion(
    request: Request, recipe: Path | None = None, *, clock: Clock = time.perf_counter
) -> ConversionPlan:
    """Return what `converters.pipeline.convert_request` would do; the same errors for what is wrong with the call.

    What would end one profile is said in its plan.
    """
    asked, request, profiles = checked(request, recipe)
    check_output(request.output)
    with (
        tempfile.TemporaryDirectory(prefix="edgert-plan-") as scratch,
        opened(request, profiles, Path(scratch)) as shared,
    ):
        run_s = _time_original(shared, clock)
        plans = [_plan_profile(Job(shared, profile), run_s, clock) for profile in profiles]
        return ConversionPlan(
            request.model.name,
            source_json(shared),
            [{"name": one.name, "dtype": one.dtype, "shape": list(one.shape)} for one in shared.inputs],
            shared.evaluation_json(),
            calibration_json(shared),
            run_s * 1000,
            plans,
            list(shared.imported.parts),
            report_path(request),
            command_line(asked, recipe),
        )


def _time_original(shared: Shared, clock: Clock) -> float:
    """Return the seconds of one run of the original on the first sample, after one that is not timed."""
    shared.request.progress("timing one run of the original", 0, 0)
    feeds = next(iter(shared.samples))
    shared.original.run(feeds)
    start = clock()
    shared.original.run(feeds)
    return clock() - start


def _plan_profile(job: Job, run_s: float, clock: Clock) -> ProfilePlan:
    profile = job.profile
    writes = bundle_path(job.request, profile)
    providers = [_provider(job, choice) for choice in profile.providers]
    plan = ProfilePlan(profile.id, profile.processor, providers, writes, writes.exists())
    try:
        return _filled(job, plan, run_s, clock)
    except EnvironmentFailed:
        raise
    except EdgertError as exc:
        return replace(plan, error=exc)


def _filled(job: Job, plan: ProfilePlan, run_s: float, clock: Clock) -> ProfilePlan:
    start = clock()
    graph = job.float_graph(job.graph_processor)
    passes_s = clock() - start
    if job.graph_processor == "npu":
        npu.require_static(job)
    absent = next((one for one in plan.providers[:1] if one.state == "absent"), None)
    error = None
    if absent is not None:
        error = EdgertError(f"{absent.provider} is not here: {absent.detail}", absent.remedy)
    candidates = planned(job)
    start = clock()
    job.open_cpu(job.write(graph.model, "plan").path).close()
    host = job.where(job.shared.cpu) == "host"
    measured = Measured(run_s, clock() - start, passes_s, job.shared.samples.count, job.request.budget_s, host)
    return replace(
        plan,
        passes=graph.steps,
        candidates=candidates,
        calibration=calibration_cost(_with_sizes(job, job.integer_graph.model), job.request.memory_budget),
        estimate=estimate(candidates, measured),
        error=error,
    )


def _provider(job: Job, choice: ProviderChoice) -> ProviderPlan:
    found = find_device(choice.name, allow_emulated=True)
    if isinstance(found, Absent):
        return ProviderPlan(choice.name, choice.processor, "absent", found.reason, found.remedy)
    state = job.where(found)
    detail = found.detail
    if choice.processor == "cpu":
        kind = "of the profile's kind" if state == "host" else "of another kind: its times do not count"
        detail = f"{job.shared.host.cpu_name}, {kind}"
    return ProviderPlan(choice.name, choice.processor, state, detail)


def _with_sizes(job: Job, model: ir.Model) -> ir.Model:
    """Return a copy with the shapes that all samples have, as far as the graph takes them."""
    copy = model.clone()
    with suppress(BadInput):
        set_input_shapes(copy, job.shared.static_shapes)
        infer_shapes(copy, job.profile)
        return copy
    return model
