"""The further graphs of a model: the decoder of an encoder-decoder becomes a bundle of its own inside the bundle.

Its samples are what it is really fed: the original is run on the samples of the main graph, step by step.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from converters.bench import Part, open_bench
from converters.candidates.choice import Choice
from converters.candidates.choose import choose
from converters.generation import Generation
from converters.job import Job, Shared
from converters.packing import PartFile, built_of, pack
from edgert.errors import EdgertError, EnvironmentFailed, GateFailed
from edgert.profile import DeviceProfile
from edgert.runtime.session import Session
from edgert.runtime.transcribe import decoder_feeds
from edgert.task import GenerateSpec

CLIPS = 4
"""How many samples of the main graph the decoder's samples are taken from."""

STEPS = 12
"""How many steps of each, from the second on: at the first the cache is empty."""


def open_parts(shared: Shared, profiles: Sequence[DeviceProfile]) -> list[AbstractContextManager[Shared]]:
    """Return a workbench to be opened for each part of the model that `shared` holds."""
    return [_open_part(shared, name, profiles) for name in shared.imported.parts]


@contextmanager
def _open_part(shared: Shared, name: str, profiles: Sequence[DeviceProfile]) -> Iterator[Shared]:
    generate = shared.imported.task.generate if shared.imported.task else None
    if generate is None or generate.decoder != name:
        raise GateFailed(f"nothing says how the part '{name}' of the model is fed", "report this: its source must")
    steps, generation = _record(shared, name, generate)
    of_part = shared.evaluation.of_part if shared.evaluation else None
    evaluation = of_part(generation.inputs) if of_part else None
    request = replace(
        shared.request,
        name=f"{shared.request.bundle_name}-{name}",
        shapes={},
        images={},
        samples=len(steps),
        labels=None,
        evaluate=None,
    )
    imported = replace(shared.imported, task=None, images={}, files={}, examples=None)
    scratch = shared.scratch / f"part-{name}"
    scratch.mkdir()
    part = Part(name, lambda: iter(steps), generation, evaluation)
    with open_bench(request, imported, scratch, profiles, part) as bench:
        yield bench


def _record(shared: Shared, name: str, spec: GenerateSpec) -> tuple[list[dict[str, np.ndarray]], Generation]:
    """Run the part as it will be used, on some samples of the main graph.

    Returns what it is fed at some steps, where those of one clip share the arrays that the main graph made, and what
    the original generates.
    """
    shared.request.progress(f"running the {name} for its samples", 0, 0)
    steps: list[dict[str, np.ndarray]] = []
    with Session.open(shared.imported.parts[name], shared.cpu, threads=shared.request.threads) as decoder:
        encoded = [shared.original.run(feeds) for feeds in islice(iter(shared.samples), CLIPS)]
        for clip in encoded:
            steps += islice(decoder_feeds(clip, decoder, spec), 1, 1 + STEPS)
        return steps, Generation.of(decoder, encoded, spec)


def convert_part(bench: Shared, profile: DeviceProfile, staging: Path) -> PartFile:
    """Write the bundle of one part for `profile` into `staging`.

    Where the profile's accelerator does not take the part, it runs on the device's CPU and the warning says why.
    """
    destination = staging / f"{bench.part}.edgert"
    inner = staging.with_name(f"{staging.name}-{bench.part}")
    inner.mkdir()
    job, choice, warning = _choose(bench, profile)
    return PartFile(bench.part, pack(job, choice, inner, destination), built_of(job, choice, warning), warning)


def _choose(bench: Shared, profile: DeviceProfile) -> tuple[Job, Choice, str]:
    """Return the job that was done, what came out, and why it is not on the profile's accelerator, "" where it is."""
    job, recipe = Job(bench, profile), bench.request.replay
    on_cpu = Job(bench, replace(profile, processor="cpu", shapes="dynamic", providers=profile.providers[-1:]))
    if recipe is not None:
        built = recipe.built_for(bench.part)
        job = on_cpu if built.processor == "cpu" != profile.processor else job
        return job, choose(job), built.warning
    try:
        return job, choose(job), ""
    except EnvironmentFailed:
        raise
    except EdgertError as exc:
        if profile.processor == "cpu":
            raise
        why = exc.message.removeprefix(f"profile '{profile.id}': ")
        warning = f"the {bench.part} runs on the CPU of this device, not on its {profile.processor.upper()}: {why}"
        return on_cpu, choose(on_cpu), warning
