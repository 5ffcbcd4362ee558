"""What the search for one profile tells the search for the next: candidates of the same numbers need no second look.

Two CPU profiles are twins when their candidates are made of one float graph with the same rules, and differ in how the
integers are stored: u8 and s8 round to the same steps. What failed the gate for one fails it for the other; what held
is built and run again, because its file is another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from converters.candidates.rebuild import rebuild
from converters.candidates.trial import Draft, Trial
from converters.job import Job
from converters.recipe import Built
from converters.request import Candidate, LayerDecision


@dataclass(frozen=True)
class Finding:
    """One candidate of a finished search, and what became of it; a label that begins with `variant` changes with it."""

    variant: str
    label: str
    precision: str
    gate: float
    recipe: Mapping[str, object]
    layers: Sequence[LayerDecision]

    def candidate(self, job: Job, outcome: str) -> Candidate:
        """Return the row that says of this profile's own candidate what `outcome` says."""
        return Candidate(self.precision, self.own_label(job), self.gate, None, outcome)

    def own_label(self, job: Job) -> str:
        """Return the label that the candidate has for the profile of `job`."""
        return renamed(self.label, self.variant, job)

    def draft(self, job: Job) -> Draft:
        """Build the candidate for the profile of `job`."""
        built = Built.of({"candidate": self.own_label(job), **self.recipe}, self.precision, job.profile.processor)
        return replace(rebuild(job, built), layers=self.layers)


@dataclass(frozen=True)
class Findings:
    """A finished search: for which profile, whether it tried everything, and each candidate that was no float one."""

    profile: str
    variant: str
    whole: bool
    found: Sequence[Finding]
    untried: Sequence[Candidate]

    def left_out(self, job: Job) -> list[Candidate]:
        """Return the rows of what was not tried, with the labels of the profile of `job`."""
        return [replace(one, variant=renamed(one.variant, self.variant, job)) for one in self.untried]


def finding(trial: Trial) -> Finding:
    """Return what a trial tells a twin."""
    return Finding(trial.variant, trial.label, trial.precision, trial.gate, trial.recipe, trial.layers)


def twin_of(job: Job, *, whole: bool) -> Findings | None:
    """Return the search of a twin of this job's profile, if there was one; `whole` wants one that tried everything."""
    found = job.shared.findings.get(_key(job))
    return found if isinstance(found, Findings) and (found.whole or not whole) else None


def remember(job: Job, findings: Findings) -> None:
    """Keep a search for the twins to come; one that tried everything is not replaced by one that did not."""
    before = job.shared.findings.get(_key(job))
    if not isinstance(before, Findings) or findings.whole or not before.whole:
        job.shared.findings[_key(job)] = findings


def failed(job: Job, twin: Findings) -> list[Candidate]:
    """Return the rows of what failed the gate for the twin, of the precision that was asked for."""
    why = f"below the gate, as for {twin.profile}: the numbers are the same"
    asked_for = [one for one in twin.found if job.request.precision in ("auto", one.precision)]
    return [one.candidate(job, why) for one in asked_for if not job.holds(one.gate)]


def renamed(label: str, variant: str, job: Job) -> str:
    """Return a label that begins with the class `variant` as the profile of `job` has it; others stay."""
    if not variant or not label.startswith(f"{variant}-"):
        return label
    return job.profile.quantization.variant_class + label.removeprefix(variant)


def _key(job: Job) -> tuple[object, ...]:
    rules, is_cpu = job.profile.quantization, job.profile.processor == "cpu"
    return (
        id(job.integer_graph.model),
        job.profile.processor,
        rules.quantize_ops,
        rules.per_channel,
        rules.weight_symmetric,
        rules.activation_symmetric,
        rules.reduce_range,
        job.profile.providers[0].name,
        job.profile.providers[0].precisions,
        "" if is_cpu else rules.variant_class,  # an accelerator takes its integers as they are
    )
