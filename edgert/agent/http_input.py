"""Inputs that are sent over HTTP: POST /infer waits in a bounded queue, and is answered with what the model said.

Connections, limits and time-outs are left to `http_listener`; what a file becomes, to `Reader`.
"""

import io
import os
import queue
import tempfile
import threading
import time
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgert import strict_json
from edgert.agent.http_listener import Listener
from edgert.agent.http_message import RETRY_AFTER, Reply, Request, refusal, too_busy
from edgert.agent.input_config import HttpConfig
from edgert.agent.inputs import Feeds, Item, Outcome, Reader
from edgert.disk import read_failed
from edgert.errors import BadInput, EdgertError, EnvironmentFailed, UsageError
from edgert.runtime.arrays import storable
from edgert.runtime.inputs import Array, summarise

MAX_PIXELS = 50_000_000
"""Of a picture that anybody may send: 150 MB once it is decoded."""

MIN_TOKEN = 16
SHARED_MEMORY = Path("/dev/shm")
ARRAYS = ("application/x-npz", "application/octet-stream")

_MAGIC = (
    (b"\x93NUMPY", ".npy"),
    (b"PK\x03\x04", ".npz"),
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"fLaC", ".flac"),
    (b"OggS", ".ogg"),
    (b"ID3", ".mp3"),
    (b"\xff\xfb", ".mp3"),
    (b"\xff\xf3", ".mp3"),
    (b"P5", ".pgm"),
    (b"P6", ".ppm"),
)


class HttpInput:
    """A server whose requests are inputs, oldest first; one that finds the queue full is refused, and counted."""

    def __init__(self, config: HttpConfig, reader: Reader) -> None:
        self.ended = False
        self.dropped = 0
        self._config = config
        # A sound decodes to no more samples than a WAV file of the largest body has.
        self._reader = replace(reader, max_samples=config.max_body_bytes, max_pixels=MAX_PIXELS)
        self._lock = threading.Lock()
        self._waiting: queue.Queue[_Waiting] = queue.Queue(config.queue)
        self._open = set[_Waiting]()
        token = _read_token(config.token_file) if config.token_file is not None else None
        self._folder = _spool_folder()
        try:
            self._listener = Listener(config, token, Path(self._folder.name), self._full, self._infer)
        except BaseException:
            self._folder.cleanup()
            raise

    @property
    def queued(self) -> int:
        """How many requests wait."""
        return self._waiting.qsize()

    def take(self, timeout_s: float) -> Item | None:
        """Return the oldest request that waits."""
        try:
            one = self._waiting.get(timeout=timeout_s)
        except queue.Empty:
            return None
        return Item(one.name, lambda: self._read(one), time.monotonic() - one.since, one.answer)

    def close(self) -> None:
        """Take no more; who still waits is told."""
        self.ended = True
        with self._lock:
            waiting = list(self._open)
        for one in waiting:
            one.answer(EnvironmentFailed("the agent ends", "send it again later"))
        self._listener.close()
        self._folder.cleanup()

    def _full(self) -> bool:
        """Whether a request would find no place; it is counted then, and refused before its body is read."""
        if not self._waiting.full() and not self.ended:
            return False
        with self._lock:
            self.dropped += 1
        return True

    def _infer(self, request: Request) -> Reply:
        """Answer a request, in its own thread; its body is gone then."""
        suffix = _suffix(request)
        if suffix is None:
            request.body.unlink()
            return refusal(415, "the body is no picture, sound, .npy or .npz that is known", "send one of those")
        one = _Waiting(f"http[{request.number}]", request.body.rename(request.body.with_suffix(suffix)))
        try:
            if not self._enqueue(one):
                return too_busy()
            outcome = one.wait()
        finally:
            one.path.unlink(missing_ok=True)
            with self._lock:
                self._open.discard(one)
        try:
            return _refused(outcome, one) if isinstance(outcome, EdgertError) else _answered(outcome, request)
        except EdgertError as exc:  # outputs that no file can hold
            return refusal(500, exc.message, exc.remedy)

    def _enqueue(self, one: "_Waiting") -> bool:
        """Return whether there was a place for it."""
        with self._lock:
            if self.ended:
                return False
            try:
                self._waiting.put_nowait(one)
            except queue.Full:
                self.dropped += 1
                return False
            self._open.add(one)
            return True

    def _read(self, one: "_Waiting") -> Feeds:
        """Return the feeds of a request; BadInput where its body is not what it seems."""
        try:
            if one.path.suffix == ".npz":
                _check_unpacked(one.path, self._config.max_body_bytes)
            return self._reader.read(one.path)
        except (EdgertError, MemoryError) as exc:
            raise exc if isinstance(exc, EdgertError) else EnvironmentFailed("the memory is full", "send less") from exc
        except Exception as exc:  # decoders raise anything for a hostile body, which must not end the loop
            raise BadInput(f"the body cannot be read: {exc or type(exc).__name__}", "send a whole file") from exc


class _Waiting:
    """A request until it is answered; `path` is its body, named for what it holds."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path, self.since = name, path, time.monotonic()
        self._answered = threading.Event()
        self._outcome: Outcome = {}

    def answer(self, outcome: Outcome) -> None:
        """Tell what came of it; the first answer counts."""
        if not self._answered.is_set():
            self._outcome = outcome
            self._answered.set()

    def wait(self) -> Outcome:
        """Return what came of it."""
        self._answered.wait()
        return self._outcome


def _answered(outputs: Mapping[str, Array], request: Request) -> Reply:
    if request.accepts(ARRAYS):
        return Reply(200, "application/x-npz", _packed(outputs))
    text = strict_json.dumps({"outputs": summarise(outputs)})
    return Reply(200, "application/json", text.encode("utf-8"))


def _packed(outputs: Mapping[str, Array]) -> bytes:
    """Return a .npz file; an output may have any name, even one of an argument of numpy.savez."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in outputs.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, storable(array, name), allow_pickle=False)
    return file.getvalue()


def _refused(error: EdgertError, one: _Waiting) -> Reply:
    """Return the answer for an error: 400 for what the client can change, 503 or 500 for what it cannot."""
    message = error.message.replace(str(one.path), "the body").replace(one.path.name, "the body")
    status = 400 if isinstance(error, BadInput | UsageError) else 503 if isinstance(error, EnvironmentFailed) else 500
    return refusal(status, message, error.remedy, RETRY_AFTER if status == 503 else {})


def _suffix(request: Request) -> str | None:
    """Return how a file with this body is named, by its first bytes; what it is said to be does not count.

    So no body reaches a decoder that is not meant: Pillow would run another program on PostScript.
    """
    with request.body.open("rb") as file:
        head = file.read(12)
    if head[:4] == b"RIFF":
        return {b"WAVE": ".wav", b"WEBP": ".webp"}.get(head[8:12])
    for magic, suffix in _MAGIC:
        if head.startswith(magic):
            return suffix
    return None


def _check_unpacked(path: Path, most: int) -> None:
    """Raise BadInput for a .npz that unpacks to more than a body may have: deflate can hold a thousand times that."""
    with zipfile.ZipFile(path) as archive:
        size = sum(info.file_size for info in archive.infolist())
    if size > most:
        raise BadInput(f"'{path}' unpacks to {size} bytes, at most {most} are read", "send less at once")


def _spool_folder() -> "tempfile.TemporaryDirectory[str]":
    """Return a folder for the bodies, in memory where there is such a place: they are not for the flash."""
    place = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    try:
        return tempfile.TemporaryDirectory(prefix="edgert-http-", dir=place, ignore_cleanup_errors=True)
    except OSError as exc:
        raise EnvironmentFailed(f"no folder for requests can be made: {exc}", "let TMPDIR name one") from exc


def _read_token(path: Path) -> bytes:
    try:
        token = path.read_bytes().strip()
    except FileNotFoundError as exc:
        raise BadInput(f"{path}: no such file", "write the secret that clients send into it") from exc
    except OSError as exc:
        raise read_failed(exc, path) from exc
    if len(token) < MIN_TOKEN:
        raise BadInput(f"{path} holds fewer than {MIN_TOKEN} bytes", "write a long random secret into it")
    return token
