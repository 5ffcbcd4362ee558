"""What a user names as `module:function`."""

import importlib
from typing import Any

from edgert.errors import BadInput


def imported(name: str, what: str) -> Any:
    """Return `module:function`; BadInput says `what` it should be where there is none."""
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as exc:
        raise BadInput(f"'{name}' cannot be imported: {exc}", f"write module:function, {what}") from exc
