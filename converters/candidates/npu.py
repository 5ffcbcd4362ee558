"""Candidates for an NPU profile: int8, then 16-bit activations, then fp16, each run on the NPU or its emulator."""

from dataclasses import dataclass

import onnx_ir as ir

from converters.candidates import cpu
from converters.candidates.accelerator import AcceleratorFailed, accelerator, nodes_refused
from converters.candidates.choice import Choice
from converters.job import Job, Written
from converters.quantize.calibrate import CalibrationFailed
from converters.quantize.plan import plan_quantization, variant_class
from converters.quantize.qdq import apply_qdq
from converters.request import Candidate, Check, VariantReport
from edgert.errors import BadInput, UsageError
from edgert.manifest import Placement
from edgert.profile import ProviderChoice
from edgert.runtime.providers import ProviderDevice
from edgert.runtime.session import NodeAssignment, ProviderFailed, Session, UnsupportedNodes

METHODS = {"int8": ("minmax", "percentile"), "w8a16": ("minmax",), "fp16": ("",)}
ACTIVATION_BITS = {"int8": 8, "w8a16": 16}


@dataclass(frozen=True)
class _Attempt:
    """One candidate's fate: the report where it won, the refused nodes where the provider said no.

    `final`: no other calibration method can help this precision.
    """

    candidate: Candidate
    report: VariantReport | None = None
    written: Written | None = None
    method: str = ""
    refused: tuple[NodeAssignment, ...] = ()
    final: bool = False


def choose(job: Job) -> Choice:
    """Try the profile's precisions in order until one runs whole on the NPU and holds the gate.

    Raises GateFailed that names every refused node, or the best accuracy found.
    """
    provider, device = accelerator(job)
    require_static(job)
    attempts: list[_Attempt] = []
    for precision in _wanted(job, provider):
        for method in METHODS[precision]:
            attempt = _attempt(job, provider, device, precision, method)
            attempts.append(attempt)
            if attempt.report and attempt.written:
                return _choice(job, provider, attempt, attempts)
            if attempt.final:
                break
    raise _failure(job, provider, attempts)


def _wanted(job: Job, provider: ProviderChoice) -> list[str]:
    found = [word for word in provider.precisions if job.request.precision in ("auto", word) and word in METHODS]
    if not found:
        raise UsageError(
            f"profile '{job.profile.id}' does not take --precision {job.request.precision}",
            f"its {provider.name} takes {', '.join(provider.precisions)}",
        )
    return found


def require_static(job: Job) -> None:
    """Raise BadInput that names the dimension which neither --shape nor the samples fix.

    A graph that is not valid with the samples' shapes goes on with free ones, so that the provider names its nodes.
    """
    for name, axis, label in job.float_graph("npu").free_dimensions:
        if name not in job.shapes:
            which = f"dimension {axis}" + (f" ('{label}')" if label else "")
            raise BadInput(
                f"{which} of input '{name}' is not fixed, and profile '{job.profile.id}' needs static shapes",
                f"give --shape {name}=… or calibration samples that all have one shape",
            )


def _attempt(job: Job, provider: ProviderChoice, device: ProviderDevice, precision: str, method: str) -> _Attempt:
    try:
        name, model = _build(job, precision, method)
    except CalibrationFailed as exc:
        name = variant_class(job.profile.quantization, ACTIVATION_BITS[precision])
        return _Attempt(Candidate(precision, name, None, None, exc.message), final=True)
    label = f"{name}-{method}" if method not in ("", "minmax") else name
    written = job.write(model, name)
    options = provider.options_for(precision, emulated=device.emulated)
    job.progress(f"placing {label} on {provider.name}")
    try:
        session = Session.open(written.path, device, options=options, threads=job.request.threads)
    except UnsupportedNodes as exc:
        verdict = f"{len(exc.refused)} nodes refused by {provider.name}"
        return _Attempt(Candidate(precision, label, None, None, verdict), refused=tuple(exc.refused), final=True)
    except ProviderFailed as exc:
        return _Attempt(Candidate(precision, label, None, None, exc.message))
    try:
        return _judge(job, provider, device, session, written, _Label(precision, name, label, method))
    finally:
        session.close()


@dataclass(frozen=True)
class _Label:
    precision: str
    variant: str
    shown: str
    method: str


def _judge(
    job: Job, provider: ProviderChoice, device: ProviderDevice, session: Session, written: Written, label: _Label
) -> _Attempt:
    """Compare on the CPU over all samples, then on the NPU: over all where it is real, a few where it is emulated."""
    checks: list[Check] = []
    on_cpu = job.open_cpu(written.path)
    try:
        parity = job.compare({label.shown: on_cpu}, f"comparing {label.shown} on the CPU")[label.shown]
    finally:
        on_cpu.close()
    checks.append(Check(cpu.CPU, "emulated", job.shared.samples.count, parity, note="the NPU's file on the host CPU"))
    gate = job.gate(parity)
    if not job.holds(gate):
        return _Attempt(Candidate(label.precision, label.shown, gate, None, "below the gate"))
    own, samples, latency = job.run_on(device, session, label.shown)
    checks.insert(0, Check(provider.name, job.where(device), samples, own))
    gate = min(gate, job.gate(own))
    if not job.holds(gate):
        return _Attempt(Candidate(label.precision, label.shown, gate, None, "below the gate on the NPU"))
    where, name = job.where(device), label.variant
    report = VariantReport(name, label.precision, written.bytes, provider.name, where, session.nodes, checks, latency)
    return _Attempt(Candidate(label.precision, label.shown, gate, None, "chosen"), report, written, label.method)


def _build(job: Job, precision: str, method: str) -> tuple[str, ir.Model]:
    """Return the variant's name and its model."""
    graph = job.float_graph("npu")
    if precision == "fp16":
        return "fp32-npu", graph.model
    bits = ACTIVATION_BITS[precision]
    ranges = job.ranges("npu", method)
    job.progress(f"quantizing ({precision})")
    plan = plan_quantization(graph.model, ranges, job.profile.quantization, bits)
    return variant_class(job.profile.quantization, bits), apply_qdq(graph.model, plan)


def _choice(job: Job, provider: ProviderChoice, attempt: _Attempt, attempts: list[_Attempt]) -> Choice:
    report, written = attempt.report, attempt.written
    assert report is not None and written is not None
    fallback, fallback_report, fallback_placement = cpu.fallback_variant(job)
    placement = Placement(
        report.name,
        provider.name,
        provider.processor,
        provider.options_for(report.precision),
        provider.options_for(report.precision, emulated=True),
    )
    tried = [f"{one.candidate.variant}: {one.candidate.outcome}" for one in attempts[:-1]]
    reason = f"{report.name} is the first in the profile's order that runs whole on {provider.name} and holds the gate"
    return Choice(
        chosen=report.name,
        reason=reason + (f" ({'; '.join(tried)})" if tried else ""),
        models={report.name: written, "fp32": fallback},
        reports=[report, fallback_report],
        placements=[placement, fallback_placement],
        candidates=[one.candidate for one in attempts],
        recipe={"passes": job.float_graph("npu").changes(), "calibration_method": attempt.method or None},
    )


def _failure(job: Job, provider: ProviderChoice, attempts: list[_Attempt]) -> AcceleratorFailed:
    candidates = tuple(attempt.candidate for attempt in attempts)
    judged = [attempt.candidate for attempt in attempts if attempt.candidate.gate is not None]
    if judged:
        best = max(judged, key=lambda one: one.gate or 0.0)
        return AcceleratorFailed(
            f"profile '{job.profile.id}': the best candidate, {best.variant}, has {job.request.metric} "
            f"{best.gate:.4f}, below {1 - job.request.max_drop:g}",
            "give more or better calibration data, or a larger --max-drop",
            (),
            candidates,
        )
    refused = min((attempt.refused for attempt in attempts if attempt.refused), key=len, default=())
    if not refused:
        return AcceleratorFailed(
            f"profile '{job.profile.id}': {attempts[-1].candidate.outcome}",
            "report this model with the provider's version (edgert doctor), or convert for a CPU profile",
            (),
            candidates,
        )
    return nodes_refused(job, provider, refused, candidates)
