"""Candidates for an NPU profile: int8, int8 with some layers at 16 bits, 16-bit activations, fp16, each run on the NPU
or its emulator. The first that runs whole there and holds the gate is taken.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from converters.candidates import cpu
from converters.candidates.accelerator import AcceleratorFailed, accelerator, nodes_refused
from converters.candidates.choice import Choice
from converters.candidates.shortfall import below_the_gate
from converters.candidates.trial import Draft, Trial
from converters.candidates.twins import Finding, Findings, failed, remember, twin_of
from converters.candidates.wide import wide_ranking, wide_trials
from converters.job import Job
from converters.quantize.calibrate import CalibrationFailed
from converters.quantize.plan import plan_quantization, variant_class
from converters.quantize.qdq import apply_qdq
from converters.request import Candidate, Check, VariantReport
from converters.verify.parity import ShapeChanged
from edgert.errors import BadInput, UsageError
from edgert.manifest import Placement
from edgert.profile import ProviderChoice
from edgert.runtime.providers import ProviderDevice
from edgert.runtime.session import NodeAssignment, ProviderFailed, Session, UnsupportedNodes

METHODS = {"int8": ("minmax", "percentile"), "w8a16": ("minmax",), "fp16": ("",)}
ACTIVATION_BITS = {"int8": 8, "w8a16": 16}
MOST_ON_NPU = 2
"""So many mixed candidates that hold the gate on the CPU get to the NPU: its emulator takes seconds for a sample."""

TOO_MANY = "not tried: too many of its layers would need 16 bits"


@dataclass(frozen=True)
class _Attempt:
    """One candidate's fate: the report where it won, the refused nodes where the provider said no.

    `final`: no other calibration method can help this precision. `draft` is None where none could be made.
    """

    candidate: Candidate
    draft: Draft | None = None
    report: VariantReport | None = None
    refused: tuple[NodeAssignment, ...] = ()
    final: bool = False
    remedy: str = "report this model with the provider's version (edgert doctor), or convert for a CPU profile"


def choose(job: Job) -> Choice:
    """Try the profile's precisions in order until one runs whole on the NPU and holds the gate.

    Raises GateFailed that names every refused node, or the best accuracy found and the layers that cost most.
    """
    provider, device = accelerator(job)
    require_static(job)
    attempts = _follow(job, provider, device)
    if attempts and attempts[-1].report:
        return _choice(job, provider, attempts[-1], attempts)
    for precision in wanted(job, provider):
        for attempt in _attempts(job, provider, device, precision, attempts):
            attempts.append(attempt)
            if attempt.report:
                _remember(job, attempts)
                return _choice(job, provider, attempt, attempts)
    raise _failure(job, provider, attempts)


def _follow(job: Job, provider: ProviderChoice, device: ProviderDevice) -> list[_Attempt]:
    """Return what another chip's search found, its winner tried here; an empty list where that does not hold here."""
    twin = twin_of(job, whole=True)
    if twin is None:
        return []
    winner = next(one for one in twin.found if job.holds(one.gate))
    attempt = _attempt(job, provider, device, winner.draft(job))
    known = [_Attempt(one) for one in (*failed(job, twin), *twin.left_out(job))]
    return [*known, attempt] if attempt.report else []


def _remember(job: Job, attempts: list[_Attempt]) -> None:
    """Keep for chips alike what came of each candidate, unless one was refused: that must be told with its nodes."""
    if any(one.draft is None or one.candidate.gate is None for one in attempts):
        return
    found = [
        Finding("", one.draft.label, one.draft.precision, one.candidate.gate, one.draft.recipe, one.draft.layers)
        for one in attempts
        if one.draft is not None and one.candidate.gate is not None
    ]
    remember(job, Findings(job.profile.id, "", True, found, ()))


def replay(job: Job, draft: Draft) -> Choice:
    """Return the choice of one candidate without a search; errors are those of `choose`."""
    provider, device = accelerator(job)
    require_static(job)
    attempt = _attempt(job, provider, device, draft)
    if attempt.report is None:
        raise _failure(job, provider, [attempt])
    return _choice(job, provider, attempt, [attempt])


def wanted(job: Job, provider: ProviderChoice) -> list[str]:
    """Return the precisions to try; mixed stands right behind int8 where the provider takes both of its widths."""
    order = [word for word in provider.precisions if word in METHODS]
    if {"int8", "w8a16"} <= set(order):
        order.insert(order.index("int8") + 1, "mixed")
    found = [word for word in order if job.request.precision in ("auto", word)]
    if not found:
        raise UsageError(
            f"profile '{job.profile.id}' does not take --precision {job.request.precision}",
            f"its {provider.name} takes {', '.join(order)}",
        )
    return found


def require_static(job: Job) -> None:
    """Raise BadInput that names the dimension which neither --shape nor the samples fix.

    A graph that is not valid with the samples' shapes goes on with free ones, so that the provider names its nodes.
    """
    free = [entry for entry in job.float_graph("npu").free_dimensions if entry[0] not in job.shapes]
    seen = {(name, axis): _sizes(job, name, axis) for name, axis, _ in free}
    free.sort(key=lambda entry: len(seen[entry[0], entry[1]]) < 2)
    for name, axis, label in free:
        sizes = seen[name, axis]
        which = f"dimension {axis}" + (f" ('{label}')" if label else "")
        why = f" (the samples have {' and '.join(map(str, sizes[:3]))} there)" if len(sizes) > 1 else ""
        raise BadInput(
            f"{which} of input '{name}' is not fixed{why}, and profile '{job.profile.id}' needs static shapes",
            f"give --shape {name}=… or calibration samples that all have one shape",
        )


def _sizes(job: Job, name: str, axis: int) -> list[int]:
    """Return the sizes that an input has along one axis over the samples."""
    return sorted({feeds[name].shape[axis] for feeds in job.feeds() if name in feeds})


def _attempts(
    job: Job, provider: ProviderChoice, device: ProviderDevice, precision: str, before: list[_Attempt]
) -> Iterator[_Attempt]:
    """Yield the candidates of one precision as they are tried, until no further one can help."""
    if precision == "mixed":
        yield from _mixed(job, provider, device, list(before))
        return
    for method in METHODS[precision]:
        try:
            draft = _draft(job, precision, method)
        except CalibrationFailed as exc:
            name = variant_class(job.profile.quantization, ACTIVATION_BITS[precision])
            yield _Attempt(Candidate(precision, name, None, None, exc.message), final=True)
            return
        if draft is None:
            name = variant_class(job.profile.quantization, ACTIVATION_BITS[precision])
            why = "not tried: no operator of the graph takes integers on this processor"
            yield _Attempt(Candidate(precision, name, None, None, why), remedy="use --precision fp16", final=True)
            return
        attempt = _attempt(job, provider, device, draft)
        yield attempt
        if attempt.final:
            return


def _draft(job: Job, precision: str, method: str) -> Draft | None:
    """Return the candidate; None where nothing of the graph would be quantized."""
    graph = job.float_graph("npu")
    recipe: Mapping[str, object] = {"passes": graph.changes(), "calibration_method": method or None}
    if precision == "fp16":
        return Draft("fp32-npu", "fp32-npu", precision, job.write(graph.model, "fp32-npu"), recipe)
    bits = ACTIVATION_BITS[precision]
    ranges = job.ranges(graph, method)
    job.progress(f"quantizing ({precision})")
    plan = plan_quantization(graph.model, ranges, job.profile.quantization, bits)
    if not plan.quantized:
        return None
    variant = variant_class(job.profile.quantization, bits)
    label = variant if method == "minmax" else f"{variant}-{method}"
    return Draft(label, variant, precision, job.write(apply_qdq(graph.model, plan), label), recipe)


def _mixed(job: Job, provider: ProviderChoice, device: ProviderDevice, before: list[_Attempt]) -> Iterator[_Attempt]:
    """Give more and more layers 16 bits until the CPU says that the gate holds; what holds it goes on to the NPU.

    Where int8 was refused or could not be calibrated there is nothing to be gained.
    """
    method = _best_method(job, before)
    if method is None:
        return
    ranked, on_npu, trial, left_out = wide_ranking(job, method), 0, None, list[Candidate]()
    for trial in wide_trials(job, ranked, left_out):
        trial.session.close()
        if job.holds(trial.gate) and on_npu < MOST_ON_NPU:
            on_npu += 1
            yield _attempt(job, provider, device, trial.draft, trial)
        elif not job.holds(trial.gate):
            short = job.seen(trial.parity)
            yield _Attempt(_candidate(trial.draft, trial.gate, f"below the gate{short}"), trial.draft)
        if job.is_out_of_time():
            break
    yield from (_Attempt(one) for one in left_out)
    if trial is None and not left_out:
        why = TOO_MANY if ranked.errors else f"not tried: rounding the weights alone costs {ranked.weights:.2g}"
        yield _Attempt(Candidate("mixed", "mixed", None, None, why), remedy="use another --precision")


def _best_method(job: Job, before: list[_Attempt]) -> str | None:
    """Return the calibration method with which int8 came nearest; int8 is run on the CPU where it was not tried."""
    gates = {
        str(one.draft.recipe["calibration_method"]): one.candidate.gate
        for one in before
        if one.draft is not None and one.candidate.gate is not None
    }
    if not before:
        for method in METHODS["int8"]:
            draft = _draft(job, "int8", method)
            if draft is not None:
                gates[method] = _run_on_cpu(job, draft).gate
    return max(gates, key=lambda method: gates[method] or 0.0, default=None)


def _attempt(
    job: Job, provider: ProviderChoice, device: ProviderDevice, draft: Draft, on_cpu: Trial | None = None
) -> _Attempt:
    """Place a candidate on the NPU and judge it; `on_cpu` is what came of it there where it was run already."""
    options = provider.options_for(draft.precision, emulated=device.emulated)
    job.progress(f"placing {draft.label} on {provider.name}")
    try:
        session = Session.open(draft.written.path, device, options=options, threads=job.request.threads)
    except UnsupportedNodes as exc:
        verdict = f"{len(exc.refused)} nodes refused by {provider.name}"
        return _Attempt(_candidate(draft, None, verdict), draft, refused=tuple(exc.refused), final=True)
    except ProviderFailed as exc:
        return _Attempt(_candidate(draft, None, exc.message), draft)
    with session:
        try:
            return _judge(job, provider, device, session, draft, on_cpu or _run_on_cpu(job, draft))
        except ShapeChanged as exc:
            return _Attempt(
                _candidate(draft, None, exc.message), draft, remedy="use --precision fp16, or a CPU profile"
            )


def _run_on_cpu(job: Job, draft: Draft) -> Trial:
    trial = draft.open(job)
    trial.session.close()
    return trial


def _judge(
    job: Job, provider: ProviderChoice, device: ProviderDevice, session: Session, draft: Draft, on_cpu: Trial
) -> _Attempt:
    """Judge on the CPU over all samples, then on the NPU: over all where it is real.

    An emulator gets a few, for which only the outputs are compared: a score of so few says nothing.
    """
    if not job.holds(on_cpu.gate):
        return _Attempt(_candidate(draft, on_cpu.gate, f"below the gate{job.seen(on_cpu.parity)}"), draft)
    own, samples, latency = job.run_on(device, session, draft.label)
    where = job.where(device)
    score = None if device.emulated else job.evaluate(session.run)
    gate = min(on_cpu.gate, job.gate(own, score))
    if not job.holds(gate):
        return _Attempt(_candidate(draft, gate, "below the gate on the NPU"), draft)
    checks = [
        Check(provider.name, where, samples, own),
        Check(cpu.CPU, "emulated", job.shared.samples.count, on_cpu.parity, note="the NPU's file on the host CPU"),
    ]
    size, nodes = draft.written.bytes, session.nodes
    report = VariantReport(draft.variant, draft.precision, size, provider.name, where, nodes, checks, latency)
    return _Attempt(_candidate(draft, gate, "chosen"), draft, report)


def _candidate(draft: Draft, gate: float | None, outcome: str) -> Candidate:
    return Candidate(draft.precision, draft.label, gate, None, outcome, draft.written.bytes)


def _choice(job: Job, provider: ProviderChoice, attempt: _Attempt, attempts: list[_Attempt]) -> Choice:
    report, draft = attempt.report, attempt.draft
    assert report is not None and draft is not None
    fallback, fallback_report, fallback_placement = cpu.fallback_variant(job)
    placement = Placement(
        report.name,
        provider.name,
        provider.processor,
        provider.options_for(report.precision),
        provider.options_for(report.precision, emulated=True),
    )
    reason = f"{draft.label} is the first in the profile's order that runs whole on {provider.name} and holds the gate"
    return Choice(
        chosen=report.name,
        reason=reason,
        models={report.name: draft.written, "fp32": fallback},
        reports=[report, fallback_report],
        placements=[placement, fallback_placement],
        candidates=[one.candidate for one in attempts],
        recipe={"candidate": draft.label, **draft.recipe},
        layers=draft.layers,
    )


def _failure(job: Job, provider: ProviderChoice, attempts: list[_Attempt]) -> AcceleratorFailed:
    candidates = tuple(attempt.candidate for attempt in attempts)
    judged = [(one.candidate, one.draft) for one in attempts if one.draft and one.candidate.gate is not None]
    if judged:
        return below_the_gate(job, judged, candidates)
    refused = min((attempt.refused for attempt in attempts if attempt.refused), key=len, default=())
    if not refused:
        return AcceleratorFailed(
            f"profile '{job.profile.id}': {attempts[-1].candidate.outcome}",
            attempts[-1].remedy,
            (),
            candidates,
        )
    return nodes_refused(job, provider, refused, candidates)
