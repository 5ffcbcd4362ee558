"""A function of the user that judges a model: found, called, and told about with its line where it fails."""

import hashlib
import inspect
import math
import numbers
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from converters.callables import import_callable, working_folder_importable
from converters.verify.evaluation import Run
from edgert.errors import BadInput, EdgertError, EnvironmentFailed

KIND = "a function that takes run, which maps a dict of arrays to a dict of arrays, and returns a number"


def load_function(spec: str) -> Callable[[Run], object]:
    """Return the function `module:function`; BadInput where there is none, or it does not take one argument."""
    function = import_callable(spec, KIND)
    try:
        inspect.signature(function).bind(None)
    except TypeError as exc:
        raise BadInput(f"'{spec}' cannot be called with one argument: {exc}", f"make it {KIND}") from exc
    except ValueError:
        pass  # a builtin does not tell
    return function


def source_digest(function: Callable[..., object]) -> str:
    """Return the SHA-256 of the file that a function is in, "" where there is none."""
    file = _file_of(function)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else ""


def call(function: Callable[[Run], object], spec: str, run: Run) -> float:
    """Return the number that the function makes of a model, which may be NaN or infinite.

    Raises BadInput with the exception and the line for what the function raises, and for what is no number.
    """
    try:
        with working_folder_importable():
            result = function(run)
    except EnvironmentFailed:
        raise
    except EdgertError as exc:  # of run: feeds that do not fit the model
        raise BadInput(f"'{spec}'{_line(function, exc)}: {exc.message}", exc.remedy) from exc
    except (Exception, SystemExit) as exc:  # the user's code may raise anything
        raise BadInput(
            f"'{spec}' raised {type(exc).__name__}{_line(function, exc)}: {exc}", "correct the function"
        ) from exc
    return _number(result, spec)


def _number(result: object, spec: str) -> float:
    value: Any = result.item() if isinstance(result, np.ndarray | np.generic) and result.size == 1 else result
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        shown = "None" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
        raise BadInput(f"'{spec}' returned {shown}, a number is expected", "return a float, where higher is better")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _line(function: Callable[..., object], exc: BaseException) -> str:
    """Say at which line of its own file the function failed; of all others where it is not in one."""
    frames = traceback.extract_tb(exc.__traceback__)[1:]
    file = _file_of(function)
    own = [frame for frame in frames if frame.filename == file] or frames[-1:]
    return f" at line {own[-1].lineno} of {Path(own[-1].filename).name}" if own else ""


def _file_of(function: Callable[..., object]) -> str | None:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return None if code is None else str(code.co_filename)
