"""int8 candidates: the plan for a float graph, and the same with biases that make up for its rounding."""

from collections.abc import Collection

from converters.candidates.trial import Draft
from converters.graphs import FloatGraph
from converters.job import Job
from converters.quantize.plan import Plan, plan_quantization
from converters.quantize.qdq import apply_qdq

EQUALISED = "-eq"
CORRECTED = "-bc"
ROUNDED = "-gptq"
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
        "round_weights": ROUNDED in suffix,
        "correct_bias": CORRECTED in suffix,
    }
    return Draft(label, variant, "int8", job.write(apply_qdq(graph.model, plan), label), recipe)


def better_draft(
    job: Job, graph: FloatGraph, method: str, suffix: str, *, round_weights: bool, correct_bias: bool
) -> Draft:
    """Return the candidate of a float graph by `method` with weights rounded for their inputs, biases corrected, or
    both; it is planned with the ranges of the graph as it was.
    """
    better, plan = refined(job, graph, method, (), round_weights=round_weights, correct_bias=correct_bias)
    suffix += ROUNDED if round_weights else ""
    return integer_draft(job, better, plan, method, suffix + (CORRECTED if correct_bias else ""))


def refined(
    job: Job,
    graph: FloatGraph,
    method: str,
    keep_float: Collection[str],
    *,
    round_weights: bool,
    correct_bias: bool,
) -> tuple[FloatGraph, Plan]:
    """Return the graph with other weights and biases, and its plan with the ranges that `graph` had."""
    ranges, rules = job.ranges(graph, method), job.profile.quantization
    plan = plan_quantization(graph.model, ranges, rules, 8, keep_float=keep_float)
    if round_weights:
        graph = _rounded(job, graph, plan, method, keep_float)
        plan = plan_quantization(graph.model, ranges, rules, 8, keep_float=keep_float)
    if correct_bias:
        job.progress("correcting biases")
        graph = job.corrected(graph, plan)
        plan = plan_quantization(graph.model, ranges, rules, 8, keep_float=keep_float)
    return graph, plan


def _rounded(job: Job, graph: FloatGraph, plan: Plan, method: str, keep_float: Collection[str]) -> FloatGraph:
    """Round the weights of a graph once per call: signed and unsigned integers have the same steps."""
    rules = job.profile.quantization
    rows = (rules.quantize_ops, rules.per_channel, rules.weight_symmetric, rules.reduce_range)
    key = ("rounded", id(graph.model), method, frozenset(keep_float), rows)
    if key not in job.shared.graphs:
        job.progress("rounding weights for their inputs")
        job.shared.graphs[key] = job.rounded(graph, plan)
    return job.shared.graphs[key]
