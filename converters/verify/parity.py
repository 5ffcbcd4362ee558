"""How close a variant's outputs are to the original model's, summed up sample by sample.

Running the sessions is left to `converters.job`, deciding what is good enough to `converters.candidates`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from converters.verify.metrics import check_metric, sqnr_agreement
from edgert.errors import BadInput, GateFailed
from edgert.runtime.golden import is_label

HUGE = float(np.finfo(np.float32).max)
"""The error where only one side is finite, or both are not and differ."""

LARGEST = float(np.finfo(np.float64).max)
SQUARE_FITS = 1e140
"""Vectors of larger numbers are scaled before they are squared, so that float64 holds the sum."""

PARITY_METRICS = ("cosine", "top1_agreement", "sqnr")
"""The words of `--metric` that a parity answers."""

LEAST_AGREEMENT = 0.99
"""The least share of equal labels that an imported graph must have with its source."""


@dataclass(frozen=True)
class OutputParity:
    """One output of a variant against the same output of the original over `samples` samples.

    Where both hold the same infinity, or both NaN, they agree and the place is left out of the figures.
    `sqnr_db`: signal energy over error energy of all samples, in dB; None when they are equal to the bit.
    `cosine`: mean over samples of the cosine of the flattened outputs; `cosine_min` the smallest.
    `max_abs_error`: in the output's own unit. `top1_agreement`: share of rows (last axis) with the same argmax,
    None when the last axis has fewer than two entries.

    Labels, which are text, bool and integers of 32 and 64 bits, have no distance: `agreement` is the share of equal
    entries, None for other outputs; `cosine` and `cosine_min` are that share as well, `sqnr_db` is None, and
    `max_abs_error` 1 where any entry differs. Integers of 8 and 16 bits are quantities: pixels, levels.
    """

    sqnr_db: float | None
    cosine: float
    cosine_min: float
    max_abs_error: float
    top1_agreement: float | None
    samples: int
    agreement: float | None = None

    def to_json(self) -> dict[str, float | None]:
        """Return the figures of the command line's documents."""
        return {
            "sqnr_db": self.sqnr_db,
            "cosine": self.cosine,
            "cosine_min": self.cosine_min,
            "max_abs_error": self.max_abs_error,
            "top1_agreement": self.top1_agreement,
            "agreement": self.agreement,
        }


@dataclass
class _Sums:
    signal: float = 0.0
    noise: float = 0.0
    cosine: float = 0.0
    cosine_min: float = math.inf
    max_abs_error: float = 0.0
    agreed: int = 0
    rows: int = 0
    equal: int = 0
    entries: int = 0
    is_label: bool = False
    samples: int = 0


class ShapeChanged(GateFailed):
    """A variant gives an output of another shape: a defect of a float one; rounding does it to one that counts."""


@dataclass
class ParityMeter:
    """Adds up samples and keeps no arrays."""

    _sums: dict[str, _Sums] = field(default_factory=dict)

    def add(self, reference: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
        """Add one sample: `outputs` of the variant beside `reference` outputs of the original, by output name."""
        for name, expected in reference.items():
            seen = outputs[name]
            if seen.shape != expected.shape:
                raise ShapeChanged(
                    f"output '{name}' has shape {list(seen.shape)} where the original gives {list(expected.shape)}",
                    "report this: a conversion must not change an output's shape",
                )
            sums = self._sums.setdefault(name, _Sums(is_label=is_label(expected)))
            (_add_labels if sums.is_label else _add_sample)(sums, expected, seen)

    def highest_cosine(self, total: int) -> float:
        """Return the cosine of the worst output over `total` samples if all that are still to come were equal."""
        best = [
            (sums.cosine + total - sums.samples) / total
            for sums in self._sums.values()
            if not sums.is_label and sums.samples <= total
        ]
        return min(best, default=1.0)

    def result(self) -> dict[str, OutputParity]:
        """Return the parity of each output so far."""
        return {name: _finish(sums) for name, sums in self._sums.items()}


def gate_value(parity: Mapping[str, OutputParity], metric: str) -> float:
    """Return the worst output's `metric`, a number of at most 1 where 1 is equal to the original.

    Raises BadInput for a metric that a parity does not answer, and where no output has what it is of.
    """
    check_metric(metric, BadInput)
    if metric not in PARITY_METRICS:
        raise BadInput(f"'{metric}' is not told by comparing outputs", f"use one of {', '.join(PARITY_METRICS)}")
    if metric == "cosine":
        return min((entry.cosine for entry in parity.values()), default=1.0)  # of labels it is the share of equal ones
    if metric == "sqnr":
        return min((_relative(entry) for entry in parity.values()), default=1.0)
    shares = [entry.top1_agreement for entry in parity.values() if entry.top1_agreement is not None]
    if not shares:
        raise BadInput("no output has two or more entries on its last axis", "use --metric cosine")
    return min(shares)


def _relative(entry: OutputParity) -> float:
    return entry.agreement if entry.agreement is not None else sqnr_agreement(entry.sqnr_db)


def below(parity: Mapping[str, OutputParity], sqnr_db: float) -> list[str]:
    """Say of each output that is not as near as `sqnr_db` asks what it has; labels must be equal in 99 of 100 entries.

    An empty list says that all are.
    """
    told = []
    for name, entry in parity.items():
        if entry.agreement is not None:
            if entry.agreement < LEAST_AGREEMENT:
                told.append(f"'{name}' has {entry.agreement:.1%} equal labels")
        elif entry.sqnr_db is not None and entry.sqnr_db < sqnr_db:
            told.append(f"'{name}' has {entry.sqnr_db:.1f} dB")
    return told


def _add_labels(sums: _Sums, expected: np.ndarray, seen: np.ndarray) -> None:
    text = expected.dtype.kind not in "biu"
    same = (expected.astype(np.str_) == seen.astype(np.str_)) if text else (expected == seen)
    sums.equal += int(np.count_nonzero(same))
    sums.entries += int(expected.size)
    sums.samples += 1


def _add_sample(sums: _Sums, expected: np.ndarray, seen: np.ndarray) -> None:
    a, b = _comparable(expected.astype(np.float64).ravel(), seen.astype(np.float64).ravel())
    error = b - a
    signal, noise = _energy(a), _energy(error)
    cosine = 1.0 if noise == 0.0 else _cosine(a, b)  # of equal vectors rounding would make a little less
    sums.signal += signal
    sums.noise += noise
    sums.cosine += cosine
    sums.cosine_min = min(sums.cosine_min, cosine)
    sums.max_abs_error = max(sums.max_abs_error, float(np.abs(error).max(initial=0.0)))
    sums.samples += 1
    if expected.ndim >= 2 and expected.shape[-1] >= 2 and expected.dtype.kind == "f":
        same = expected.argmax(axis=-1) == seen.argmax(axis=-1)
        sums.agreed += int(same.sum())
        sums.rows += same.size


def _comparable(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return finite vectors: what is equally not finite goes, and any other such place becomes an error of HUGE."""
    broken = ~(np.isfinite(a) & np.isfinite(b))
    if not broken.any():
        return a, b
    other = broken & ~((a == b) | (np.isnan(a) & np.isnan(b)))
    kept = other | ~broken
    return np.where(other, 0.0, a)[kept], np.where(other, HUGE, b)[kept]


def _energy(values: np.ndarray) -> float:
    """Return the sum of squares, at most the largest float64."""
    with np.errstate(over="ignore"):
        return min(float(values @ values), LARGEST)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of two float64 vectors; two zero vectors count as equal, one zero vector as unrelated."""
    largest_a, largest_b = float(np.abs(a).max(initial=0.0)), float(np.abs(b).max(initial=0.0))
    if largest_a == 0.0 or largest_b == 0.0:
        return 1.0 if largest_a == largest_b else 0.0
    if max(largest_a, largest_b) > SQUARE_FITS:
        a, b = a / largest_a, b / largest_b
    length = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    if length == 0.0:
        return 1.0 if np.array_equal(a, b) else 0.0
    return max(-1.0, min(1.0, float(a @ b) / length))


def _finish(sums: _Sums) -> OutputParity:
    if sums.is_label:
        share = sums.equal / sums.entries if sums.entries else 1.0
        return OutputParity(None, share, share, float(share < 1.0), None, sums.samples, agreement=share)
    sqnr = None
    if sums.noise > 0.0:
        share = min(sums.signal, LARGEST) / min(sums.noise, LARGEST)
        sqnr = max(10 * math.log10(share) if share > 0.0 else -math.inf, -999.0)
    return OutputParity(
        sqnr_db=sqnr,
        cosine=sums.cosine / max(sums.samples, 1),
        cosine_min=sums.cosine_min if sums.samples else 1.0,
        max_abs_error=min(sums.max_abs_error, LARGEST),
        top1_agreement=sums.agreed / sums.rows if sums.rows else None,
        samples=sums.samples,
    )
