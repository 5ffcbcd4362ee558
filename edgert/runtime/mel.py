"""Features of sound: the log-mel spectrogram of Whisper, and samples with mean 0 and variance 1.

Equal within rounding to WhisperFeatureExtractor and Wav2Vec2FeatureExtractor of the library transformers.
"""

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgert.task import AudioSpec

Wave = NDArray[np.float32]

_FLOOR = 1e-10  # of the power in a band
_RANGE = 8.0  # decades below the loudest
_VARIANCE_FLOOR = 1e-7


def fit_length(wave: Wave, samples: int) -> Wave:
    """Return exactly `samples` samples: the first ones, with zeros after them; 0 leaves the wave as it is."""
    if not samples:
        return wave
    return np.pad(wave[:samples], (0, max(0, samples - wave.size)))


def normalised(wave: Wave) -> Wave:
    """Return the samples with mean 0 and variance 1."""
    values: Wave = ((wave - wave.mean()) / np.sqrt(wave.var() + _VARIANCE_FLOOR)).astype(np.float32)
    return values


def log_mel(wave: Wave, spec: AudioSpec) -> NDArray[np.float32]:
    """Return float32 [mels, frames]: one frame per `hop` samples, values of about -1..1.

    The wave is mono at the spec's sample rate; its length is the caller's. Frames are centred (the ends are
    mirrored) and weighted by a Hann window; power in Slaney's mel bands, log10, 8 decades below the loudest.
    """
    half = spec.n_fft // 2
    wave = fit_length(wave, max(wave.size, half + 1))
    mirrored = np.pad(wave.astype(np.float64), half, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(mirrored, spec.n_fft)[:: spec.hop][:-1]
    spectrum = np.fft.rfft(frames * _hann(spec.n_fft))
    power = spectrum.real**2 + spectrum.imag**2
    bands = np.log10(np.maximum(_filters(spec.n_fft, spec.mels, spec.sample_rate) @ power.T, _FLOOR))
    loudest = bands.max(initial=math.log10(_FLOOR))
    features: NDArray[np.float32] = ((np.maximum(bands, loudest - _RANGE) + 4.0) / 4.0).astype(np.float32)
    return features


@cache
def _hann(length: int) -> NDArray[np.float64]:
    """Return the periodic Hann window."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)


@cache
def _filters(n_fft: int, mels: int, sample_rate: int) -> NDArray[np.float64]:
    """Return [mels, n_fft // 2 + 1]: triangles between 0 Hz and half the sample rate, each of the same area."""
    frequencies = np.linspace(0, sample_rate // 2, n_fft // 2 + 1)
    edges = _to_hertz(np.linspace(0.0, _to_mel(sample_rate / 2), mels + 2))
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - lower) / (centre - lower), (upper - frequencies) / (upper - centre)
    triangles: NDArray[Any] = np.maximum(0.0, np.minimum(rising, falling)) * 2.0 / (upper - lower)
    return triangles


def _to_mel(hertz: float) -> float:
    """Return mels of Slaney's Auditory Toolbox: linear below 1000 Hz, logarithmic above."""
    return 3 * hertz / 200 if hertz < 1000 else 15 + math.log(hertz / 1000) * 27 / math.log(6.4)


def _to_hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mels < 15, 200 * mels / 3, 1000 * np.exp(math.log(6.4) / 27 * (mels - 15)))
