"""Log-mel features and normalised samples, without the library they imitate; `test_against_transformers` has that."""

import time

import numpy as np
import pytest

from edgert.runtime.mel import fit_length, log_mel, normalised
from edgert.task import AudioSpec

SPEC = AudioSpec("x", "log-mel", 16000, 1.0, n_fft=400, hop=160, mels=80)
EXPECTED = [
    [1.2183, -0.4386, -0.4386, -0.4386, -0.4386],
    [0.9491, -0.2264, -0.4386, -0.4386, -0.4386],
    [0.6031, 0.61, -0.4386, -0.4386, -0.4386],
    [0.3398, -0.4386, -0.178, -0.4386, -0.4386],
    [0.1098, -0.4386, -0.4386, -0.4386, -0.4386],
]
"""Every 16th band and 20th frame that WhisperFeatureExtractor(chunk_length=1) of transformers 4.57.6 gave."""


def chirp() -> np.ndarray:
    """Return half a second of a tone that rises from 300 Hz."""
    seconds = np.arange(8000) / 16000
    return np.sin(2 * np.pi * (300 + 2000 * seconds) * seconds).astype(np.float32)


def test_log_mel_equals_what_transformers_gave() -> None:
    """The features of a chirp and the silence after it are the stored ones."""
    features = log_mel(fit_length(chirp(), 16000), SPEC)
    assert features.shape == (80, 100)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features[::16, ::20], EXPECTED, atol=1e-4)


def test_log_mel_of_thirty_seconds_takes_no_time() -> None:
    """Features cost a small part of what the model costs: below 100 ms of processor time for 3000 frames."""
    wave = fit_length(np.tile(chirp(), 60), 30 * 16000)
    spans = []
    for _ in range(5):
        start = time.process_time()
        assert log_mel(wave, SPEC).shape == (80, 3000)
        spans.append(time.process_time() - start)
    assert min(spans) < 0.1


@pytest.mark.parametrize("samples", [0, 1, 160, 200, 201])
def test_log_mel_of_hardly_any_sound_is_finite(samples: int) -> None:
    """Even less than half a window can be mirrored."""
    assert np.isfinite(log_mel(np.ones(samples, np.float32), SPEC)).all()


def test_log_mel_of_another_rate_has_its_own_bands() -> None:
    """A tone is in the band of its frequency, whatever the sample rate: bands end at half of it."""
    spec = AudioSpec("x", "log-mel", 8000, n_fft=256, hop=80, mels=40)
    wave = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000).astype(np.float32)
    loudest = log_mel(wave, spec)[:, 50].argmax()
    edges = np.linspace(0, 15 + 27 * np.log(4) / np.log(6.4), 42)  # in mels of Slaney; 1000 Hz is 15
    assert edges[loudest] < 15 < edges[loudest + 2]


def test_fit_length_cuts_and_pads() -> None:
    """The first samples are kept, zeros follow, and 0 changes nothing."""
    wave = np.array([1, 2, 3], np.float32)
    assert fit_length(wave, 2).tolist() == [1, 2]
    assert fit_length(wave, 5).tolist() == [1, 2, 3, 0, 0]
    assert fit_length(wave, 0) is wave


def test_normalised_of_silence_is_finite() -> None:
    """A variance of zero divides by no zero."""
    assert normalised(np.zeros(10, np.float32)).tolist() == [0] * 10
