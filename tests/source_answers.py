"""What a model's own framework and ONNX Runtime give for the same samples, side by side, for the tests of sources."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from converters.sources.imported import Imported

Arrays = Mapping[str, np.ndarray]


def source_answers(
    imported: Imported, feeds: Sequence[Arrays], folder: Path
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Yield for each sample the outputs of the framework itself and those of the imported graph, by the same names.

    What both read and write lies in new folders of `folder`.
    """
    samples, outputs = folder / "samples", folder / "outputs"
    samples.mkdir()
    outputs.mkdir()
    for number, sample in enumerate(feeds):
        np.savez(samples / f"{number:04d}.npz", **sample)
    assert imported.rerun is not None
    imported.rerun(samples, outputs, "")
    session = onnxruntime.InferenceSession(imported.path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    for number, sample in enumerate(feeds):
        with np.load(outputs / f"{number:04d}.npz", allow_pickle=False) as arrays:
            expected = dict(arrays)
        assert set(expected) == set(names)
        yield {name: expected[name] for name in names}, dict(zip(names, session.run(names, sample), strict=True))
