"""The engine "onnxslim": onnxslim's default passes on the original, then ONNX Runtime."""

import onnx
import onnxslim

from tests.bench_peers.ort_session import open_session
from tests.bench_peers.protocol import Prepared, Task, serve


def prepare(task: Task) -> Prepared:
    """Write `slim.onnx` and open it."""
    slimmed = onnxslim.slim(onnx.load(task.model))
    path = task.work / "slim.onnx"
    onnx.save(slimmed, path)
    return open_session(path, task, f"onnxslim {onnxslim.__version__} slim(), defaults")


if __name__ == "__main__":
    serve(prepare)
