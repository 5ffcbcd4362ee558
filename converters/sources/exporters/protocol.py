"""How an exporter talks to the converter that started it: one JSON request in, JSON lines and files out.

An exporter is a script of this folder, run by the Python of the environment that holds its framework. It imports the
standard library, numpy, its framework, and this file; nothing else of edgert is there.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

Request = Mapping[str, Any]
"""`path`, `verb` ("export" or "run"), `out` (an empty folder), `options`; for "run" also `samples` and `part`."""


class Failed(Exception):
    """What goes wrong for a reason that a user can act on.

    `kind` is the name of a class in `edgert.errors`: BadInput, UsageError, GateFailed, MissingExtra,
    EnvironmentFailed.
    """

    def __init__(self, message: str, remedy: str, kind: str = "BadInput") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.kind = kind


_channel: list[Any] = []


def serve(**verbs: Callable[[Request], None]) -> NoReturn:
    """Read the request that the command line names, do its verb, and end the process.

    What libraries print on stdout goes to stderr; the converter reads only JSON lines from the real stdout.
    """
    _channel.append(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    if os.environ.get("EDGERT_PARENT_ON_STDIN"):
        threading.Thread(target=_end_with_parent, daemon=True).start()
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        verbs[request["verb"]](request)
    except Failed as exc:
        _tell({"error": {"kind": exc.kind, "message": exc.message, "remedy": exc.remedy}})
        code = 1
    except MemoryError:
        _tell({"error": {"kind": "EnvironmentFailed", "message": "out of memory", "remedy": "free memory"}})
        code = 1
    else:
        code = 0
    for stream in (*_channel, sys.stdout, sys.stderr):
        stream.flush()
    # Some frameworks hang or crash when their threads are torn down; all files are written by now.
    os._exit(code)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone: then nobody holds the other end of stdin any more."""
    os.read(0, 1)
    os._exit(1)


def progress(stage: str, done: int = 0, total: int = 0) -> None:
    """Tell the converter what is being done; `total` 0 means that the end is not known."""
    _tell({"progress": stage, "done": done, "total": total})


def answer(request: Request, **members: object) -> None:
    """Write `answer.json` into the request's folder; `converters.sources.imported` says what its members are."""
    text = json.dumps(members, allow_nan=False, indent=1)
    (Path(request["out"]) / "answer.json").write_text(text, encoding="utf-8")


def samples(request: Request) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield for each sample the file its outputs belong into (by `np.savez`) and its inputs by ONNX name."""
    import numpy as np

    files = sorted(Path(request["samples"]).glob("*.npz"))
    for done, file in enumerate(files):
        progress("running the source", done, len(files))
        with np.load(file, allow_pickle=False) as arrays:
            yield Path(request["out"]) / file.name, {name: arrays[name] for name in arrays.files}


def tools(*packages: str) -> dict[str, str]:
    """Return the versions of those of `packages` that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _tell(message: Mapping[str, object]) -> None:
    _channel[0].write(json.dumps(message) + "\n")
    _channel[0].flush()
