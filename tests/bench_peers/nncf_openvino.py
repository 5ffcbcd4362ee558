"""The engine "NNCF + OpenVINO": `nncf.quantize` of the OpenVINO model, run in OpenVINO; what stays float is f32.

MIXED is NNCF's preset for activations that are not ReLU (asymmetric activations, symmetric weights); a transformer is
told as such. Both are what its documentation says for post-training quantization.
"""

from typing import Any

import nncf

from tests.bench_peers.ov_float import compile_model, read_model
from tests.bench_peers.protocol import Prepared, Task, samples, serve


def settings(task: Task) -> tuple[dict[str, Any], str]:
    """Return the arguments of `nncf.quantize`, and them in words."""
    count = len(list(task.calibration.glob("*.npz")))
    kind = nncf.ModelType.TRANSFORMER if task.options.get("transformer") else None
    given = {"preset": nncf.QuantizationPreset.MIXED, "model_type": kind, "subset_size": count}
    return given, f"nncf {nncf.__version__} quantize preset MIXED{', TRANSFORMER' if kind else ''}, {count} samples"


def prepare(task: Task) -> Prepared:
    """Quantize and compile."""
    arguments, told = settings(task)
    model, read = read_model(task)
    quantized = nncf.quantize(model, nncf.Dataset(samples_list(task)), **arguments)
    return compile_model(quantized, task, "f32", f"{read}, {told}")


def samples_list(task: Task) -> list[Any]:
    """Return the calibration samples; NNCF goes through them more than once."""
    return list(samples(task.calibration))


if __name__ == "__main__":
    serve(prepare)
