"""int8 candidates: the plan for a float graph, and the same with biases that make up for its rounding."""

from collections.abc import Collection

from converters.candidates.trial import Draft
from converters.graphs import FloatGraph
from converters.job import Job
from converters.quantize.plan import Plan, plan_quantization
from converters.quantize.qdq import apply_qdq

EQUALISED = "-eq"
CORRECTED = "-bc"
"""What labels say of the graph that a candidate was made of."""


def integer_plan(
    job: Job,
    graph: FloatGraph,
    method: str,
    keep_float: Collection[str],
    *,
    wide: Collection[str] = (),
) -> Plan:
    """Return the plan for 8 bits with the ranges of `method`; `wide` nodes get 16."""
    ranges, quantization = job.ranges(graph, method), job.profile.quantization
    return plan_quantization(graph.model, ranges, quantization, 8, keep_float=keep_float, wide=wide)


def integer_draft(job: Job, graph: FloatGraph, plan: Plan, method: str, suffix: str) -> Draft:
    """Return the candidate of a plan; `suffix` says in its label what was done to the graph."""
    variant = job.profile.quantization.variant_class
    label = f"{variant}-{method}{suffix}"
    job.progress(f"quantizing {label}")
    recipe = {
        "passes": graph.changes(),
        "calibration_method": method,
        "equalise": EQUALISED in suffix,
        "correct_bias": CORRECTED in suffix,
    }
    return Draft(label, variant, "int8", job.write(apply_qdq(graph.model, plan), label), recipe)


def corrected_draft(job: Job, graph: FloatGraph, method: str, suffix: str) -> Draft:
    """Return the candidate of a float graph by `method` with corrected biases, planned with the same ranges."""
    job.progress("correcting biases")
    better = job.corrected(graph, integer_plan(job, graph, method, ()))
    plan = plan_quantization(better.model, job.ranges(graph, method), job.profile.quantization, 8)
    return integer_draft(job, better, plan, method, suffix + CORRECTED)
