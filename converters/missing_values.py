"""Which models take NaN for a value that is missing: trees and imputers do, nothing else has a use for it."""

from pathlib import Path

import onnx

_TAKERS = frozenset({"TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor", "Imputer"})


def takes_missing(path: Path) -> bool:
    """Return whether the ONNX model at `path` has a node that knows missing values; external weights are not read."""
    graph = onnx.load(path, load_external_data=False).graph
    return any(knows_missing(node.domain, node.op_type) for node in graph.node)


def knows_missing(domain: str, op_type: str) -> bool:
    """Return whether an operator knows what to do with NaN as a value that is missing."""
    return domain == "ai.onnx.ml" and op_type in _TAKERS
