"""Who a device is and what it runs, as it tells at birth."""

import hashlib
from collections.abc import Sequence

from edgert import __version__
from edgert.agent.window import SCHEMA
from edgert.host import host_facts
from edgert.record import Birth, Slot
from edgert.runtime.model import Model
from edgert.topics import Address


def birth(address: Address, model: Model, keys: Sequence[bytes] = ()) -> Birth:
    """Return the birth of the device at `address` that runs `model`; `keys` verify its records."""
    manifest, told, facts = model.bundle.manifest, model.explain(), host_facts()
    fallback = told["fallback"]
    slot = Slot(
        name=manifest.name,
        version=manifest.version,
        digest=model.bundle.digest,
        profile=manifest.profile,
        variant=told["variant"],
        requested=[placement.provider for placement in manifest.placements],
        used=told["provider"],
        reason="" if fallback is None else str(fallback["reason"])[:500],
        reference=_reference_hash(model),
    )
    hardware = {"arch": facts.arch, "cpu": facts.cpu_name, "system": facts.system, "profile": manifest.profile}
    caps = {"wire": [1], "merges": True, "max_bytes": 65_536}
    return Birth(address.tenant, address.device, f"edgert/{__version__}", hardware, (SCHEMA,), (slot,), caps, keys)


def _reference_hash(model: Model) -> bytes:
    return hashlib.sha256(model.bundle.file(model.bundle.manifest.reference).read_bytes()).digest()[:8]
