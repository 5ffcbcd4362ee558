"""What an engine's child process says to the benchmark: JSON lines, asked for on stdin, answered on stdout.

An engine is a module of this package with `prepare(task) -> Prepared`, run as `python -m tests.bench_peers.MODULE TASK`
in the environment that has its packages; TASK is a JSON file. Commands: `{"do": "score"}` runs all scoring samples and
writes their outputs, `{"do": "turn", "seconds": S, "warmup": N}` times calls with the first sample. A turn is answered
when the process has fallen quiet, so that spinning threads disturb no other engine. This file needs numpy and no more.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

Arrays = Mapping[str, np.ndarray]

QUIET_CHECK_S = 0.01
QUIET_CHECKS = 60


@dataclass(frozen=True)
class Task:
    """What an engine gets: a model file and folders of `NNNN.npz` with its inputs by their ONNX names.

    `work` is an empty folder of its own. `outputs` are the names of the original's outputs, in its order. `carry`:
    input -> output of the sample before, but for each `restart`-th sample, which starts a new sequence. `options` are
    those of the table in `engines.py`.
    """

    model: Path
    calibration: Path
    scoring: Path
    work: Path
    threads: int
    outputs: tuple[str, ...]
    carry: Mapping[str, str]
    restart: int
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Prepared:
    """An engine that is ready: `run` gives the outputs by the original's names, `settings` is what the table prints."""

    run: Callable[[Arrays], Arrays]
    settings: str
    file_bytes: int = 0


def read_task(path: Path) -> Task:
    """Return the task that the benchmark wrote."""
    found = json.loads(path.read_text(encoding="utf-8"))
    folders = {name: Path(found.pop(name)) for name in ("model", "calibration", "scoring", "work")}
    return Task(**folders, outputs=tuple(found.pop("outputs")), **found)


def samples(folder: Path) -> Iterator[dict[str, np.ndarray]]:
    """Yield the samples of a folder in the order of their names."""
    for file in sorted(folder.glob("*.npz")):
        with np.load(file) as arrays:
            yield {name: arrays[name] for name in arrays.files}


def serve(prepare: Callable[[Task], Prepared]) -> None:
    """Prepare the engine, then answer commands until stdin ends; whatever goes wrong is an answer too."""
    answers = _own_stdout()
    task = read_task(Path(sys.argv[1]))
    try:
        begin = time.perf_counter()
        prepared = prepare(task)
        seconds = time.perf_counter() - begin
        _say(answers, settings=prepared.settings, seconds=seconds, file_bytes=prepared.file_bytes, peak_mb=_peak_mb())
        for line in sys.stdin:
            _say(answers, **_answer(json.loads(line), task, prepared))
    except Exception as exc:  # noqa: BLE001 a foreign library may raise anything, and the table says what it was
        traceback.print_exc()
        _say(answers, error=f"{type(exc).__name__}: {' '.join(str(exc).split())}")


def _answer(command: Mapping[str, Any], task: Task, prepared: Prepared) -> dict[str, Any]:
    if command["do"] == "score":
        return {"scored": _score(task, prepared)}
    first = next(samples(task.scoring))
    times = _turn(lambda: prepared.run(first), command["seconds"], command["warmup"])
    _settle()
    return {"times": times}


def _score(task: Task, prepared: Prepared) -> int:
    """Write the outputs of each scoring sample to `work/outputs`."""
    folder = task.work / "outputs"
    folder.mkdir(exist_ok=True)
    before: Arrays = {}
    count = 0
    for number, sample in enumerate(samples(task.scoring)):
        carried = {given: before[made] for given, made in task.carry.items()} if number % task.restart else {}
        # A copy: some engines give views of their own buffers, which the next run writes to.
        before = {name: np.array(array) for name, array in prepared.run(sample | carried).items()}
        np.savez(folder / f"{number:04}.npz", **before)
        count += 1
    return count


def _turn(call: Callable[[], object], seconds: float, warmup: int) -> list[float]:
    """Return the milliseconds of each call: untimed ones, then timed ones for so many seconds, at least one."""
    for _ in range(warmup):
        call()
    times: list[float] = []
    begin = time.perf_counter()
    while not times or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1000)
    return times


def _settle() -> None:
    """Wait until the threads of this process have stopped spinning, 0.6 s at most."""
    for _ in range(QUIET_CHECKS):
        before = time.process_time()
        time.sleep(QUIET_CHECK_S)
        if time.process_time() - before < QUIET_CHECK_S / 5:
            return


def _own_stdout() -> TextIO:
    """Keep stdout for the answers alone: what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _say(answers: TextIO, **members: object) -> None:
    answers.write(json.dumps(members) + "\n")
    answers.flush()


def _peak_mb() -> float:
    """Return the most memory this process has had resident, 0 where Linux's file is not there."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM")), 0.0)
