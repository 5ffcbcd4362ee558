"""Sound files as one channel of float32 at the sample rate that a model takes.

WAV is read here; FLAC, Ogg, MP3 and all else needs soundfile, the extra `media`. Features are left to `mel`.
"""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgert.errors import BadInput, EnvironmentFailed, MissingExtra
from edgert.runtime.resample import resample
from edgert.runtime.wav import UnknownCode, is_wav, read_wav
from edgert.task import SAMPLE_RATES

SOUND_SUFFIXES = (".aif", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav")
MAX_SAMPLES = 1 << 27  # of all channels: 139 minutes of one channel at 16 kHz

_REMEDY = "give a whole WAV, FLAC, Ogg or MP3 file"


def is_sound_file(path: Path) -> bool:
    """Return whether the file's name ends like a sound that `read_sound` may read."""
    return path.suffix.lower() in SOUND_SUFFIXES


def read_sound(path: Path, sample_rate: int, *, max_samples: int = MAX_SAMPLES) -> NDArray[np.float32]:
    """Return the sound as float32 [samples] at `sample_rate` Hz: the mean of its channels, full scale -1..1.

    BadInput when it is no sound file, damaged, empty, or holds more than `max_samples` in all its channels, before or
    after; MissingExtra without soundfile where it is not a WAV file.
    """
    try:
        samples, rate = _read(path, max_samples)
    except FileNotFoundError as exc:
        raise BadInput(f"there is no file '{path}'", "check the path") from exc
    except MemoryError as exc:
        raise EnvironmentFailed(f"there is not enough memory for '{path}'", "free memory, or cut the file") from exc
    except OSError as exc:
        raise BadInput(f"'{path}' cannot be read: {exc.strerror or exc}", _REMEDY) from exc
    _check(path, samples, rate)
    if samples.size * max(1.0, sample_rate / rate) > max_samples:
        raise _too_long(path, samples.shape[0] / rate)
    return resample(samples.mean(axis=1, dtype=np.float32), rate, sample_rate)


def _read(path: Path, max_samples: int) -> tuple[NDArray[np.float32], int]:
    with path.open("rb") as file:
        head = file.read(12)
    if not is_wav(head):
        return _read_with_soundfile(path, max_samples)
    try:
        return read_wav(path, max_samples)
    except UnknownCode:
        return _read_with_soundfile(path, max_samples)


def _check(path: Path, samples: NDArray[np.float32], rate: int) -> None:
    """Raise BadInput for sound that cannot be used."""
    low, high = SAMPLE_RATES
    if not low <= rate <= high:
        raise BadInput(f"'{path}' has a sample rate of {rate} Hz, {low} to {high} is read", _REMEDY)
    if not samples.size:
        raise BadInput(f"'{path}' holds no samples", _REMEDY)
    if not np.isfinite(samples).all():
        raise BadInput(f"'{path}' holds samples that are not finite", _REMEDY)


def _read_with_soundfile(path: Path, max_samples: int) -> tuple[NDArray[np.float32], int]:
    soundfile = _soundfile(path)
    try:
        with soundfile.SoundFile(path) as file:
            if file.frames * file.channels > max_samples:
                raise _too_long(path, file.frames / max(1, file.samplerate))
            samples: NDArray[Any] = file.read(frames=file.frames, dtype="float32", always_2d=True)
            return samples, int(file.samplerate)
    except soundfile.LibsndfileError as exc:
        raise BadInput(f"'{path}' cannot be read as sound: {exc.error_string}", _REMEDY) from exc


def _too_long(path: Path, seconds: float) -> BadInput:
    return BadInput(f"'{path}' is {seconds / 60:.0f} minutes long, too long to be read whole", "cut it into pieces")


def _soundfile(path: Path) -> ModuleType:
    try:
        return importlib.import_module("soundfile")
    except ImportError as exc:
        message = f"'{path}' is not plain WAV; other sound files need soundfile, which is not installed"
        raise MissingExtra(message, "pip install 'edgert[media]'") from exc
    except OSError as exc:  # the package is there, its library is not
        raise MissingExtra(f"soundfile cannot load its library: {exc}", "install libsndfile") from exc
