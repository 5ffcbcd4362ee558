"""converters: turn a model into verified bundles, one per device profile.

`converters.convert` is imported when it is first asked for. Running a bundle is left to `edgert`.
"""

from typing import TYPE_CHECKING

import edgert  # noqa: F401  (first, because it turns ONNX Runtime's telemetry off)

if TYPE_CHECKING:
    from converters.pipeline import convert

__all__ = ["convert"]


def __getattr__(name: str) -> object:
    """Import `convert` when it is first asked for (PEP 562)."""
    if name != "convert":
        raise AttributeError(f"module 'converters' has no attribute '{name}'")
    from converters import pipeline

    return pipeline.convert


def __dir__() -> list[str]:
    """Name the lazy exports too."""
    return sorted({*globals(), *__all__})
