"""Running samples through a graph for calibration: several at once, answered in their order.

What is made of the outputs is left to `calibrate`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converters.quantize.probes import TURN
from edgert.errors import BadInput, EnvironmentFailed
from edgert.host import usable_cores
from edgert.runtime.providers import ProviderDevice, find_device
from edgert.runtime.session import RunFailed, Session

Outputs = Mapping[str, NDArray[Any]]
Feeds = Iterable[Outputs]
Progress = Callable[[int, int], None]

_TURN_STEP = 2_654_435_761
"""A prime: from sample to sample the start moves far, and meets every place of a step before it meets one again."""

_EXTERNAL_ABOVE_BYTES = 500_000_000


class CalibrationFailed(BadInput):
    """The samples can be read, and the graph still gives no ranges: nothing of it can be quantized."""


class Runs:
    """Runs the model with probes, several samples at once on a thread each, and reports how far it is.

    A thread per sample keeps all cores busy where the reductions of one sample would use only one. `run_bytes` is what
    a run is taken to need in memory, known from the first sample on.
    """

    def __init__(
        self, model: ir.Model, workdir: Path, threads: int, progress: Progress | None, expected: int, budget: float
    ) -> None:
        self.model, self._workdir, self._progress = model, workdir, progress
        self._done, self._expected, self._budget = 0, expected, budget
        cores = threads or usable_cores()
        self._at_once = min(cores, expected or cores)
        self._threads = cores // self._at_once
        self.run_bytes = 0

    @contextmanager
    def open(self, augmented: ir.Model) -> Iterator[Session]:
        """Open a session on a scratch file in the work folder; both are gone afterwards."""
        path = self._workdir / "calibrate.onnx"
        try:
            ir.save(augmented, path, external_data="calibrate.bin" if _needs_file(augmented) else None)
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

    def each(self, session: Session, feeds: Feeds) -> Iterator[Outputs]:
        """Run the samples and yield the outputs in their order; the first sample runs alone."""
        pool = ThreadPoolExecutor(self._at_once)
        running: deque[Future[dict[str, NDArray[Any]]]] = deque()
        try:
            for number, sample in enumerate(feeds):
                while len(running) >= (1 if number <= 1 else self._allowed()):
                    yield self._finish(running)
                turn = np.array([number * _TURN_STEP], np.int64)
                running.append(pool.submit(session.run, {**sample, TURN: turn}))
            while running:
                yield self._finish(running)
        finally:
            pool.shutdown(cancel_futures=True)

    def _allowed(self) -> int:
        return max(1, min(self._at_once, int(self._budget // max(self.run_bytes, 1))))

    def _finish(self, running: "deque[Future[dict[str, NDArray[Any]]]]") -> Outputs:
        try:
            outputs = running.popleft().result()
        except RunFailed as exc:
            raise CalibrationFailed(f"the graph cannot be calibrated: {exc.message}", exc.remedy) from exc
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._expected)
        return outputs


def _needs_file(model: ir.Model) -> bool:
    """Say whether weights go beside the graph: too many for one protobuf, or lying in a file of another folder."""
    tensors = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    elsewhere = any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors)
    return elsewhere or sum(tensor.nbytes for tensor in tensors) > _EXTERNAL_ABOVE_BYTES


def _cpu() -> ProviderDevice:
    device = find_device("CPUExecutionProvider")
    assert isinstance(device, ProviderDevice)
    return device
