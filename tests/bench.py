"""Speed of this machine's own bundles against the original files in plain onnxruntime: what `make bench` prints.

    python -m tests.bench                 all models, then the overhead of a call
    python -m tests.bench ppocr-rec       one model

Interleaved rounds, medians of ratios, the same number of threads; a figure without its row's neighbour means nothing.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import edgert
from converters.pipeline import convert
from converters.request import BundleReport, ProfileFailure
from edgert.commands.printing import ProgressLine, table
from edgert.host import host_facts, usable_cores
from edgert.profile import detect_profile
from edgert.runtime.plain import plain_session
from edgert.runtime.timing import interleave
from examples.models import MODELS, fetch
from tests import bench_overhead, real_samples

CALIBRATION = {"silero-vad-16k": "silero_vad"}
ROUNDS, BUDGET_S = 60, 20.0


def main(arguments: Sequence[str]) -> int:
    """Print one row per model; 0 when no bundle is slower than its original beyond the noise of two percent."""
    facts = host_facts()
    profile = detect_profile(facts)
    print(f"{facts.cpu_name}, {usable_cores()} threads, profile {profile}, measured on: host", flush=True)
    rows, slower = [], []
    for model_id in arguments or [model.id for model in MODELS if model.member.endswith(".onnx")]:
        row, speedup = bench_model(model_id, profile)
        rows.append(row)
        slower += [model_id] if speedup < 0.98 else []
    print(table(("model", "variant", "plain ms", "edgert ms", "speed-up", "cosine", "why"), rows), flush=True)
    if not arguments:
        bench_overhead.main()
    print(f"slower than the original: {', '.join(slower) or 'none'}")
    return 1 if slower else 0


def bench_model(model_id: str, profile: str) -> tuple[tuple[str, ...], float]:
    """Convert one model, time its bundle beside the original, and return the row and the speed-up."""
    original, progress = fetch(model_id), ProgressLine()
    name = CALIBRATION.get(model_id, model_id.replace("-", "_"))
    feeds = next(iter(getattr(real_samples, name)()))
    with tempfile.TemporaryDirectory() as folder:
        conversion = convert(
            original,
            [profile],
            calibration=f"tests.real_samples:{name}",
            output=Path(folder),
            shapes={key: array.shape for key, array in feeds.items() if array.ndim}
            if model_id.startswith("ppocr")
            else {},
            progress=progress,
        )
        progress.clear()
        (bundle,) = conversion.bundles
        if isinstance(bundle, ProfileFailure):
            return (model_id, "-", "-", "-", "-", "-", bundle.message), 0.0
        with edgert.load(bundle.path) as model:
            plain = plain_session(original, usable_cores())
            calls = {"plain": lambda: plain.run(None, feeds), "edgert": lambda: model.run(feeds)}
            times = interleave(calls, rounds=ROUNDS, budget_s=BUDGET_S)
            worst = min(_cosine(a, b) for a, b in zip(plain.run(None, feeds), model.run(feeds).values(), strict=True))
    own = times["edgert"]
    row = (model_id, bundle.chosen, f"{times['plain'].p50_ms:.3f}", f"{own.p50_ms:.3f}", f"{own.speedup:.2f}x")
    return (*row, f"{worst:.5f}", _told(bundle)), own.speedup


def _told(bundle: BundleReport) -> str:
    """Return why the variant was chosen, and what became of the candidates beside it."""
    others = [one for one in bundle.candidates if one.gate is not None and one.outcome != "chosen"]
    times = [f", {one.speedup:.2f}x" if one.speedup is not None else "" for one in others]
    said = (f"{one.variant} {one.gate:.4f}{time}" for one, time in zip(others, times, strict=True))
    return f"{bundle.reason} ({'; '.join(said)})" if others else bundle.reason


def _cosine(left: np.ndarray, right: np.ndarray) -> float:
    a, b = left.astype(np.float64).ravel(), right.astype(np.float64).ravel()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
