"""Which file of this folder decides for a job: by what the model is, then by the profile's processor."""

from converters.candidates import cpu, gpu, npu, quantized
from converters.candidates.choice import Choice
from converters.job import Job

BY_PROCESSOR = {"npu": npu.choose, "gpu": gpu.choose, "cpu": cpu.choose}


def choose(job: Job) -> Choice:
    """Return what goes into the bundle of this job's profile; see the `choose` it calls for what is raised."""
    if job.shared.imported.quantized:
        return quantized.choose(job)
    return BY_PROCESSOR[job.profile.processor](job)
