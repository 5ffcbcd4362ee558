"""What is said where no candidate of an accelerator holds the gate: the best found, and what stands in the way."""

from collections.abc import Sequence

import numpy as np

from converters.candidates.accelerator import AcceleratorFailed
from converters.candidates.integers import integer_plan
from converters.candidates.mixed import SAMPLES, costliest, decisions
from converters.candidates.trial import Draft
from converters.candidates.wide import wide_ranking
from converters.job import Job
from converters.request import Candidate, LayerDecision


def below_the_gate(
    job: Job, judged: Sequence[tuple[Candidate, Draft]], candidates: Sequence[Candidate]
) -> AcceleratorFailed:
    """Return the error for `judged` candidates, all below the gate: it names the layers that cost most, or the outputs
    of the model itself that are not finite.
    """
    best = max((candidate for candidate, _ in judged), key=lambda one: one.gate or 0.0)
    message = (
        f"profile '{job.profile.id}': the best candidate, {best.variant}, has {job.request.metric} "
        f"{best.gate:.4f}, below {1 - job.request.max_drop:g}"
    )
    endless = _not_finite(job)
    if endless:
        return AcceleratorFailed(
            f"{message}; the model itself gives NaN or infinity in {', '.join(endless)}, which do not survive there",
            "end the model before the node that makes them (a mask, a Log, a division), or convert for a CPU profile",
            (),
            candidates,
        )
    layers, why = _layers(job, judged)
    return AcceleratorFailed(
        message + why,
        "give more or better calibration data, another --precision, or a larger --max-drop",
        (),
        candidates,
        layers,
    )


def _not_finite(job: Job) -> list[str]:
    """Return the outputs that hold NaN or infinity in the original model, for the first samples."""
    found: dict[str, None] = {}
    for _, outputs in job.pairs(SAMPLES):
        for name, array in outputs.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                found[f"'{name}'"] = None
    return list(found)


def _layers(job: Job, judged: Sequence[tuple[Candidate, Draft]]) -> tuple[list[LayerDecision], str]:
    """Return the table of layers where int8 was tried, and what it says."""
    nearest_first = [draft for _, draft in sorted(judged, key=lambda one: -(one[0].gate or 0.0))]
    known = next((list(draft.layers) for draft in nearest_first if draft.layers), [])
    if known:
        return known, f"; at 8 bits these layers cost most: {costliest(known)}"
    method = next((str(one.recipe["calibration_method"]) for one in nearest_first if one.precision == "int8"), None)
    if method is None or job.is_out_of_time():
        return [], ""
    graph, ranked = job.float_graph("npu"), wide_ranking(job, method)
    if not ranked.errors:
        heavy = ranked.weights > job.request.max_drop
        return [], f"; at 8 bits the weights alone cost {ranked.weights:.2g}, without any activation" if heavy else ""
    made = decisions(graph.model.graph, ranked, integer_plan(job, graph, method, ()))
    return made, f"; at 8 bits these layers cost most: {costliest(made)}"
