"""A sink that appends reports to a file, one line of JSON each: docs/wire-format.md, "JSON"."""

import logging
import threading
from pathlib import Path

from edgert.errors import BadInput
from edgert.record import Birth
from edgert.sinks.sink import Items
from edgert.wire_json import report_to_json

log = logging.getLogger("edgert")

LEAST_BYTES = 10_000
OLD = ".1"


class JsonLines:
    """Keeps at most two files of `max_bytes`: `path`, and the one before it under the same name with `.1`.

    A new file begins with the last birth, which has the schemas that its lines need. What cannot be written is dropped
    and counted in `dropped`; each reason is logged the first time.
    """

    def __init__(self, path: Path, *, max_bytes: int = 10_000_000) -> None:
        if max_bytes < LEAST_BYTES:
            raise BadInput(f"max_bytes of '{path}' is {max_bytes}", f"give it {LEAST_BYTES} or more")
        self.written = self.dropped = 0
        self._path, self._max_bytes = path, max_bytes
        self._birth, self._told, self._lock = b"", set[object](), threading.Lock()

    def __call__(self, items: Items) -> None:
        """Append the report; never raises for what a disk or a body does."""
        with self._lock:
            for at, body in items:
                try:
                    line = report_to_json(at, body).encode() + b"\n"
                    if isinstance(body, Birth):
                        self._birth = line
                    self._append(line, is_birth=isinstance(body, Birth))
                except (OSError, BadInput) as exc:
                    self._drop(exc)
                    continue
                self.written += 1

    def _append(self, line: bytes, *, is_birth: bool) -> None:
        """Write a whole line or nothing; the file is opened for each, so that it may be moved or its disk come back."""
        if len(self._birth) + len(line) > self._max_bytes:
            raise BadInput(f"a line of {len(line)} bytes does not fit into {self._max_bytes}", "raise max_bytes")
        size = self._size()
        if size and size + len(line) > self._max_bytes:
            self._path.replace(self._path.with_name(self._path.name + OLD))
            size = 0
        if not size and not is_birth:
            line = self._birth + line
        with self._path.open("ab", buffering=0) as file:
            begun = file.tell()
            if begun and not self._ends_with_a_line():
                line = b"\n" + line  # what was cut by a power failure costs itself, not the next line
            if file.write(line) == len(line):
                return
            file.truncate(begun)
        raise OSError(f"only part of a line could be written to '{self._path}'")

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    def _ends_with_a_line(self) -> bool:
        with self._path.open("rb") as file:
            file.seek(-1, 2)
            return file.read(1) == b"\n"

    def _drop(self, exc: OSError | BadInput) -> None:
        self.dropped += 1
        kind = exc.errno if isinstance(exc, OSError) else BadInput
        if kind not in self._told:
            self._told.add(kind)
            why = f"'{self._path}': {exc.strerror or exc}" if isinstance(exc, OSError) else exc.message
            log.warning("reports are dropped, not written: %s", why)
