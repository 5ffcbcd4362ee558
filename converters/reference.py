"""The reference profile of a bundle: fixed histograms of what the original model takes in and gives out.

Devices count into the same bins and the server adds them up; both are left to the telemetry code.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

BINS = 32
CONFIDENCE_BINS = 10
MOST_CATEGORIES = 64
"""Text with more different values is free text, and is not counted."""

Pairs = Callable[[], Iterator[tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]]]


@dataclass
class _Histogram:
    edges: np.ndarray
    counts: np.ndarray
    n: int = 0
    nonfinite: int = 0

    def add(self, values: np.ndarray) -> None:
        flat = values.astype(np.float64).ravel()
        finite = np.isfinite(flat)
        self.nonfinite += int(flat.size - finite.sum())
        flat = flat[finite]
        self.counts += np.bincount(np.searchsorted(self.edges, flat, side="right"), minlength=len(self.edges) + 1)
        self.n += flat.size

    def to_json(self) -> dict[str, object]:
        return {"edges": self.edges.tolist(), "counts": self.counts.tolist(), "n": self.n, "nonfinite": self.nonfinite}


@dataclass
class _Categories:
    """How often each text was seen; `is_free` once there were too many different ones."""

    counts: dict[str, int] = field(default_factory=dict)
    is_free: bool = False

    def add(self, values: np.ndarray) -> None:
        if self.is_free:
            return
        for word in values.ravel().tolist():
            self.counts[str(word)] = self.counts.get(str(word), 0) + 1
        if len(self.counts) > MOST_CATEGORIES:
            self.counts, self.is_free = {}, True

    def to_json(self) -> dict[str, object]:
        return {"categories": dict(sorted(self.counts.items())), "n": sum(self.counts.values())}


@dataclass
class _Classes:
    """Priors and confidence of one output whose rows are probabilities."""

    priors: np.ndarray
    counts: np.ndarray = field(default_factory=lambda: np.zeros(CONFIDENCE_BINS, np.int64))
    agreed: np.ndarray = field(default_factory=lambda: np.zeros(CONFIDENCE_BINS, np.int64))

    def add(self, original: np.ndarray, variant: np.ndarray) -> None:
        rows, own = original.reshape(-1, original.shape[-1]), variant.reshape(-1, variant.shape[-1])
        winners = own.argmax(axis=1)
        self.priors += np.bincount(winners, minlength=len(self.priors))
        bins = np.clip((own.max(axis=1) * CONFIDENCE_BINS).astype(int), 0, CONFIDENCE_BINS - 1)
        self.counts += np.bincount(bins, minlength=CONFIDENCE_BINS)
        same = winners == rows.argmax(axis=1)
        self.agreed += np.bincount(bins[same], minlength=CONFIDENCE_BINS)

    def to_json(self) -> dict[str, object]:
        seen = np.flatnonzero(self.priors)
        return {
            "priors": {str(index): int(self.priors[index]) for index in seen},
            "confidence": {
                "edges": np.linspace(0.0, 1.0, CONFIDENCE_BINS + 1).tolist(),
                "counts": self.counts.tolist(),
                "agreed": self.agreed.tolist(),
                "basis": "agreement with the original model: the calibration data has no labels",
            },
        }


def distributions(pairs: Pairs) -> dict[str, dict[str, object]]:
    """Return what the original takes in and gives out, {"inputs", "outputs"}, from two passes over both.

    `pairs` gives a fresh iterator at each call. Per tensor: `edges` (33 of them, equal width over the range seen),
    `counts` (34: one below, 32 within, one at or above the last edge), `n`, their sum, and `nonfinite`, how many values
    besides were NaN or infinite. Text has `categories`, the count of each of at most 64 different values, and `n`; text
    with more of them has no entry.
    """
    ranges = _ranges(pairs())
    histograms = {
        side: {name: _Histogram(_edges(*bounds), np.zeros(BINS + 2, np.int64)) for name, bounds in tensors.items()}
        for side, tensors in ranges.items()
    }
    words: dict[str, dict[str, _Categories]] = {"inputs": {}, "outputs": {}}
    for inputs, outputs in pairs():
        _count(histograms["inputs"], inputs)
        _count(histograms["outputs"], outputs)
        _count_words(words["inputs"], inputs)
        _count_words(words["outputs"], outputs)
    return {side: _entries(histograms[side], words[side]) for side in ("inputs", "outputs")}


def reference_profile(
    seen: Mapping[str, Mapping[str, object]],
    pairs: Pairs,
    chosen: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]],
) -> dict[str, object]:
    """Return the content of `reference.json`: what was `seen`, the `distributions`, and the classes of the outputs.

    These are, for an output whose rows are probabilities, the class counts of the chosen variant, which runs for these
    only, and, per confidence bin, how often its class is the original's. `chosen` runs it on one sample's inputs.
    """
    classes: dict[str, _Classes] = {}
    for inputs, outputs in pairs():
        rows_of = [name for name, values in outputs.items() if _is_probability(values)]
        own = chosen(inputs) if rows_of else {}
        for name in rows_of:
            classes.setdefault(name, _Classes(np.zeros(outputs[name].shape[-1], np.int64))).add(
                outputs[name], own[name]
            )
    return {
        "schema_version": 1,
        **seen,
        "classes": {name: item.to_json() for name, item in classes.items()},
    }


def _ranges(
    pairs: Iterable[tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]],
) -> dict[str, dict[str, tuple[float, float]]]:
    """Return the smallest and largest finite value per tensor; infinity and its negative where there is none."""
    ranges: dict[str, dict[str, tuple[float, float]]] = {"inputs": {}, "outputs": {}}
    for inputs, outputs in pairs:
        for side, tensors in (("inputs", inputs), ("outputs", outputs)):
            for name, values in tensors.items():
                if values.dtype.kind not in "biuf" or values.size == 0:
                    continue
                finite = values[np.isfinite(values)]
                low, high = ranges[side].get(name, (math.inf, -math.inf))
                if finite.size:
                    low, high = min(low, float(finite.min())), max(high, float(finite.max()))
                ranges[side][name] = (low, high)
    return ranges


def _edges(low: float, high: float) -> np.ndarray:
    if not math.isfinite(low):
        low = high = 0.0
    if not high > low:
        low, high = low - 0.5, low + 0.5
    return np.linspace(low, high, BINS + 1)


def _count(histograms: Mapping[str, _Histogram], tensors: Mapping[str, np.ndarray]) -> None:
    for name, histogram in histograms.items():
        histogram.add(tensors[name])


def _count_words(categories: dict[str, _Categories], tensors: Mapping[str, np.ndarray]) -> None:
    for name, values in tensors.items():
        if values.dtype.kind in "OU":
            categories.setdefault(name, _Categories()).add(values)


def _entries(histograms: Mapping[str, _Histogram], words: Mapping[str, _Categories]) -> dict[str, object]:
    entries: dict[str, object] = {name: item.to_json() for name, item in histograms.items()}
    return entries | {name: item.to_json() for name, item in words.items() if not item.is_free}


def _is_probability(values: np.ndarray) -> bool:
    """Say whether the rows on the last axis are probabilities: two or more, in [0, 1], adding up to one."""
    if values.dtype.kind != "f" or values.ndim < 2 or values.shape[-1] < 2 or values.size == 0:
        return False
    if not np.isfinite(values).all():
        return False
    return bool(values.min() >= -1e-4 and np.allclose(values.sum(axis=-1), 1.0, atol=1e-2))
