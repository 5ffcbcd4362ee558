"""Candidates for a GPU profile: fp16 for devices with `shader-f16`, fp32 for the others, both in one bundle."""

import onnx_ir as ir

from converters.candidates import cpu
from converters.candidates.accelerator import accelerator, nodes_refused
from converters.candidates.choice import Choice
from converters.job import Job, Written
from converters.quantize.calibrate import CalibrationFailed
from converters.quantize.fp16 import to_fp16
from converters.request import Candidate, Check, VariantReport
from edgert.errors import GateFailed, UsageError
from edgert.manifest import Placement
from edgert.profile import ProviderChoice
from edgert.runtime.providers import ProviderDevice
from edgert.runtime.session import Session, UnsupportedNodes

HALVES = (
    "the software GPU has no shader-f16: nodes and time are those of the fp32 graph on it, "
    "numerics those of this file on the CPU"
)


def choose(job: Job) -> Choice:
    """Run the float graph whole on the GPU, and the fp16 variant as far as this machine's GPU can."""
    provider, device = accelerator(job)
    wanted = [word for word in provider.precisions if job.request.precision in ("auto", word)]
    if not wanted:
        raise UsageError(
            f"profile '{job.profile.id}' does not take --precision {job.request.precision}",
            f"its {provider.name} takes {', '.join(provider.precisions)}",
        )
    fallback, fallback_report, fallback_placement = cpu.fallback_variant(job)
    models, reports, placements = {"fp32": fallback}, [fallback_report], [fallback_placement]
    on_gpu = _run_fp32(job, provider, device, fallback)
    reports.insert(0, on_gpu)
    gate = job.gate(on_gpu.checks[0].outputs)
    candidates = [Candidate("fp32", "fp32", gate, None, "in the bundle", fallback.bytes)]
    if "fp32" in wanted:
        placements.insert(0, _placement(provider, "fp32"))
    notes: tuple[str, ...] = ()
    half: tuple[Written, VariantReport, float] | None
    if "fp16" in wanted:
        try:
            half, notes = _run_fp16(job, provider, device, on_gpu)
        except CalibrationFailed as exc:
            if "fp32" not in wanted:
                raise
            half = None
            candidates.insert(0, Candidate("fp16", "fp16", None, None, exc.message))
        if half:
            held = job.holds(half[2])
            verdict = "chosen" if held else "below the gate"
            candidates.insert(0, Candidate("fp16", "fp16", half[2], None, verdict, half[0].bytes))
        if half and held:
            models["fp16"] = half[0]
            reports.insert(0, half[1])
            placements.insert(0, _placement(provider, "fp16"))
    if len(placements) == 1:
        raise GateFailed(
            f"profile '{job.profile.id}': fp16 has {job.request.metric} {candidates[0].gate:.4f}, below "
            f"{1 - job.request.max_drop:g}",
            "use --precision auto or fp32, or a larger --max-drop",
        )
    chosen = placements[0].variant
    reason = f"{chosen} is the first in the profile's order that holds the gate; fp32 is for devices without shader-f16"
    recipe = {"candidate": chosen, "passes": job.float_graph("cpu").changes(), "kept_in_fp32": list(notes)}
    return Choice(chosen, reason, models, reports, placements, candidates, recipe)


def _placement(provider: ProviderChoice, precision: str) -> Placement:
    return Placement(
        precision,
        provider.name,
        provider.processor,
        provider.options_for(precision),
        provider.options_for(precision, emulated=True),
    )


def _run_fp32(job: Job, provider: ProviderChoice, device: ProviderDevice, written: Written) -> VariantReport:
    job.progress(f"placing fp32 on {provider.name}")
    options = provider.options_for("fp32", emulated=device.emulated)
    try:
        session = Session.open(written.path, device, options=options, threads=job.request.threads)
    except UnsupportedNodes as exc:
        verdict = f"{len(exc.refused)} nodes refused by {provider.name}"
        raise nodes_refused(job, provider, exc.refused, [Candidate("fp32", "fp32", None, None, verdict)]) from exc
    try:
        parity, samples, latency = job.run_on(device, session, "fp32")
        check = Check(provider.name, job.where(device), samples, parity)
        report = VariantReport(
            "fp32", "fp32", written.bytes, provider.name, job.where(device), session.nodes, [check], latency
        )
    finally:
        session.close()
    if not job.holds(job.gate(parity)):
        raise GateFailed(
            f"profile '{job.profile.id}': fp32 on {provider.name} has {job.request.metric} {job.gate(parity):.4f}",
            "report this model with the provider's version (edgert doctor)",
        )
    return report


def _run_fp16(
    job: Job, provider: ProviderChoice, device: ProviderDevice, on_gpu: VariantReport
) -> tuple[tuple[Written, VariantReport, float], tuple[str, ...]]:
    """Return the fp16 variant with its report and gate value, and the nodes kept in fp32 with the reason for each."""
    job.progress("converting to fp16")
    graph = job.float_graph("cpu")
    model, kept = to_fp16(graph.model, job.ranges(graph, "minmax"))
    if not any(value.dtype == ir.DataType.FLOAT16 for node in model.graph for value in node.outputs):
        raise CalibrationFailed("not tried: every node of it stays in fp32", "use --precision fp32")
    written = job.write(model, "fp16")
    on_cpu = job.open_cpu(written.path)
    try:
        parity = job.parity_of("fp16", written, on_cpu)
        gate = job.gate(parity, job.evaluate(on_cpu.run))
    finally:
        on_cpu.close()
    note = (
        HALVES if device.emulated else "nodes are those of the fp32 graph on the GPU, numerics this file's on the CPU"
    )
    check = Check(cpu.CPU, "emulated", job.shared.samples.count, parity, note=note)
    report = VariantReport(
        "fp16", "fp16", written.bytes, provider.name, on_gpu.where, on_gpu.nodes, [check], None, note=note
    )
    return (written, report, gate), kept
