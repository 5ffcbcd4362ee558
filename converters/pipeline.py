"""The converter: model file in, one verified bundle per device profile out.

Passes are listed in `graphs`, what each class of processor tries in `candidates`; `packing` writes the result.
"""

import errno
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from converters.bench import open_bench
from converters.candidates.choice import NothingHolds
from converters.candidates.choose import choose
from converters.classes import with_classes
from converters.job import Job, Shared
from converters.packing import pack, tools_of
from converters.parts import convert_part, open_parts
from converters.passes.set_shapes import set_input_shapes
from converters.recipe import read_recipe
from converters.replay import check_data, check_model, check_profiles, differences, replayed
from converters.report.command_line import command_line
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
from converters.sources import onnx_file
from converters.sources.imported import Imported, Options
from converters.sources.select import open_source
from converters.stages import StageClock
from converters.variants import model_bytes
from converters.verify.evaluate import check_request
from edgert.errors import BadInput, EdgertError, EnvironmentFailed, UsageError, nearest
from edgert.image_spec import ImageSpec
from edgert.profile import DeviceProfile, load_profile


def convert(
    model: str | Path,
    profiles: Sequence[str] = (),
    *,
    recipe: str | Path | None = None,
    calibration: str | None = None,
    output: str | Path = ".",
    shapes: Mapping[str, Sequence[int]] | None = None,
    images: Mapping[str, ImageSpec] | None = None,
    precision: str = "auto",
    max_drop: float = 0.01,
    metric: str | None = None,
    labels: str | Path | None = None,
    evaluate: str | None = None,
    license: str | None = None,
    name: str | None = None,
    version: str = "1",
    folder: bool = False,
    threads: int = 0,
    samples: int = 64,
    emulator_samples: int = 2,
    memory_budget: float = 1e9,
    source: str | None = None,
    task: str | None = None,
    dynamic: Mapping[str, Sequence[str]] | None = None,
    factory: str | None = None,
    submodule: str | None = None,
    trust_pickle: bool = False,
    parity_db: float | None = None,
    classes: str | Path | None = None,
    time_budget_s: float | None = None,
    progress: Progress = no_progress,
) -> Conversion:
    """Convert a model for each of `profiles` and write the bundles into `output`.

    `model` is a file or folder of one of the kinds in `converters.sources.select`, told from its content unless
    `source` names it, or `module:function`. `calibration` is a folder of images, sounds, texts or arrays, one such
    file, `module:function`, or "random"; a text model has sentences of its own where it is None. At most `samples`
    samples of it are used, `emulator_samples` on an emulated accelerator. `memory_budget` bounds, in bytes, what
    calibration holds at once beside the weights; an eighth as much keeps what the original gives. `shapes` fixes input
    shapes. `parity_db` is the least SQNR of the imported graph against the framework it came from (40 dB; 20 dB where
    it came quantized). Variants are scored by `metric`: against the right answers in the file `labels`, whose files are
    then not calibrated with, by what `evaluate`, a `module:function`, returns, or by how near their outputs are to the
    original's.
    After `time_budget_s` seconds no further candidate is begun.
    `recipe`, a `recipe.toml` or a bundle that holds one, builds the candidate that came out there and searches nothing:
    the same model, data and tools give the same bytes. It says everything but the files and callables, which are given
    again; what is given beside it must be what it says.
    A profile that fails is an entry with its error in the answer, and leaves nothing on disk; the others go on.

    Raises UsageError and BadInput before any work for what is wrong with the call, the model or the samples,
    MissingExtra where the model's framework is not there, GateFailed where the imported graph is not the model, and
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
            metric=metric or "",
            labels=None if labels is None else Path(labels),
            evaluate=evaluate,
            license=license,
            name=name,
            version=version,
            folder=folder,
            threads=threads,
            samples=samples,
            emulator_samples=emulator_samples,
            memory_budget=memory_budget,
            source=source,
            task=task,
            dynamic={name: tuple(dims) for name, dims in (dynamic or {}).items()},
            factory=factory,
            submodule=submodule,
            trust_pickle=trust_pickle,
            parity_db=parity_db,
            classes=None if classes is None else Path(classes),
            time_budget_s=time_budget_s,
            progress=progress,
        ),
        None if recipe is None else Path(recipe),
    )


def convert_request(request: Request, recipe: Path | None = None) -> Conversion:
    """Do what `request` asks, or what the recipe in a file or bundle says; see `convert`."""
    clock = StageClock(request.progress)
    asked, request, profiles = checked(replace(request, progress=clock), recipe)
    with _workspace(request.output) as scratch, ExitStack() as stack:
        shared = stack.enter_context(opened(request, profiles, scratch))
        parts = [stack.enter_context(bench) for bench in open_parts(shared, profiles)]
        entries = [_convert_for(Job(shared, profile), parts) for profile in profiles]
        conversion = Conversion(
            request.model.name,
            entries,
            source=source_json(shared),
            evaluation=shared.evaluation_json(),
            max_drop=request.max_drop,
            calibration=calibration_json(shared),
            tools=tools_of(shared.imported),
            host=shared.host_json(),
            command=command_line(asked, recipe),
            stages=clock.times(),
        )
        request.progress("writing the report", 0, 0)
        return write_report(conversion, shared.request, report_path(request))


def checked(request: Request, recipe: Path | None) -> tuple[Request, Request, list[DeviceProfile]]:
    """Return what was asked for, what that is with all that a recipe says, and the profiles; errors as in `convert`."""
    asked, said = request, None if recipe is None else read_recipe(recipe)
    if said is not None:
        request = replayed(request, said)
    profiles = [load_profile(name) for name in dict.fromkeys(request.profiles)]
    _check(request, [profile.id for profile in profiles])
    if said is not None:
        check_profiles(said, profiles)
    return asked, request, profiles


@contextmanager
def opened(request: Request, profiles: Sequence[DeviceProfile], scratch: Path) -> Iterator[Shared]:
    """Import the model and open the workbench in the folder `scratch`; a recipe's model and data must be the same."""
    imported = _import(request, scratch)
    if request.replay is not None:
        check_model(request.replay, imported, request)
    set_input_shapes(onnx_file.read_model(imported.path), request.shapes)
    with open_bench(request, imported, scratch, profiles) as shared:
        if request.replay is not None:
            check_data(request.replay, shared)
        yield shared


def check_output(output: Path) -> None:
    """Raise BadInput where there can be no folder `output`."""
    nearest_there = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    if not nearest_there.is_dir():
        raise BadInput(f"'{output}' is not a folder, or lies in a file", "name a folder with -o")


def bundle_path(request: Request, profile: DeviceProfile) -> Path:
    """Return where the bundle for a profile goes."""
    suffix = "" if request.folder else ".edgert"
    return request.output / f"{request.bundle_name}-{profile.id}{suffix}"


def report_path(request: Request) -> Path:
    """Return where the page about the conversion goes."""
    return request.output / f"{request.bundle_name}-report.html"


def _import(request: Request, scratch: Path) -> Imported:
    workdir = scratch / "source"
    workdir.mkdir()
    options = Options(
        workdir=workdir,
        task=request.task,
        dynamic=request.dynamic,
        shapes=request.shapes,
        factory=request.factory,
        submodule=request.submodule,
        trust_pickle=request.trust_pickle,
        progress=request.progress,
    )
    imported = open_source(request.model, request.source, options)
    return imported if request.classes is None else with_classes(imported, request.classes, workdir)


def source_json(shared: Shared) -> dict[str, object]:
    """Return what the model was, and how near the imported graph is to it."""
    check = shared.source_check
    return {
        "kind": shared.imported.kind,
        "framework": shared.imported.framework,
        "sha256": shared.imported.sha256,
        "bytes": model_bytes(shared.imported.path),
        "parity": check.to_json() if check else None,
        "warnings": list(shared.imported.warnings),
    }


def calibration_json(shared: Shared) -> dict[str, object]:
    """Return what was calibrated with: where it is from, how many samples, their digest, and a warning or ""."""
    samples = shared.samples
    return {
        "data": samples.spec,
        "kind": samples.kind,
        "count": samples.count,
        "digest": samples.digest,
        "warning": samples.warning,
    }


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
    check_request(request)
    if request.license is not None and not (request.license.isprintable() and 0 < len(request.license) <= 200):
        raise UsageError(f"--license {request.license[:40]!r} is not an SPDX id", "for example --license Apache-2.0")
    if request.name is not None and not any(letter.isascii() and letter.isalnum() for letter in request.name):
        raise UsageError(
            f"--name {request.name[:40]!r} has no letter or digit of ASCII", "bundle names are a-z 0-9 . _ -"
        )
    if not 0 <= request.max_drop <= 1:
        raise UsageError(f"--max-drop {request.max_drop:g} is not between 0 and 1", "0.01 is the default")
    if request.time_budget_s is not None and not 0 < request.time_budget_s < float("inf"):
        raise UsageError(f"--time-budget {request.time_budget_s:g} is not a time", "give seconds, such as 300")
    if request.samples < 1 or request.emulator_samples < 1:
        raise UsageError("at least one sample is needed", "give --samples and --emulator-samples of 1 or more")


def _convert_for(job: Job, parts: Sequence[Shared]) -> BundleReport | ProfileFailure:
    """Convert for one profile; its failure is an answer, the machine's is not."""
    staging = Path(tempfile.mkdtemp(prefix="bundle-", dir=job.shared.scratch))
    try:
        inner = [convert_part(bench, job.profile, staging) for bench in parts]
        return _compared(job, pack(job, choose(job), staging, bundle_path(job.request, job.profile), inner))
    except EnvironmentFailed:
        raise
    except NothingHolds as exc:
        refused = exc.refused_json()
        return ProfileFailure(
            job.profile.id, exc.message, exc.remedy, exc.exit_code, refused, exc.candidates, exc.layers
        )
    except EdgertError as exc:
        return ProfileFailure(job.profile.id, exc.message, exc.remedy, exc.exit_code)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _compared(job: Job, report: BundleReport) -> BundleReport:
    """Return the report with a warning for each thing that a replay found other than its recipe says."""
    recipe = job.request.replay
    if recipe is None:
        return report
    warnings = [*differences(recipe, job.profile, tools_of(job.shared.imported))]
    if recipe.digest not in ("", report.digest):
        warnings.append(f"these are not the bytes of the recipe's bundle, {recipe.digest}: `edgert diff` shows why")
    return replace(report, warnings=[*report.warnings, *warnings])


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
