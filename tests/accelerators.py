"""What tests of accelerators ask first: is the device, or its emulator, here?"""

import pytest

from edgert.runtime.providers import Absent, find_device


def need(provider: str) -> None:
    """Skip, with the reason, where neither the accelerator nor its emulator is here."""
    found = find_device(provider, allow_emulated=True)
    if isinstance(found, Absent):
        pytest.skip(f"{provider}: {found.reason}; {found.remedy}")
