"""The choice for a CPU profile: what the search found is timed where this machine is of the profile's kind, and the
fastest that holds the gate wins; elsewhere the first in the profile's order.
"""

from contextlib import ExitStack

from converters.candidates.choice import Choice, Judged, NothingHolds, outcome, select
from converters.candidates.cpu_search import Search, rank
from converters.candidates.trial import Draft, Trial
from converters.job import Job, Written
from converters.request import Candidate, Check, VariantReport
from edgert.errors import BadInput, GateFailed, UsageError
from edgert.manifest import Placement
from edgert.runtime.timing import Latency

CPU = "CPUExecutionProvider"
EMULATED_ROUNDS = 3


def choose(job: Job) -> Choice:
    """Build, run and time the candidates of a CPU profile; NothingHolds when none is close enough to the original."""
    host = job.where(job.shared.cpu) == "host"
    with ExitStack() as stack:
        search = Search(job, host, stack)
        search.run()
        if not search.trials and search.failure:
            raise search.failure
        if not search.trials and search.untried:
            last = search.untried[-1]
            raise BadInput(f"profile '{job.profile.id}': {last.variant}: {last.outcome}", "use another --precision")
        if not search.trials:
            raise UsageError(
                f"profile '{job.profile.id}' does not take --precision {job.request.precision}",
                f"it takes {', '.join(job.profile.providers[-1].precisions)}",
            )
        return _select(job, host, search)


def replay(job: Job, draft: Draft) -> Choice:
    """Return the choice of one candidate without a search; NothingHolds where it is below the gate."""
    trial = draft.open(job)
    with trial.session:
        limit = f"below {1 - job.request.max_drop:g}"
        if not job.holds(trial.gate):
            raise NothingHolds(
                f"profile '{job.profile.id}': {trial.label} has {job.request.metric} {trial.gate:.4f}, {limit}",
                "convert without --recipe: what came out where it was made does not hold here",
                [Candidate(trial.precision, trial.label, trial.gate, None, "below the gate", trial.written.bytes)],
            )
        host = job.where(job.shared.cpu) == "host"
        latency = _time(job, [trial])[trial.label] if host else _time_alone(job, trial)
        speedup = latency.speedup if host else None
        tried = [Candidate(trial.precision, trial.label, trial.gate, speedup, "chosen", trial.written.bytes)]
        return _choice(job, trial, latency, "", tried)


def _select(job: Job, host: bool, search: Search) -> Choice:
    asked_for = [one for one in search.trials if job.request.precision in ("auto", one.precision)]
    trials, alike = _without_alike(job, asked_for)
    times = _time(job, trials) if host else {}
    speedups = {label: latency.speedup for label, latency in times.items()}
    judged = [Judged(one.label, one.precision, one.gate, speedups.get(one.label), one.nearness) for one in trials]
    judged.sort(key=lambda one: rank(job, one.precision))
    winner, reason = select(judged, job.request.max_drop, job.request.metric)
    limit, by_label = job.request.max_drop, {one.label: one for one in trials}
    candidates = [
        Candidate(
            one.precision,
            one.variant,
            one.gate,
            one.speedup,
            f"{outcome(one, winner, limit)}{job.seen(by_label[one.variant].parity)}",
            by_label[one.variant].written.bytes,
        )
        for one in judged
    ]
    candidates += alike + search.untried
    if winner is None:
        raise NothingHolds(
            f"profile '{job.profile.id}': {reason}",
            "give more or better calibration data, another --precision, or a larger --max-drop",
            candidates,
            max(search.trials, key=lambda one: one.gate).layers,
        )
    chosen = by_label[winner.variant]
    return _choice(job, chosen, times.get(chosen.label) or _time_alone(job, chosen), reason, candidates)


def fallback_variant(job: Job) -> tuple[Written, VariantReport, Placement]:
    """Return the float CPU variant that every accelerator bundle also holds, compared with the original."""
    graph = job.float_graph("cpu")
    draft = Draft("fp32", "fp32", "fp32", job.write(graph.model, "fp32"), {})
    trial = draft.open(job)
    with trial.session:
        report = _report(job, trial, _time_alone(job, trial))
    if not job.holds(trial.gate):
        raise GateFailed(
            f"profile '{job.profile.id}': the float CPU variant has {job.request.metric} {trial.gate:.4f}",
            "report this model: the graph passes must not change what it computes",
        )
    return draft.written, report, Placement("fp32", CPU, "cpu")


def _without_alike(job: Job, trials: list[Trial]) -> tuple[list[Trial], list[Candidate]]:
    """Leave out the int8 candidates that hold the gate and are not the best of them: they differ in numbers only."""
    alike, told = list[Trial](), list[Candidate]()
    for equalised in (False, True):
        made = [one for one in trials if one.precision == "int8" and one.recipe.get("equalise") is equalised]
        held = sorted((one for one in made if job.holds(one.gate)), key=lambda one: one.nearness)
        alike += held[:-1]
        why = f"the same operators as {held[-1].label}, further from the original" if held else ""
        told += [Candidate("int8", one.label, one.gate, None, why, one.written.bytes) for one in held[:-1]]
    return [one for one in trials if one not in alike], told


def _time(job: Job, trials: list[Trial]) -> dict[str, Latency]:
    """Time what holds the gate beside the original."""
    held = {one.label: one.session for one in trials if job.holds(one.gate)}
    return job.time({"original": job.shared.original} | held)


def _time_alone(job: Job, trial: Trial) -> Latency:
    """Time one variant where no choice depends on it: few rounds, and once for equal files."""
    return job.time_alone(trial.label, trial.written, trial.session, EMULATED_ROUNDS)


def _choice(job: Job, trial: Trial, latency: Latency, reason: str, candidates: list[Candidate]) -> Choice:
    report = _report(job, trial, latency)
    placement = Placement(trial.variant, CPU, "cpu", job.profile.providers[-1].options_for(trial.precision))
    return Choice(
        trial.variant,
        reason,
        {trial.variant: trial.written},
        [report],
        [placement],
        candidates,
        {"candidate": trial.label, **trial.recipe},
        trial.layers,
    )


def _report(job: Job, trial: Trial, latency: Latency) -> VariantReport:
    where = job.where(job.shared.cpu)
    check = Check(CPU, where, job.shared.samples.count, trial.parity)
    return VariantReport(
        trial.variant, trial.precision, trial.written.bytes, CPU, where, trial.session.nodes, [check], latency
    )
