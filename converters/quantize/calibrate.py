"""Calibration: run samples once through the graph to be quantized, and keep what every float tensor held.

The graph reduces each tensor to its extremes, its sum and a sample of its values (see `probes`); what comes out of a
run is counted and forgotten, so memory does not grow with the samples. Choosing number formats is left to `plan`,
keeping statistics for the next call to `statistics_cache`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import length_hint
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converters.missing_values import knows_missing
from converters.quantize.calibration_runs import CalibrationFailed as CalibrationFailed
from converters.quantize.calibration_runs import Feeds, Outputs, Progress, Runs
from converters.quantize.choose_range import METHODS, choose_range
from converters.quantize.observers import BINS, ChannelStatistics, ChannelSums, Extremes, Histogram, TensorRange
from converters.quantize.probes import Probe, probes, with_probes
from edgert.errors import BadInput, UsageError

MEMORY_BUDGET = 1e9
FP16_MAX = 65504.0
_HISTOGRAM_BYTES = BINS * 8
_LIVE_TENSORS = 4
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Statistics:
    """What one calibration saw: the range and the histogram of every tensor, and how many samples there were.

    Ranges are exact. A histogram counts a sample of the values (all of a small tensor) and is absent where the range
    has no width. `channels` has the data inputs of Conv and ConvTranspose (axis 1) and of MatMul and Gemm with constant
    weights (last axis). A tensor that held an infinity, such as an attention mask, or NaN for a missing value, has none
    of them: its nodes stay in float.
    """

    ranges: Mapping[str, TensorRange]
    histograms: Mapping[str, Histogram]
    samples: int
    channels: Mapping[str, ChannelStatistics] = field(default_factory=dict)

    def choose(self, method: str = "minmax", levels: int = 256) -> dict[str, TensorRange]:
        """Return the range of every tensor by `method`, for encodings of `levels` steps."""
        check_method(method)
        if method == "minmax":
            return dict(self.ranges)
        return {
            name: choose_range(self.histograms[name], full, method, levels) if name in self.histograms else full
            for name, full in self.ranges.items()
        }

    def saturated(self, name: str, chosen: TensorRange) -> float:
        """Return the share of a tensor's values that lie outside a range chosen for it; 0.0 to 1.0."""
        if name not in self.histograms:
            return 0.0
        return self.histograms[name].share_outside(chosen.minimum, chosen.maximum)

    def overflow(self, name: str) -> float:
        """Return the share of a tensor's values that float16 cannot hold, |x| > 65504.

        0.0 only where no value at all is that large: at least one value of all is counted where the sample missed them.
        """
        full = self.ranges[name]
        if full.absmax <= FP16_MAX:
            return 0.0
        if name not in self.histograms:
            return 1.0
        return max(self.histograms[name].share_outside(-FP16_MAX, FP16_MAX), 1.0 / full.count)


def check_method(method: str) -> None:
    """Raise UsageError unless `method` is one of METHODS."""
    if method not in METHODS:
        raise UsageError(f"no calibration method '{method}'", f"choose one of {', '.join(METHODS)}")


def calibrate(
    model: ir.Model,
    feeds: Feeds,
    *,
    method: str = "minmax",
    workdir: Path,
    progress: Progress | None = None,
    memory_budget: float = MEMORY_BUDGET,
    levels: int = 256,
    threads: int = 0,
) -> dict[str, TensorRange]:
    """Return the range of every float tensor of the main graph by one method; see `observe` and `METHODS`."""
    check_method(method)
    statistics = observe(model, feeds, workdir=workdir, progress=progress, memory_budget=memory_budget, threads=threads)
    return statistics.choose(method, levels)


def observe(
    model: ir.Model,
    feeds: Feeds,
    *,
    workdir: Path,
    progress: Progress | None = None,
    memory_budget: float = MEMORY_BUDGET,
    threads: int = 0,
) -> Statistics:
    """Run all samples once and return what every float tensor of the main graph held.

    `memory_budget`, in bytes, bounds the largest tensor together with all that is fetched and counted at once. Where
    not all histograms fit, the tensors are observed in as many passes as are needed, with the same result but for
    rounding; only then must `feeds` be iterable more than once. `progress` gets (runs done, runs expected; 0 while
    unknown). `threads` is how many samples run at once, 0 for the usable cores.

    Raises BadInput for no sample at all, for NaN or infinity in a sample, and for a budget too small for one tensor,
    and CalibrationFailed where the graph makes NaN, naming the tensor and the node, or cannot be run with its
    tensors reduced.
    """
    wanted = probes(model)
    chunks = _chunks(wanted, memory_budget)
    run = Runs(model, workdir, threads, progress, length_hint(feeds, 0) * len(chunks), memory_budget)
    seen: list[_Seen] = []
    samples = 0
    for chunk in chunks:
        observed = [_Seen(probe) for probe in chunk]
        unsized = [probe for probe in wanted if probe.elements is None and probe not in chunk]
        samples = _observe(run, observed, unsized, feeds, memory_budget)
        seen += observed
    return _statistics(seen, samples)


@dataclass(frozen=True)
class CalibrationCost:
    """What `observe` would do: with how many tensors, how many bytes they have for one sample, how often it would run.

    `unsized` of the tensors have a size that only a run tells, and are not in `sample_bytes`.
    """

    tensors: int
    sample_bytes: int
    unsized: int
    turns: int


def calibration_cost(model: ir.Model, memory_budget: float = MEMORY_BUDGET) -> CalibrationCost:
    """Return what calibrating this graph takes, without running it; BadInput for a budget too small for one tensor."""
    wanted = probes(model)
    sizes = [_tensor_bytes(probe, probe.elements) for probe in wanted if probe.elements is not None]
    return CalibrationCost(len(wanted), sum(sizes), len(wanted) - len(sizes), len(_chunks(wanted, memory_budget)))


def float_values(model: ir.Model) -> list[str]:
    """Return the names of the tensors that calibration observes."""
    return [probe.name for probe in probes(model)]


def _chunks(wanted: Sequence[Probe], budget: float) -> list[list[Probe]]:
    """Split the tensors, in order, so that what is fetched and counted fits beside the largest tensor."""
    known = [probe for probe in wanted if probe.elements is not None]
    _check_budget(known, {probe.name: probe.elements or 0 for probe in known}, budget)
    largest = max((_tensor_bytes(probe, probe.elements or 0) for probe in wanted), default=0)
    chunks: list[list[Probe]] = [[]]
    room = budget - largest
    for probe in wanted:
        room -= _held_bytes(probe)
        if room < 0 and chunks[-1]:
            chunks.append([])
            room = budget - largest - _held_bytes(probe)
        chunks[-1].append(probe)
    return chunks


def _check_budget(wanted: Sequence[Probe], elements: Mapping[str, int], budget: float) -> None:
    """Raise BadInput that names the most expensive tensor where the budget does not hold it."""
    needs = [(_tensor_bytes(probe, elements[probe.name]) + _held_bytes(probe), probe) for probe in wanted]
    need, worst = max(needs, key=lambda pair: pair[0], default=(0, None))
    if worst is not None and need > budget:
        size = _tensor_bytes(worst, elements[worst.name])
        raise BadInput(
            f"the tensor '{worst.name}' has {size} bytes for one sample and needs {need} with what is counted of it, "
            f"too many for a memory budget of {budget:.0f}",
            f"give --memory-budget {need} or more, or smaller samples",
        )


def _tensor_bytes(probe: Probe, elements: int) -> int:
    return probe.itemsize * elements


def _run_bytes(wanted: Sequence[Probe], elements: Mapping[str, int]) -> int:
    """Return what one run is taken to need: a few tensors as large as the largest, and all that is fetched."""
    largest = max((_tensor_bytes(probe, elements[probe.name]) for probe in wanted), default=0)
    return _LIVE_TENSORS * largest + sum(probe.fetched_bytes for probe in wanted)


def _held_bytes(probe: Probe) -> int:
    return _HISTOGRAM_BYTES + probe.fetched_bytes


_SUMMARY = ("minimum", "maximum", "total")


class _Seen:
    """What is known so far of one tensor; `finite` is lost for good with the first infinity or missing value."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.extremes, self.histogram, self.finite = Extremes(), Histogram(), True
        self.channels = None if probe.axis is None else ChannelSums(probe.axis)

    def parts(self, outputs: Outputs) -> list[NDArray[np.float64]]:
        """Return the run's minimum, maximum and sum, of the channels where they are told apart."""
        return [np.asarray(outputs[self.probe.output(what)], np.float64) for what in _SUMMARY]

    def add(self, outputs: Outputs, minimum: float, maximum: float, elements: int) -> None:
        """Take in one run whose values lie between these finite bounds."""
        self.extremes.add(minimum, maximum, elements)
        self.histogram.add(np.asarray(outputs[self.probe.output("values")], np.float32), minimum, maximum)
        if self.channels is not None:
            low, high, total = self.parts(outputs)
            self.channels.add(low, high, total, elements // max(low.size, 1))


def _observe(run: Runs, observed: Sequence[_Seen], unsized: Sequence[Probe], feeds: Feeds, budget: float) -> int:
    """Take in all samples and return their number; BadInput where there is none.

    `unsized`: tensors of other passes whose size is not known before; they too must fit the budget.
    """
    missing = any(knows_missing(node.domain, node.op_type) for node in run.model.graph)
    wanted = [*(seen.probe for seen in observed), *unsized]
    samples = 0
    with run.open(with_probes(run.model, wanted[: len(observed)], unsized)) as session:
        for outputs in run.each(session, feeds):
            samples += 1
            elements = {probe.name: _elements(probe, outputs) for probe in wanted}
            _check_budget(wanted, elements, budget)
            run.run_bytes = max(run.run_bytes, _run_bytes(wanted, elements))
            for seen in observed:
                if elements[seen.probe.name] and seen.finite:
                    _take(run.model, seen, outputs, elements[seen.probe.name], samples, missing)
    if not samples:
        raise BadInput("the calibration data holds no sample", "give at least one file or array that can be read")
    return samples


def _elements(probe: Probe, outputs: Outputs) -> int:
    """Return how many values a tensor has in this run."""
    return int(outputs[probe.output("size")]) if probe.elements is None else probe.elements


def _take(model: ir.Model, seen: _Seen, outputs: Outputs, elements: int, sample: int, missing: bool) -> None:
    """Check the numbers of one tensor of one run, and take them in where they are finite."""
    parts = seen.parts(outputs)
    with np.errstate(invalid="ignore"):  # the sum of both infinities
        minimum, maximum, total = float(parts[0].min()), float(parts[1].max()), float(parts[2].sum())
    fits = max(abs(minimum), abs(maximum)) <= _FLOAT32_MAX  # a double may not, and no integer is worth its scale
    if np.isfinite([minimum, maximum]).all() and not np.isnan(total) and fits:
        seen.add(outputs, minimum, maximum, elements)
        return
    seen.finite = False
    is_missing = missing and np.isnan(total)
    is_sum_of_huge = max(abs(minimum), abs(maximum)) * elements > _FLOAT32_MAX and np.isfinite([minimum, maximum]).all()
    if not is_missing and not is_sum_of_huge:
        _check_numbers(model, seen.probe.name, sample, np.array([minimum, maximum, total]))


def _check_numbers(model: ir.Model, name: str, sample: int, found: NDArray[np.float64]) -> None:
    """Refuse any NaN, and an infinity in an input; an infinity that the graph makes only leaves a tensor out.

    `found` holds minimum, maximum and sum. The sum of both infinities is NaN without there being one.
    """
    producer = next((node for node in model.graph if any(output.name == name for output in node.outputs)), None)
    if producer is None:
        raise BadInput(
            f"calibration sample {sample} holds NaN or infinity in the input '{name}'", "clean or drop that sample"
        )
    if np.isnan(found).any() and not np.isinf(found[:2]).all():
        raise CalibrationFailed(
            f"calibration sample {sample} makes NaN in the tensor '{name}' of node '{producer.name}'"
            f" ({producer.op_type})",
            "check that the samples are preprocessed as the model expects",
        )


def _statistics(seen: Sequence[_Seen], samples: int) -> Statistics:
    known = [one for one in seen if one.finite]
    return Statistics(
        ranges={one.probe.name: one.extremes.range() for one in known},
        histograms={one.probe.name: one.histogram for one in known if one.extremes.maximum > one.extremes.minimum},
        samples=samples,
        channels={one.probe.name: one.channels.statistics() for one in known if one.channels and one.channels.known()},
    )
