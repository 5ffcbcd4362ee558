"""The benchmark's end of an engine's child process: start it, ask it, and tell how it failed."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from tests.bench_peers.engines import Engine
from tests.bench_peers.install import python_of
from tests.bench_peers.protocol import Task, samples

ROOT = Path(__file__).resolve().parent.parent.parent
PREPARE_LIMIT_S = 900.0
ANSWER_LIMIT_S = 300.0


class EngineFailed(Exception):
    """An engine that is not installed, refused the model, fell over or took too long; the message says which."""


class Child:
    """One engine that is prepared and waits for commands. Close it, or use it in a `with`."""

    def __init__(self, engine: Engine, task: Task) -> None:
        python = python_of(engine.environment)
        if python is None:
            raise EngineFailed("not installed here: python -m tests.bench_peers.install")
        self.engine = engine
        self._work = task.work
        task.work.mkdir(parents=True)
        written = task.work / "task.json"
        written.write_text(json.dumps(_plain(task)), encoding="utf-8")
        self._said = (task.work / "said.txt").open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            [str(python), "-m", f"tests.bench_peers.{engine.module}", str(written)],
            cwd=ROOT,
            env=_clean_environment(task.threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        try:
            ready = self._answer(PREPARE_LIMIT_S)
        except EngineFailed:
            self.close()
            raise
        self.settings = str(ready["settings"])
        self.prepare_s = float(ready["seconds"])
        self.peak_mb = float(ready["peak_mb"])
        self.file_bytes = int(ready["file_bytes"])

    def score(self) -> Iterator[dict[str, np.ndarray]]:
        """Run all scoring samples, and yield the outputs of each."""
        self._ask(do="score")
        return samples(self._work / "outputs")

    def turn(self, seconds: float, warmup: int = 1) -> list[float]:
        """Return the milliseconds of each call in a turn of so many seconds."""
        return list(self._ask(do="turn", seconds=seconds, warmup=warmup)["times"])

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream is not None and not stream.closed:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _ask(self, **command: object) -> Mapping[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as exc:
            raise EngineFailed(self._last_words()) from exc
        return self._answer(ANSWER_LIMIT_S)

    def _answer(self, limit_s: float) -> Mapping[str, Any]:
        assert self._process.stdout is not None
        watch = threading.Timer(limit_s, self._process.kill)
        watch.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watch.cancel()
        answer: dict[str, Any] = json.loads(line) if line.strip() else {"error": self._last_words()}
        if "error" in answer:
            raise EngineFailed(str(answer["error"]))
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self._said.flush()
        lines = (self._work / "said.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        words = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        return f"ended with {code}: {words}"


def _plain(task: Task) -> dict[str, object]:
    return {
        "model": str(task.model),
        "calibration": str(task.calibration),
        "scoring": str(task.scoring),
        "work": str(task.work),
        "threads": task.threads,
        "outputs": list(task.outputs),
        "carry": dict(task.carry),
        "restart": task.restart,
        "options": dict(task.options),
    }


def _clean_environment(threads: int) -> dict[str, str]:
    """Return this environment without Python's paths, with no telemetry and so many threads for numpy and OpenMP.

    OpenVINO and NNCF send telemetry from processes that outlive them, unless they believe to be in a CI.
    """
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    quiet = {"ORT_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "CI": "true", "NNCF_CI": "1"}
    return kept | quiet | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
