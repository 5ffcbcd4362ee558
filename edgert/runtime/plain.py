"""Plain onnxruntime with default options: the yardstick that benchmarks put beside a bundle, never used to serve."""

from pathlib import Path
from typing import Any

import onnxruntime

from edgert.errors import BadInput
from edgert.runtime.session import OPEN_ERRORS


def plain_session(path: Path, threads: int) -> Any:
    """Return an InferenceSession on the CPU as a user would open it, with `threads` threads for a fair comparison."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # it tells of every unused initializer, a line each
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except OPEN_ERRORS as exc:
        raise BadInput(f"{path} cannot be loaded by onnxruntime: {exc}", "check that it is a whole ONNX model") from exc
