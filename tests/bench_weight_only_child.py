"""One way to store the weights of a model in blocks, in a process of its own: `tests.bench_weight_only` runs it.

What it has to do comes as JSON in the first argument; it prints how long that took, once the modules were there, and
the peak of its memory in bytes.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgert.host import peak_rss_bytes


def edgert(source: Path, target: Path, options: dict[str, Any]) -> Callable[[], None]:
    """Stream the weights, as this repository does for models larger than memory."""
    from converters.quantize.weight_only import stream_weights_only

    def call() -> None:
        stream_weights_only(source, target, **options)

    return call


def onnxruntime(source: Path, target: Path, options: dict[str, Any]) -> Callable[[], None]:
    """Quantize by `MatMulNBitsQuantizer`; `algorithm` is empty for its default, which is in C++."""
    from onnxruntime.quantization import matmul_nbits_quantizer as tool

    algorithms = {"rtn": tool.RTNWeightOnlyQuantConfig, "k_quant": tool.KQuantWeightOnlyQuantConfig}
    algorithm = options.pop("algorithm")
    config = algorithms[algorithm]() if algorithm else None

    def call() -> None:
        quantizer = tool.MatMulNBitsQuantizer(str(source), algo_config=config, **options)
        quantizer.process()
        quantizer.model.save_model_to_file(str(target), True)

    return call


def main(argument: str) -> None:
    """Do what the parent asks, and print what it took."""
    wanted = json.loads(argument)
    prepare = {"edgert": edgert, "onnxruntime": onnxruntime}[wanted["tool"]]
    call = prepare(Path(wanted["source"]), Path(wanted["target"]), wanted["options"])
    start, cpu = time.perf_counter(), time.process_time()
    call()
    took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    print("\n" + json.dumps({**took, "peak_bytes": peak_rss_bytes()}))  # their progress bar ends without a line break


if __name__ == "__main__":
    main(sys.argv[1])
