"""What a search has already measured, kept on disk: an interrupted conversion goes on where it stopped, and a second
profile or call does not run the same file on the same samples again.

Only what comes out the same every time is kept, such as accuracy; times never are. A file that cannot be read, or a
full disk, costs the time to measure again and nothing else.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgert import strict_json
from edgert.errors import EdgertError

MOST_FILES = 5000
"""The oldest files go when there are more; each has a few kilobytes."""


@dataclass(frozen=True)
class SearchCache:
    """Documents by what they were measured of; `folder` None remembers nothing."""

    folder: Path | None = None

    def get(self, parts: Mapping[str, object]) -> dict[str, object] | None:
        """Return the document that was put for `parts`, None if there is none or it is damaged."""
        path = self._path(parts)
        if path is None or not path.is_file():
            return None
        with suppress(OSError, EdgertError):
            document = strict_json.loads(path.read_bytes(), str(path))
            if (
                isinstance(document, dict)
                and document.get("of") == _plain(parts)
                and isinstance(document.get("is"), dict)
            ):
                found: dict[str, object] = document["is"]
                return found
        return None

    def put(self, parts: Mapping[str, object], document: Mapping[str, object]) -> None:
        """Keep `document`, which must be plain JSON data, for `parts`; a disk that takes nothing is no error."""
        path = self._path(parts)
        if path is None:
            return
        with suppress(OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _forget_oldest(path.parent)
            handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(strict_json.dumps({"of": _plain(parts), "is": document}))
                Path(name).replace(path)
            finally:
                Path(name).unlink(missing_ok=True)

    def _path(self, parts: Mapping[str, object]) -> Path | None:
        if self.folder is None:
            return None
        key = hashlib.sha256(json.dumps(_plain(parts), sort_keys=True).encode()).hexdigest()
        return self.folder / f"{key}.json"


def _plain(parts: Mapping[str, object]) -> object:
    return json.loads(json.dumps(parts, sort_keys=True, default=str))


def _forget_oldest(folder: Path) -> None:
    files = list(folder.glob("*.json"))
    if len(files) >= MOST_FILES:
        files.sort(key=lambda file: file.stat().st_mtime)
        for file in files[: MOST_FILES // 10]:
            file.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a variant: its graph file and the weights beside it."""
    digest = hashlib.sha256()
    for file in sorted(path.parent.iterdir()):
        with file.open("rb") as stream:
            digest.update(file.name.encode())
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
