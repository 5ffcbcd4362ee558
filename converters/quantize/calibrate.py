"""Calibration: run samples through the graph to be quantized, and keep the range of every float tensor.

Pass A reduces inside the graph, so only scalars come out. Pass B, for methods that need a histogram,
fetches tensors in chunks that fit the memory budget and counts them between the edges that pass A found.
Samples and tensors are forgotten at once: memory does not grow with the number of samples. Choosing number
formats is left to `plan`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converters.missing_values import knows_missing
from converters.quantize.observers import METHODS, Extremes, Histogram, TensorRange, choose_range
from edgert.errors import BadInput, EnvironmentFailed, UsageError
from edgert.runtime.providers import ProviderDevice, find_device
from edgert.runtime.session import RunFailed, Session

Feeds = Iterable[Mapping[str, NDArray[np.generic]]]
Progress = Callable[[int, int], None]

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})
_ITEM_BYTES = 8
_EXTERNAL_ABOVE_BYTES = 500_000_000


class CalibrationFailed(BadInput):
    """The samples can be read, and the graph still gives no ranges: nothing of it can be quantized."""


@dataclass(frozen=True)
class Statistics:
    """What one calibration saw: full ranges, histograms if asked for, and the number of samples.

    A tensor that held an infinity, such as an attention mask, or NaN for a missing value, has no range: its nodes stay
    in float.
    """

    ranges: Mapping[str, TensorRange]
    histograms: Mapping[str, Histogram]
    samples: int

    def choose(self, method: str = "minmax", levels: int = 256) -> dict[str, TensorRange]:
        """Return the range of every tensor by `method`, for encodings of `levels` steps."""
        if method == "minmax":
            return dict(self.ranges)
        return {
            name: choose_range(self.histograms[name], method, levels) if name in self.histograms else full
            for name, full in self.ranges.items()
        }


def calibrate(
    model: ir.Model,
    feeds: Feeds,
    *,
    method: str = "minmax",
    workdir: Path,
    progress: Progress | None = None,
    memory_budget: float = 1e9,
    levels: int = 256,
    threads: int = 0,
) -> dict[str, TensorRange]:
    """Return the range of every float tensor of the main graph by one method; see `observe` and `METHODS`."""
    if method not in METHODS:
        raise UsageError(f"no calibration method '{method}'", f"choose one of {', '.join(METHODS)}")
    statistics = observe(
        model,
        feeds,
        histograms=method != "minmax",
        workdir=workdir,
        progress=progress,
        memory_budget=memory_budget,
        threads=threads,
    )
    return statistics.choose(method, levels)


def observe(
    model: ir.Model,
    feeds: Feeds,
    *,
    histograms: bool = False,
    workdir: Path,
    progress: Progress | None = None,
    memory_budget: float = 1e9,
    threads: int = 0,
) -> Statistics:
    """Run all samples (once, or once more per chunk for histograms) and return what every float tensor held.

    `feeds` must be iterable more than once. `progress` gets (runs done, runs expected; 0 while unknown).
    `memory_budget` is in bytes and bounds the tensors fetched in one run. Raises BadInput for no sample at
    all and for NaN or infinity in a sample, and CalibrationFailed where the graph makes NaN, naming the tensor
    and the node, or cannot be run with its tensors as outputs.
    """
    run = _Run(model, workdir, threads, progress)
    names = float_values(model)
    extremes, sizes, samples = _observe_extremes(run, names, feeds)
    if not samples:
        raise BadInput("the calibration data holds no sample", "give at least one file or array that can be read")
    ranges = {name: seen.range() for name, seen in extremes.items() if _is_finite(seen)}
    if not histograms:
        return Statistics(ranges, {}, samples)
    counted = [name for name, full in ranges.items() if full.maximum > full.minimum]
    chunks = chunk_by_bytes({name: sizes[name] * _ITEM_BYTES for name in counted}, memory_budget)
    run.expected = samples * (1 + len(chunks))
    found: dict[str, Histogram] = {}
    for number, chunk in enumerate(chunks):
        found |= _observe_histograms(run, number, {name: ranges[name] for name in chunk}, feeds)
    return Statistics(ranges, found, samples)


def float_values(model: ir.Model) -> list[str]:
    """Return the names of the float inputs and node outputs of the main graph, without constants."""
    graph = model.graph
    values = [value for value in graph.inputs if not value.is_initializer()]
    values += [value for node in graph if node.op_type != "Constant" for value in node.outputs]
    return [value.name for value in values if value.name and value.dtype in FLOATS]


def chunk_by_bytes(sizes: Mapping[str, int], budget: float) -> list[list[str]]:
    """Split tensors, in order, into chunks of at most `budget` bytes; a larger tensor is a chunk of its own."""
    chunks: list[list[str]] = []
    room = 0.0
    for name, size in sizes.items():
        if not chunks or size > room:
            chunks.append([])
            room = budget
        chunks[-1].append(name)
        room -= size
    return chunks


class _Run:
    """Runs the model with outputs of our choice, and reports how far it is."""

    def __init__(self, model: ir.Model, workdir: Path, threads: int, progress: Progress | None) -> None:
        self.model, self._workdir, self._threads, self._progress = model, workdir, threads, progress
        self.done = self.expected = 0

    @contextmanager
    def open(self, augmented: ir.Model, stem: str) -> Iterator[Session]:
        """Open a session on a scratch file in the work folder; both are gone afterwards."""
        path = self._workdir / f"{stem}.onnx"
        try:
            ir.save(augmented, path, external_data=f"{stem}.bin" if _needs_file(augmented) else None)
        except OSError as exc:
            raise EnvironmentFailed(f"cannot write {path}: {exc}", "free some space or name another folder") from exc
        try:
            with self._session(path) as session:
                yield session
        finally:
            path.unlink(missing_ok=True)
            path.with_suffix(".bin").unlink(missing_ok=True)

    def _session(self, path: Path) -> Session:
        try:
            return Session.open(path, _cpu(), threads=self._threads)
        except BadInput as exc:
            raise CalibrationFailed(f"the graph cannot be calibrated: {exc.message}", exc.remedy) from exc

    def each(self, session: Session, feeds: Feeds) -> Iterator[Mapping[str, NDArray[np.generic]]]:
        for sample in feeds:
            try:
                outputs = session.run(sample)
            except RunFailed as exc:
                raise CalibrationFailed(f"the graph cannot be calibrated: {exc.message}", exc.remedy) from exc
            yield {**sample, **outputs}
            self.done += 1
            if self._progress is not None:
                self._progress(self.done, self.expected)


def _needs_file(model: ir.Model) -> bool:
    """Say whether weights go beside the graph: too many for one protobuf, or lying in a file of another folder."""
    tensors = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    elsewhere = any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors)
    return elsewhere or sum(tensor.nbytes for tensor in tensors) > _EXTERNAL_ABOVE_BYTES


def _cpu() -> ProviderDevice:
    device = find_device("CPUExecutionProvider")
    assert isinstance(device, ProviderDevice)
    return device


_STATISTICS = ("ReduceMin", "ReduceMax", "ReduceSum", "Size")
"""The sum finds NaN: onnxruntime's ReduceMin and ReduceMax skip a NaN that is not the first value."""


def _observe_extremes(run: _Run, names: Sequence[str], feeds: Feeds) -> tuple[dict[str, Extremes], dict[str, int], int]:
    extremes = {name: Extremes() for name in names}
    sizes = dict.fromkeys(names, 0)
    samples = 0
    missing = any(knows_missing(node.domain, node.op_type) for node in run.model.graph)
    with run.open(_with_statistics(run.model, names), "calibrate-extremes") as session:
        for outputs in run.each(session, feeds):
            samples += 1
            for index, name in enumerate(names):
                minimum, maximum, total, size = (outputs[_statistic(op, index)].item() for op in _STATISTICS)
                if size and missing and np.isnan(total):
                    minimum, maximum = -np.inf, np.inf  # values are missing: the tensor gets no range
                elif size and not np.isfinite([minimum, maximum, total]).all():
                    _check_numbers(run.model, name, samples, np.array([minimum, maximum, total], np.float64))
                extremes[name].add(minimum, maximum, int(size))
                sizes[name] = max(sizes[name], int(size))
    return extremes, sizes, samples


def _observe_histograms(
    run: _Run, number: int, ranges: Mapping[str, TensorRange], feeds: Feeds
) -> dict[str, Histogram]:
    histograms = {name: Histogram.between(full) for name, full in ranges.items()}
    with run.open(_with_outputs(run.model, list(ranges)), f"calibrate-histograms-{number}") as session:
        for outputs in run.each(session, feeds):
            for name, histogram in histograms.items():
                histogram.add(np.asarray(outputs[name], np.float32))
    return histograms


def _is_finite(seen: Extremes) -> bool:
    return not seen.count or bool(np.isfinite([seen.minimum, seen.maximum]).all())


def _statistic(op_type: str, index: int) -> str:
    return f"edgert_{op_type}_{index}"


def _with_statistics(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """Return a copy whose only outputs are four scalars per tensor."""
    copy = model.clone()
    values = _values_by_name(copy.graph)
    outputs: list[ir.Value] = []
    for index, name in enumerate(names):
        for op_type in _STATISTICS:
            attributes = {} if op_type == "Size" else {"keepdims": 0}
            node = ir.node(op_type, [values[name]], attributes, name=_statistic(op_type, index))
            node.outputs[0].name = _statistic(op_type, index)
            if op_type == "Size":
                node.outputs[0].type = ir.TensorType(ir.DataType.INT64)
            else:
                node.outputs[0].type = values[name].type
            node.outputs[0].shape = ir.Shape([])
            copy.graph.append(node)
            outputs.append(node.outputs[0])
    copy.graph.outputs[:] = outputs
    return copy


def _with_outputs(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """Return a copy whose outputs are these tensors; graph inputs are read off the sample instead."""
    copy = model.clone()
    values = _values_by_name(copy.graph)
    made = [values[name] for name in names if values[name].producer() is not None]
    copy.graph.outputs[:] = made or copy.graph.outputs[:1]
    return copy


def _values_by_name(graph: ir.Graph) -> dict[str, ir.Value]:
    values = [*graph.inputs, *(output for node in graph for output in node.outputs)]
    return {value.name: value for value in values if value.name}


def _check_numbers(model: ir.Model, name: str, sample: int, found: NDArray[np.float64]) -> None:
    """Refuse any NaN, and an infinity in an input; an infinity that the graph makes only leaves a tensor out.

    `found` holds minimum, maximum and sum. The sum of both infinities is NaN without there being one.
    """
    producer = _values_by_name(model.graph)[name].producer()
    if producer is None:
        if not np.isfinite(found[:2]).all() or np.isnan(found[2]):
            raise BadInput(
                f"calibration sample {sample} holds NaN or infinity in the input '{name}'",
                "clean or drop that sample",
            )
    elif np.isnan(found).any() and not np.isinf(found[:2]).all():
        raise CalibrationFailed(
            f"calibration sample {sample} makes NaN in the tensor '{name}' of node '{producer.name}'"
            f" ({producer.op_type})",
            "check that the samples are preprocessed as the model expects",
        )
