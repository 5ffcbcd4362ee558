"""What a profile gets for a model that came quantized: the model itself, with its own scales.

Nothing is calibrated or quantized again; at most the integers are counted from another zero. There is one variant, and
it also has a placement on the CPU.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from converters.candidates import cpu
from converters.candidates.accelerator import AcceleratorFailed, accelerator, nodes_refused
from converters.candidates.choice import Choice
from converters.candidates.npu import require_static
from converters.job import Job, Written
from converters.passes.between_dq_and_q import between_dq_and_q
from converters.passes.check import check_model
from converters.passes.integer_types import integer_types
from converters.request import Candidate, Check, VariantReport
from edgert.errors import GateFailed, UsageError
from edgert.manifest import Placement
from edgert.profile import ProviderChoice
from edgert.runtime.providers import ProviderDevice
from edgert.runtime.session import ProviderFailed, Session, UnsupportedNodes
from edgert.runtime.timing import Latency

LETTERS = {ir.DataType.UINT8: "u8", ir.DataType.INT8: "s8", ir.DataType.UINT16: "u16", ir.DataType.INT16: "s16"}
PASSES = (between_dq_and_q, integer_types)
"""What follows the passes of every model."""

REASON = "the model came quantized, and keeps its scales"


@dataclass(frozen=True)
class QuantizedVariant:
    """The one candidate: its class, the word of `--precision` for it, its file, and pass name -> changes."""

    name: str
    precision: str
    written: Written
    passes: Mapping[str, int]


def choose(job: Job) -> Choice:
    """Run the model as it came, with the same normalising passes as any other, and keep it if it holds the gate.

    Raises GateFailed that names every node which an accelerator refuses, or tells the accuracy there.
    """
    variant = variant_of(job)
    on_cpu = _on_cpu(job, variant)
    cpu_placement = Placement(variant.name, cpu.CPU, "cpu")
    if job.profile.processor == "cpu":
        return _choice(job, variant, [on_cpu], [cpu_placement])
    provider, device = accelerator(job)
    report = _on_accelerator(job, variant, provider, device, on_cpu)
    placement = Placement(
        variant.name,
        provider.name,
        provider.processor,
        provider.options_for(variant.precision),
        provider.options_for(variant.precision, emulated=True),
    )
    return _choice(job, variant, [report], [placement, cpu_placement])


def variant_name(model: ir.Model) -> tuple[str, str]:
    """Return the variant class of a quantized model and the word of `--precision` for it.

    The types are those that most activations and most 8-bit weights have.
    """
    activations: Counter[ir.DataType] = Counter()
    weights: Counter[ir.DataType] = Counter()
    for node in model.graph:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        value = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
        if value is not None and value.dtype in LETTERS:
            (weights if value.is_initializer() else activations)[value.dtype] += 1
    activation = _commonest(activations)
    weight = _commonest(weights or activations)
    if activation in (ir.DataType.UINT16, ir.DataType.INT16):
        return "qdq-a16w8", "w8a16"
    return f"qdq-{LETTERS[activation]}{LETTERS[weight]}", "int8"


def _commonest(types: Counter[ir.DataType]) -> ir.DataType:
    return types.most_common(1)[0][0] if types else ir.DataType.INT8


def variant_of(job: Job) -> QuantizedVariant:
    """Write the graph with the integers that the profile's processor takes; UsageError for another --precision."""
    if job.profile.processor == "npu":
        require_static(job)
    graph = job.float_graph(job.graph_processor)
    model = graph.model.clone()
    done = {}
    for one in PASSES:
        done[one.__name__] = one(model, job.profile).changes
        check_model(model)
    name, precision = variant_name(model)
    if job.request.precision not in ("auto", precision):
        raise UsageError(
            f"the model came quantized ({name}), and --precision {job.request.precision} would quantize it again",
            f"leave out --precision or give {precision}; for another precision convert the float model",
        )
    return QuantizedVariant(name, precision, job.write(model, name), graph.changes() | done)


def _on_cpu(job: Job, variant: QuantizedVariant) -> VariantReport:
    """Compare and time the variant on this machine's CPU."""
    session = job.open_cpu(variant.written.path)
    try:
        parity = job.parity_of(variant.name, variant.written, session)
        gate = job.gate(parity, job.evaluate(session.run))
        where = job.where(job.shared.cpu)
        rounds = {} if where == "host" else {"rounds": cpu.EMULATED_ROUNDS}
        times = job.time({"original": job.shared.original, variant.name: session}, **rounds)
        check = Check(cpu.CPU, where, job.shared.samples.count, parity)
        report = _report(variant, cpu.CPU, where, session, [check], times[variant.name])
    finally:
        session.close()
    if not job.holds(gate):
        raise GateFailed(
            f"profile '{job.profile.id}': {variant.name} has {job.request.metric} {gate:.4f} on the CPU",
            "report this model: the graph passes must not change what it computes",
        )
    return report


def _on_accelerator(
    job: Job, variant: QuantizedVariant, provider: ProviderChoice, device: ProviderDevice, on_cpu: VariantReport
) -> VariantReport:
    """Compare the variant on the accelerator or its emulator."""
    job.progress(f"placing {variant.name} on {provider.name}")
    options = provider.options_for(variant.precision, emulated=device.emulated)
    try:
        session = Session.open(variant.written.path, device, options=options, threads=job.request.threads)
    except UnsupportedNodes as exc:
        verdict = f"{len(exc.refused)} nodes refused by {provider.name}"
        raise nodes_refused(job, provider, exc.refused, [_candidate(variant, None, verdict)]) from exc
    except ProviderFailed as exc:
        raise AcceleratorFailed(
            f"profile '{job.profile.id}': {exc.message}",
            "report this model with the provider's version (edgert doctor), or convert for a CPU profile",
            (),
            [_candidate(variant, None, exc.message)],
        ) from exc
    try:
        parity, samples, latency = job.run_on(device, session, variant.name)
        where = job.where(device)
        checks = [Check(provider.name, where, samples, parity), *on_cpu.checks]
        report = _report(variant, provider.name, where, session, checks, latency)
    finally:
        session.close()
    gate = job.gate(parity)
    if not job.holds(gate):
        raise AcceleratorFailed(
            f"profile '{job.profile.id}': {variant.name} on {provider.name} has {job.request.metric} {gate:.4f}, below "
            f"{1 - job.request.max_drop:g}",
            "give a larger --max-drop, or convert the float model, which is quantized as this processor wants it",
            (),
            [_candidate(variant, gate, f"below the gate on {provider.name}")],
        )
    return report


def _report(
    variant: QuantizedVariant, provider: str, where: str, session: Session, checks: Sequence[Check], latency: Latency
) -> VariantReport:
    size, nodes = variant.written.bytes, session.nodes
    return VariantReport(variant.name, variant.precision, size, provider, where, nodes, checks, latency)


def _candidate(variant: QuantizedVariant, gate: float | None, outcome: str) -> Candidate:
    return Candidate(variant.precision, variant.name, gate, None, outcome, variant.written.bytes)


def _choice(
    job: Job, variant: QuantizedVariant, reports: Sequence[VariantReport], placements: Sequence[Placement]
) -> Choice:
    gate = job.gate(reports[0].checks[0].outputs)
    return Choice(
        chosen=variant.name,
        reason=REASON,
        models={variant.name: variant.written},
        reports=reports,
        placements=placements,
        candidates=[_candidate(variant, gate, "chosen")],
        recipe={"candidate": variant.name, "passes": dict(variant.passes)},
    )
