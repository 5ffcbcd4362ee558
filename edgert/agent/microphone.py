"""Windows of sound: of a live microphone, or of a sound file.

A live device gives the newest window; a file gives every one in order. How long a window is, and how it becomes an
input, is left to `Preparer`.
"""

import importlib
import threading
import time
from collections.abc import Generator
from pathlib import Path
from types import ModuleType
from typing import Any

from edgert.agent.input_config import MicrophoneConfig
from edgert.agent.inputs import Item, Paced, Source
from edgert.agent.newest import Newest, retry_after
from edgert.agent.sound_ring import Ring
from edgert.errors import BadInput, EdgertError, EnvironmentFailed, MissingExtra
from edgert.runtime.audio import read_sound
from edgert.runtime.mel import Wave
from edgert.runtime.prepare import Preparer
from edgert.runtime.resample import resample

STALLED_S = 5.0
"""A device that has given nothing for so long is taken for unplugged: PortAudio does not always say so."""

CLOSE_S = 0.5


def open_microphone(config: MicrophoneConfig, preparer: Preparer) -> Source:
    """Return the source; BadInput where the model takes no sound, or where the device or file cannot be opened."""
    if not preparer.takes_sound:
        raise BadInput("the model takes no sound, so no microphone either", "use a model for sound, or a folder")
    rate = preparer.sample_rate
    if preparer.window and config.window_s and round(config.window_s * rate) != preparer.window:
        takes = f"the model takes windows of {preparer.window / rate:g} s, not of {config.window_s:g} s"
        raise BadInput(takes, "leave window_s out of [input]")
    window = preparer.window or round(config.window_s * rate)
    if not window:
        raise BadInput("the model takes sound of any length", "write window_s in [input]: the seconds of one window")
    if config.file is not None:
        wave = read_sound(config.file, rate)
        return Paced(_windows_of_file(wave, window, config, config.file, preparer), 0.0)
    assert config.device is not None, "parse_input checks it"
    return Microphone(config.device, window / rate, config.every_s or window / rate, preparer)


def _windows_of_file(
    wave: Wave, window: int, config: MicrophoneConfig, path: Path, preparer: Preparer
) -> Generator[Item]:
    hop = max(1, round(config.every_s * preparer.sample_rate)) if config.every_s else 0
    while True:
        for number, piece in enumerate(preparer.pieces(wave, window, hop)):
            yield Item(f"{path.name}[{number}]", lambda piece=piece: preparer.wave(piece))  # type: ignore[misc]
        if not config.loop:
            return


class Microphone:
    """A live device: a window of `window_s` seconds every `every_s`, the newest that is whole."""

    def __init__(self, device: int | str, window_s: float, every_s: float, preparer: Preparer) -> None:
        self.ended = False
        self._device, self._window_s, self._every_s, self._preparer = device, window_s, every_s, preparer
        self._name = f"microphone {device}".rstrip()
        self._newest, self._count = Newest(), 0
        self._failures, self._retry, self._heard = 0, 0.0, time.monotonic()
        self._sound = _sounddevice()
        self._stream: Any = self._open()

    @property
    def dropped(self) -> int:
        """Windows that were replaced by a newer one while the model was busy, and overruns of the device."""
        return self._newest.dropped

    @property
    def queued(self) -> int:
        """Whether a window waits."""
        return self._newest.queued

    def take(self, timeout_s: float) -> Item | None:
        """Return the newest window, or what went wrong; a device that was unplugged is opened again."""
        now = time.monotonic()
        if self._stream is None and now >= self._retry:
            try:
                _restart(self._sound)  # PortAudio looks for devices only then
                self._stream = self._open()
            except EdgertError as exc:
                self._failed(exc)
        elif self._stream is not None and (not self._stream.active or now - self._heard > STALLED_S):
            self._release()
            self._failed(EnvironmentFailed(f"{self._name} gives no more sound", "check its cable and power"))
        return self._newest.take(timeout_s)

    def close(self) -> None:
        """Let go of the device."""
        self.ended = True
        self._release()

    def _failed(self, error: EdgertError) -> None:
        self._failures += 1
        self._retry = time.monotonic() + retry_after(self._failures)
        self._newest.fail(self._name, error)

    def _release(self) -> None:
        """Close the stream, in a thread: a driver that hangs must not keep the agent from ending."""
        stream, self._stream = self._stream, None
        if stream is not None:
            closing = threading.Thread(target=stream.close, daemon=True, name="microphone-close")
            closing.start()
            closing.join(CLOSE_S)

    def _open(self) -> Any:
        """Return the running stream; BadInput where there is no such device, or where it cannot be opened."""
        device = None if self._device == "" else self._device
        sound = self._sound
        try:
            rate, channels = _settings(sound, device, self._preparer.sample_rate)
            window, hop = round(self._window_s * rate), max(1, round(self._every_s * rate))
            ring = Ring(window, hop, lambda wave: self._put(wave, rate))
            stream = sound.InputStream(
                device=device, samplerate=rate, channels=channels, dtype="float32", callback=self._hear(ring)
            )
            stream.start()
        except (sound.PortAudioError, ValueError) as exc:
            said = exc.args[0] if exc.args else exc
            remedy = "plug it in, or name another one in [input]: `python -m sounddevice` lists them"
            raise BadInput(f"{self._name} cannot be opened: {said}", remedy) from exc
        self._heard = time.monotonic()
        return stream

    def _hear(self, ring: Ring) -> Any:
        """Return what PortAudio's thread calls with each block, float32 [samples, channels]."""

        def hear(block: Any, _count: int, _time: Any, status: Any) -> None:
            self._heard, self._failures = time.monotonic(), 0
            if status.input_overflow:
                self._newest.lose()
            ring.add(block.mean(axis=1))

        return hear

    def _put(self, wave: Wave, rate: int) -> None:
        self._count += 1
        wanted = self._preparer.sample_rate
        self._newest.put(f"{self._name}[{self._count}]", lambda: self._preparer.wave(resample(wave, rate, wanted)))


def _settings(sound: ModuleType, device: int | str | None, wanted: int) -> tuple[int, int]:
    """Return the sample rate and channels: those of the model where the device has them, else the device's own."""
    facts = sound.query_devices(device, "input")
    own = round(facts["default_samplerate"])
    choices = [(rate, channels) for rate in (wanted, own) for channels in (1, facts["max_input_channels"])]
    for rate, channels in choices[:-1]:
        try:
            sound.check_input_settings(device=device, channels=channels, dtype="float32", samplerate=rate)
        except sound.PortAudioError:
            continue
        return rate, channels
    return choices[-1]


def _restart(sound: ModuleType) -> None:
    sound._terminate()
    sound._initialize()


def _sounddevice() -> ModuleType:
    try:
        return importlib.import_module("sounddevice")
    except ImportError as exc:
        message = "a microphone needs sounddevice, which is not installed"
        raise MissingExtra(message, "pip install 'edgert[microphone]'") from exc
    except OSError as exc:  # the package is there, its library is not
        raise MissingExtra(f"sounddevice cannot load PortAudio: {exc}", "apt install libportaudio2") from exc
