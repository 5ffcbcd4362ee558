"""Windows of sound: those of a file in order, each as a file of it would be; of a live device the newest one."""

import importlib
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgert.agent.input_config import MicrophoneConfig
from edgert.agent.inputs import Item, Source
from edgert.agent.microphone import Microphone, open_microphone
from edgert.agent.sound_ring import Ring
from edgert.errors import BadInput, EnvironmentFailed
from edgert.manifest import TensorSpec
from edgert.runtime.prepare import Preparer, open_preparer
from edgert.task import AudioSpec, Task
from tests.agent.running import (
    SOUND,
    color_preparer,
    lines,
    process,
    running,
    sound_preparer,
    wait_for,
    write_config,
)
from tests.runtime.task_files import loudness, save_wav

RATE = 8000
RAMP = (np.arange(8000, dtype=np.float32) / 8000).astype("<f4")


def of_file(path: Path, every_s: float = 0.0, window_s: float = 0.0, loop: bool = False) -> Source:
    return open_microphone(MicrophoneConfig(None, path, every_s, window_s, loop), sound_preparer())


def free_preparer(rate: int = RATE, seconds: float = 0.0) -> Preparer:
    """Return what makes the feeds of a model that takes sound of any length, or of so many seconds."""
    task = Task("audio-classification", "scores", audio=AudioSpec("wave", "waveform", rate, seconds))
    return open_preparer(task, [TensorSpec("wave", "float32", (1, "samples"))], Path)


def taken(source: Source, most: int = 1000) -> list[Item]:
    """Return the items of a source until it ends."""
    found = []
    while not source.ended and len(found) < most:
        item = source.take(1)
        if item is not None:
            found.append(item)
    source.close()
    return found


@pytest.mark.parametrize(
    ("every_s", "starts"),
    [(0.0, [0, 2000, 4000]), (0.125, [0, 1000, 2000, 3000]), (0.4, [0, 3200])],
)
def test_sound_file_gives_every_window_as_a_file_of_it_would_be(tmp_path, every_s, starts):
    """One after another, overlapping, or with a gap; the last one is padded, and none is dropped."""
    wave = np.random.default_rng(0).uniform(-0.9, 0.9, 4900)
    preparer = free_preparer(seconds=0.25)
    path = save_wav(tmp_path / "s.wav", wave, RATE)
    source = open_microphone(MicrophoneConfig(None, path, every_s, 0, False), preparer)
    items = taken(source)
    assert [item.name for item in items] == [f"s.wav[{number}]" for number in range(len(starts))]
    assert source.dropped == 0
    for start, item in zip(starts, items, strict=True):
        piece = save_wav(tmp_path / "piece.wav", wave[start : start + 2000], RATE)
        np.testing.assert_array_equal(item.read()["wave"], preparer.sound(piece)["wave"])


def test_agent_on_a_sound_file_of_another_rate_ends_with_it(tmp_path):
    """One second of 44.1 kHz is 80 windows at 8 kHz, all run, and then the agent ends by itself."""
    save_wav(tmp_path / "s.wav", np.full(44100, 0.25), 44100)
    config = 'kind = "microphone"\nfile = "s.wav"'
    with running(write_config(tmp_path, config, loudness(), SOUND)) as found:
        wait_for(lambda: found)
    assert (found[0].calls, found[0].errors) == (80, 0)
    middle = lines(tmp_path)[40]["outputs"]["scores"]
    assert (middle["min"], middle["max"]) == (pytest.approx(0.25, abs=1e-3), pytest.approx(0.25, abs=1e-3))


def test_sound_file_in_a_loop_begins_again(tmp_path):
    """After the last window comes the first."""
    items = taken(of_file(save_wav(tmp_path / "s.wav", np.ones(200), RATE), loop=True), 5)
    assert [item.name for item in items] == [f"s.wav[{number}]" for number in (0, 1, 0, 1, 0)]


def test_microphone_that_cannot_be_says_what_to_do(tmp_path, sound):
    """No file, a window that the model does not take, none where it takes any, a model for pictures, no device."""
    wave = save_wav(tmp_path / "s.wav", np.ones(200), RATE)
    with pytest.raises(BadInput, match="there is no file"):
        of_file(tmp_path / "none.wav")
    with pytest.raises(BadInput, match=r"windows of 0\.0125 s, not of 1 s"):
        of_file(wave, window_s=1)
    with pytest.raises(BadInput, match="any length"):
        open_microphone(MicrophoneConfig(None, wave, 0, 0, False), free_preparer())
    with pytest.raises(BadInput, match="takes no sound"):
        open_microphone(MicrophoneConfig(None, wave, 0, 0, False), color_preparer())
    with pytest.raises(BadInput, match="microphone nosuch cannot be opened") as caught:
        open_microphone(MicrophoneConfig("nosuch", None, 0, 0, False), sound_preparer())
    assert "lists them" in caught.value.remedy


def test_sound_file_for_a_model_of_any_length_has_the_windows_that_are_configured(tmp_path):
    """The length comes from window_s where the model does not say."""
    wave = save_wav(tmp_path / "s.wav", np.ones(400), RATE)
    items = taken(open_microphone(MicrophoneConfig(None, wave, 0, 0.025, False), free_preparer()))
    assert [item.read()["wave"].shape for item in items] == [(1, 200), (1, 200)]


@pytest.mark.parametrize(("window", "hop"), [(100, 100), (100, 30), (30, 100), (64, 64), (1, 1)])
def test_ring_gives_the_same_windows_whatever_the_blocks(window, hop):
    """Blocks of random sizes, some larger than a window, give the windows that slices give."""
    random, found = np.random.default_rng(0), list[np.ndarray]()
    samples = np.arange(2000, dtype=np.float32)
    ring, start = Ring(window, hop, found.append), 0
    while start < samples.size:
        size = int(random.choice([0, 1, 7, 100, 333]))
        ring.add(samples[start : start + size])
        start += size
    ends = range(window, samples.size + 1, hop)
    assert len(found) == len(ends)
    for end, wave in zip(ends, found, strict=True):
        np.testing.assert_array_equal(wave, samples[end - window : end])


def portaudio() -> ModuleType:
    """Return sounddevice; skips where ALSA or PortAudio is missing."""
    if sys.platform != "linux":
        pytest.skip("the devices of these tests are ALSA's")
    try:
        return importlib.import_module("sounddevice")
    except OSError as exc:
        pytest.skip(f"{exc}: .ci/system-packages installs it")


@pytest.fixture
def sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Return sounddevice on a machine whose devices are ALSA's: `ramp` gives RAMP, far faster than time, then its end.

    `wide` is the same with two channels and no less.
    """
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(save_devices(tmp_path, RAMP)))
    sounddevice = portaudio()
    sounddevice._terminate()
    sounddevice._initialize()
    yield sounddevice
    sounddevice._terminate()
    monkeypatch.undo()
    sounddevice._initialize()


def save_devices(folder: Path, samples: np.ndarray) -> Path:
    """Write an ALSA configuration whose capture devices read float samples from a file."""
    (folder / "samples.raw").write_bytes(samples.astype("<f4").tobytes())
    (folder / "asound.conf").write_text(f"""
pcm.ramp {{ type file slave.pcm {{ type null }} file "/dev/null" infile "{folder}/samples.raw" format "raw" }}
pcm.wide {{
    type multi
    slaves.a {{ pcm "ramp" channels 2 }}
    bindings.0 {{ slave a channel 0 }}
    bindings.1 {{ slave a channel 1 }}
}}
pcm.!default {{ type plug slave.pcm "ramp" }}
ctl.!default {{ type null }}
""")
    return folder / "asound.conf"


def test_live_microphone_gives_its_samples_in_windows(sound):
    """The first window is the first samples of the device, to the bit."""
    microphone = Microphone("ramp", 0.5, 86_400.0, free_preparer())
    try:
        first = microphone.take(5)
        assert first is not None
        assert first.waited_s is not None
        assert first.name == "microphone ramp[1]"
        np.testing.assert_array_equal(first.read()["wave"], RAMP[np.newaxis, :4000])
    finally:
        microphone.close()
    assert microphone.ended


def test_live_microphone_keeps_the_newest_window_and_counts_the_others(sound):
    """The device is faster than time: while nobody takes one, windows replace each other and are counted."""
    microphone = Microphone("ramp", 0.1, 0.1, free_preparer())
    try:
        wait_for(lambda: microphone.dropped >= 10)
        assert microphone.queued == 1
        item = microphone.take(5)
        assert item is not None
        assert int(item.name.rpartition("[")[2].rstrip("]")) > 10
    finally:
        microphone.close()


def test_live_microphone_with_two_channels_is_their_mean(sound):
    """A device that has no single channel is opened with those it has."""
    microphone = Microphone("wide", 0.01, 0.01, free_preparer())
    try:
        item = microphone.take(5)
        assert item is not None
        assert item.read()["wave"].shape == (1, 80)
    finally:
        microphone.close()


def test_live_microphone_without_the_rate_of_the_model_is_resampled(sound):
    """PortAudio refuses 500 kHz: the device's own rate is used, and the window is as long as the model wants."""
    microphone = Microphone("ramp", 0.1, 86_400.0, free_preparer(500_000, seconds=0.1))
    try:
        item = microphone.take(5)
        assert item is not None
        wave = item.read()["wave"][0]
        assert wave.size == 50_000
        assert wave[25_000] == pytest.approx(RAMP[2205], abs=1e-3)
    finally:
        microphone.close()


def test_live_microphone_whose_stream_ends_is_an_error_and_comes_back(sound):
    """As where it is unplugged: one input that raises, then windows again."""
    microphone = Microphone("ramp", 0.01, 0.01, free_preparer())
    try:
        microphone._stream.abort()  # no fake device can be pulled out
        found = list[Item]()
        wait_for(lambda: (item := microphone.take(0.1)) and (found.append(item), item.name == "microphone ramp")[1])
        with pytest.raises(EnvironmentFailed, match="gives no more sound"):
            found[-1].read()
        wait_for(lambda: (item := microphone.take(1)) and "[" in item.name)
    finally:
        microphone.close()


def test_agent_with_a_microphone_runs_until_sigterm(tmp_path):
    """A device that gives 0.25 for ever: peak and mean are 0.25 in every answer, and it ends with everything told."""
    portaudio()
    devices = save_devices(tmp_path, np.full(4_000_000, 0.25))
    config = 'kind = "microphone"\ndevice = ""'
    with process(write_config(tmp_path, config, loudness(), SOUND), ALSA_CONFIG_PATH=str(devices)) as agent:
        wait_for(lambda: len(lines(tmp_path)) >= 5 or agent.poll() is not None)
        agent.send_signal(signal.SIGTERM)
        output, errors = agent.communicate(timeout=30)
    assert agent.returncode == 0, errors
    assert json.loads(output)["calls"] == len(lines(tmp_path)) >= 5
    assert all(line["outputs"]["scores"]["min"] == line["outputs"]["scores"]["max"] == 0.25 for line in lines(tmp_path))
