"""Mixed precision: int8 with the few layers in float that int8 would ruin, found by measurement.

The tensors whose rounding costs most are ranked once per graph; then more and more of them, with the layers around
them, stay in float until the gate holds.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from converters.candidates.integers import integer_plan
from converters.candidates.trial import Draft, Trial
from converters.graphs import FloatGraph
from converters.job import Job
from converters.quantize.plan import HEAVY, Plan, node_key
from converters.quantize.qdq import apply_qdq
from converters.quantize.sensitivity import Switchboard, TensorError, open_switchboard, rank_tensors
from converters.request import Candidate, LayerDecision
from converters.search_cache import file_digest
from converters.verify.parity import ParityMeter

SAMPLES = 2
"""How many samples rank the tensors: the order settles with few, the gate is judged on all."""

RUNS = 64
FIRST_SIZE = 2
LEAST_SHARE = 0.02
"""A group of tensors is not split when it costs less than this share of what --max-drop allows."""

MOST_FLOAT = 0.5
"""With more than this share of its convolutions and matrix products in float it is no integer model any more."""


@dataclass(frozen=True)
class Ranking:
    """The tensors of one graph, the costliest first, for the ranges of one calibration method.

    `weights` is what rounding the weights costs before any tensor is rounded, as a fall of the cosine.
    """

    method: str
    errors: Sequence[TensorError]
    weights: float


def ranking(job: Job, graph: FloatGraph, method: str, *, most_weights: float | None = None) -> Ranking:
    """Return the ranking of a float graph's tensors, worked out once per call and graph.

    Signed and unsigned integers of a tensor have the same steps, so profiles that differ in that share it.

    No tensor is ranked where the weights alone cost more than `most_weights`.
    """
    plan = integer_plan(job, graph, method, ())
    rules = job.profile.quantization
    key = (id(graph.model), method, rules.quantize_ops, rules.per_channel, most_weights)
    if key not in job.shared.rankings:
        job.shared.rankings[key] = _rank(job, graph, plan, method, most_weights)
    found: Ranking = job.shared.rankings[key]
    return found


def weights_error(job: Job, graph: FloatGraph, method: str) -> float:
    """Return what rounding the weights alone costs, as a fall of the cosine on the few samples that rank tensors."""
    return ranking(job, graph, method, most_weights=-1.0).weights


def _rank(job: Job, graph: FloatGraph, plan: Plan, method: str, most_weights: float | None) -> Ranking:
    shared = job.shared
    with open_switchboard(graph.model, plan, shared.scratch, shared.cpu, job.request.threads) as board:
        limits = {"max_drop": job.request.max_drop, "most_weights": most_weights}
        parts = job.measured_of("ranking", file_digest(board.path)) | limits
        found: Mapping[str, Any] | None = shared.cache.get(parts)
        if found is None:
            found = _measure(job, board, most_weights)
            shared.cache.put(parts, found)
    return Ranking(method, [TensorError(**entry) for entry in found["tensors"]], found["weights"])


def _measure(job: Job, board: Switchboard, most_weights: float | None) -> dict[str, Any]:
    """Return what the weights cost, and the tensors with their errors, as a document for the cache."""
    pairs = list(job.pairs(SAMPLES))
    calls = 0

    def error(on: frozenset[str]) -> float:
        nonlocal calls
        job.progress("looking for the layers that int8 ruins", calls, RUNS)
        calls += 1
        meter = ParityMeter()
        for feeds, expected in pairs:
            meter.add(expected, board.run(feeds, on))
        return 1.0 - min((one.cosine for one in meter.result().values()), default=1.0)

    weights = error(frozenset())
    names = board.names if most_weights is None or weights <= most_weights else ()
    least = max(LEAST_SHARE * job.request.max_drop, 1e-6)
    ranked = rank_tensors(names, lambda on: error(on) - weights, least=least, runs=RUNS)
    return {"weights": weights, "tensors": [asdict(one) for one in ranked]}


def layers_around(graph: ir.Graph, tensors: Collection[str]) -> frozenset[str]:
    """Return the keys of the nodes that give or read one of `tensors`: in float, none of them is rounded."""
    keys: set[str] = set()
    for node in graph:
        touched = {str(value.name) for value in (*node.inputs, *node.outputs) if value is not None}
        if not touched.isdisjoint(tensors):
            keys.add(node_key(node))
    return frozenset(keys)


def mixed_trials(job: Job, graph: FloatGraph, method: str, suffix: str, left_out: list[Candidate]) -> Iterator[Trial]:
    """Yield candidates with more and more layers in float; see `search`. `suffix` names what was done to `graph`."""
    ranked = ranking(job, graph, method)
    further = job.where(job.shared.cpu) == "host"
    hint = ("spared tensors", id(graph.model), method)

    def draft_of(size: int) -> tuple[Draft, frozenset[str]] | None:
        return _draft(job, graph, ranked, size, suffix)

    return search(job, len(ranked.errors), draft_of, hint, left_out, further=further)


def search(
    job: Job,
    count: int,
    draft_of: Callable[[int], tuple[Draft, frozenset[str]] | None],
    hint: object,
    left_out: list[Candidate],
    *,
    further: bool = False,
) -> Iterator[Trial]:
    """Yield candidates with ever more of `count` tensors spared until one holds the gate.

    `draft_of` gives the candidate that spares so many, and the nodes that differ by it; None when that is too many.
    `hint` finds the number that held for another profile of this call, to begin with. `further` yields one size more
    and one less, for where the time is real: more layers in float may be faster, as fewer conversions are. One that
    cannot be loaded joins `left_out`, and the search goes on. The caller closes each session.
    """
    first = job.shared.hints.get(hint, FIRST_SIZE)
    seen: set[frozenset[str]] = set()
    failed = held = 0
    for size in _sizes(count, first):
        found = draft_of(size)
        if found is None:
            break
        trial = _open_new(job, found, seen, left_out)
        if trial is None:
            continue
        held = size if job.holds(trial.gate) else 0
        failed = failed if held else size
        yield trial
        if held:
            break
    if not held:
        return
    job.shared.hints[hint] = held
    others = [held * 2] if further else []
    others += [(failed + held) // 2] if failed else []
    for size in others:
        found = draft_of(size)
        trial = _open_new(job, found, seen, left_out) if found else None
        if trial is not None:
            yield trial


def _open_new(
    job: Job, found: tuple[Draft, frozenset[str]], seen: set[frozenset[str]], left_out: list[Candidate]
) -> Trial | None:
    """Open a candidate unless one with the same nodes spared was; None as well where it cannot be loaded."""
    draft, spared = found
    if spared in seen:
        return None
    seen.add(spared)
    return draft.try_open(job, left_out)


def _sizes(count: int, first: int) -> Iterator[int]:
    size = first
    while size < count:
        yield size
        size *= 2


def _draft(job: Job, graph: FloatGraph, ranked: Ranking, size: int, suffix: str) -> tuple[Draft, frozenset[str]] | None:
    """Return the candidate with the layers around the `size` costliest tensors in float; None when that is too many."""
    tensors = [one.name for one in ranked.errors[:size]]
    kept = layers_around(graph.model.graph, tensors)
    plan = integer_plan(job, graph, ranked.method, kept)
    heavy = [node_key(node) for node in graph.model.graph if node.op_type in HEAVY]
    integers = sum(key in plan.quantized for key in heavy)
    before = sum(key in integer_plan(job, graph, ranked.method, ()).quantized for key in heavy)
    if integers < (1 - MOST_FLOAT) * before or not integers:
        return None
    variant = job.profile.quantization.variant_class
    label = f"{variant}-{ranked.method}{suffix}-mixed-{size}"
    job.progress(f"quantizing {label}")
    written = job.write(apply_qdq(graph.model, plan), label)
    recipe: Mapping[str, object] = {
        "passes": graph.changes(),
        "calibration_method": ranked.method,
        "keep_float": sorted(kept),
        "equalise": bool(suffix),
    }
    return Draft(label, variant, "mixed", written, recipe, decisions(graph.model.graph, ranked, plan)), kept


def decisions(graph: ir.Graph, ranked: Ranking, plan: Plan) -> list[LayerDecision]:
    """Return the table of layers: each tensor of the ranking, and what this plan makes of it."""
    producers = {str(value.name): node for node in graph for value in node.outputs}
    found = []
    for one in ranked.errors:
        node = producers.get(one.name)
        affine = plan.activations.get(one.name)
        decision = "float" if affine is None else "16-bit" if affine.dtype in ("uint16", "int16") else "int8"
        name, op_type = (str(node.name), node.op_type) if node is not None else ("", "input")
        found.append(LayerDecision(one.name, name, op_type, float(np.float32(one.error)), one.alone, decision))
    return found


def costliest(layers: Sequence[LayerDecision], count: int = 5) -> str:
    """Return the layers that cost most, as words for an error: op type, node, and what each takes off the cosine."""
    worst = [layer for layer in layers if layer.error > 0][:count]
    return ", ".join(f"{one.op_type} '{one.node or one.layer}' ({one.error:.2g})" for one in worst)
