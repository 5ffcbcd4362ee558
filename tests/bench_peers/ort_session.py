"""ONNX Runtime with its default options and a number of threads, as every ONNX Runtime engine of the benchmark runs.

Run as a program it is the engine "onnxruntime": the original file as it is.
"""

import os
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime

from tests.bench_peers.protocol import Arrays, Prepared, Task, serve


def open_session(path: Path, task: Task, settings: str) -> Prepared:
    """Return the model at `path`, run on the CPU provider."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = list(task.outputs)
    inputs = {one.name for one in session.get_inputs()}

    def run(feeds: Arrays) -> dict[str, np.ndarray]:
        given = feeds if feeds.keys() == inputs else {name: feeds[name] for name in inputs}
        return dict(zip(names, session.run(names, given), strict=True))

    return Prepared(run, f"onnxruntime {onnxruntime.__version__}; {settings}", path.stat().st_size)


def prepare(task: Task) -> Prepared:
    """Open the original."""
    return open_session(task.model, task, "the original, default session options")


if __name__ == "__main__":
    serve(prepare)
