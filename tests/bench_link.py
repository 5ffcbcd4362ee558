"""What the telemetry link costs: bytes on the wire and on flash, memory, records a second, time beside a model.

    python -m tests.bench_link                      all of it, about ten minutes: what `make bench-link` prints
    python -m tests.bench_link wire flash           some of it: wire, flash, memory, throughput, cost

Each part prints tables and says whether its bar holds. Memory and cost convert real models first.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from converters.pipeline import convert
from converters.request import ProfileFailure
from edgert.commands.printing import ProgressLine
from edgert.errors import EnvironmentFailed
from edgert.host import host_facts, usable_cores
from edgert.profile import detect_profile
from examples.models import fetch
from tests import (
    bench_link_cost,
    bench_link_flash,
    bench_link_memory,
    bench_link_throughput,
    bench_link_wire,
    real_samples,
)

MODELS = {
    "silero-vad-16k": "silero_vad",
    "ppocr-cls": "ppocr_cls",
    "opennsfw": "opennsfw",
    "basic-pitch": "basic_pitch",
    "ppocr-det": "ppocr_det",
}
"""Model -> its samples: short calls, long ones, and large inputs."""

IN_MEMORY = ("ppocr-cls", "opennsfw")


def main(arguments: Sequence[str]) -> int:
    """Run the parts that are named, else all; 1 where a bar is missed."""
    parts: Mapping[str, Callable[[], bool]] = {
        "wire": bench_link_wire.main,
        "flash": bench_link_flash.main,
        "memory": lambda: _with_models(IN_MEMORY, bench_link_memory.measure),
        "throughput": bench_link_throughput.main,
        "cost": lambda: _with_models(tuple(MODELS), bench_link_cost.measure),
    }
    facts = host_facts()
    print(f"{facts.cpu_name}, {usable_cores()} threads, {facts.system}, measured on: host", flush=True)
    missed = list[str]()
    for name in arguments or parts:
        print(f"\n{name}, load {_load()}", flush=True)
        if not parts[name]():
            missed.append(name)
    print(f"\nbars missed: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


def _load() -> str:
    path = Path("/proc/loadavg")
    return path.read_text(encoding="utf-8").split()[0] if path.exists() else "unknown"


def _with_models(names: Sequence[str], measure: Callable[[Mapping[str, tuple[Path, Path]]], bool]) -> bool:
    with _bundles(names) as found:
        return measure(found)


@contextmanager
def _bundles(names: Sequence[str]) -> Iterator[Mapping[str, tuple[Path, Path]]]:
    """Yield model -> (bundle for this machine, file with one input)."""
    profile, progress = detect_profile(host_facts()), ProgressLine()
    with tempfile.TemporaryDirectory(prefix="edgert-link-") as name:
        found = {}
        for model in names:
            feeds = next(iter(getattr(real_samples, MODELS[model])()))
            samples = Path(name) / f"{model}.npz"
            np.savez(samples, **feeds)
            conversion = convert(
                fetch(model),
                [profile],
                calibration=f"tests.real_samples:{MODELS[model]}",
                output=Path(name),
                shapes={key: array.shape for key, array in feeds.items() if array.ndim} if "ppocr" in model else {},
                progress=progress,
            )
            progress.clear()
            (bundle,) = conversion.bundles
            if isinstance(bundle, ProfileFailure):
                raise EnvironmentFailed(f"{model}: {bundle.message}", "run `edgert convert` and read its report")
            found[model] = (bundle.path, samples)
        yield found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
