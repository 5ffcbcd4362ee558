"""Candidates for a CPU profile: the float graph with and without speed passes, and int8 as the processor wants it."""

from collections.abc import Mapping
from dataclasses import dataclass

from converters.candidates.choice import PLAIN, Choice, Judged, outcome, select
from converters.job import Job, Written
from converters.quantize.calibrate import CalibrationFailed
from converters.quantize.plan import plan_quantization
from converters.quantize.qdq import apply_qdq
from converters.request import Candidate, Check, VariantReport
from converters.verify.parity import OutputParity
from edgert.errors import GateFailed, UsageError
from edgert.manifest import Placement
from edgert.runtime.session import Session
from edgert.runtime.timing import Latency

CPU = "CPUExecutionProvider"
METHODS = ("minmax", "percentile")
EMULATED_ROUNDS = 3


@dataclass(frozen=True)
class _Run:
    precision: str
    written: Written
    session: Session
    recipe: Mapping[str, object]


def choose(job: Job) -> Choice:
    """Build, run and time the candidates of a CPU profile; GateFailed when none is close enough to the original."""
    host = job.where(job.shared.cpu) == "host"
    integer, failure = _integer_runs(job)
    runs = _float_runs(job, host) | integer
    if not runs and failure:
        raise failure
    if not runs:
        raise UsageError(
            f"profile '{job.profile.id}' does not take --precision {job.request.precision}",
            f"it takes {', '.join(job.profile.providers[-1].precisions)}",
        )
    try:
        parities = job.compare({name: run.session for name, run in runs.items()}, "comparing with the original")
        rounds = {} if host else {"rounds": EMULATED_ROUNDS}
        times = job.time(
            {"original": job.shared.original} | {name: run.session for name, run in runs.items()}, **rounds
        )
        judged = [
            Judged(name, run.precision, job.gate(parities[name]), times[name].speedup if host else None)
            for name, run in runs.items()
        ]
        judged.sort(key=lambda one: _preference(job, one))
        winner, reason = select(judged, job.request.max_drop, job.request.metric)
        candidates = [
            Candidate(one.precision, one.variant, one.gate, one.speedup, outcome(one, winner, job.request.max_drop))
            for one in judged
        ]
        if failure:
            name = job.profile.quantization.variant_class
            candidates.append(Candidate("int8", name, None, None, failure.message))
        if winner is None:
            raise GateFailed(
                f"profile '{job.profile.id}': {reason}",
                "give more or better calibration data, another --precision, or a larger --max-drop",
            )
        return _choice(job, runs[winner.variant], parities[winner.variant], times[winner.variant], reason, candidates)
    finally:
        for run in runs.values():
            run.session.close()


def fallback_variant(job: Job) -> tuple[Written, VariantReport, Placement]:
    """Return the float CPU variant that every accelerator bundle also holds, compared with the original."""
    graph = job.float_graph("cpu")
    written = job.write(graph.model, "fp32")
    session = job.open_cpu(written.path)
    try:
        parity = job.compare({"fp32": session}, "comparing the CPU variant")["fp32"]
        times = job.time({"original": job.shared.original, "fp32": session}, rounds=EMULATED_ROUNDS)
        report = _report(job, "fp32", "fp32", written, session, parity, times["fp32"])
    finally:
        session.close()
    if not job.holds(job.gate(parity)):
        raise GateFailed(
            f"profile '{job.profile.id}': the float CPU variant has {job.request.metric} {job.gate(parity):.4f}",
            "report this model: the graph passes must not change what it computes",
        )
    return written, report, Placement("fp32", CPU, "cpu")


def _preference(job: Job, one: Judged) -> int:
    return job.profile.providers[-1].precisions.index(one.precision)


def _wanted(job: Job, precision: str) -> bool:
    allowed = job.profile.providers[-1].precisions
    return precision in allowed and job.request.precision in ("auto", precision)


def _float_runs(job: Job, host: bool) -> dict[str, _Run]:
    """Return the float candidates; the graph as it came joins where its time is real, to catch a slower rewrite."""
    if not _wanted(job, "fp32"):
        return {}
    graphs = {"fp32": job.float_graph("cpu")}
    if host:
        graphs[PLAIN] = job.float_graph("cpu", speed=False)
    runs = {}
    for name, graph in graphs.items():
        written = job.write(graph.model, name)
        runs[name] = _Run("fp32", written, job.open_cpu(written.path), {"passes": graph.changes()})
    return runs


def _integer_runs(job: Job) -> tuple[dict[str, _Run], CalibrationFailed | None]:
    """Return one int8 candidate per calibration method, and why there are no more where the graph gives no ranges."""
    runs: dict[str, _Run] = {}
    if not _wanted(job, "int8"):
        return runs, None
    quantization, graph = job.profile.quantization, job.float_graph("cpu")
    for method in METHODS:
        try:
            ranges = job.ranges("cpu", method)
        except CalibrationFailed as exc:
            return runs, exc
        plan = plan_quantization(graph.model, ranges, quantization, 8)
        if not plan.quantized:
            continue
        name = quantization.variant_class if method == METHODS[0] else f"{quantization.variant_class}-{method}"
        written = job.write(apply_qdq(graph.model, plan), name)
        recipe = {"passes": graph.changes(), "calibration_method": method}
        runs[name] = _Run("int8", written, job.open_cpu(written.path), recipe)
    return runs, None


def _choice(
    job: Job,
    run: _Run,
    parity: Mapping[str, OutputParity],
    latency: Latency,
    reason: str,
    candidates: list[Candidate],
) -> Choice:
    name = "fp32" if run.precision == "fp32" else job.profile.quantization.variant_class
    report = _report(job, name, run.precision, run.written, run.session, parity, latency)
    placement = Placement(name, CPU, "cpu", job.profile.providers[-1].options_for(run.precision))
    return Choice(name, reason, {name: run.written}, [report], [placement], candidates, dict(run.recipe))


def _report(
    job: Job,
    name: str,
    precision: str,
    written: Written,
    session: Session,
    parity: Mapping[str, OutputParity],
    latency: Latency,
) -> VariantReport:
    where = job.where(job.shared.cpu)
    check = Check(CPU, where, job.shared.samples.count, parity)
    return VariantReport(name, precision, written.bytes, CPU, where, session.nodes, [check], latency)
