"""What a sink is: any callable that takes a window's report. Birth comes first of all, once."""

from collections.abc import Callable, Sequence

from edgert.record import Body, Stamp

Items = Sequence[tuple[Stamp, Body]]
Sink = Callable[[Items], object]
"""It is called by the loop, and should not take long. It may have a method `close`, called once at the end."""
