"""The converter: model file in, one verified bundle per device profile out.

Passes are listed in `graphs`, what each class of processor tries in `candidates`; `packing` writes the result.
"""

import errno
import hashlib
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from converters.candidates import cpu, gpu, npu
from converters.candidates.accelerator import AcceleratorFailed
from converters.candidates.choice import Choice
from converters.job import Job, Shared
from converters.packing import pack
from converters.passes.set_shapes import set_input_shapes
from converters.report.page import write_report
from converters.request import (
    PRECISIONS,
    BundleReport,
    Conversion,
    ProfileFailure,
    Progress,
    Request,
    no_progress,
)
from converters.samples import Samples, open_samples
from converters.sources import onnx_file
from converters.verify.parity import METRICS
from edgert.errors import BadInput, EdgertError, EnvironmentFailed, UsageError, nearest
from edgert.host import host_facts
from edgert.image_spec import ImageSpec
from edgert.json_fields import flat_name
from edgert.manifest import TensorSpec
from edgert.profile import load_profile
from edgert.runtime.providers import ProviderDevice, find_device
from edgert.runtime.session import Session

CHOOSE = {"npu": npu.choose, "gpu": gpu.choose, "cpu": cpu.choose}


def convert(
    model: str | Path,
    profiles: Sequence[str],
    *,
    calibration: str,
    output: str | Path = ".",
    shapes: Mapping[str, Sequence[int]] | None = None,
    images: Mapping[str, ImageSpec] | None = None,
    precision: str = "auto",
    max_drop: float = 0.01,
    metric: str = "cosine",
    license: str | None = None,
    name: str | None = None,
    version: str = "1",
    folder: bool = False,
    threads: int = 0,
    samples: int = 64,
    emulator_samples: int = 2,
    progress: Progress = no_progress,
) -> Conversion:
    """Convert an ONNX model for each of `profiles` and write the bundles into `output`.

    `calibration` is a folder of images or arrays, an `.npz` or `.npy` file, `module:function`, or "random"; at most
    `samples` samples of it are used, `emulator_samples` on an emulated accelerator. `shapes` fixes input shapes.
    A profile that fails is an entry with its error in the answer, and leaves nothing on disk; the others go on.

    Raises UsageError and BadInput before any work for what is wrong with the call, the model or the samples, and
    EnvironmentFailed (disk full, permission).
    """
    return convert_request(
        Request(
            model=Path(model),
            profiles=tuple(profiles),
            output=Path(output),
            calibration=calibration,
            shapes={name: tuple(shape) for name, shape in (shapes or {}).items()},
            images=dict(images or {}),
            precision=precision,
            max_drop=max_drop,
            metric=metric,
            license=license,
            name=name,
            version=version,
            folder=folder,
            threads=threads,
            samples=samples,
            emulator_samples=emulator_samples,
            progress=progress,
        )
    )


def convert_request(request: Request) -> Conversion:
    """Do what `request` asks; see `convert`."""
    profiles = [load_profile(name) for name in dict.fromkeys(request.profiles)]
    _check(request, [profile.id for profile in profiles])
    set_input_shapes(onnx_file.load(request.model), request.shapes)
    with _workspace(request.output) as scratch, _shared(request, scratch) as shared:
        entries = [_convert_for(Job(shared, profile)) for profile in profiles]
        conversion = Conversion(request.model.name, entries)
        request.progress("writing the report", 0, 0)
        report = request.output / f"{flat_name(request.name or request.model.stem)}-report.html"
        return write_report(conversion, shared.samples, report)


def _check(request: Request, profiles: Sequence[str]) -> None:
    if not request.profiles:
        raise UsageError("no device profile given", "name one with -p; `edgert profiles list` shows them")
    if request.precision not in PRECISIONS:
        close = nearest(request.precision, PRECISIONS)
        hint = f"did you mean '{close}'?" if close else f"use one of {', '.join(PRECISIONS)}"
        raise UsageError(f"unknown precision '{request.precision}'", hint)
    twice = next((name for name in profiles if profiles.count(name) > 1), None)
    if twice:
        raise UsageError(
            f"two of the profiles have the id '{twice}'", "give one of them another id: it names the bundle"
        )
    if request.metric not in METRICS:
        close = nearest(request.metric, METRICS)
        hint = f"did you mean '{close}'?" if close else f"use one of {', '.join(METRICS)}"
        raise UsageError(f"unknown metric '{request.metric}'", hint)
    if request.license is not None and not (request.license.isprintable() and 0 < len(request.license) <= 200):
        raise UsageError(f"--license {request.license[:40]!r} is not an SPDX id", "for example --license Apache-2.0")
    if request.name is not None and not any(letter.isascii() and letter.isalnum() for letter in request.name):
        raise UsageError(
            f"--name {request.name[:40]!r} has no letter or digit of ASCII", "bundle names are a-z 0-9 . _ -"
        )
    if not 0 <= request.max_drop <= 1:
        raise UsageError(f"--max-drop {request.max_drop:g} is not between 0 and 1", "0.01 is the default")
    if request.samples < 1 or request.emulator_samples < 1:
        raise UsageError("at least one sample is needed", "give --samples and --emulator-samples of 1 or more")


def _convert_for(job: Job) -> BundleReport | ProfileFailure:
    """Convert for one profile; its failure is an answer, the machine's is not."""
    staging = Path(tempfile.mkdtemp(prefix="bundle-", dir=job.shared.scratch))
    suffix = "" if job.request.folder else ".edgert"
    name = flat_name(job.request.name or job.request.model.stem)
    try:
        choice: Choice = CHOOSE[job.profile.processor](job)
        return pack(job, choice, staging, job.request.output / f"{name}-{job.profile.id}{suffix}")
    except EnvironmentFailed:
        raise
    except AcceleratorFailed as exc:
        refused = exc.refused_json()
        return ProfileFailure(job.profile.id, exc.message, exc.remedy, exc.exit_code, refused, exc.candidates)
    except EdgertError as exc:
        return ProfileFailure(job.profile.id, exc.message, exc.remedy, exc.exit_code)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _workspace(output: Path) -> Iterator[Path]:
    """Make `output` and a scratch folder in it that is gone at the end, whatever ends it."""
    created = [folder for folder in (output, *output.parents) if not folder.exists()]
    try:
        output.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".edgert-", dir=output))
    except (FileExistsError, NotADirectoryError) as exc:
        raise BadInput(f"'{output}' is not a folder, or lies in a file", "name a folder with -o") from exc
    except OSError as exc:
        if exc.errno in (errno.ENAMETOOLONG, errno.EINVAL):
            raise BadInput(f"'{output}' cannot be a folder: {exc.strerror}", "name another folder with -o") from exc
        raise
    try:
        yield scratch
    finally:
        with _undisturbed():
            shutil.rmtree(scratch, ignore_errors=True)
            for folder in created:
                if not any(folder.iterdir()):
                    folder.rmdir()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Put off Ctrl-C while cleaning up; only the main thread can, and only there it arrives."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _shared(request: Request, scratch: Path) -> Iterator[Shared]:
    """Open the original and the samples."""
    cpu_device = find_device("CPUExecutionProvider")
    assert isinstance(cpu_device, ProviderDevice)
    with Session.open(request.model, cpu_device, threads=request.threads) as original:
        inputs = _described(request, original.inputs)
        request.progress("reading the samples", 0, 0)
        samples = open_samples(request.calibration, inputs, limit=request.samples)
        yield Shared(
            request=request,
            original=original,
            samples=samples,
            inputs=inputs,
            host=host_facts(),
            cpu=cpu_device,
            scratch=scratch,
            source_sha256=hashlib.sha256(request.model.read_bytes()).hexdigest(),
            static_shapes=_static_shapes(request, inputs, samples),
        )


def _described(request: Request, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Return the model's inputs with the shapes and image rules of the request."""
    names = [spec.name for spec in inputs]
    for name in (*request.shapes, *request.images):
        if name not in names:
            close = nearest(name, names)
            hint = f"did you mean '{close}'?" if close else f"its inputs are {', '.join(names)}"
            raise BadInput(f"the model has no input '{name}'", hint)
    return tuple(
        TensorSpec(
            spec.name, spec.dtype, tuple(request.shapes.get(spec.name, spec.shape)), request.images.get(spec.name)
        )
        for spec in inputs
    )


def _static_shapes(request: Request, inputs: Sequence[TensorSpec], samples: Samples) -> dict[str, tuple[int, ...]]:
    """Return the shapes asked for, and of the other inputs the one that all their samples have."""
    seen: dict[str, set[tuple[int, ...]]] = {spec.name: set() for spec in inputs}
    for feeds in samples:
        for name, array in feeds.items():
            seen[name].add(array.shape)
    common = {name: next(iter(shapes)) for name, shapes in seen.items() if len(shapes) == 1}
    return common | dict(request.shapes)
