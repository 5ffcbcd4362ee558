"""Which file of this folder decides for a job: by what the model is, then by the profile's processor."""

from dataclasses import replace

from converters.candidates import cpu, gpu, npu, quantized
from converters.candidates.choice import Choice
from converters.candidates.rebuild import rebuild
from converters.job import Job
from converters.recipe import Built
from edgert.errors import GateFailed

BY_PROCESSOR = {"npu": npu.choose, "gpu": gpu.choose, "cpu": cpu.choose}
REBUILT = {"npu": npu.replay, "cpu": cpu.replay}
"""The others build what they build without a search."""

REASON = "built again from a recipe, without a search"


def choose(job: Job) -> Choice:
    """Return what goes into the bundle of this job's profile; see the `choose` it calls for what is raised."""
    recipe = job.request.replay
    return _search(job) if recipe is None else _replay(job, recipe.built_for(job.shared.part))


def _search(job: Job) -> Choice:
    if job.shared.imported.quantized:
        return quantized.choose(job)
    return BY_PROCESSOR[job.profile.processor](job)


def _replay(job: Job, built: Built) -> Choice:
    """Return the choice of the recipe's candidate; GateFailed where another one is all that can be had here."""
    searched = job.shared.imported.quantized or job.profile.processor not in REBUILT
    choice = _search(job) if searched else REBUILT[job.profile.processor](job, rebuild(job, built))
    if choice.recipe["candidate"] != built.label:
        raise GateFailed(
            f"profile '{job.profile.id}': the recipe chose {built.label}, and here it is {choice.recipe['candidate']}",
            "convert without --recipe: what came out where it was made does not hold here",
        )
    return replace(choice, reason=REASON)
