"""Set the workbench up: the imported model open on the CPU, its samples read, the source itself asked.

What profiles and candidates do on it is left to `converters.job`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

from converters.generation import Generation
from converters.job import Shared
from converters.missing_values import takes_missing
from converters.request import Request
from converters.samples import Samples, Source, open_samples
from converters.search_cache import SearchCache
from converters.source_parity import check_source
from converters.sources.imported import Imported
from converters.verify.evaluate import Subject, labels_of, open_evaluation
from converters.verify.evaluation import Evaluation
from converters.verify.parity import PARITY_METRICS
from edgert.errors import BadInput, EnvironmentFailed, UsageError, nearest
from edgert.host import cache_dir, host_facts
from edgert.image_spec import ImageSpec
from edgert.manifest import TensorSpec
from edgert.profile import DeviceProfile
from edgert.runtime.prepare import Preparer, open_preparer
from edgert.runtime.providers import ProviderDevice, find_device
from edgert.runtime.session import Session

SENTENCES = Path(__file__).parent / "sources" / "sentences.txt"
STATIC_TOKENS = 128
"""How many tokens a text gets where a profile wants static shapes and no --shape says otherwise."""

EXAMPLES_WARNING = "calibrated on the examples that came with the model: give --calibration with data of your own"
SENTENCES_WARNING = "calibrated on built-in English sentences: give --calibration with texts of your own"


PART_WARNING = (
    "the {} is judged by the cosine of its outputs and by the tokens that it generates: {} is of the whole model"
)

PART_EVERY = 8
"""Of a part's samples the source itself gets only each eighth: they are large, and near each other."""


@dataclass(frozen=True)
class Part:
    """A further graph of a model: where its samples come from, and what judges the tokens that it generates.

    `evaluation` scores it where the model is scored as a whole.
    """

    name: str
    samples: Source
    generation: Generation
    evaluation: Evaluation | None = None


@contextmanager
def open_bench(
    request: Request,
    imported: Imported,
    scratch: Path,
    profiles: Sequence[DeviceProfile],
    part: Part | None = None,
) -> Iterator[Shared]:
    """Open the original and the samples, and compare the imported graph with the source itself.

    `part` is the graph of `imported` that is meant, None the main one.
    """
    cpu_device = find_device("CPUExecutionProvider")
    assert isinstance(cpu_device, ProviderDevice)
    path, name = (imported.parts[part.name], part.name) if part else (imported.path, "")
    with ExitStack() as stack:
        original = stack.enter_context(Session.open(path, cpu_device, threads=request.threads))
        inputs = _described(request, imported, original.inputs)
        request.progress("reading the samples", 0, 0)
        labels, preparer = labels_of(request), _preparer(request, imported, inputs, profiles)
        samples = _samples(request, imported, inputs, preparer, part, labels.files if labels else ())
        open_decoder = partial(_open_decoder, stack, imported, cpu_device, request.threads)
        subject = Subject(
            path,
            imported.task,
            imported.files,
            original,
            inputs,
            preparer,
            takes_missing(path),
            samples,
            open_decoder,
        )
        evaluation = part.evaluation if part else open_evaluation(request, labels, subject)
        request = replace(request, metric=_metric(request, evaluation))
        reference_score = evaluation.original_score(original.run) if evaluation else None
        found = islice(iter(samples), 0, None, PART_EVERY if part else 1)
        checked = check_source(imported, name, original, found, scratch, request.parity_db, request.progress)
        yield Shared(
            request=request,
            original=original,
            samples=samples,
            inputs=inputs,
            host=host_facts(),
            cpu=cpu_device,
            scratch=scratch,
            imported=imported,
            part=name,
            generation=part.generation if part else None,
            source_check=checked,
            static_shapes=_static_shapes(request, inputs, samples),
            evaluation=evaluation,
            reference_score=reference_score,
            cache=_search_cache(),
        )


def _open_decoder(stack: ExitStack, imported: Imported, device: ProviderDevice, threads: int, name: str) -> Session:
    """Open the original of a part for as long as the workbench is open."""
    return stack.enter_context(Session.open(imported.parts[name], device, threads=threads))


def _metric(request: Request, evaluation: Evaluation | None) -> str:
    """Return the metric that is judged by; of a part that has no evaluation it is one of its outputs' parity."""
    if evaluation is not None:
        return evaluation.metric
    return request.metric if request.metric in PARITY_METRICS else "cosine"


def _search_cache() -> SearchCache:
    """Return the cache of this user; where none can be made, a search starts from nothing each time."""
    try:
        return SearchCache(cache_dir() / "search")
    except EnvironmentFailed:
        return SearchCache(None)


def _described(request: Request, imported: Imported, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Return the model's inputs with the shapes and image rules of the request; its rules go before the source's."""
    names = [spec.name for spec in inputs]
    images = {**imported.images, **_named(request.images, names)}
    for name in (*request.shapes, *images):
        if name not in names:
            close = nearest(name, names)
            hint = f"did you mean '{close}'?" if close else f"its inputs are {', '.join(names)}"
            raise BadInput(f"the model has no input '{name}'", hint)
    return tuple(
        TensorSpec(spec.name, spec.dtype, tuple(request.shapes.get(spec.name, spec.shape)), images.get(spec.name))
        for spec in inputs
    )


def _named(images: Mapping[str, ImageSpec], names: Sequence[str]) -> dict[str, ImageSpec]:
    """Give the rules without a name to the only input."""
    if "" in images and len(names) != 1:
        raise UsageError(f"the model has the inputs {', '.join(names)}", "say which one: --image NAME:color=…")
    return {name or names[0]: rules for name, rules in images.items()}


def _samples(
    request: Request,
    imported: Imported,
    inputs: Sequence[TensorSpec],
    preparer: Preparer | None,
    part: Part | None,
    scored: Collection[Path],
) -> Samples:
    """Open the samples asked for, or those that a model brings; UsageError where there are none."""
    if part is not None:
        samples = open_samples(part.samples, inputs, limit=request.samples)
        is_scored = part.evaluation is not None or request.metric in PARITY_METRICS
        return samples if is_scored else replace(samples, warning=PART_WARNING.format(part.name, request.metric))
    calibration, warning = request.calibration, ""
    if calibration is None and imported.examples is not None:
        calibration, warning = str(imported.examples), EXAMPLES_WARNING
    if calibration is None and imported.task is not None and imported.task.text and imported.task.text.ids:
        calibration, warning = str(SENTENCES), SENTENCES_WARNING
    if calibration is None:
        raise UsageError(
            "no --calibration given: without samples neither ranges nor accuracy can be measured",
            "give a folder of images, .npz or .npy files, or --calibration random for a first try",
        )
    missing = takes_missing(imported.path)
    samples = open_samples(
        calibration, inputs, limit=request.samples, preparer=preparer, missing=missing, scored=scored
    )
    return replace(samples, warning=warning) if warning else samples


def _preparer(
    request: Request, imported: Imported, inputs: Sequence[TensorSpec], profiles: Sequence[DeviceProfile]
) -> Preparer | None:
    if imported.task is None:
        return None
    pad_to = _pad_to(request, imported, profiles)
    return open_preparer(imported.task, inputs, imported.files.__getitem__, pad_to)


def _pad_to(request: Request, imported: Imported, profiles: Sequence[DeviceProfile]) -> int | None:
    """Return the one length that all texts get where a profile takes only static shapes."""
    text = imported.task.text if imported.task else None
    if text is None or not text.ids or all(profile.shapes != "static" for profile in profiles):
        return None
    asked = request.shapes.get(text.ids)
    return asked[-1] if asked else min(text.max_tokens, STATIC_TOKENS)


def _static_shapes(request: Request, inputs: Sequence[TensorSpec], samples: Samples) -> dict[str, tuple[int, ...]]:
    """Return the shapes asked for, and of the other inputs the one that all their samples have."""
    seen: dict[str, set[tuple[int, ...]]] = {spec.name: set() for spec in inputs}
    for feeds in samples:
        for name, array in feeds.items():
            seen[name].add(array.shape)
    common = {name: next(iter(shapes)) for name, shapes in seen.items() if len(shapes) == 1}
    return common | dict(request.shapes)
