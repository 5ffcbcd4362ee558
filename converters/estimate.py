"""How long a conversion may take, from one run of the original: arithmetic only."""

from collections.abc import Sequence
from dataclasses import dataclass

from converters.candidates.cpu import EMULATED_ROUNDS
from converters.candidates.mixed import RUNS, SAMPLES
from converters.candidates.planned import ANY, Planned
from converters.job import TIMING_ROUNDS
from converters.packing import GOLDEN_VECTORS, REFERENCE_SAMPLES

PROBED = 2.0
"""A run that is calibrated with takes about so many plain ones."""

TURN_S = 0.1
"""One turn of the timing with the wait before it."""

CALIBRATED = ("int8", "mixed", "w8a16", "fp16")
HOW = (
    "from one timed run of the original here, the time of the graph passes and that to write and open their graph: "
    "each candidate and the original run every sample, and calibration takes about two runs for each; what an "
    "emulator, an accelerator, the framework of the model or a function of yours takes is not in it"
)


@dataclass(frozen=True)
class Measured:
    """What an estimate is made from: how many samples there are, whether times count here (`host`), and seconds.

    `run_s` is one run of the original, `open_s` writing and opening the float graph, `passes_s` its graph passes,
    `budget_s` what timing may take.
    """

    run_s: float
    open_s: float
    passes_s: float
    samples: int
    budget_s: float
    host: bool


@dataclass(frozen=True)
class Estimate:
    """Seconds for one profile where only what is tried in any case is tried, and where everything is."""

    least_s: float
    most_s: float

    def to_json(self) -> dict[str, object]:
        """Return the entry of `convert --dry-run --json`."""
        return {"least_s": self.least_s, "most_s": self.most_s, "how": HOW}


def estimate(candidates: Sequence[Planned], measured: Measured) -> Estimate:
    """Return how long one profile takes with what is surely tried of its candidates, and with all of them."""
    sure = [one for one in candidates if one.certain]
    return Estimate(_seconds(sure, measured), _seconds(candidates, measured))


def _seconds(candidates: Sequence[Planned], measured: Measured) -> float:
    run_s, samples = measured.run_s, measured.samples
    count = sum(one.most for one in candidates)
    compared = count * (2 * samples * run_s + 2 * measured.open_s)
    calibrated = PROBED * samples * run_s if any(one.precision in CALIBRATED for one in candidates) else 0.0
    searched = any(ANY in one.label and one.precision == "mixed" for one in candidates)
    ranked = RUNS * SAMPLES * PROBED * run_s if searched else 0.0
    rounds = TIMING_ROUNDS if measured.host else EMULATED_ROUNDS
    timed = min(measured.budget_s, rounds * (count + 1) * (TURN_S + 2 * run_s))
    packed = 2 * (GOLDEN_VECTORS + min(samples, REFERENCE_SAMPLES)) * run_s + 3 * measured.open_s
    return measured.passes_s + compared + calibrated + ranked + timed + packed
