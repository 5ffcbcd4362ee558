"""Build the one candidate that a recipe names, without a search. How it is judged is left to the processor's file."""

from converters.candidates.choice import PLAIN
from converters.candidates.integers import refined
from converters.candidates.trial import Draft
from converters.candidates.weights import dynamic_draft, weight_only_draft
from converters.graphs import FloatGraph
from converters.job import Job
from converters.quantize.plan import node_key, plan_quantization, variant_class
from converters.quantize.qdq import apply_qdq
from converters.recipe import Built
from edgert.errors import BadInput


def rebuild(job: Job, built: Built) -> Draft:
    """Return the candidate; BadInput where the graph has no node that the recipe names, or the profile is another."""
    if built.processor != job.profile.processor:
        raise BadInput(
            f"the recipe is for {built.processor.upper()}, and profile '{job.profile.id}' has "
            f"{job.profile.processor.upper()} first",
            "convert without --recipe",
        )
    if built.bits:
        return weight_only_draft(job, built.precision, built.bits, built.block_size, symmetric=built.symmetric)
    if built.dynamic:
        return dynamic_draft(job)
    if built.calibration_method:
        return _integer(job, (job.equalised() if built.equalise else None) or job.integer_graph, built)
    graph = job.float_graph(built.processor, speed=built.label != PLAIN)
    label, passes = built.label, graph.changes()
    if built.processor == "cpu":
        return Draft(label, "fp32", "fp32", job.write(graph.model, label), {"passes": passes})
    return Draft(label, "fp32-npu", built.precision, job.write(graph.model, label), {"passes": passes})


def _integer(job: Job, graph: FloatGraph, built: Built) -> Draft:
    """Return the candidate with Q/DQ: int8, mixed with float or 16 bits, or 16-bit activations."""
    named = {node_key(node) for node in graph.model.graph}
    missing = sorted({*built.keep_float, *built.wide} - named)
    if missing:
        raise BadInput(
            f"the recipe names the nodes that give {', '.join(missing[:5])}, and the graph has none such",
            "replay it with the model and the edgert that it was made with, see its [tools]",
        )
    method, quantization = built.calibration_method, job.profile.quantization
    bits = 16 if built.precision == "w8a16" else 8
    kept, wide = frozenset(built.keep_float), frozenset(built.wide)
    job.progress(f"quantizing {built.label}")
    if bits == 8 and not wide:
        graph, plan = refined(
            job, graph, method, kept, round_weights=built.round_weights, correct_bias=built.correct_bias
        )
    else:
        plan = plan_quantization(graph.model, job.ranges(graph, method), quantization, bits, keep_float=kept, wide=wide)
    recipe: dict[str, object] = {"passes": graph.changes(), "calibration_method": method}
    recipe |= {"equalise": built.equalise, "round_weights": built.round_weights}
    recipe |= {"correct_bias": built.correct_bias}
    for key in ("keep_float", "wide"):
        if getattr(built, key):
            recipe[key] = list(getattr(built, key))
    written = job.write(apply_qdq(graph.model, plan), built.label)
    return Draft(built.label, variant_class(quantization, bits), built.precision, written, recipe)
