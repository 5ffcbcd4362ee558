"""What `edgert convert --evaluate tests.bench_judge:by_task` judges by: the task's measure, on the calibration data.

Environment variables name the model and its data, since a function for `--evaluate` gets only the variant.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from edgert.runtime.plain import plain_session
from tests.bench_data import DATA, Data

MODEL, ONNX, QUICK = "EDGERT_BENCH_MODEL", "EDGERT_BENCH_ONNX", "EDGERT_BENCH_QUICK"
"""The id of the model, its float graph, and "1" for few samples."""

Feeds = Mapping[str, np.ndarray]


def by_task(run: Callable[[Feeds], dict[str, np.ndarray]]) -> float:
    """Return the score of `run` on the samples that calibrate; none of those that score in the end are among them."""
    data, floats = _data(os.environ[MODEL], Path(os.environ[ONNX]), os.environ[QUICK] == "1")
    return data.judge([run(feeds) for feeds in data.calibration], floats)


@cache
def _data(model_id: str, path: Path, quick: bool) -> tuple[Data, Sequence[Feeds]]:
    """Return the data and the float model's outputs."""
    data = DATA[model_id](path, quick)
    session = plain_session(path, 0)
    names = [output.name for output in session.get_outputs()]
    return data, [dict(zip(names, session.run(names, feeds), strict=True)) for feeds in data.calibration]
