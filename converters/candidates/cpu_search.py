"""Which candidates of a CPU profile are built and compared: pruned by the profile's order, by what was measured so far
and by the time that is left. Which one wins is left to `cpu`.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

from converters.candidates.choice import PLAIN
from converters.candidates.integers import EQUALISED, ROUNDED, better_draft, integer_draft, integer_plan
from converters.candidates.mixed import mixed_trials, weights_error
from converters.candidates.trial import Draft, Trial, near_enough
from converters.candidates.twins import Findings, failed, finding, remember, twin_of
from converters.candidates.weights import weight_drafts
from converters.graphs import FloatGraph
from converters.job import Job
from converters.quantize.calibrate import CalibrationFailed
from converters.quantize.plan import Plan
from converters.request import Candidate

METHODS = ("minmax", "percentile", "kl", "mse")
QUICK_ROUNDS = 3
HOPELESS = 0.8
"""An int8 model that has less than this share of the speed of float will not be saved by layers in float."""

LEAST_WEIGHTS = 0.5
"""Weights are rounded for their inputs where rounding them is at least this share of what int8 costs."""

BEST = "the way int8 came nearest for another profile"

Made = TypeVar("Made")


def rank(job: Job, precision: str) -> float:
    """Return the place of a precision in the profile's order; mixed stands right behind int8."""
    precisions = job.profile.providers[-1].precisions
    stands_at = "int8" if precision == "mixed" else precision
    place = precisions.index(stands_at) if stands_at in precisions else len(precisions)
    return place + 0.5 if precision == "mixed" else place


@dataclass
class Search:
    """The search for one profile: `trials` so far, and what is said of candidates that were not tried.

    `host` says whether this machine is of the profile's kind, so that its times count. Sessions of trials that hold the
    gate stay open until `stack` closes them.
    """

    job: Job
    host: bool
    stack: ExitStack
    trials: list[Trial] = field(default_factory=list)
    untried: list[Candidate] = field(default_factory=list)
    failure: CalibrationFailed | None = None

    def run(self) -> None:
        """Try float, int8, integer weights, and mixed precision where int8 alone fails the gate."""
        for draft in self._float_drafts():
            self._keep(draft.open(self.job))
        floats, untried = len(self.trials), len(self.untried)
        twin = twin_of(self.job, whole=self.host)
        if twin is not None and self._follow(twin):
            return
        self._try_all()
        if not self.job.is_out_of_time():
            found = [finding(one) for one in self.trials[floats:]]
            kind = self.job.profile.quantization.variant_class
            remember(self.job, Findings(self.job.profile.id, kind, self.host, found, self.untried[untried:]))

    def _follow(self, twin: Findings) -> bool:
        """Try what held the gate for a twin, as the search would have; False where none of it holds here."""
        job = self.job
        asked_for = [one for one in twin.found if job.request.precision in ("auto", one.precision)]
        held = [one for one in asked_for if job.holds(one.gate)]
        held.sort(key=lambda one: (rank(job, one.precision), -one.gate))
        trials, left_out = list[Trial](), list[Candidate]()
        for one in held:
            first = next((trial.label for trial in trials if job.holds(trial.gate)), None)
            if first and not self.host:
                why = f"not tried: {first} comes first and holds the gate"
                left_out.append(replace(one.candidate(job, why), gate=None))
                continue
            trial = one.draft(job).try_open(job, left_out)
            trials += [self._keep(trial)] if trial else []
        if held and not any(job.holds(trial.gate) for trial in trials):
            del self.trials[len(self.trials) - len(trials) :]
            return False
        self.untried += [*left_out, *failed(job, twin), *twin.left_out(job)]
        return True

    def _try_all(self) -> None:
        integers = self._try_integers()
        for draft in self._worth_trying("w8", self._weight_drafts()):
            asked_for = self.job.request.precision == draft.precision != "int8"
            trial = draft.open(self.job) if asked_for else draft.try_open(self.job, self.untried)
            if trial is not None:
                self._keep(trial)
        if self._wants_mixed(integers):
            best = max(integers, key=lambda one: one.nearness)
            graph, suffix = self._graph_of(best)
            method = str(best.recipe["calibration_method"])
            for trial in self._worth_trying("mixed", mixed_trials(self.job, graph, method, suffix, self.untried)):
                self._keep(trial)

    def _keep(self, trial: Trial) -> Trial:
        self.trials.append(trial)
        if self.job.holds(trial.gate):
            self.stack.callback(trial.session.close)
        else:
            trial.session.close()
        return trial

    def _wanted(self, precision: str) -> bool:
        allowed = self.job.profile.providers[-1].precisions
        return precision in allowed and self.job.request.precision in ("auto", precision)

    def _worth_trying(self, precision: str, made: Iterator[Made]) -> Iterator[Made]:
        """Hand on what is made until the time is used up; what was asked for by name is made at least once.

        Where the time is not real the profile's order decides: nothing is made of what comes after one that holds.
        """
        job, forced = self.job, self.job.request.precision == precision
        before = [one for one in self.trials if rank(job, one.precision) < rank(job, precision) and job.holds(one.gate)]
        if before and not self.host and not forced:
            if job.request.precision != "auto":
                return
            why = f"not tried: {before[0].precision} comes first in the profile's order and holds the gate"
            self.untried.append(Candidate(precision, precision, None, None, why))
            return
        while forced or not job.is_out_of_time():
            try:
                yield next(made)
            except StopIteration:
                return
            forced = False
        why = f"not tried: the {job.request.time_budget_s:g} s of --time-budget are used up"
        self.untried.append(Candidate(precision, precision, None, None, why))

    def _float_drafts(self) -> Iterator[Draft]:
        """Yield the float candidates; the graph as it came joins where its time is real, to catch a slower rewrite."""
        if not self._wanted("fp32"):
            return
        graphs = {"fp32": self.job.float_graph("cpu")}
        if self.host:
            graphs[PLAIN] = self.job.float_graph("cpu", speed=False)
        for name, graph in graphs.items():
            yield Draft(name, "fp32", "fp32", self.job.write(graph.model, name), {"passes": graph.changes()})

    def _try_integers(self) -> list[Trial]:
        """Try int8 with the ranges of each calibration method; where these are not near the original, with more.

        That is the same graph with equalised channels, then the best so far with weights rounded for their inputs, and
        with corrected biases. Where no time is real one that holds the gate is enough.
        """
        if not self._wanted("int8") and self.job.request.precision != "mixed":
            return []
        graph, tried = self.job.integer_graph, list[Trial]()
        self._try_best_of_others(tried)
        self._try_methods(graph, "", tried)
        if self._wants_better(tried):
            equalised = self.job.equalised()
            if equalised is not None:
                self._try_methods(equalised, EQUALISED, tried)
        for made in (self._rounded, self._corrected):
            if self._wants_better(tried):
                self._try_drafts(made(tried), tried)
        return tried

    def _try_best_of_others(self, tried: list[Trial]) -> None:
        """Where one candidate that holds the gate is enough, begin with what was best for another profile."""
        known = self.job.shared.hints.get(BEST)
        if known is None or self.host:
            return
        suffix, method = known
        graph = self.job.equalised() if suffix else self.job.integer_graph
        if graph is not None:
            drafts = islice(self._integer_drafts(graph, suffix, method, tried), 1)
            self._try_drafts(drafts, tried)

    def _try_methods(self, graph: FloatGraph, suffix: str, tried: list[Trial]) -> None:
        if not self.host and any(self.job.holds(one.gate) for one in tried):
            return
        known = ("method", id(graph.model))
        self._try_drafts(self._integer_drafts(graph, suffix, self.job.shared.hints.get(known), tried), tried)
        own = [one for one in tried if bool(one.recipe["equalise"]) == bool(suffix)]
        if own:
            best = max(own, key=lambda one: one.nearness)
            self.job.shared.hints[known] = best.recipe["calibration_method"]
            self.job.shared.hints[BEST] = _made_by(max(tried, key=lambda one: one.nearness))

    def _try_drafts(self, drafts: Iterator[Draft], tried: list[Trial]) -> None:
        for draft in self._worth_trying("int8", drafts):
            trial = draft.try_open(self.job, self.untried)
            if trial is None:
                continue
            tried.append(self._keep(trial))
            if not self.host and self.job.holds(tried[-1].gate):
                break

    def _wants_better(self, tried: list[Trial]) -> bool:
        """Say whether the best int8 so far is so far from the original that more is worth a try."""
        if not tried:
            return False
        if not self.host and any(self.job.holds(one.gate) for one in tried):
            return False
        best = max(tried, key=lambda one: one.nearness)
        return min(best.nearness) < near_enough(self.job)

    def _integer_drafts(self, graph: FloatGraph, suffix: str, best: object, tried: list[Trial]) -> Iterator[Draft]:
        """Yield an int8 candidate for each calibration method that gives ranges of its own and was not `tried`.

        `best`, the method that was best for another profile of this call, comes first.
        """
        job, variant, seen = self.job, self.job.profile.quantization.variant_class, list[Plan]()
        done = [method for kind, method in map(_made_by, tried) if kind == suffix]
        for method in sorted(METHODS, key=lambda word: word != best):
            if method in done:
                continue
            try:
                plan = integer_plan(job, graph, method, ())
            except CalibrationFailed as exc:
                self.failure = exc
                self.untried.append(Candidate("int8", variant, None, None, exc.message))
                return
            if plan.quantized and not any(_equal(plan, other) for other in seen):
                seen.append(plan)
                yield integer_draft(job, graph, plan, method, suffix)

    def _corrected(self, tried: list[Trial]) -> Iterator[Draft]:
        """Yield the best of `tried` once more, with biases that make up for its rounding."""
        best = max(tried, key=lambda one: one.nearness)
        graph, suffix = self._graph_of(best)
        method, rounded = str(best.recipe["calibration_method"]), bool(best.recipe["round_weights"])
        yield better_draft(self.job, graph, method, suffix, round_weights=rounded, correct_bias=True)

    def _rounded(self, tried: list[Trial]) -> Iterator[Draft]:
        """Yield the best of `tried` once more, with weights rounded for the inputs they meet."""
        best = max(tried, key=lambda one: one.nearness)
        graph, suffix = self._graph_of(best)
        method = str(best.recipe["calibration_method"])
        weights, whole = weights_error(self.job, graph, method), 1.0 - best.nearness[1]
        if weights >= LEAST_WEIGHTS * whole:
            yield better_draft(self.job, graph, method, suffix, round_weights=True, correct_bias=False)
            return
        why = f"not tried: of the {whole:.2g} that {best.label} is off, the weights are {weights:.2g}"
        self.untried.append(Candidate("int8", f"{best.label}{ROUNDED}", None, None, why))

    def _graph_of(self, trial: Trial) -> tuple[FloatGraph, str]:
        """Return the float graph that an int8 trial was made of, and what its label says of it."""
        equalised = self.job.equalised() if trial.recipe["equalise"] else None
        return (equalised, EQUALISED) if equalised is not None else (self.job.integer_graph, "")

    def _weight_drafts(self) -> Iterator[Draft]:
        wanted = {word: self._wanted(word) for word in ("int8", "w8", "int4")}
        wanted["int4"] &= self.job.request.precision == "int4"
        yield from weight_drafts(self.job, wanted, self.untried)

    def _wants_mixed(self, integers: list[Trial]) -> bool:
        """Say whether layers in float are worth a try: where int8 fails the gate, or mixed was asked for by name."""
        if self.job.request.precision == "mixed":
            self.untried += [
                Candidate("int8", one.label, one.gate, None, "not asked for", one.written.bytes) for one in integers
            ]
            return bool(integers)
        if self.job.request.precision != "auto" or not integers or any(self.job.holds(one.gate) for one in integers):
            return False
        return not (self.host and self._is_hopeless(max(integers, key=lambda one: one.nearness)))

    def _is_hopeless(self, integer: Trial) -> bool:
        """Say whether int8 is so much slower than float here that layers in float cannot make it worth while."""
        floats = {one.label: one.session for one in self.trials if one.precision == "fp32" and self.job.holds(one.gate)}
        if not floats:
            return False
        with self.job.open_cpu(integer.written.path) as session:
            times = self.job.time({**floats, integer.label: session}, rounds=QUICK_ROUNDS)
        ratio = min(times[label].p50_ms for label in floats) / times[integer.label].p50_ms
        if ratio > HOPELESS:
            return False
        why = f"not tried: int8 has {ratio:.2f}x the speed of float here, whatever its layers"
        self.untried.append(Candidate("mixed", f"{integer.variant}-mixed", None, None, why))
        return True


def _made_by(trial: Trial) -> tuple[str, str]:
    """Return what was done to the graph of an int8 candidate, and the calibration method."""
    return EQUALISED if trial.recipe["equalise"] else "", str(trial.recipe["calibration_method"])


def _equal(left: Plan, right: Plan) -> bool:
    pairs = ((left.activations[name], right.activations.get(name)) for name in left.activations)
    return left.activations.keys() == right.activations.keys() and all(b and a.same_as(b) for a, b in pairs)
