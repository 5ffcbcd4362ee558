"""What a client sent, and what it is answered with.

Connections are left to `http_listener`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgert import strict_json

RETRY_AFTER = {"Retry-After": "1"}


@dataclass(frozen=True)
class Request:
    """A POST to /infer whose body is whole, in a file."""

    number: int
    accept: str
    body: Path

    def accepts(self, types: Sequence[str]) -> bool:
        """Return whether one of the media types is asked for."""
        return any(part.partition(";")[0].strip().lower() in types for part in self.accept.split(","))


@dataclass(frozen=True)
class Reply:
    """What a request is answered with."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def refusal(status: int, message: str, remedy: str, headers: Mapping[str, str] | None = None) -> Reply:
    """Return an answer that says what is wrong and what to do, as JSON."""
    text = strict_json.dumps({"error": message, "remedy": remedy})
    return Reply(status, "application/json", text.encode("utf-8"), headers or {})


def too_busy() -> Reply:
    """Return the answer where no place is free."""
    return refusal(503, "too many requests wait", "send it again later", RETRY_AFTER)


def no_such_path() -> Reply:
    """Return the answer for a path that is not served."""
    return refusal(404, "there is no such path", "POST /infer, or GET /healthz")
