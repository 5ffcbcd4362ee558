"""The engine "quantize_dynamic": ONNX Runtime's dynamic quantization with 8-bit weights, which needs no samples.

Convolutions stay float: the documentation recommends the method for RNNs and transformers, and `ConvInteger` is four to
seven times slower than a float convolution. The other operators are those that the method knows.
"""

from onnxruntime.quantization import QuantType, quantize_dynamic

from tests.bench_peers.ort_preprocess import preprocessed
from tests.bench_peers.ort_session import open_session
from tests.bench_peers.protocol import Prepared, Task, serve

OP_TYPES = ["MatMul", "Gemm", "Attention", "LSTM", "Gather", "EmbedLayerNormalization"]


def prepare(task: Task) -> Prepared:
    """Quantize and open."""
    source, notes = preprocessed(task)
    path = task.work / "dynamic.onnx"
    quantize_dynamic(
        str(source), str(path), weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=OP_TYPES
    )
    return open_session(path, task, f"{notes}, quantize_dynamic QInt8 per-channel, not Conv")


if __name__ == "__main__":
    serve(prepare)
