"""The converter against other ways to make the same models fast, at equal accuracy: what `make bench-convert` prints.

    python -m tests.bench_convert                       all models, then the cost of converting
    python -m tests.bench_convert ppocr-rec magika      these models alone
    python -m tests.bench_convert --quick magika        few samples and rounds: does it work at all?

Each engine is a process of its own with settings that are committed in `bench_peers/`, all on the same samples, scored
by the same code, timed in interleaved turns with the same number of threads. The peers' environments are made by
`python -m tests.bench_peers.install`. What the figures mean is in docs/benchmarks.md.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from converters.pipeline import convert
from converters.request import ProfileFailure
from converters.sources.imported import Options
from converters.sources.select import open_source
from edgert.errors import EdgertError
from edgert.host import host_facts, usable_cores
from edgert.profile import detect_profile
from examples.models import fetch
from tests import bench_judge
from tests.bench_data import DATA, Data, Feeds
from tests.bench_peers.child import Child, EngineFailed
from tests.bench_peers.engines import OWN, PEERS, PLAIN, Engine
from tests.bench_peers.install import python_of
from tests.bench_peers.protocol import Task
from tests.bench_result import Result, Row, show, summary

THREADS = 2
ROUNDS, QUICK_ROUNDS = 30, 5
TURN_S = 0.05
QUICK_COSTS = {
    "bench_profiles": ("--quick",),
    "bench_calibration": ("--rounds", "1"),
    "bench_weight_only": ("--rounds", "1", "--layers", "2"),
}
"""The benchmarks of what converting costs, and what makes each of them short."""


@dataclass(frozen=True)
class Case:
    """One model: how its source is read, and what the engines are told of it.

    `static`: convert with the shapes of the samples. `born`: the kind of file that it came as, for a peer that runs it.
    """

    id: str
    source: Mapping[str, str] = field(default_factory=dict)
    static: bool = False
    born: str = ""
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One model under test: the file as it came, its data, and the task that all engines get."""

    case: Case
    source: Path
    data: Data
    task: Task
    quick: bool


CASES = (
    Case("ppocr-det", static=True),
    Case("ppocr-rec", static=True),
    Case("ppocr-cls", static=True),
    Case("opennsfw"),
    Case("magika"),
    Case("silero-vad"),
    Case("silero-vad-16k"),
    Case("basic-pitch"),
    Case("basic-pitch-tflite", born="tflite"),
    Case("effnet-lite0", {"factory": "examples.efficientnet.model:build"}),
    Case("minilm-l6", options={"transformer": True}),
    Case("face-detection", born="tflite"),
    Case("face-mesh", born="tflite"),
    Case("iris", born="tflite"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0 unless a model could not be measured at all for another reason than missing data."""
    asked = _options(arguments)
    engines = [Engine(OWN, "own_bundle", "", "edgert"), *PEERS]
    chosen = [engine for engine in engines if not asked.engines or engine.name in (PLAIN, *asked.engines)]
    print(_machine(), flush=True)
    results = []
    for case in (case for case in CASES if not asked.ids or case.id in asked.ids):
        results.append(_measure(case, chosen, asked.quick, asked.rounds))
        print(show(results[-1]), flush=True)
        if asked.json:
            _write(asked.json, results)
    print(f"\n{summary(results)}", flush=True)
    return 0 if asked.ids else _run_cost_benches(asked.quick)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench_convert", description=__doc__)
    parser.add_argument("ids", nargs="*", metavar="MODEL", help=", ".join(case.id for case in CASES))
    parser.add_argument("--quick", action="store_true", help="a sixth of the samples, few rounds: no figure to quote")
    parser.add_argument("--rounds", type=int, default=0, help=f"turns of each engine ({ROUNDS})")
    parser.add_argument("--engines", nargs="+", default=(), help="these engines alone, and onnxruntime")
    parser.add_argument("--json", type=Path, help="write all figures here too")
    asked = parser.parse_args(arguments)
    unknown = [name for name in asked.ids if name not in {case.id for case in CASES}]
    if unknown:
        parser.error(f"there is no model {', '.join(unknown)}; choose of {', '.join(case.id for case in CASES)}")
    names = {engine.name for engine in PEERS} | {OWN}
    if set(asked.engines) - names:
        parser.error(f"there is no engine {set(asked.engines) - names}; choose of {', '.join(sorted(names))}")
    asked.rounds = asked.rounds or (QUICK_ROUNDS if asked.quick else ROUNDS)
    return asked


def _measure(case: Case, engines: Sequence[Engine], quick: bool, rounds: int) -> Result:
    """Prepare, score and time all engines on one model; a model or data that cannot be had is a reason."""
    with tempfile.TemporaryDirectory(prefix="edgert-bench-") as folder, ExitStack() as stack:
        work = Path(folder)
        try:
            source = fetch(case.id)
            model = as_onnx(case, source, work)
            data = DATA[case.id](model, quick)
        except EdgertError as error:
            return Result(case.id, skipped=error.message)
        trial = Trial(case, source, data, _task(case, source, model, data, work), quick)
        rows, children = _prepare_all(trial, [one for one in engines if one.needs in ("", case.born)], stack)
        turns = _interleave(children, rounds)
        timed = [dataclasses.replace(row, **turns.get(row.engine, {})) for row in rows]
        return Result(case.id, data.metric, timed, _load())


def _prepare_all(trial: Trial, engines: Sequence[Engine], stack: ExitStack) -> tuple[list[Row], dict[str, Child]]:
    """Start and score each engine, the float model first; one that fails has a row that says why, and no child."""
    rows: dict[str, Row] = {}
    children: dict[str, Child] = {}
    floats: list[dict[str, np.ndarray]] = []
    for engine in sorted(engines, key=lambda one: one.name != PLAIN):
        try:
            child = stack.enter_context(_start(engine, trial))
            outputs = list(child.score())
        except EngineFailed as failed:
            rows[engine.name] = Row(engine.name, engine.runtime, error=str(failed))
            continue
        floats = outputs if engine.name == PLAIN else floats
        rows[engine.name] = Row(
            engine.name,
            engine.runtime,
            child.settings,
            trial.data.score(outputs, floats) if floats else None,
            prepare_s=child.prepare_s,
            peak_mb=child.peak_mb,
            file_bytes=child.file_bytes,
        )
        children[engine.name] = child
    return [rows[engine.name] for engine in engines], children


def _start(engine: Engine, trial: Trial) -> Child:
    """Return the engine's process, ready to run; ours gets the bundle that the converter writes here and now."""
    task = dataclasses.replace(trial.task, work=trial.task.work / engine.name.replace(" ", "-"))
    own = _convert(trial) if engine.name == OWN else {}
    return Child(engine, dataclasses.replace(task, options={**task.options, **engine.options, **own}))


def _convert(trial: Trial) -> dict[str, object]:
    """Convert for this very machine; returns what the engine "edgert" is told; EngineFailed without a bundle."""
    case, task, data = trial.case, trial.task, trial.data
    shapes = {name: array.shape for name, array in data.calibration[0].items() if array.ndim} if case.static else {}
    os.environ |= {
        bench_judge.MODEL: case.id,
        bench_judge.ONNX: str(task.model),
        bench_judge.QUICK: str(int(trial.quick)),
    }
    try:
        conversion = convert(
            trial.source,
            [detect_profile(host_facts())],
            calibration=str(task.calibration),
            output=task.work / "bundle",
            shapes=shapes,
            threads=THREADS,
            license="NOASSERTION",
            evaluate="tests.bench_judge:by_task",
            **case.source,
        )
    except EdgertError as error:
        raise EngineFailed(error.message) from error
    (bundle,) = conversion.bundles
    if isinstance(bundle, ProfileFailure):
        raise EngineFailed(bundle.message)
    return {"bundle": str(bundle.path), "told": f"{bundle.chosen}: {bundle.reason}", "bytes": bundle.bytes}


def as_onnx(case: Case, source: Path, work: Path) -> Path:
    """Return the model as ONNX in float, which is what the peers get: the file itself, or what the source exports."""
    if source.suffix == ".onnx":
        return source
    (work / "import").mkdir()
    return open_source(source, None, Options(work / "import", **case.source)).path


def _task(case: Case, source: Path, model: Path, data: Data, work: Path) -> Task:
    for name, samples in (("calibration", data.calibration), ("scoring", data.scoring)):
        write_samples(work / name, samples)
    return Task(
        model=model,
        calibration=work / "calibration",
        scoring=work / "scoring",
        work=work,
        threads=THREADS,
        outputs=tuple(output.name for output in onnx.load(model, load_external_data=False).graph.output),
        carry=data.carry,
        restart=data.restart,
        options={**case.options, **({case.born: str(source.resolve())} if case.born else {})},
    )


def write_samples(folder: Path, samples: Sequence[Feeds]) -> None:
    """Write each sample into a file of its own in a new folder."""
    folder.mkdir()
    for number, feeds in enumerate(samples):
        np.savez(folder / f"{number:04}.npz", **feeds)


def _interleave(children: Mapping[str, Child], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return what the turns gave, by the names of `Row`; the order is reversed every other round.

    An engine that fails here ends the benchmark: it had answered all scoring samples before.
    """
    turns: dict[str, dict[str, list[float]]] = {name: {"turns_ms": [], "least_ms": []} for name in children}
    for number in range(rounds):
        for name in list(children) if number % 2 == 0 else reversed(children):
            times = children[name].turn(TURN_S)
            turns[name]["turns_ms"].append(float(np.median(times)))
            turns[name]["least_ms"].append(min(times))
    return turns


def _run_cost_benches(quick: bool) -> int:
    """Run the benchmarks of what converting costs, each as a process of its own; returns the largest exit code."""
    codes = []
    for name, short in QUICK_COSTS.items():
        print(f"\n{name}", flush=True)
        nncf = python_of("openvino") if name == "bench_calibration" else None
        peers = ("--nncf-python", str(nncf)) if nncf else ()
        command = [sys.executable, "-m", f"tests.{name}", *peers, *(short if quick else ())]
        codes.append(subprocess.run(command, check=False).returncode)
    return max(codes)


def _write(path: Path, results: Sequence[Result]) -> None:
    found = {"machine": _machine(), "results": [dataclasses.asdict(result) for result in results]}
    path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _machine() -> str:
    facts = host_facts()
    isa = " ".join(facts.isa)
    return f"{facts.cpu_name} ({isa}), {usable_cores()} cores, {THREADS} threads, {facts.system}, load {_load()}"


def _load() -> str:
    """Return the mean number of running processes in the last minute, "unknown" where Linux's file is not there."""
    try:
        return Path("/proc/loadavg").read_text(encoding="ascii").split()[0]
    except OSError:
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
