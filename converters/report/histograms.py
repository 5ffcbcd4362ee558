"""Which tensors an integer variant stores worst, and where their values lie in the range that was chosen for them."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from converters.candidates.choice import Choice
from converters.job import Job
from converters.quantize.affine import LIMITS, Affine
from converters.quantize.calibrate import Statistics
from converters.quantize.observers import Histogram, TensorRange
from converters.quantize.plan import Plan, plan_quantization
from converters.request import TensorHistogram

BINS = 64
SHOWN = 6


def worst_histograms(job: Job, choice: Choice) -> tuple[TensorHistogram, ...]:
    """Return the histograms of the tensors that cost the chosen variant most; none where it was not calibrated.

    They are the first of the table of layers; without one those whose rounding and clipping make the largest error
    against their own size. Nothing is run: the samples have been through this very graph.
    """
    recipe = choice.recipe
    if not recipe.get("calibration_method"):
        return ()
    graph = (job.equalised() if recipe.get("equalise") else None) or job.integer_graph
    ranges, statistics = job.ranges(graph, str(recipe["calibration_method"])), job.statistics_of(graph)
    bits = 16 if _precision(choice) == "w8a16" else 8
    kept, wide = _keys(recipe, "keep_float"), _keys(recipe, "wide")
    plan = plan_quantization(graph.model, ranges, job.profile.quantization, bits, keep_float=kept, wide=wide)
    bounds = {name: (one.minimum, one.maximum) for name, one in ranges.items()}
    bounds |= {name: affine.bounds for name, affine in plan.activations.items()}
    ranked = [layer.layer for layer in choice.layers]
    names = [name for name in ranked or _worst(plan, ranges, statistics) if name in statistics.histograms]
    return tuple(_told(name, statistics, plan, bounds[name]) for name in names[:SHOWN])


def _precision(choice: Choice) -> str:
    return next(one.precision for one in choice.reports if one.name == choice.chosen)


def _keys(recipe: Mapping[str, object], name: str) -> Collection[str]:
    found = recipe.get(name, ())
    assert isinstance(found, Collection)
    return frozenset(map(str, found))


def _worst(plan: Plan, ranges: Mapping[str, TensorRange], statistics: Statistics) -> Sequence[str]:
    """Return the tensors by falling cost.

    One whose encoding is narrower than its calibrated range is no loss: the next node cuts these values off itself.
    """
    costs = {
        name: stored_error(statistics.histograms[name], *affine.bounds, levels=_levels(affine.dtype))
        for name, affine in plan.activations.items()
        if name in statistics.histograms and not is_narrowed(affine, ranges[name])
    }
    return sorted(costs, key=lambda name: -costs[name])


def is_narrowed(affine: Affine, calibrated: TensorRange) -> bool:
    """Say whether an encoding leaves out, by more than a step, some of the range that calibration chose."""
    (low, high), step = affine.bounds, float(affine.scale)
    return low > min(calibrated.minimum, 0.0) + step or high < max(calibrated.maximum, 0.0) - step


def _levels(dtype: str) -> int:
    low, high = LIMITS[dtype]
    return high - low + 1


def _told(name: str, statistics: Statistics, plan: Plan, bounds: tuple[float, float]) -> TensorHistogram:
    full, histogram, affine = statistics.ranges[name], statistics.histograms[name], plan.activations.get(name)
    half = 0.0 if affine is None else float(affine.scale) / 2  # what lies so near to the ends is rounded, not cut off
    return TensorHistogram(
        name,
        full.minimum,
        full.maximum,
        *bounds,
        cut=histogram.share_outside(bounds[0] - half, bounds[1] + half),
        stored="float" if affine is None else affine.dtype,
        counts=tuple(int(count) for count in coarse(histogram, full.minimum, full.maximum)),
    )


def stored_error(histogram: Histogram, low: float, high: float, *, levels: int) -> float:
    """Return the squared error of storing a tensor in `levels` steps from `low` to `high`, relative to its square."""
    counts, edges = histogram.used()
    centres = (edges[:-1] + edges[1:]) / 2.0
    power = float((counts * centres**2).sum())
    if not power:
        return 0.0
    clipped = float((counts * (centres - np.clip(centres, low, high)) ** 2).sum())
    rounded = float(counts.sum()) * ((high - low) / (levels - 1)) ** 2 / 12.0
    return (clipped + rounded) / power


def coarse(histogram: Histogram, minimum: float, maximum: float, bins: int = BINS) -> NDArray[np.int64]:
    """Return the counts in `bins` equally wide bins, [bins]; within a bin of the histogram they count as evenly spread.

    Their sum is that of the histogram.
    """
    counts, edges = histogram.used()
    below = np.concatenate([[0.0], np.cumsum(counts)])
    inner = np.interp(np.linspace(minimum, maximum, bins + 1), edges, below)
    inner[0], inner[-1] = 0.0, below[-1]
    return np.asarray(np.diff(np.round(inner)), np.int64)
