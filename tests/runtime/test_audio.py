"""Sound files: WAV in every common form, other kinds through soundfile, other sample rates, and damaged files."""

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgert.errors import BadInput
from edgert.runtime.audio import is_sound_file, read_sound
from edgert.runtime.resample import resample
from edgert.runtime.wav import read_wav
from tests.runtime.task_files import save_wav

soundfile = pytest.importorskip("soundfile", reason="the extra media (soundfile) is not installed")


def tone(rate: int, frequency: float, seconds: float = 1.0) -> np.ndarray:
    """Return a tone of amplitude 0.5."""
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def chunk(name: bytes, data: bytes, size: int | None = None) -> bytes:
    """Return one RIFF chunk; `size` may lie."""
    return name + struct.pack("<I", len(data) if size is None else size) + data + b"\0" * (len(data) % 2)


def wav(*chunks: bytes) -> bytes:
    """Return a WAV file of these chunks."""
    return b"RIFF" + struct.pack("<I", 4 + sum(map(len, chunks))) + b"WAVE" + b"".join(chunks)


def fmt(code: int = 1, channels: int = 1, rate: int = 8000, bits: int = 16) -> bytes:
    """Return the chunk that says how samples are written."""
    frame = channels * bits // 8
    return chunk(b"fmt ", struct.pack("<HHIIHH", code, channels, rate, rate * frame & 0xFFFFFFFF, frame, bits))


@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
@pytest.mark.parametrize("code", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"])
def test_read_wav_gives_the_samples_of_libsndfile(tmp_path: Path, code: str, form: str) -> None:
    """Every code, in the plain and the extensible header, two channels: equal to the bit."""
    noise = np.random.default_rng(0).uniform(-1, 1, (1001, 2))
    soundfile.write(tmp_path / "x.wav", noise, 8000, subtype=code, format=form)
    samples, rate = read_wav(tmp_path / "x.wav", 1 << 20)
    expected, _ = soundfile.read(tmp_path / "x.wav", dtype="float32")
    assert rate == 8000
    np.testing.assert_array_equal(samples, expected)


def test_read_wav_steps_over_chunks_it_does_not_know(tmp_path: Path) -> None:
    """A comment of odd length before the samples, and one after them, are skipped."""
    data = chunk(b"data", struct.pack("<3h", 1, -32768, 32767))
    (tmp_path / "x.wav").write_bytes(wav(chunk(b"LIST", b"abc"), fmt(), data, chunk(b"id3 ", b"x" * 9)))
    samples, _ = read_wav(tmp_path / "x.wav", 100)
    np.testing.assert_array_equal(samples[:, 0] * 32768, [1, -32768, 32767])


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_read_wav_of_unknown_length_reads_to_the_end(tmp_path: Path, size: int) -> None:
    """A program that writes into a pipe does not know the length when it writes the header."""
    (tmp_path / "x.wav").write_bytes(wav(fmt(), chunk(b"data", struct.pack("<4h", 1, 2, 3, 4), size)))
    assert len(read_wav(tmp_path / "x.wav", 100)[0]) == 4


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cannot be read as sound"),
        (b"RIFF\x04\0\0\0WAVE", "ends before its samples"),
        (wav(fmt()), "ends before its samples"),
        (wav(chunk(b"data", b"\0\0")), "does not say how its samples are written"),
        (wav(chunk(b"fmt ", b"\1\0"), chunk(b"data", b"\0\0")), "header of 2 bytes"),
        (wav(fmt(channels=0), chunk(b"data", b"\0\0")), "0 channels"),
        (wav(fmt(channels=60_000, bits=8), chunk(b"data", b"\0\0")), "60000 channels"),
        (wav(fmt(), chunk(b"data", b"\0\0", 2_000_000)), "cut off: 2000000 bytes"),
        (wav(fmt(), chunk(b"data", b"")), "holds no samples"),
        (wav(fmt(), chunk(b"data", b"\0")), "holds no samples"),
        (wav(fmt(rate=0), chunk(b"data", b"\0\0")), "sample rate of 0 Hz"),
        (wav(fmt(rate=4_000_000_000), chunk(b"data", b"\0\0")), "sample rate of 4000000000 Hz"),
        (wav(fmt(code=3, bits=32), chunk(b"data", struct.pack("<f", float("nan")))), "not finite"),
        (wav(fmt(code=999), chunk(b"data", b"\0\0")), "cannot be read as sound"),
        (b"hello, this is text and no sound at all", "cannot be read as sound"),
        (b"fLaC" + bytes(100), "cannot be read as sound"),
        (b"OggS" + bytes(100), "cannot be read as sound"),
    ],
)
def test_read_sound_of_a_damaged_file_is_bad_input(tmp_path: Path, data: bytes, words: str) -> None:
    """The file and what is wrong with it are named."""
    (tmp_path / "x.wav").write_bytes(data)
    with pytest.raises(BadInput, match=r"x\.wav") as caught:
        read_sound(tmp_path / "x.wav", 16000)
    assert words in caught.value.message
    assert caught.value.remedy


def test_read_sound_of_a_missing_file_or_a_folder_is_bad_input(tmp_path: Path) -> None:
    """A wrong path is the user's to correct."""
    with pytest.raises(BadInput, match="there is no file"):
        read_sound(tmp_path / "none.wav", 16000)
    with pytest.raises(BadInput, match="cannot be read"):
        read_sound(tmp_path, 16000)


@pytest.mark.parametrize("name", ["x.wav", "x.flac"])
def test_read_sound_that_is_too_long_is_refused(tmp_path: Path, name: str) -> None:
    """The limit holds for WAV and for what soundfile reads, and for what another sample rate would make of it."""
    soundfile.write(tmp_path / name, tone(8000, 440, 0.6), 8000)
    with pytest.raises(BadInput, match=rf"x\.{name[2:]}"):
        read_sound(tmp_path / name, 8000, max_samples=4799)
    assert len(read_sound(tmp_path / name, 8000, max_samples=4800)) == 4800
    with pytest.raises(BadInput, match="too long"):
        read_sound(tmp_path / name, 48000, max_samples=4800)


def test_read_sound_of_a_gigabyte_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A sparse file costs its sender nothing, and the reader no memory."""
    with (tmp_path / "x.wav").open("wb") as file:
        file.write(wav(fmt(), chunk(b"data", b"", 1 << 30)))
        file.truncate(file.tell() + (1 << 30))
    with pytest.raises(BadInput, match="1073741824 bytes of samples"):
        read_sound(tmp_path / "x.wav", 16000)


@pytest.mark.parametrize("name", ["x.flac", "x.ogg", "x.mp3", "x.aiff"])
def test_read_sound_reads_other_kinds_through_soundfile(tmp_path: Path, name: str) -> None:
    """The tone is still there, at the rate asked for, as the mean of both channels."""
    wave = tone(44100, 440)
    soundfile.write(tmp_path / name, np.stack([wave, np.zeros_like(wave)], axis=1), 44100)
    samples = read_sound(tmp_path / name, 16000)
    assert is_sound_file(tmp_path / name)
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(16000, abs=1600)
    spectrum = np.abs(np.fft.rfft(samples[2000:14000] * np.hanning(12000)))
    assert spectrum.argmax() * 16000 / 12000 == pytest.approx(440, abs=2)
    assert np.abs(samples[4000:12000]).max() == pytest.approx(0.25, abs=0.02)


def test_read_sound_without_soundfile_reads_wav_and_names_the_extra_for_the_rest(tmp_path: Path) -> None:
    """The base install reads WAV, and says which command makes FLAC work."""
    save_wav(tmp_path / "x.wav", tone(8000, 440), 8000)
    soundfile.write(tmp_path / "x.flac", tone(8000, 440), 8000)
    code = (
        "import sys; sys.modules['soundfile'] = None\n"
        "from pathlib import Path\n"
        "from edgert.errors import MissingExtra\n"
        "from edgert.runtime.audio import read_sound\n"
        "print(len(read_sound(Path('x.wav'), 16000)))\n"
        "try:\n    read_sound(Path('x.flac'), 16000)\n"
        "except MissingExtra as error:\n    print(error.exit_code, error.remedy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["16000", "3 pip install 'edgert[media]'"]


@pytest.mark.parametrize(
    ("rate", "wanted"), [(8000, 16000), (44100, 16000), (48000, 16000), (11025, 16000), (16000, 8000), (22050, 24000)]
)
@pytest.mark.parametrize("share", [0.02, 0.4, 0.45])
def test_resample_keeps_a_tone(rate: int, wanted: int, share: float) -> None:
    """A tone at a share of the lower rate is the same tone to 90 dB, in phase, away from the ends."""
    frequency = share * min(rate, wanted)
    got, expected = resample(tone(rate, frequency), rate, wanted), tone(wanted, frequency)
    assert got.dtype == np.float32
    assert len(got) == len(expected)
    middle = slice(wanted // 20, -wanted // 20)
    error = np.mean((got[middle] - expected[middle]) ** 2) / np.mean(expected[middle] ** 2)
    assert 10 * np.log10(error) < -90


@pytest.mark.parametrize(
    ("rate", "wanted", "frequency"), [(44100, 16000, 8400), (48000, 16000, 12000), (16000, 8000, 4200)]
)
def test_resample_removes_what_the_lower_rate_cannot_hold(rate: int, wanted: int, frequency: int) -> None:
    """A tone above half the new rate is gone instead of coming back as another tone: 90 dB down."""
    got = resample(tone(rate, frequency), rate, wanted)[wanted // 20 : -wanted // 20]
    assert np.abs(got).max() < 0.5 * 10 ** (-90 / 20)


def test_resample_of_a_long_sound_has_no_seams() -> None:
    """It is worked on in pieces of some seconds, and nothing is heard where they meet."""
    got, expected = resample(tone(44100, 440, 15.0), 44100, 16000), tone(16000, 440, 15.0)
    assert np.abs(got - expected)[1000:-1000].max() < 1e-5


@pytest.mark.parametrize("samples", [1, 2, 441, 442])
def test_resample_of_few_samples_has_the_right_length(samples: int) -> None:
    """The length is the duration at the new rate, rounded up; a constant stays near its value."""
    got = resample(np.ones(samples, np.float32), 44100, 16000)
    assert len(got) == -(-samples * 160 // 441)
    assert np.isfinite(got).all()


def test_resample_at_the_same_rate_is_the_same() -> None:
    """Nothing is filtered where nothing changes; an empty sound stays empty."""
    wave = tone(8000, 440)
    assert resample(wave, 8000, 8000) is wave
    assert resample(np.zeros(0, np.float32), 8000, 16000).size == 0
