"""What the exporter needs to know of one loaded model, whichever framework it is from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from skl_columns import Column

Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """One model: its inputs, how it becomes ONNX, and what it predicts itself.

    `outputs` are the names of the ONNX outputs, in order; `predict` gives arrays by these names. `labels` are the class
    names of a classifier, whose second output they describe.
    """

    name: str
    framework: str
    columns: tuple[Column, ...]
    outputs: tuple[str, ...]
    convert: Callable[[], Any]
    predict: Callable[[Arrays], dict[str, Any]]
    labels: tuple[str, ...] | None = None
