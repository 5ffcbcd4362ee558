"""The engine "NNCF + onnxruntime": `nncf.quantize` of the ONNX model at opset 17, run in ONNX Runtime."""

import nncf
import onnx

from tests.bench_peers.nncf_openvino import samples_list, settings
from tests.bench_peers.ort_preprocess import preprocessed
from tests.bench_peers.ort_session import open_session
from tests.bench_peers.protocol import Prepared, Task, serve


def prepare(task: Task) -> Prepared:
    """Quantize and open."""
    source, notes = preprocessed(task)
    arguments, told = settings(task)
    quantized = nncf.quantize(onnx.load(source), nncf.Dataset(samples_list(task)), **arguments)
    path = task.work / "nncf.onnx"
    onnx.save(quantized, path)
    return open_session(path, task, f"{notes}, {told}")


if __name__ == "__main__":
    serve(prepare)
