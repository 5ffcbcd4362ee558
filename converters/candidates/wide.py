"""Mixed precision for an NPU: int8, with 16-bit activations for the few layers that int8 would ruin.

The ranking and the search are those of `mixed`; here more layers get more bits, not float, which would leave the NPU.
"""

from collections.abc import Collection, Iterator

import onnx_ir as ir

from converters.candidates.integers import integer_plan
from converters.candidates.mixed import Ranking, decisions, layers_around, ranking, search
from converters.candidates.trial import Draft, Trial
from converters.graphs import FloatGraph
from converters.job import Job
from converters.quantize.plan import HEAVY, PASS_THROUGH, Plan, node_key
from converters.quantize.qdq import apply_qdq
from converters.request import Candidate

MOST_WIDE = 0.5
"""With more than this share of its convolutions and matrix products at 16 bits, all of it may as well have them."""

HOPELESS_WEIGHTS = 1.5
"""Where the weights alone cost this many times what --max-drop allows, no width of activations mends it."""


def wide_ranking(job: Job, method: str) -> Ranking:
    """Return the ranking of the NPU's graph; it has no tensors where it is the weights that cost too much."""
    comparable = job.shared.evaluation is None and job.request.metric == "cosine"
    most = max(HOPELESS_WEIGHTS * job.request.max_drop, 1e-6)
    return ranking(job, job.float_graph("npu"), method, most_weights=most if comparable else None)


def wide_trials(job: Job, ranked: Ranking, left_out: list[Candidate]) -> Iterator[Trial]:
    """Yield candidates with more and more layers at 16 bits, run on the CPU; see `search`.

    Some follow the first that holds the gate, because the NPU's integers may be worse than those of the CPU.
    """
    graph, method = job.float_graph("npu"), ranked.method
    narrow = integer_plan(job, graph, method, ())
    hint = ("wide tensors", id(graph.model), method)

    def draft_of(size: int) -> tuple[Draft, frozenset[str]] | None:
        return _draft(job, graph, ranked, narrow, size)

    return search(job, len(ranked.errors), draft_of, hint, left_out, further=True)


def wide_around(graph: ir.Graph, tensors: Collection[str], plan: Plan) -> frozenset[str]:
    """Return the keys of the nodes that give or read one of `tensors` or a copy of it, so that none has 8 bits."""
    copying = [
        node
        for node in graph
        if node_key(node) in plan.absorbed or (node.op_type in PASS_THROUGH and node_key(node) in plan.quantized)
    ]
    copies = [{str(value.name) for value in (*node.inputs[:1], *node.outputs) if value} for node in copying]
    same, before = set(tensors), 0
    while len(same) > before:
        before = len(same)
        same.update(*(names for names in copies if not same.isdisjoint(names)))
    return layers_around(graph, same)


def _draft(
    job: Job, graph: FloatGraph, ranked: Ranking, narrow: Plan, size: int
) -> tuple[Draft, frozenset[str]] | None:
    """Return the candidate with the layers around the `size` costliest tensors at 16 bits; None when too many are."""
    wide = wide_around(graph.model.graph, [one.name for one in ranked.errors[:size]], narrow) & narrow.quantized
    heavy = {node_key(node) for node in graph.model.graph if node.op_type in HEAVY}
    if len(heavy & wide) > MOST_WIDE * len(heavy):
        return None
    variant = job.profile.quantization.variant_class
    label = f"{variant}-{ranked.method}-mixed-{size}"
    job.progress(f"quantizing {label}")
    plan = integer_plan(job, graph, ranked.method, (), wide=wide)
    written = job.write(apply_qdq(graph.model, plan), label)
    recipe = {"passes": graph.changes(), "calibration_method": ranked.method, "wide": sorted(wide)}
    return Draft(label, variant, "mixed", written, recipe, decisions(graph.model.graph, ranked, plan)), wide
