"""The engines "OpenVINO f32" and "OpenVINO bf16": the original in OpenVINO on the CPU, for latency."""

from pathlib import Path
from typing import Any

import numpy as np
import openvino

from tests.bench_peers.protocol import Arrays, Prepared, Task, samples, serve


def prepare(task: Task) -> Prepared:
    """Read the original and compile it in the precision that `options` name."""
    model, told = read_model(task)
    return compile_model(model, task, task.options["precision"], told)


def read_model(task: Task) -> tuple[Any, str]:
    """Return the model and how it was read: with the shapes of the samples where these are all the same.

    Static shapes are faster, and `convert_model` reads models with them whose ranks it cannot infer otherwise.
    """
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for folder in (task.calibration, task.scoring):
        for feeds in samples(folder):
            for name, array in feeds.items():
                shapes.setdefault(name, set()).add(array.shape)
    if all(len(found) == 1 for found in shapes.values()):
        static = {name: list(next(iter(found))) for name, found in shapes.items()}
        return openvino.convert_model(str(task.model), input=static), "convert_model with static shapes"
    return openvino.Core().read_model(str(task.model)), "read_model"


def compile_model(model: Any, task: Task, precision: str, told: str) -> Prepared:
    """Compile for the CPU: latency hint, so many threads, floating point in `precision`."""
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": task.threads,
        "INFERENCE_PRECISION_HINT": precision,
    }
    request = openvino.Core().compile_model(model, "CPU", config).create_infer_request()
    names = list(task.outputs)

    def run(feeds: Arrays) -> dict[str, np.ndarray]:
        found = request.infer(feeds, share_inputs=True, share_outputs=True)
        return dict(zip(names, found.values(), strict=True))

    hints = f"LATENCY, {task.threads} threads, INFERENCE_PRECISION_HINT {precision}"
    return Prepared(run, f"openvino {openvino.__version__.split('-')[0]}; {told}, {hints}", _bytes(task.model))


def _bytes(path: Path) -> int:
    return path.stat().st_size


if __name__ == "__main__":
    serve(prepare)
