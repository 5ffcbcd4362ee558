"""TFLite files: float, half-precision and integer models, read by tf2onnx beside TensorFlow in a child process.

A quantized model keeps its scales: the graph comes as QuantizeLinear and DequantizeLinear with the numbers of the file.
"""

from pathlib import Path

from converters.sources import child
from converters.sources.imported import Imported, Options
from edgert.errors import BadInput

MAGIC = b"TFL3"
SCRIPT = "export_tflite.py"
ENVIRONMENTS = ("tensorflow",)


def matches(path: Path) -> bool:
    """Return whether `path` is a file with TFLite's identifier, which flatbuffers keep at byte 4."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(8)[4:] == MAGIC


def load(path: Path, options: Options) -> Imported:
    """Import a TFLite model.

    Raises BadInput for a file that is none or is damaged, GateFailed that names the operators without a form in ONNX,
    MissingExtra where there is no TensorFlow.
    """
    if not matches(path):
        raise BadInput(
            f"{path}: this is not a TFLite model: it has no '{MAGIC.decode()}' at byte 4",
            "give a .tflite file, or leave out --source",
        )
    return child.export("tflite", SCRIPT, ENVIRONMENTS, path, options)
