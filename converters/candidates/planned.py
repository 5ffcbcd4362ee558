"""What would be tried for a profile, in order, and when: told without calibrating, quantizing or running any of it.

The words and conditions are those of `cpu_search`, `npu` and `gpu`; a test compares them with what is really tried.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from converters.candidates import npu, quantized
from converters.candidates.choice import PLAIN
from converters.candidates.cpu_search import METHODS, rank
from converters.candidates.integers import CORRECTED, EQUALISED, ROUNDED
from converters.candidates.trial import near_enough
from converters.candidates.weights import BITS, LEAST_SHARE, VARIANTS, weight_share
from converters.job import Job
from converters.quantize.plan import variant_class
from edgert.errors import UsageError

ALWAYS = "always"
ANY = "*"
"""Stands in a label for what only measuring tells: a calibration method, or how many layers are not int8."""


MOST_MIXED = 4
"""So many mixed candidates are usual where any is tried."""


@dataclass(frozen=True)
class Planned:
    """One candidate that may be tried, or with `ANY` in its label one or several; `when` says under which condition."""

    label: str
    precision: str
    when: str = ALWAYS

    @property
    def certain(self) -> bool:
        """Whether it is tried whatever comes out before it."""
        return self.when == ALWAYS

    @property
    def most(self) -> int:
        """How many candidates it stands for, at most or by experience."""
        if self.precision == "mixed":
            return MOST_MIXED
        return len(METHODS) if self.label.endswith(EQUALISED) else 1

    def to_json(self) -> dict[str, object]:
        """Return the entry of `convert --dry-run --json`."""
        return {"candidate": self.label, "precision": self.precision, "when": self.when, "certain": self.certain}


def planned(job: Job) -> list[Planned]:
    """Return the candidates of a profile in the order in which they are tried; UsageError where it takes none."""
    if job.request.replay is not None:
        built = job.request.replay.built_for(job.shared.part)
        return [Planned(built.label, built.precision)]
    if job.shared.imported.quantized:
        came = quantized.variant_of(job)
        return [Planned(came.name, came.precision)]
    found = list({"cpu": _cpu, "npu": _npu, "gpu": _gpu}[job.profile.processor](job))
    if not found:
        raise UsageError(
            f"profile '{job.profile.id}' does not take --precision {job.request.precision}",
            f"its {job.profile.providers[0].name} takes {', '.join(job.profile.providers[0].precisions)}",
        )
    return found


def _takes(job: Job, precision: str) -> bool:
    return precision in job.profile.providers[-1].precisions and job.request.precision in ("auto", precision)


def _cpu(job: Job) -> Iterator[Planned]:
    host, forced = job.where(job.shared.cpu) == "host", job.request.precision
    if _takes(job, "fp32"):
        yield Planned("fp32", "fp32")
        if host:
            yield Planned(PLAIN, "fp32")
    if _takes(job, "int8") or forced == "mixed":
        yield from _integers(job, host)
    yield from _weights(job, host)
    if forced == "mixed" or (forced == "auto" and _takes(job, "int8")):
        why = ALWAYS if forced == "mixed" else "where no int8 candidate holds the gate"
        yield Planned(f"{job.profile.quantization.variant_class}-{ANY}-mixed-{ANY}", "mixed", why)


def _first_of(job: Job, precision: str, host: bool) -> str:
    """Return when the first candidate of a precision is tried: where times are not real the profile's order decides."""
    before = [word for word in ("fp32", "int8") if _takes(job, word) and rank(job, word) < rank(job, precision)]
    if host or not before or job.request.precision == precision:
        return ALWAYS
    return (
        f"where {' and '.join(before)} before it in the profile's order {'miss' if before[1:] else 'misses'} the gate"
    )


def _integers(job: Job, host: bool) -> Iterator[Planned]:
    variant = job.profile.quantization.variant_class
    later = "where its ranges are new" if host else "where none before it holds the gate, and its ranges are new"
    for number, method in enumerate(METHODS):
        yield Planned(f"{variant}-{method}", "int8", later if number else _first_of(job, "int8", host))
    far = f"where int8 costs more than {1 - near_enough(job):.2g}" + ("" if host else " and misses the gate")
    yield Planned(f"{variant}-{ANY}{EQUALISED}", "int8", far)
    yield Planned(f"{variant}-{ANY}{ROUNDED}", "int8", f"{far}, most of it by its weights")
    yield Planned(f"{variant}-{ANY}{CORRECTED}", "int8", far)


def _weights(job: Job, host: bool) -> Iterator[Planned]:
    """Yield dynamic int8 and integer weights as `weights.weight_drafts` makes them."""
    share, forced = weight_share(job.float_graph("cpu").model), job.request.precision
    if share < LEAST_SHARE and forced not in BITS:
        return
    if _takes(job, "int8") and share >= LEAST_SHARE:
        yield Planned("dyn-int8", "int8", _first_of(job, "w8", host))
    for precision in BITS:
        if _takes(job, precision) and (precision != "int4" or forced == "int4"):
            yield Planned(VARIANTS[precision], precision, _first_of(job, precision, host))


def _npu(job: Job) -> Iterator[Planned]:
    quantization, first = job.profile.quantization, True
    for precision in npu.wanted(job, job.profile.providers[0]):
        for label in _npu_labels(job, precision, quantization.variant_class):
            yield Planned(label, precision, ALWAYS if first else "where none before it runs whole and holds the gate")
            first = False
    yield Planned("fp32", "fp32", "beside the one that does, for the device's CPU")


def _npu_labels(job: Job, precision: str, variant: str) -> list[str]:
    if precision == "mixed":
        return [f"{variant}-{ANY}-mixed-{ANY}"]
    if precision == "fp16":
        return ["fp32-npu"]
    name = variant_class(job.profile.quantization, npu.ACTIVATION_BITS[precision])
    return [name if method == "minmax" else f"{name}-{method}" for method in npu.METHODS[precision]]


def _gpu(job: Job) -> Iterator[Planned]:
    """Yield fp32, which is run on the GPU whatever is asked for, and fp16; nothing where neither is."""
    wanted = [word for word in job.profile.providers[0].precisions if job.request.precision in ("auto", word)]
    if wanted:
        yield Planned("fp32", "fp32")
    if "fp16" in wanted:
        yield Planned("fp16", "fp16")
