"""The calibrations of one call: a graph is run on the samples once, whatever profile asks, and in no later call again.

How a graph is calibrated is left to `quantize.calibrate`, the files on disk to `quantize.statistics_cache`.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from converters.quantize.calibrate import CalibrationFailed, Statistics, observe
from converters.quantize.graph_digest import graph_digest
from converters.quantize.statistics_cache import load_statistics, statistics_key, store_statistics
from converters.samples import Sample, Samples
from edgert.errors import EnvironmentFailed
from edgert.host import cache_dir


@dataclass(frozen=True)
class CalibrationSettings:
    """How a calibration runs where one must: scratch folder, bytes, threads, and whom to tell of each sample."""

    workdir: Path
    memory_budget: float
    threads: int
    progress: Callable[[int, int], None]


@dataclass
class Calibrations:
    """Statistics by graph and samples, in memory for the call and in a folder of the cache for later ones.

    Graphs that are equal in content have the same statistics, whatever processor they are for.
    """

    _found: dict[str, Statistics | CalibrationFailed] = field(default_factory=dict)
    _digests: dict[int, tuple[ir.Model, str]] = field(default_factory=dict)

    def statistics(
        self,
        model: ir.Model,
        samples: Samples,
        shapes: Mapping[str, tuple[int, ...]],
        settings: CalibrationSettings,
    ) -> Statistics:
        """Return what `samples` make of every tensor of `model`; see `quantize.calibrate.observe` for errors.

        `shapes`: input name -> the shape that all samples have. A model must not change after it was asked for.
        """
        key = statistics_key(self._digest(model, shapes), samples.digest)
        if key not in self._found:
            self._found[key] = self._kept_or_made(key, model, samples, settings)
        found = self._found[key]
        if isinstance(found, CalibrationFailed):
            raise found
        return found

    def _digest(self, model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> str:
        if id(model) not in self._digests:
            self._digests[id(model)] = (model, graph_digest(model, shapes))  # the model stays, and so its id
        return self._digests[id(model)][1]

    def _kept_or_made(
        self, key: str, model: ir.Model, samples: Samples, settings: CalibrationSettings
    ) -> Statistics | CalibrationFailed:
        folder = _folder()
        kept = load_statistics(folder, key) if folder else None
        if kept is not None:
            return kept
        try:
            made = observe(
                model,
                _Counted(samples),
                workdir=settings.workdir,
                progress=settings.progress,
                memory_budget=settings.memory_budget,
                threads=settings.threads,
            )
        except CalibrationFailed as exc:
            return exc
        trouble = store_statistics(folder, key, made) if folder else ""
        if trouble:
            warnings.warn(trouble, RuntimeWarning, stacklevel=2)
        return made


class _Counted:
    """Samples that tell their number beforehand."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)

    def __length_hint__(self) -> int:
        return self._samples.count


def _folder() -> Path | None:
    """Return the folder for statistics, or None after a warning where there is no cache."""
    try:
        return cache_dir() / "statistics"
    except EnvironmentFailed as exc:
        warnings.warn(f"calibrations are not kept: {exc.message}; {exc.remedy}", RuntimeWarning, stacklevel=2)
        return None
