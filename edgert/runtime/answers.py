"""What the outputs of a model mean, by its task: classes with probabilities, similarity, transcripts.

Pure: arrays and names in, an Answer out. Printing is left to the commands.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgert import strict_json
from edgert.errors import BadInput, VerificationFailed
from edgert.json_fields import checked_text
from edgert.task import Task

Array = np.ndarray[Any, Any]

TOP = 5
MAX_LABELS = 1_000_000

_CLASSIFIES = ("image-classification", "text-classification", "audio-classification", "classification")
_REMEDY = "convert the model again"


@dataclass(frozen=True)
class Class:
    """One class: its name, its place in the output, and its probability (the raw score where the task has none)."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Item:
    """What is said of one text, sound, picture or row: the likeliest classes, best first, and a label or transcript."""

    classes: tuple[Class, ...] = ()
    label: str | None = None
    transcript: str | None = None


@dataclass(frozen=True)
class Answer:
    """What the model says: one item per input, or the cosine of each pair of several embeddings, -1..1."""

    kind: str
    items: tuple[Item, ...] = ()
    cosine: tuple[tuple[float, ...], ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the member `answer` of `run --json`."""
        if self.cosine:
            return {"kind": self.kind, "cosine": [list(row) for row in self.cosine]}
        return {"kind": self.kind, "items": [_item_members(item) for item in self.items]}


def _item_members(item: Item) -> dict[str, object]:
    if item.transcript is not None:
        return {"transcript": item.transcript}
    classes = [{"label": entry.label, "index": entry.index, "probability": entry.probability} for entry in item.classes]
    return {"label": item.label, "classes": classes}


def parse_labels(data: bytes, where: str) -> tuple[str, ...]:
    """Read class names, a JSON list of texts; VerificationFailed names the file where it is not that."""
    try:
        document = strict_json.loads(data, where)
        if not isinstance(document, list) or len(document) > MAX_LABELS:
            raise BadInput(f"{where} is not a list of at most {MAX_LABELS} class names")
        return tuple(checked_text(name, f"{where}[{index}]") for index, name in enumerate(document))
    except BadInput as exc:
        raise VerificationFailed(exc.message, "give the source other class names and convert the model again") from exc


def answer(task: Task, outputs: Mapping[str, Array], labels: Sequence[str] = ()) -> Answer | None:
    """Return what the outputs of one or more inputs mean, one row of the task's output for each.

    None where the kind of task has nothing to say of them: features, one embedding alone, transcripts, which
    `transcripts` makes. VerificationFailed when the output is not what the kind of task makes.
    """
    if task.output not in outputs:
        raise VerificationFailed(f"the model has no output '{task.output}', which its task names", _REMEDY)
    if task.kind == "sentence-embedding":
        return _similarity(task, outputs[task.output])
    return _classification(task, outputs, labels) if task.kind in _CLASSIFIES else None


def transcripts(task: Task, texts: Sequence[str]) -> Answer:
    """Return the answer for sounds with these transcripts."""
    return Answer(task.kind, tuple(Item(transcript=text) for text in texts))


def _similarity(task: Task, output: Array) -> Answer | None:
    if output.ndim != 2:
        message = f"output '{task.output}' has shape {list(output.shape)}, one row for each text is expected"
        raise VerificationFailed(message, _REMEDY)
    if len(output) < 2:
        return None
    rows = output.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(lengths > 0, lengths, 1.0)
    matrix = np.clip(np.nan_to_num(rows @ rows.T), -1.0, 1.0)
    return Answer(task.kind, cosine=tuple(tuple(float(value) for value in row) for row in matrix))


def _classification(task: Task, outputs: Mapping[str, Array], labels: Sequence[str]) -> Answer:
    output = outputs[task.output]
    if output.dtype.kind not in "fiu" or (output.dtype.kind != "f" and output.ndim < 2):
        return Answer(task.kind, tuple(Item(label=text) for text in _texts(output)))
    probabilities = _probabilities(task, output, labels)
    told = _told_labels(task, outputs, len(probabilities))
    items = []
    for row, label in zip(probabilities, told, strict=True):
        best = np.argsort(-row, kind="stable")[:TOP]
        classes = tuple(Class(_name(labels, int(index)), int(index), float(row[index])) for index in best)
        items.append(Item(classes, label if label is not None else classes[0].label))
    return Answer(task.kind, tuple(items))


def _probabilities(task: Task, output: Array, labels: Sequence[str]) -> Array:
    """Return float64 [rows, classes]."""
    if not output.size or not np.isfinite(output).all():
        raise VerificationFailed(f"output '{task.output}' holds no probabilities: it is empty or not finite", _REMEDY)
    rows = output.astype(np.float64).reshape(output.shape[0] if output.ndim > 1 else 1, -1)
    if task.scores == "softmax":
        rows = np.exp(rows - rows.max(axis=1, keepdims=True))
        rows = rows / rows.sum(axis=1, keepdims=True)
    elif task.scores == "sigmoid":
        rows = np.exp(-np.logaddexp(0.0, -rows))
    if rows.shape[1] == 1 and len(labels) == 2:  # one number, the probability of the second class
        rows = np.hstack([1.0 - rows, rows])
    return rows


def _told_labels(task: Task, outputs: Mapping[str, Array], rows: int) -> list[str | None]:
    """Return what another output says the label of each row is, as the classifiers of scikit-learn do."""
    if task.kind == "classification":
        for name, output in outputs.items():
            if name != task.output and output.dtype.kind not in "f" and output.size == rows:
                return list(_texts(output))
    return [None] * rows


def _texts(output: Array) -> list[str]:
    return [str(value) for value in output.ravel().tolist()]


def _name(labels: Sequence[str], index: int) -> str:
    return labels[index] if index < len(labels) else str(index)
