"""Frames: each is what a picture file of its pixels would be; a file gives all, a live device the newest."""

import http.server
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from edgert.agent.camera import Camera, open_camera
from edgert.agent.input_config import CameraConfig
from edgert.agent.inputs import Item, Source
from edgert.errors import BadInput, EnvironmentFailed
from tests.agent.running import color_preparer, lines, process, running, sound_preparer, wait_for, write_config

FRAMES = 20


def frame(number: int) -> np.ndarray:
    """Return a picture whose red, of 0..255, tells its number; BGR."""
    pixels = np.full((24, 32, 3), (40, 20, 0), np.uint8)
    pixels[:, :, 2] = number * 10
    return pixels


def save_video(path: Path, code: str, frames: int = FRAMES) -> Path:
    """Save a video of 10 frames a second."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 10, (32, 24))
    assert writer.isOpened()
    for number in range(frames):
        writer.write(frame(number))
    writer.release()
    return path


def of_file(path: Path, every_s: float = 0.0, loop: bool = False) -> Source:
    return open_camera(CameraConfig(None, path, every_s, loop), color_preparer())


def taken(source: Source, most: int = 1000) -> list[Item]:
    """Return the items of a source until it ends."""
    found = []
    while not source.ended and len(found) < most:
        item = source.take(1)
        if item is not None:
            found.append(item)
    source.close()
    return found


@pytest.mark.parametrize(("name", "code"), [("v.mp4", "mp4v"), ("v.avi", "MJPG"), ("v.mkv", "FFV1")])
def test_video_file_gives_every_frame_as_a_picture_file_of_the_same_pixels(tmp_path, name, code):
    """In order, none is dropped, and the feeds are those of a PNG of the decoded frame, to the bit."""
    path = save_video(tmp_path / name, code)
    source = of_file(path)
    items = taken(source)
    assert [item.name for item in items] == [f"{name}[{number}]" for number in range(FRAMES)]
    assert (source.dropped, source.queued) == (0, 0)
    capture = cv2.VideoCapture(str(path))
    for number, item in enumerate(items):
        Image.fromarray(capture.read()[1][:, :, ::-1]).save(tmp_path / "frame.png")
        expected = color_preparer().picture(tmp_path / "frame.png")["x"]
        np.testing.assert_array_equal(item.read()["x"], expected)
        assert expected[0, :, 0, 0] * 255 == pytest.approx([number * 10, 20, 40], abs=6)


@pytest.mark.parametrize(("every_s", "numbers"), [(0.5, [0, 5, 10, 15]), (0.25, [0, 3, 5, 8, 10, 13, 15, 18])])
def test_video_file_every_s_is_time_of_the_video(tmp_path, every_s, numbers):
    """The first frame at or after each multiple, however fast the model is."""
    items = taken(of_file(save_video(tmp_path / "v.avi", "MJPG"), every_s))
    assert [item.name for item in items] == [f"v.avi[{number}]" for number in numbers]


def test_video_file_in_a_loop_begins_again(tmp_path):
    """After the last frame comes the first."""
    items = taken(of_file(save_video(tmp_path / "v.avi", "MJPG", 3), loop=True), 7)
    assert [item.name for item in items] == [f"v.avi[{number}]" for number in (0, 1, 2, 0, 1, 2, 0)]


def test_agent_on_a_video_file_ends_with_it(tmp_path):
    """Each frame is one call, in order, and then the agent ends by itself."""
    save_video(tmp_path / "v.mp4", "mp4v")
    with running(write_config(tmp_path, 'kind = "camera"\nfile = "v.mp4"')) as found:
        wait_for(lambda: found)
    assert (found[0].calls, found[0].errors) == (FRAMES, 0)
    assert [line["input"] for line in lines(tmp_path)] == [f"v.mp4[{number}]" for number in range(FRAMES)]


def test_camera_that_cannot_be_says_what_to_do(tmp_path):
    """No file, no video, no device, no stream, a model for sound: before the first input, with a remedy."""
    (tmp_path / "v.mp4").write_bytes(b"no video" * 100)
    wrong = [
        (CameraConfig(None, tmp_path / "none.mp4", 0, False), "no such file"),
        (CameraConfig(None, tmp_path / "v.mp4", 0, False), "cannot be read as a video"),
        (CameraConfig("/dev/video77", None, 1, False), "there is no camera /dev/video77"),
        (CameraConfig(77, None, 1, False), "camera video77 cannot be opened"),
        (CameraConfig(str(tmp_path / "v.mp4"), None, 1, False), "cannot be opened"),
        (CameraConfig("http://me:secret@127.0.0.1:1/", None, 1, False), "camera http://127.0.0.1:1/ cannot"),
    ]
    for config, reason in wrong:
        with pytest.raises(BadInput, match=reason) as caught:
            open_camera(config, color_preparer())
        assert caught.value.remedy
    with pytest.raises(BadInput, match="takes no picture"):
        open_camera(wrong[0][0], sound_preparer())


class Stream:
    """A camera on the network: JPEG pictures over HTTP, 50 a second, until it is unplugged; it may also stall."""

    def __init__(self) -> None:
        self.plugged, self.stalled, self.sent = True, False, 0
        stream = self

        class Connection(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if not stream.plugged:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
                self.end_headers()
                while stream.plugged:
                    if not stream.stalled:
                        data = cv2.imencode(".jpg", frame(stream.sent % FRAMES))[1].tobytes()
                        head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                        self.wfile.write(head.encode() + data + b"\r\n")
                        stream.sent += 1
                    time.sleep(0.02)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Connection)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def stream() -> Iterator[Stream]:
    made = Stream()
    yield made
    made.plugged = False
    made.server.shutdown()
    made.server.server_close()


def test_live_camera_keeps_the_newest_frame_and_counts_the_others(stream):
    """While nobody takes one, each frame replaces the one before; the one that is taken is the last."""
    camera = Camera(cv2, stream.url, 0.0, color_preparer())
    try:
        wait_for(lambda: camera.dropped >= 10)
        assert camera.queued == 1
        first = camera.take(5)
        assert first is not None
        number = int(first.name.rpartition("[")[2].rstrip("]"))
        assert number > 10
        assert first.waited_s is not None
        assert first.read()["x"][0, 0, 0, 0] * 255 == pytest.approx((number - 1) % FRAMES * 10, abs=6)
        second = camera.take(5)
        assert second is not None
        assert int(second.name.rpartition("[")[2].rstrip("]")) > number
    finally:
        camera.close()
    assert camera.ended


def test_live_camera_with_a_pace_counts_no_frame_between(stream):
    """One frame in a long time is due: it is brought up to date while it waits, and nothing counts as dropped."""
    camera = Camera(cv2, stream.url, 3600.0, color_preparer())
    try:
        wait_for(lambda: stream.sent > 20)
        first = camera.take(5)
        assert first is not None
        assert int(first.name.rpartition("[")[2].rstrip("]")) > 1
        assert (camera.take(0.2), camera.dropped, camera.queued) == (None, 0, 0)
    finally:
        camera.close()


def test_live_camera_that_is_unplugged_is_an_error_and_comes_back(stream):
    """Each failure to read or to open is one input that raises; once it is plugged in again, frames come."""
    camera = Camera(cv2, stream.url, 0.0, color_preparer())
    try:
        assert camera.take(5)
        stream.plugged = False
        failed = 0
        while failed < 2:
            item = camera.take(5)
            assert item is not None
            try:
                item.read()
            except (EnvironmentFailed, BadInput) as exc:
                failed += 1
                assert exc.remedy
        assert not camera.ended
        stream.plugged = True
        wait_for(lambda: (item := camera.take(5)) and "[" in item.name)
    finally:
        camera.close()


def test_agent_with_a_camera_that_hangs_ends_on_sigterm(tmp_path, stream):
    """The thread that reads is stuck in the driver; the agent stores its report and exits with 0 all the same."""
    with process(write_config(tmp_path, f'kind = "camera"\ndevice = "{stream.url}"\nevery_s = 0')) as agent:
        wait_for(lambda: len(lines(tmp_path)) >= 3)
        stream.stalled = True
        time.sleep(0.3)
        agent.send_signal(signal.SIGTERM)
        output, errors = agent.communicate(timeout=30)
    assert agent.returncode == 0, errors
    assert json.loads(output)["calls"] == len(lines(tmp_path))
