"""One way to quantize a model to int8, in a process of its own; run by `tests.bench_calibration`, by path.

It imports nothing of this repository unless it runs edgert itself, for another interpreter may run it. What it has
to be told comes as JSON in the first argument; it prints the peak of its memory in bytes.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Pages:
    """The samples of PP-OCR's detector: pages [1, 3, 640, 640] read anew from their files, moved after the last."""

    def __init__(self, folder: Path, count: int) -> None:
        self._files, self._count = sorted(folder.glob("*.npy")), count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for number in range(self._count):
            turn, file = divmod(number, len(self._files))
            pixels = np.roll(np.load(self._files[file]), 37 * turn, axis=(0, 1))
            scaled = (pixels.astype(np.float32) / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
            yield {"x": np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])}


def edgert(original: Path, pages: Pages, method: str, target: Path) -> None:
    """Make the float graph, calibrate, plan and write, as a conversion does."""
    from converters.graphs import float_graph, normalised
    from converters.quantize.calibrate import calibrate
    from converters.quantize.plan import plan_quantization
    from converters.quantize.qdq import apply_qdq
    from converters.variants import WeightsFile, write_variant
    from edgert.profile import load_profile

    profile = load_profile("x86-avx512-vnni")
    model = float_graph(normalised(original, profile, {"x": (1, 3, 640, 640)}), profile).model
    ranges = calibrate(model, pages, method=method, workdir=target)
    plan = plan_quantization(model, ranges, profile.quantization, 8)
    write_variant(apply_qdq(model, plan), "qdq", WeightsFile(target), target)


def quantize_static(graph: Path, pages: Pages, method: str, target: Path) -> None:
    """Quantize by ONNX Runtime's own tool: QDQ, weights per channel, the calibration that `method` names."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
    from onnxruntime.quantization import quantize_static as quantize

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._pages = iter(pages)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._pages, None)

    quantize(
        graph,
        target / "qdq.onnx",
        Reader(),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[method],
    )


def nncf(graph: Path, pages: Pages, _: str, target: Path) -> None:
    """Quantize by NNCF, with its defaults over all samples."""
    import nncf as tool
    import onnx

    model: Any = tool.quantize(onnx.load(graph), tool.Dataset(pages), subset_size=len(pages))
    onnx.save(model, target / "qdq.onnx")


def main(argument: str) -> None:
    """Do what the parent asks, and print the peak of the memory."""
    wanted = json.loads(argument)
    run = {"edgert": edgert, "quantize_static": quantize_static, "nncf": nncf}[wanted["tool"]]
    pages = Pages(Path(wanted["pages"]), wanted["images"])
    run(Path(wanted["model"]), pages, wanted["method"], Path(wanted["target"]))
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    print(json.dumps({"peak_bytes": int(found.group(1)) * 1024 if found else 0}))


if __name__ == "__main__":
    main(sys.argv[1])
