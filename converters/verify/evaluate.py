"""Open what judges the variants of a call: the right answers, a function of the user, or agreement by ranks and boxes.

It is opened before any work on the graph, so that what does not fit the model is told at once. `converters.job` asks
for the scores; the arithmetic is in `metrics`, `boxes`, `agreement` and `classifier`, reading text in `text_readers`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from converters.request import Progress, Request
from converters.samples import Samples, read_sample
from converters.verify import user_function
from converters.verify.agreement import box_agreement, parity_agreement, rank_agreement, similarity_agreement
from converters.verify.classifier import INSTEAD, open_classifier
from converters.verify.evaluation import ACCURACY, AGREEMENT, Evaluation, Feeds, FeedsOf, Measure, Run
from converters.verify.labels import Labels, read_labels
from converters.verify.metrics import METRICS, characters, check_metric, edit_distance, words
from converters.verify.parity import PARITY_METRICS
from converters.verify.text_readers import LineReader, Reader, SpeechReader, charset, line_output
from edgert.errors import BadInput, UsageError
from edgert.manifest import TensorSpec
from edgert.runtime.audio import is_sound_file
from edgert.runtime.prepare import Preparer
from edgert.runtime.session import Session
from edgert.runtime.tokens import Tokenizer
from edgert.task import Task

T = TypeVar("T")


@dataclass(frozen=True)
class Subject:
    """What is judged: the original of an imported model, and how files become its inputs.

    `path` is its ONNX file; `files` belong to its `task`; `missing` lets NaN pass as a value that is missing.
    `open_decoder` opens the original of a part.
    """

    path: Path
    task: Task | None
    files: Mapping[str, Path]
    original: Session
    inputs: Sequence[TensorSpec]
    preparer: Preparer | None
    missing: bool
    samples: Samples
    open_decoder: Callable[[str], Session]


def check_request(request: Request) -> None:
    """Raise what is wrong with how a request wants its variants judged; reads the labels, imports the function."""
    if request.metric:
        check_metric(request.metric)
    if request.evaluate is not None and request.labels is not None:
        raise UsageError("--labels and --evaluate are both given, and one score decides", "give one of them")
    if request.evaluate is not None and request.metric:
        raise UsageError(
            f"--metric {request.metric} and --evaluate are both given, and one score decides",
            "leave --metric away: what the function returns is the metric",
        )
    if request.metric and METRICS[request.metric].needs_labels and request.labels is None:
        near = "top1_agreement" if request.metric.startswith("top") else "cosine"
        raise UsageError(
            f"--metric {request.metric} needs the right answers", f"give --labels FILE, or use --metric {near}"
        )
    labels_of(request)
    if request.evaluate is not None:
        user_function.load_function(request.evaluate)


def labels_of(request: Request) -> Labels | None:
    """Return the labels that are asked for; raises what `read_labels` raises."""
    return None if request.labels is None else read_labels(request.labels, request.calibration)


def open_evaluation(request: Request, labels: Labels | None, subject: Subject) -> Evaluation | None:
    """Return what scores the variants, None where the parity of their outputs over the samples already does.

    Raises BadInput for a metric or labels that do not fit the model.
    """
    if request.evaluate is not None:
        return _by_function(request.evaluate)
    metric = metric_for(request.metric, labels, subject)
    if labels is not None and METRICS[metric].needs_labels:
        return _by_labels(metric, labels, subject, request.progress)
    _check_outputs(metric, subject.original.outputs)
    if labels is None and metric in PARITY_METRICS:
        return None
    return _by_agreement(metric, labels, subject, request.progress)


def metric_for(asked: str, labels: Labels | None, subject: Subject) -> str:
    """Return the metric that is asked for, else the one that suits the labels and the model."""
    if asked or labels is None:
        return asked or "cosine"
    task = subject.task
    if task is not None and task.generate is not None:
        return "wer"
    return "cer" if line_output(subject.original.outputs, charset(subject.path)) else "top1"


def _by_function(spec: str) -> Evaluation:
    function = user_function.load_function(spec)

    def measure(run: Run, limit: int | None) -> float:
        return user_function.call(function, spec, run)

    digest = user_function.source_digest(function)
    return Evaluation(spec, True, "function", measure, f"what {spec} returns", digest=digest)


def _by_labels(metric: str, labels: Labels, subject: Subject, progress: Progress) -> Evaluation:
    better, count = METRICS[metric].higher_is_better, len(labels.entries)
    if metric in ("top1", "top5"):
        measure, reader = _share_right(metric, labels, subject, progress), None
    else:
        reader = _open_reader(metric, labels, subject)
        measure = _error_rate(metric, labels, reader, progress)
    evaluation = Evaluation(metric, better, "labels", measure, ACCURACY, count, labels.digest)
    if not isinstance(reader, SpeechReader):
        return evaluation

    def of_part(inputs: Sequence[TensorSpec]) -> Evaluation:
        part = _error_rate(metric, labels, reader.with_decoder(inputs), progress)
        return replace(evaluation, measure=part)

    return replace(evaluation, of_part=of_part)


def _share_right(metric: str, labels: Labels, subject: Subject, progress: Progress) -> Measure:
    classifier = open_classifier(metric, labels, subject.task, subject.files, subject.original.outputs)
    first = int(metric.removeprefix("top"))
    pairs = list(zip(labels.entries, classifier.targets, strict=True))

    def measure(run: Run, limit: int | None) -> float:
        chosen = pairs[:limit]
        right = 0
        for entry, target in _told(chosen, len(chosen), metric, progress):
            feeds = read_sample(entry.path, subject.inputs, subject.preparer, subject.missing)
            right += classifier.is_right(run(feeds), target, first)
        return right / len(chosen)

    return measure


def _error_rate(metric: str, labels: Labels, reader: Reader, progress: Progress) -> Measure:
    split: Callable[[str], Sequence[str]] = words if metric == "wer" else characters
    truths = [(entry.path, str(entry.label)) for entry in labels.entries]
    if not any(split(truth) for _, truth in truths):
        raise BadInput(f"'{labels.path}' has only empty texts", "give the text that is in each file as its label")

    def measure(run: Run, limit: int | None) -> float:
        chosen, edits, count = truths[:limit], 0, 0
        for path, truth in _told(chosen, len(chosen), metric, progress):
            wanted = split(truth)
            edits += edit_distance(wanted, split(reader.read(run, path, truth)))
            count += len(wanted)
        return edits / max(count, 1)

    return measure


def _open_reader(metric: str, labels: Labels, subject: Subject) -> LineReader | SpeechReader:
    """Return what reads the text in a file; BadInput where the model is for something else."""

    def feeds_of(path: Path) -> Iterable[Feeds]:
        if subject.preparer is not None and subject.preparer.takes_sound and is_sound_file(path):
            return subject.preparer.windows(path)
        return [read_sample(path, subject.inputs, subject.preparer, subject.missing)]

    task = subject.task
    if task is not None and task.generate is not None and task.text is not None:
        tokenizer = Tokenizer.open(subject.files[task.text.tokenizer], task.text)
        decoder = subject.open_decoder(task.generate.decoder)
        return SpeechReader(tokenizer, task.generate, feeds_of, subject.original.run, decoder)
    letters = charset(subject.path)
    output = line_output(subject.original.outputs, letters)
    if output is None:
        raise BadInput(
            f"--metric {metric} needs a model that reads text: speech, or lines with the characters in its metadata",
            INSTEAD.replace("cosine", "top1"),
        )
    return LineReader(output, letters, feeds_of)


def _by_agreement(metric: str, labels: Labels | None, subject: Subject, progress: Progress) -> Evaluation:
    entries = () if labels is None else labels.entries
    count = len(entries) if entries else subject.samples.count

    def feeds_of(limit: int | None) -> Iterator[Feeds]:
        read = (read_sample(one.path, subject.inputs, subject.preparer, subject.missing) for one in entries)
        chosen = islice(read if entries else iter(subject.samples), limit)
        return _told(chosen, min(count, limit or count), metric, progress)

    measure = _agreement(metric, subject, feeds_of)
    return Evaluation(metric, True, "agreement", measure, AGREEMENT, count, labels.digest if labels else "")


def _agreement(metric: str, subject: Subject, feeds_of: FeedsOf) -> Measure:
    original, task = subject.original, subject.task
    if metric == "map":
        return box_agreement(original, feeds_of)
    if metric == "spearman" and task is not None and task.kind == "sentence-embedding":
        return similarity_agreement(original, task.output, feeds_of)
    return rank_agreement(original, feeds_of) if metric == "spearman" else parity_agreement(metric, original, feeds_of)


def _check_outputs(metric: str, outputs: Sequence[TensorSpec]) -> None:
    """Raise BadInput where no output has what an agreement is about."""
    floats = [spec for spec in outputs if spec.dtype.startswith("float")]
    what = ""
    if metric == "top1_agreement" and not any(_has_classes(spec) for spec in floats):
        what = "an output with two or more classes on its last axis"
    if metric in ("spearman", "sqnr") and not floats:
        what = "an output of floats"
    if what:
        seen = ", ".join(f"'{spec.name}' {spec.dtype} {list(spec.shape)}" for spec in outputs)
        raise BadInput(f"--metric {metric} needs {what}; the outputs are {seen}", "use --metric cosine")


def _has_classes(spec: TensorSpec) -> bool:
    last = spec.shape[-1] if len(spec.shape) >= 2 else 1
    return not isinstance(last, int) or last >= 2


def _told(items: Iterable[T], total: int, metric: str, progress: Progress) -> Iterator[T]:
    """Hand the items on, and report each of them."""
    for done, item in enumerate(items):
        progress(f"scoring by {metric}", done, total)
        yield item
