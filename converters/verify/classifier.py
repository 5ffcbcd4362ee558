"""Is the class right? What a model's outputs say, by the same code that answers on the device, beside a label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converters.verify.evaluation import Array
from converters.verify.labels import Labels
from edgert.errors import BadInput, nearest
from edgert.manifest import TensorSpec
from edgert.runtime.answers import TOP, answer, parse_labels
from edgert.task import Task

KINDS = ("image-classification", "text-classification", "audio-classification", "classification")
INSTEAD = "use --metric cosine, or give a function of your own with --evaluate"


@dataclass(frozen=True)
class Classifier:
    """What answers, and the class that each labelled file has: an index, or the name that is answered."""

    task: Task
    names: Sequence[str]
    targets: Sequence[int | str]

    def is_right(self, outputs: Mapping[str, Array], target: int | str, first: int) -> bool:
        """Say whether the target is among the `first` likeliest classes; what is no number is never right."""
        values = outputs[self.task.output]
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            return False
        said = answer(self.task, outputs, self.names)
        if said is None or len(said.items) != 1:
            raise BadInput(
                f"output '{self.task.output}' has shape {list(values.shape)}, one row of classes is expected",
                "give one sample in each labelled file, and export the model for a batch of one",
            )
        item = said.items[0]
        if isinstance(target, int):
            return target in [entry.index for entry in item.classes[:first]]
        return target == item.label if first == 1 else target in [entry.label for entry in item.classes[:first]]


def open_classifier(
    metric: str, labels: Labels, task: Task | None, files: Mapping[str, Path], outputs: Sequence[TensorSpec]
) -> Classifier:
    """Return the classifier that a model with these `outputs` is; BadInput where it is none, or a label is no class."""
    found = task if task is not None and task.kind in KINDS else _task_of(metric, task, outputs)
    names = parse_labels(files[found.labels].read_bytes(), found.labels) if found.labels else ()
    output = next((spec for spec in outputs if spec.name == found.output), None)
    count = len(names) or _count(output)
    if metric == "top5" and count is not None and count <= TOP:
        raise BadInput(f"the model has {count} classes, so the first five are all of them", "use --metric top1")
    if metric == "top5" and output is not None and not output.dtype.startswith("float"):
        raise BadInput(f"output '{output.name}' is one label and no probabilities", "use --metric top1")
    tells = metric == "top1" and not names and _tells_labels(found, output, outputs)
    given = [entry.label for entry in labels.entries]
    targets = [str(label) for label in given] if tells else _targets(given, names, count, labels.path)
    return Classifier(found, names, targets)


def _task_of(metric: str, task: Task | None, outputs: Sequence[TensorSpec]) -> Task:
    """Return a task of classification for a model that declares none: for its one output with a row of classes."""
    if task is not None:
        raise BadInput(f"--metric {metric} needs a classifier, the model is for {task.kind}", INSTEAD)
    rows = [spec for spec in outputs if spec.dtype.startswith("float") and len(_sizes(spec)) == 1]
    if len(rows) != 1:
        seen = ", ".join(f"'{spec.name}' {spec.dtype} {list(spec.shape)}" for spec in outputs)
        what = "none of its outputs is" if not rows else "more than one of its outputs is"
        raise BadInput(f"--metric {metric} needs a classifier, and {what} a row of classes: {seen}", INSTEAD)
    return Task("classification", rows[0].name)


def _sizes(spec: TensorSpec) -> list[int | str | None]:
    """Return the dimensions after the first that are not 1."""
    return [size for size in spec.shape[1:] if size != 1] if len(spec.shape) > 1 else []


def _count(spec: TensorSpec | None) -> int | None:
    sizes = _sizes(spec) if spec is not None else []
    return sizes[0] if len(sizes) == 1 and isinstance(sizes[0], int) else None


def _tells_labels(task: Task, output: TensorSpec | None, outputs: Sequence[TensorSpec]) -> bool:
    """Say whether the model gives the label itself, as text or a number, as classifiers of scikit-learn do."""
    if output is None or not output.dtype.startswith("float"):
        return True
    others = [spec for spec in outputs if spec.name != task.output and not spec.dtype.startswith("float")]
    return task.kind == "classification" and any(not _sizes(spec) for spec in others)


def _targets(given: Sequence[int | str], names: Sequence[str], count: int | None, path: Path) -> list[int | str]:
    """Return names where all texts are class names, else indexes; BadInput for the first label that is neither."""
    if names and all(label in names for label in given if isinstance(label, str)):
        found = list(given)
    else:
        found = [int(label) if _is_index(label) else label for label in given]
    for label in found:
        if isinstance(label, str) and label not in names:
            raise _no_class(label, names, path)
        if isinstance(label, int) and not 0 <= label < (count if count is not None else label + 1):
            raise BadInput(f"'{path}': the label {label} is no class of 0 to {(count or 1) - 1}", "count from 0")
    return found


def _is_index(label: int | str) -> bool:
    return isinstance(label, int) or (label.isascii() and label.isdecimal())


def _no_class(label: str, names: Sequence[str], path: Path) -> BadInput:
    if not names:
        return BadInput(
            f"'{path}': the label '{label}' is a name, and the model has no class names",
            "give them with --classes, or label files with the index of their class",
        )
    near = nearest(label, names)
    hint = f"did you mean '{near}'?" if near else f"its classes are {', '.join(names[:5])} and so on"
    return BadInput(f"'{path}': the model has no class '{label}'", hint)
