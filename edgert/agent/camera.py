"""Frames of a camera, of a stream, or of a video file.

A live device is read by a thread that keeps the newest frame; a file gives every frame in order. How a frame becomes
an input is left to `Preparer.frame`, which treats it as a picture file of the same pixels.
"""

import importlib
import math
import os
import re
import threading
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from edgert.agent.input_config import STREAMS, CameraConfig
from edgert.agent.inputs import Feeds, Item, Paced, Source
from edgert.agent.newest import Newest, retry_after
from edgert.errors import BadInput, EdgertError, EnvironmentFailed, MissingExtra
from edgert.runtime.prepare import Preparer

STREAM_TIMEOUT_MS = 5_000
CLOSE_S = 0.5
SLACK = 1e-6  # a frame at 0.3 s may say 0.2999999


def open_camera(config: CameraConfig, preparer: Preparer) -> Source:
    """Return the source; BadInput where the model takes no picture, or where the device or file cannot be opened."""
    if not preparer.takes_picture:
        raise BadInput("the model takes no picture, so no camera either", "convert it with --image, or use a folder")
    cv2 = _opencv()
    if config.file is not None:
        capture = _open_file(cv2, config.file)
        return Paced(_frames_of_file(cv2, capture, config, config.file, preparer), 0.0)
    assert config.device is not None, "parse_input checks it"
    return Camera(cv2, config.device, config.every_s, preparer)


class Camera:
    """A live device: a frame every `every_s` seconds, the newest; frames between two of them are not counted."""

    def __init__(self, cv2: ModuleType, device: int | str, every_s: float, preparer: Preparer) -> None:
        self._cv2, self._device, self._every_s, self._preparer = cv2, device, every_s, preparer
        self._name = re.sub(r"//[^/@]*@", "//", f"video{device}" if isinstance(device, int) else device)
        self._newest, self._closing = Newest(), threading.Event()
        # A daemon: a driver that hangs must not keep the agent from ending.
        self._thread = threading.Thread(target=self._capture, args=(self._open(),), daemon=True, name="camera")
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether nothing reads any more."""
        return not self._thread.is_alive()

    @property
    def dropped(self) -> int:
        """Frames that were due, and replaced by a newer one while the model was busy."""
        return self._newest.dropped

    @property
    def queued(self) -> int:
        """Whether a frame waits."""
        return self._newest.queued

    def take(self, timeout_s: float) -> Item | None:
        """Return the newest frame, or what went wrong."""
        return self._newest.take(timeout_s)

    def close(self) -> None:
        """Stop reading, and let go of the device."""
        self._closing.set()
        self._thread.join(CLOSE_S)

    def _capture(self, capture: Any) -> None:
        """Read until closed; a device that gives no more is opened again, later and later."""
        failures = 0
        while not self._closing.is_set():
            try:
                capture = capture or self._open()
                count = self._read_frames(capture)
                failures = 0 if count else failures
                raise EnvironmentFailed(f"camera {self._name} gives no more frames", "check its cable and power")
            except (EdgertError, self._cv2.error, OSError) as exc:
                if capture is not None:
                    capture.release()
                capture = None
                failures += 1
                if not self._closing.is_set():
                    error = exc if isinstance(exc, EdgertError) else EnvironmentFailed(f"camera {self._name}: {exc}")
                    self._newest.fail(self._name, error)
                self._closing.wait(retry_after(failures))

    def _read_frames(self, capture: Any) -> int:
        """Hand on frames until there is none; return how many were read."""
        count, due = 0, 0.0
        while not self._closing.is_set() and capture.grab():
            count += 1
            now = time.monotonic()
            is_due = now >= due
            if not is_due and not self._newest.queued:
                continue
            found, frame = capture.retrieve()
            if not found:
                break
            if is_due:
                due = due + self._every_s if due + self._every_s > now else now + self._every_s
            name = f"{self._name}[{count}]"
            self._newest.put(name, partial(_feeds, self._preparer, frame, name), counted=is_due)
        return count

    def _open(self) -> Any:
        """Return the opened device; BadInput where it cannot be."""
        cv2, device = self._cv2, self._device
        if isinstance(device, str) and device.startswith(STREAMS):
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, STREAM_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC]
            capture = cv2.VideoCapture(device, cv2.CAP_FFMPEG, [*limits, STREAM_TIMEOUT_MS])
            remedy = "check its address, name and password, and that it is on"
        elif isinstance(device, int):
            capture = cv2.VideoCapture(device)
            remedy = "plug it in; `v4l2-ctl --list-devices` lists the cameras of a Linux system"
        else:
            _check_device(Path(device))
            capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
            remedy = "end the program that uses it, and see that it is a camera: `v4l2-ctl --list-devices`"
        if not capture.isOpened():
            capture.release()
            raise BadInput(f"camera {self._name} cannot be opened", remedy)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        return capture


def _check_device(path: Path) -> None:
    if not path.exists():
        raise BadInput(f"there is no camera {path}", "plug it in, or name another one in [input]")
    if not os.access(path, os.R_OK | os.W_OK):
        raise BadInput(f"{path} may not be opened", "add the agent's user to the group video")


def _open_file(cv2: ModuleType, path: Path) -> Any:
    if not path.is_file():
        raise BadInput(f"'{path}': no such file", "name a video file in [input]")
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        capture.release()
        raise BadInput(f"'{path}' cannot be read as a video", "give a whole MP4, AVI or MKV file")
    return capture


def _frames_of_file(
    cv2: ModuleType, capture: Any, config: CameraConfig, path: Path, preparer: Preparer
) -> Generator[Item]:
    """Yield frames in order: each one, or one every `every_s` of the video's time; over and over for a loop."""
    try:
        while True:
            count, due = 0, 0.0
            while capture.grab():
                seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 or count / (capture.get(cv2.CAP_PROP_FPS) or 25.0)
                count += 1
                if seconds < due:
                    continue
                if config.every_s:
                    due = math.floor(seconds / config.every_s + 1 + SLACK) * config.every_s - SLACK
                found, frame = capture.retrieve()
                if not found:
                    break
                name = f"{path.name}[{count - 1}]"
                yield Item(name, partial(_feeds, preparer, frame, name))
            if not count:
                raise BadInput(f"'{path}' holds no frame that can be read", "give a whole MP4, AVI or MKV file")
            if not config.loop:
                return
            capture.release()
            capture = _open_file(cv2, path)
    finally:
        capture.release()


def _feeds(preparer: Preparer, frame: Any, name: str) -> Feeds:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != "uint8":
        raise BadInput(f"{name} is {frame.dtype} of shape {list(frame.shape)}, no colour picture", "use another camera")
    return preparer.frame(frame[:, :, ::-1], name)  # OpenCV's frames are BGR


def _opencv() -> ModuleType:
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError as exc:
        raise MissingExtra("a camera needs OpenCV, which is not installed", "pip install 'edgert[camera]'") from exc
    # What fails is told here, and without the password of a stream.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2
