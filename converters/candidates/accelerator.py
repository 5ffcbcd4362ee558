"""What NPU and GPU profiles have in common: the device or its emulator, and the error that names every refused node."""

from collections.abc import Sequence

from converters.job import Job
from converters.request import Candidate
from edgert.errors import GateFailed, MissingDevice
from edgert.profile import ProviderChoice
from edgert.runtime.providers import Absent, ProviderDevice, find_device
from edgert.runtime.session import NodeAssignment


class AcceleratorFailed(GateFailed):
    """No candidate runs whole on the accelerator and holds the gate.

    `refused` lists the nodes that its provider does not take, `candidates` what was tried.
    """

    def __init__(
        self, message: str, remedy: str, refused: Sequence[NodeAssignment], candidates: Sequence[Candidate]
    ) -> None:
        super().__init__(message, remedy)
        self.refused = tuple(refused)
        self.candidates = tuple(candidates)

    def refused_json(self) -> list[dict[str, str]]:
        """Return the refused nodes as JSON objects."""
        return [{"name": node.name, "op_type": node.op_type, "domain": node.domain} for node in self.refused]


def accelerator(job: Job) -> tuple[ProviderChoice, ProviderDevice]:
    """Return the profile's first provider and the device, or its emulator, that is here; MissingDevice if none is."""
    wanted = job.profile.providers[0]
    found = find_device(wanted.name, allow_emulated=True)
    if isinstance(found, Absent):
        raise MissingDevice(
            f"profile '{job.profile.id}' is verified on {wanted.name}, which is not here: {found.reason}", found.remedy
        )
    return wanted, found


def nodes_refused(
    job: Job, provider: ProviderChoice, refused: Sequence[NodeAssignment], candidates: Sequence[Candidate]
) -> AcceleratorFailed:
    """Return the error that names every node that `provider` does not take."""
    named = "\n".join(f"  {node.op_type} at node '{node.name}'" for node in refused)
    return AcceleratorFailed(
        f"profile '{job.profile.id}': {provider.name} refuses {len(refused)} nodes:\n{named}",
        "replace these operators before export, or convert for a CPU profile",
        refused,
        candidates,
    )
