"""What NPU and GPU profiles have in common: the device or its emulator, and the error that names every refused node."""

from collections.abc import Sequence

from converters.candidates.choice import NothingHolds
from converters.job import Job
from converters.request import Candidate, LayerDecision
from edgert.errors import MissingDevice
from edgert.profile import ProviderChoice
from edgert.runtime.providers import Absent, ProviderDevice, find_device
from edgert.runtime.session import NodeAssignment


class AcceleratorFailed(NothingHolds):
    """No candidate runs whole on the accelerator and holds the gate; `refused` are the nodes it does not take."""

    def __init__(
        self,
        message: str,
        remedy: str,
        refused: Sequence[NodeAssignment],
        candidates: Sequence[Candidate],
        layers: Sequence[LayerDecision] = (),
    ) -> None:
        super().__init__(message, remedy, candidates, layers)
        self.refused = tuple(refused)

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
