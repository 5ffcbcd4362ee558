"""A sink that is a function of the user's own, named in a configuration as `module:function`."""

from edgert.errors import BadInput
from edgert.imported import imported
from edgert.sinks.sink import Sink

WHAT = "a function that takes a list of (Stamp, body) of edgert.record"


def callable_sink(name: str) -> Sink:
    """Return the function; BadInput where there is none of that name, or it cannot be called."""
    found = imported(name, WHAT)
    if not callable(found):
        raise BadInput(f"'{name}' is {type(found).__name__}, not a function", f"name {WHAT}")
    sink: Sink = found
    return sink
