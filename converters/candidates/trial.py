"""One candidate that was built, opened on the CPU and compared with the original."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from converters.job import Job, Written
from converters.request import Candidate, LayerDecision
from converters.verify.parity import OutputParity, ShapeChanged
from edgert.runtime.session import NotAModel, Session

NEAR = 0.25
"""What costs less than this share of --max-drop is near enough: scores so near are alike, over few samples the rest is
chance."""


@dataclass(frozen=True)
class Trial:
    """A candidate with its open session and its value at the gate, where 1.0 is the original.

    `label` tells candidates of one precision apart, `variant` is the class that names the file. `recipe` is what builds
    it again, `layers` what was decided layer by layer. Gate values from `enough` on are alike.
    """

    label: str
    variant: str
    precision: str
    written: Written
    session: Session
    parity: Mapping[str, OutputParity]
    gate: float
    recipe: Mapping[str, object]
    layers: Sequence[LayerDecision] = ()
    enough: float = 1.0

    @property
    def draft(self) -> "Draft":
        """The candidate without what running it told."""
        return Draft(self.label, self.variant, self.precision, self.written, self.recipe, self.layers)

    @property
    def nearness(self) -> tuple[float, float]:
        """How near it is to the original: by the gate, then by the outputs, where several score alike."""
        return min(self.gate, self.enough), min((one.cosine for one in self.parity.values()), default=1.0)


@dataclass(frozen=True)
class Draft:
    """A candidate before it is tried: everything but what running it tells."""

    label: str
    variant: str
    precision: str
    written: Written
    recipe: Mapping[str, object]
    layers: Sequence[LayerDecision] = ()

    def try_open(self, job: Job, left_out: list[Candidate]) -> Trial | None:
        """Open and compare it; None where ONNX Runtime cannot load it, as its optimisers break some mixed graphs, and
        where its outputs have other shapes, as rounding may make of NonZero or NonMaxSuppression.

        Such a candidate joins `left_out` with what was found.
        """
        try:
            return self.open(job)
        except NotAModel as exc:
            why = f"cannot be loaded: {exc.message}"
        except ShapeChanged as exc:
            why = exc.message
        left_out.append(Candidate(self.precision, self.label, None, None, why, self.written.bytes))
        return None

    def open(self, job: Job) -> Trial:
        """Open it on this machine's CPU and compare it with the original; the caller closes the session."""
        session = job.open_cpu(self.written.path)
        try:
            parity = job.parity_of(self.label, self.written, session)
            gate = job.gate(parity, job.evaluate(session.run))
        except BaseException:
            session.close()
            raise
        return Trial(
            self.label,
            self.variant,
            self.precision,
            self.written,
            session,
            parity,
            gate,
            self.recipe,
            self.layers,
            enough=near_enough(job),
        )


def near_enough(job: Job) -> float:
    """Return the gate value from which on nothing is done to bring a candidate nearer."""
    return 1.0 - NEAR * job.request.max_drop
