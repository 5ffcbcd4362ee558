"""What a graph pass reports."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PassResult:
    """How often a pass changed the graph, and where it declined and why.

    `changes` is 0 when the pass left the graph as it was; each entry of `declined` names the node and the reason.
    """

    changes: int
    declined: tuple[str, ...] = ()
