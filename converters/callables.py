"""Functions that a user names as `module:function`, found in the working folder or where Python looks."""

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgert.errors import BadInput, nearest

_FORM = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_callable_name(text: str) -> bool:
    """Return whether a text has the form `module:function`."""
    return _FORM.fullmatch(text) is not None


@contextmanager
def working_folder_importable() -> Iterator[None]:
    """Put the working folder first on the import path for a while."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def import_callable(spec: str, kind: str) -> Callable[..., Any]:
    """Return the function that `spec` names; BadInput, with `kind` such as "a function without arguments", if none."""
    module_name, _, name = spec.partition(":")
    with working_folder_importable():
        try:
            importlib.invalidate_caches()
            module = importlib.import_module(module_name)
        except (Exception, SystemExit) as exc:  # the user's code may raise anything
            message = f"'{spec}': the module '{module_name}' cannot be imported: {type(exc).__name__}: {exc}"
            raise BadInput(message, "run the command in the folder of the module, or install it") from exc
    found = getattr(module, name, None)
    if found is not None and not callable(found):
        kind_found = type(found).__name__
        raise BadInput(f"'{spec}': '{name}' is {kind_found}, a function is expected", f"name {kind}")
    if found is None:
        near = nearest(name, [word for word in vars(module) if callable(getattr(module, word))])
        hint = f"did you mean '{module_name}:{near}'?" if near else f"name {kind}"
        raise BadInput(f"'{spec}': the module '{module_name}' has no function '{name}'", hint)
    function: Callable[..., Any] = found
    return function
