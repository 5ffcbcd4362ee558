"""Which placement of a bundle to try on which device, in which order, and why the others are passed over.

Pure: opening sessions and checking golden vectors are left to `model`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edgert.errors import UsageError, nearest
from edgert.host import HostFacts
from edgert.manifest import Manifest, Placement
from edgert.runtime.providers import Absent, ProviderDevice

DEVICES = ("auto", "cpu", "gpu", "npu")


@dataclass(frozen=True)
class Candidate:
    """A placement that can be tried and the device for it."""

    placement: Placement
    device: ProviderDevice

    @property
    def options(self) -> dict[str, str]:
        """The provider options for this device: the emulator's own ones on an emulator."""
        return dict(self.placement.emulator_options if self.device.emulated else self.placement.options)


@dataclass(frozen=True)
class Skipped:
    """A placement that is not used, and why."""

    placement: Placement
    reason: str
    remedy: str


@dataclass(frozen=True)
class Ranking:
    """The candidates in the order in which to try them, and the placements passed over.

    `wanted` is the placement that runs when nothing stands in the way; None when the bundle has no placement
    for the device that was asked for.
    """

    wanted: Placement | None
    candidates: tuple[Candidate, ...]
    skipped: tuple[Skipped, ...]


def rank(
    manifest: Manifest, devices: Sequence[ProviderDevice], absents: Sequence[Absent], device: str = "auto"
) -> Ranking:
    """Return the placements to try, in the bundle's order of preference.

    `device` "auto" takes them all, but never an emulator. "cpu" takes only those on the CPU. "gpu" and "npu"
    put those on that processor first, an emulator allowed, and then the others, which are a fallback.
    """
    check_device(device)
    if device == "cpu":
        order = [placement for placement in manifest.placements if placement.processor == "cpu"]
    else:
        order = sorted(manifest.placements, key=lambda placement: placement.processor != device)
    asked = [placement for placement in order if device in ("auto", placement.processor)]
    looked = [_match(placement, devices, absents, device) for placement in order]
    return Ranking(
        asked[0] if asked else None,
        tuple(found for found in looked if isinstance(found, Candidate)),
        tuple(found for found in looked if isinstance(found, Skipped)),
    )


def check_device(device: str) -> None:
    """Raise UsageError when `device` is not one of `DEVICES`."""
    if device not in DEVICES:
        near = nearest(device, DEVICES)
        hint = f"did you mean '{near}'?" if near else f"use one of {', '.join(DEVICES)}"
        raise UsageError(f"unknown device '{device}'", hint)


def where(device: ProviderDevice, arch: str, isa: Sequence[str], host: HostFacts) -> str:
    """Return where a figure measured on `device` counts as measured for a bundle of this arch and isa.

    "emulated": an emulator, or a CPU of another instruction set; "device": a real accelerator; "host": this
    machine's own processor, which has every instruction set that the bundle was made for.
    """
    if device.emulated:
        return "emulated"
    if device.processor != "cpu":
        return "device"
    return "host" if arch == host.arch and set(isa) <= set(host.isa) else "emulated"


def _match(
    placement: Placement, devices: Sequence[ProviderDevice], absents: Sequence[Absent], asked: str
) -> Candidate | Skipped:
    for device in devices:
        if (device.provider, device.processor) != (placement.provider, placement.processor):
            continue
        if device.emulated and asked != placement.processor:
            remedy = f'ask for the emulator by name: device="{placement.processor}"'
            return Skipped(placement, f"{placement.provider} is only emulated here", remedy)
        return Candidate(placement, device)
    for absent in absents:
        if absent.provider == placement.provider:
            return Skipped(placement, absent.reason, absent.remedy)
    reason = f"there is no {placement.provider} for the {placement.processor} here"
    return Skipped(placement, reason, "install a build of onnxruntime that has it")
