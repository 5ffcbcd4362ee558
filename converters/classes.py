"""Class names that a user gives: they become a file of the bundle, and the model's task is to classify."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from converters.sources import onnx_file
from converters.sources.imported import Imported
from edgert import strict_json
from edgert.errors import BadInput
from edgert.runtime.images import takes_image
from edgert.task import Task

LABELS_FILE = "labels.json"
MAX_BYTES = 16_000_000


def with_classes(imported: Imported, path: Path, workdir: Path) -> Imported:
    """Return the model with the class names of the file `path`: a JSON list, or one name per line.

    They belong to the task's output where the source declared one, else to the output with as many classes.
    Raises BadInput for a file that is no such list, or is not as long as the output.
    """
    names = _read(path)
    graph = onnx_file.read_model(imported.path).graph
    counts = _class_counts(graph)
    task = imported.task or _classification(graph, counts, len(names))
    count = counts.get(task.output)
    is_binary = count == 1 and len(names) == 2  # the probability of the second class
    if isinstance(count, int) and count != len(names) and not is_binary:
        raise BadInput(
            f"{path}: {len(names)} class names are given, and the output '{task.output}' has {count}", "check the file"
        )
    written = workdir / LABELS_FILE
    written.write_text(strict_json.dumps(names), encoding="utf-8")
    return replace(imported, task=replace(task, labels=LABELS_FILE), files={**imported.files, LABELS_FILE: written})


def _read(path: Path) -> list[str]:
    remedy = "give a JSON list of names, or a text file with one name per line"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"{path}: {path.stat().st_size} bytes are too many for class names", remedy)
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise BadInput(f"{path}: the class names cannot be read: {exc}", remedy) from exc
    try:
        found = json.loads(text)
    except ValueError:
        found = [line.strip() for line in text.splitlines() if line.strip()]
    if not isinstance(found, list) or not found or not all(isinstance(name, str) for name in found):
        raise BadInput(f"{path}: this is no list of class names", remedy)
    return found


def _class_counts(graph: ir.Graph) -> dict[str, int | ir.SymbolicDim]:
    """Return output name -> its last dimension, the number of its classes, of the outputs with rows of them.

    Axes of one that a pooling left at the end are no classes.
    """
    counts = {}
    for value in graph.outputs:
        if value.shape is not None and len(value.shape) > 1:
            sizes = [size for size in value.shape[1:] if size != 1]
            counts[str(value.name)] = sizes[-1] if sizes else 1
    return counts


def _classification(graph: ir.Graph, counts: Mapping[str, int | ir.SymbolicDim], count: int) -> Task:
    """Return the task for the output that has `count` classes, or the only one of which that is not known."""
    output = next((name for name, size in counts.items() if size == count), None)
    free = [name for name, size in counts.items() if not isinstance(size, int)]
    if output is None and len(free) != 1:
        seen = ", ".join(f"'{name}' has {size}" for name, size in counts.items())
        raise BadInput(f"{count} class names are given, and no output has {count} classes: {seen}", "check the file")
    has_picture = any(
        takes_image([dim if isinstance(dim, int) else None for dim in value.shape], str(value.dtype).lower())
        for value in graph.inputs
        if value.shape is not None
    )
    chosen = output or free[0]
    producer = next(value.producer() for value in graph.outputs if value.name == chosen)
    scores = "none" if producer is not None and producer.op_type in ("Softmax", "Sigmoid") else "softmax"
    return Task("image-classification" if has_picture else "classification", chosen, scores=scores)
