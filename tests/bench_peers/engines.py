"""The engines that the benchmark puts side by side: a table. What each does is in the module of its row.

`environment` is one of `install.ENVIRONMENTS`, "" for this very Python. `runtime` says what runs the model:
"onnxruntime" is ONNX Runtime's own CPU provider.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Engine:
    """One row: the name in the result, the module that is run, and the options it gets besides the task."""

    name: str
    module: str
    environment: str
    runtime: str
    options: Mapping[str, object] = field(default_factory=dict)
    needs: str = ""


PLAIN = "onnxruntime"
OWN = "edgert"

PEERS = (
    Engine(PLAIN, "ort_session", "", "onnxruntime"),
    Engine("onnxslim", "ort_slim", "onnxruntime", "onnxruntime"),
    Engine("quantize_static", "ort_static", "onnxruntime", "onnxruntime"),
    Engine("quantize_dynamic", "ort_dynamic", "onnxruntime", "onnxruntime"),
    Engine("NNCF + onnxruntime", "nncf_onnx", "openvino", "onnxruntime"),
    Engine("NNCF + OpenVINO", "nncf_openvino", "openvino", "openvino"),
    Engine("OpenVINO f32", "ov_float", "openvino", "openvino", {"precision": "f32"}),
    Engine("OpenVINO bf16", "ov_float", "openvino", "openvino", {"precision": "bf16"}),
    Engine("LiteRT", "litert", "litert", "litert", needs="tflite"),
)
"""In the order of the result; all ratios are to the first. `needs` is an option without which a row is left out."""
