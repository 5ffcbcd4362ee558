"""Run an exporter in a child process, with the Python that has its framework, and bring back what it made.

The parent never imports a framework: it writes a request, passes progress on, and reads `answer.json`, which it
believes no more than any other file.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from converters.request import Progress
from converters.sources import environments
from converters.sources.imported import Imported, Options
from edgert import errors, strict_json
from edgert.errors import BadInput, EdgertError, EnvironmentFailed, GateFailed
from edgert.image_spec import ImageSpec
from edgert.task import Task

EXPORTERS = Path(__file__).parent / "exporters"
FLAT = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
CHUNK_BYTES = 1 << 20
TOLD_LINES = 3
NO_SPACE_BYTES = 1_000_000
"""A child that ended without a word on a disk with less room than this ran out of it."""

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUTF8": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
"""What keeps libraries from reaching for the network, and from saying much."""


def export(kind: str, script: str, names: Sequence[str], path: Path, options: Options) -> Imported:
    """Have the exporter `script` turn the model at `path` into ONNX, in the first of the environments `names` there is.

    Raises MissingExtra where there is none, what the exporter raised (BadInput, GateFailed, …), GateFailed where it
    ended in an error of its own, and EnvironmentFailed where it was killed.
    """
    python = environments.find(names)
    out = options.workdir.resolve() / "imported"
    out.mkdir()
    request: dict[str, object] = {
        "verb": "export",
        "path": _absolute(path),
        "out": str(out),
        "options": {
            "task": options.task,
            "dynamic": {name: list(dims) for name, dims in options.dynamic.items()},
            "shapes": {name: list(dims) for name, dims in options.shapes.items()},
            "factory": options.factory,
            "submodule": options.submodule,
            "trust_pickle": options.trust_pickle,
            "folder": str(Path.cwd()),
        },
    }
    _call(python, script, request, options)

    def rerun(samples: Path, outputs: Path, part: str) -> None:
        again = {
            **request,
            "verb": "run",
            "samples": str(samples.resolve()),
            "out": str(outputs.resolve()),
            "part": part,
        }
        _call(python, script, again, options)

    sha256 = digest_of(path) if path.exists() else digest_of(out)
    return _read_answer(kind, script, out, sha256, rerun)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's file names and contents."""
    whole = hashlib.sha256()
    if path.is_file():
        _hash_file(path, whole)
        return whole.hexdigest()
    for file in sorted(entry for entry in path.rglob("*") if entry.is_file()):
        each = hashlib.sha256()
        _hash_file(file, each)
        whole.update(f"{file.relative_to(path).as_posix()}\0{each.hexdigest()}\n".encode())
    return whole.hexdigest()


def _hash_file(path: Path, digest: Any) -> None:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)


def _absolute(path: Path) -> str:
    """Return the path as a child in another folder finds it; `module:function` stays as it is."""
    return str(path.resolve()) if path.exists() else str(path)


def _call(python: Path, script: str, request: Mapping[str, object], options: Options) -> None:
    folder = options.workdir.resolve() / f"child-{request['verb']}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    with (folder / "stderr.txt").open("wb") as log:
        try:
            process = subprocess.Popen(
                [str(python), str(EXPORTERS / script), str(folder / "request.json")],
                stdin=subprocess.PIPE,  # never written to: its end tells the child that this process is gone
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env={**environ, **OFFLINE, "EDGERT_PARENT_ON_STDIN": "1"},
            )
        except OSError as exc:
            raise EnvironmentFailed(
                f"the Python of a source environment cannot be started: {python}: {exc.strerror}",
                "make it anew: edgert sources remove NAME, then edgert sources install NAME",
            ) from exc
        try:
            assert process.stdout is not None
            told = _follow(process.stdout, options.progress)
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if told is not None:
        raise told
    if code != 0:
        raise _died(code, script, folder / "stderr.txt")


def _follow(stream: IO[bytes], progress: Progress) -> EdgertError | None:
    """Pass progress on until the child closes its channel; return the error it told, if any."""
    error = None
    for line in stream:
        try:
            message = json.loads(line)
        except ValueError:
            continue  # a library wrote to the real stdout before the exporter took it over
        if isinstance(message, dict) and isinstance(message.get("error"), dict):
            error = _error(message["error"])
        elif isinstance(message, dict) and "progress" in message:
            progress(str(message["progress"]), int(message.get("done", 0)), int(message.get("total", 0)))
    return error


KINDS = {
    kind.__name__: kind
    for kind in (errors.BadInput, errors.UsageError, errors.GateFailed, errors.MissingExtra, errors.EnvironmentFailed)
}


def _error(told: Mapping[str, object]) -> EdgertError:
    kind = KINDS.get(str(told.get("kind")), GateFailed)
    return kind(str(told.get("message")), str(told.get("remedy", "")))


def _died(code: int, script: str, log: Path) -> EdgertError:
    """Return the error for a child that ended without saying why."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    said = " | ".join(line.strip() for line in lines[-TOLD_LINES:])[-600:] or "it said nothing"
    free = shutil.disk_usage(log.parent).free
    if free < NO_SPACE_BYTES or "No space left on device" in said:
        return EnvironmentFailed(
            f"the exporter {script} ended where {free} bytes are free: no space left on device",
            "free some space on that disk, or write elsewhere with -o",
        )
    if code < 0:
        return EnvironmentFailed(
            f"the exporter {script} was killed by signal {-code}", f"free some memory and try again; it said: {said}"
        )
    return GateFailed(
        f"the exporter {script} ended with an error of its own: {said}",
        "the model may use something that the exporter does not know; try a newer export of it, or ONNX",
    )


def _read_answer(kind: str, script: str, out: Path, sha256: str, rerun: Any) -> Imported:
    try:
        answer = strict_json.loads((out / "answer.json").read_bytes(), "answer.json")
    except OSError as exc:
        raise EnvironmentFailed(f"the exporter {script} left no answer", "try again; report it if it stays") from exc
    if not isinstance(answer, dict):
        raise BadInput(f"the exporter {script} left an answer that is no object", "report this")
    task, examples = answer.get("task"), answer.get("examples")
    return Imported(
        kind=kind,
        path=_made(out, answer.get("model"), script),
        sha256=sha256,
        framework=str(answer.get("framework", "")),
        parts={name: _made(out, file, script) for name, file in answer.get("parts", {}).items()},
        images={name: ImageSpec.from_json(rules, f"images of {script}") for name, rules in _items(answer, "images")},
        task=None if task is None else Task.from_json(task, f"task of {script}"),
        files={name: _made(out, name, script) for name in answer.get("files", ())},
        examples=None if examples is None else _made(out, examples, script),
        quantized=answer.get("quantized") is True,
        tools={str(name): str(version) for name, version in _items(answer, "tools")},
        warnings=tuple(str(text) for text in answer.get("warnings", ())),
        rerun=rerun,
    )


def _items(answer: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    return list(answer.get(key, {}).items())


def _made(out: Path, name: object, script: str) -> Path:
    """Return the path of a file that the exporter says it made; its name is flat, like every name in a bundle."""
    if not isinstance(name, str) or not FLAT.fullmatch(name) or not (out / name).is_file():
        raise BadInput(f"the exporter {script} names a file that it did not make: {name!r}", "report this")
    return out / name
