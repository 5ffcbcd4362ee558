"""edgert: run a model bundle on the best processor that is really there.

`edgert.load` opens a bundle; everything it needs is imported when it is first asked for, so that
`import edgert` stays cheap. Conversion is left to the package `converters`.
"""

import os

# ONNX Runtime reads this when it is first imported, and its official wheels send telemetry without it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from typing import TYPE_CHECKING

from edgert.errors import (
    BadInput,
    EdgertError,
    EnvironmentFailed,
    GateFailed,
    MissingDevice,
    MissingExtra,
    UsageError,
    VerificationFailed,
)

if TYPE_CHECKING:
    from edgert.runtime.model import Model, load

__version__ = "0.1.0"

__all__ = [
    "BadInput",
    "EdgertError",
    "EnvironmentFailed",
    "GateFailed",
    "MissingDevice",
    "MissingExtra",
    "Model",
    "UsageError",
    "VerificationFailed",
    "load",
]


def __getattr__(name: str) -> object:
    """Import `load` and `Model` when they are first asked for (PEP 562)."""
    if name not in ("Model", "load"):
        raise AttributeError(f"module 'edgert' has no attribute '{name}'")
    from edgert.runtime import model

    return getattr(model, name)


def __dir__() -> list[str]:
    """Name the lazy exports too."""
    return sorted({*globals(), *__all__})
