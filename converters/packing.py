"""Put the chosen variants with golden vectors, reference profile and measurements into one bundle."""

import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from converters.answers import Pair
from converters.candidates.choice import Choice
from converters.job import Job
from converters.recipe import TOLD, Built, write_recipe
from converters.reference import distributions, reference_profile
from converters.replay import recipe_of
from converters.report.histograms import worst_histograms
from converters.request import BundleReport, VariantReport
from converters.sources.imported import Imported
from converters.variants import WeightsFile, write_variant
from converters.verify.parity import ParityMeter
from edgert import __version__, strict_json
from edgert.bundle import write_bundle
from edgert.manifest import MEASUREMENTS_NAME, RECIPE_NAME, Golden, Manifest, TensorSpec, Variant
from edgert.runtime.golden import GoldenVector, write_golden

GOLDEN_FILE = "golden.npz"
REFERENCE_FILE = "reference.json"
GOLDEN_VECTORS = 2
GOLDEN_BYTES = 8_000_000
"""A second golden vector is left out where the first alone is as large as this."""
REFERENCE_SAMPLES = 64
TOOLS = ("onnx", "onnx-ir", "onnxruntime", "onnxscript", "numpy", "tomli-w")
NO_LICENSE = "NOASSERTION"


@dataclass(frozen=True)
class PartFile:
    """The bundle of a part, which lies in the staging folder, what builds it again, and why it is not where it should
    be ("" if it is).
    """

    part: str
    report: BundleReport
    built: Built
    warning: str = ""


def pack(job: Job, choice: Choice, staging: Path, destination: Path, parts: Sequence[PartFile] = ()) -> BundleReport:
    """Fill the folder `staging`, which holds the `parts` only, turn it into the bundle at `destination`, report it."""
    job.progress("writing the bundle")
    for name, path in job.shared.imported.files.items():
        shutil.copyfile(path, staging / name)
    weights = WeightsFile(staging)
    for name, written in choice.models.items():
        write_variant(written.model, name, weights, staging)
    golden = _golden(job, staging)
    minimum = {name: _minimum(job, staging / f"{name}.onnx", golden, choice, name) for name in choice.models}
    outputs = _write_reference(job, choice, staging)
    choice = replace(choice, reports=[_with_source(job, staging, report) for report in choice.reports])
    manifest = _manifest(job, choice, outputs, len(golden), minimum, parts)
    inner = {part.part: part.built for part in parts}
    write_recipe(recipe_of(job, built_of(job, choice), inner, tools_of(job.shared.imported)), staging / RECIPE_NAME)
    warnings = manifest.warnings
    if not job.shared.part:  # a part's figures stand in the outer bundle, whose digest covers every byte of the part
        measured = strict_json.dumps(_measurements(job, choice, parts))
        (staging / MEASUREMENTS_NAME).write_text(measured, encoding="utf-8")
    digest = write_bundle(staging, manifest, destination)
    size = (
        sum(file.stat().st_size for file in destination.iterdir())
        if destination.is_dir()
        else destination.stat().st_size
    )
    return BundleReport(
        path=destination,
        profile=job.profile.id,
        digest=digest,
        bytes=size,
        chosen=choice.chosen,
        reason=choice.reason,
        variants=choice.reports,
        candidates=choice.candidates,
        warnings=warnings,
        parts={part.part: part.report for part in parts},
        layers=choice.layers,
        histograms=worst_histograms(job, choice),
        passes=_passes(job, choice),
        recipe=manifest.recipe,
    )


def built_of(job: Job, choice: Choice, warning: str = "") -> Built:
    """Return what builds the chosen candidate again."""
    return Built.of(choice.recipe, _precision(choice, choice.chosen), job.profile.processor, warning)


def tools_of(imported: Imported) -> dict[str, str]:
    """Return the versions of all that has a part in a bundle's bytes."""
    return {**imported.tools, "edgert": __version__, **{name: version(name) for name in TOOLS}}


def _with_source(job: Job, staging: Path, report: VariantReport) -> VariantReport:
    """Return the report of a variant with its parity against the source itself, on the CPU."""
    check = job.shared.source_check
    if check is None:
        return report
    with job.open_cpu(staging / f"{report.name}.onnx") as session:
        replayed = check.replay(session)
    return replace(report, checks=[*report.checks, replace(replayed, where=job.where(job.shared.cpu))])


def _golden(job: Job, staging: Path) -> list[Pair]:
    """Write the first samples with the original's outputs as golden vectors and return them."""
    vectors: list[Pair] = []
    for pair in job.pairs(GOLDEN_VECTORS):
        if vectors and sum(array.nbytes for side in pair for array in side.values()) > GOLDEN_BYTES:
            break
        vectors.append(pair)
    write_golden(staging / GOLDEN_FILE, [GoldenVector(*pair) for pair in vectors])
    return vectors


def _minimum(
    job: Job,
    path: Path,
    golden: list[Pair],
    choice: Choice,
    name: str,
) -> float:
    """Return the least cosine that a device must reach on the golden vectors with this variant.

    Twice as far from 1 as the worst seen here, on the CPU or the accelerator, and 0.002 more: processors round
    differently. Rounded down to three digits, so that the last bits of a sum do not change the manifest.
    """
    session = job.open_cpu(path)
    meter = ParityMeter()
    try:
        for feeds, outputs in golden:
            meter.add(outputs, session.run(feeds))
    finally:
        session.close()
    worst = [parity.cosine_min for parity in meter.result().values()]
    for report in choice.reports:
        if report.name == name:
            worst += [parity.cosine_min for parity in report.checks[0].outputs.values()]
    lowest = min(worst, default=1.0)
    return max(-1.0, float(np.floor((lowest - (1 - lowest) - 0.002) * 1000) / 1000))


def _write_reference(job: Job, choice: Choice, staging: Path) -> tuple[TensorSpec, ...]:
    """Write the reference profile with the chosen variant, and return that variant's outputs."""
    session = job.open_cpu(staging / f"{choice.chosen}.onnx")
    try:
        document = reference_profile(_seen(job), lambda: job.pairs(REFERENCE_SAMPLES), session.run)
        outputs = session.outputs
    finally:
        session.close()
    (staging / REFERENCE_FILE).write_text(strict_json.dumps(document), encoding="utf-8")
    return outputs


def _seen(job: Job) -> Mapping[str, Mapping[str, object]]:
    """Return the distributions of what the original takes and gives: they are those of every profile."""
    shared = job.shared
    if not shared.distributions:
        shared.distributions = distributions(lambda: job.pairs(REFERENCE_SAMPLES))
    return shared.distributions


def _manifest(
    job: Job,
    choice: Choice,
    outputs: tuple[TensorSpec, ...],
    golden: int,
    minimum: Mapping[str, float],
    parts: Sequence[PartFile],
) -> Manifest:
    request, profile, imported = job.request, job.profile, job.shared.imported
    warnings = [job.shared.samples.warning] if job.shared.samples.warning else []
    warnings += [*imported.warnings, *(part.warning for part in parts if part.warning)]
    if request.license is None:
        warnings.append(f"no --license given: the bundle says {NO_LICENSE}")
    return Manifest(
        name=request.bundle_name,
        version=request.version,
        license=request.license or NO_LICENSE,
        profile=profile.id,
        arch=profile.arch,
        isa=profile.isa,
        inputs=_inputs(job),
        outputs=outputs,
        variants=tuple(Variant(name, _precision(choice, name), f"{name}.onnx") for name in choice.models),
        chosen=choice.chosen,
        placements=tuple(choice.placements),
        golden=Golden(GOLDEN_FILE, golden, minimum),
        reference=REFERENCE_FILE,
        recipe=_recipe(job, choice),
        task=imported.task,
        parts={part.part: f"{part.part}.edgert" for part in parts},
        warnings=tuple(warnings),
    )


def _precision(choice: Choice, name: str) -> str:
    return next((report.precision for report in choice.reports if report.name == name), "fp32")


def _inputs(job: Job) -> tuple[TensorSpec, ...]:
    """Return the inputs as the bundle takes them, with the image rules that the samples were read by."""
    fixed, images = job.shapes, job.shared.samples.images
    return tuple(
        TensorSpec(spec.name, spec.dtype, tuple(fixed.get(spec.name, spec.shape)), images.get(spec.name, spec.image))
        for spec in job.shared.inputs
    )


def _recipe(job: Job, choice: Choice) -> dict[str, object]:
    request, samples, imported = job.request, job.shared.samples, job.shared.imported
    settings = built_of(job, choice).document()
    return {
        "candidate": settings.pop("label"),
        "metric": request.metric,
        "max_drop": request.max_drop,
        "evaluation": {key: job.shared.evaluation_json()[key] for key in ("kind", "samples", "digest")},
        "shapes": {name: list(shape) for name, shape in job.shapes.items()},
        "calibration": {"kind": samples.kind, "count": samples.count, "digest": samples.digest},
        "source": {"format": imported.kind, "sha256": imported.sha256},
        "tools": tools_of(imported),
        **{key: choice.recipe[key] for key in TOLD if key in choice.recipe},
        **settings,
    }


def _measurements(job: Job, choice: Choice, parts: Sequence[PartFile]) -> dict[str, object]:
    check = job.shared.source_check
    return {
        "schema_version": 1,
        "host": job.shared.host_json(),
        "python": platform.python_version(),
        "chosen": choice.chosen,
        "reason": choice.reason,
        "metric": job.request.metric,
        "max_drop": job.request.max_drop,
        "evaluation": job.shared.evaluation_json(),
        "source": check.to_json() if check else None,
        "variants": [report.to_json() for report in choice.reports],
        "parts": {part.part: {**part.report.to_json(), "path": None} for part in parts},
        "candidates": [candidate.to_json() for candidate in choice.candidates],
        "layers": [layer.to_json() for layer in choice.layers],
        "passes": _passes(job, choice),
    }


def _passes(job: Job, choice: Choice) -> list[dict[str, object]]:
    """Return what each pass did to the float graph that the chosen candidate is made of."""
    integers = bool(choice.recipe.get("calibration_method")) and job.profile.processor != "gpu"
    steps = (job.integer_graph if integers else job.float_graph(job.graph_processor)).steps
    return [{"name": step.name, "changes": step.changes, "declined": list(step.declined)} for step in steps]
