"""Sound at another sample rate: a windowed-sinc filter, evaluated only where a sample is wanted (polyphase).

The method is that of J. O. Smith, "Digital Audio Resampling" (https://ccrma.stanford.edu/~jos/resample/).
"""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

ZERO_CROSSINGS = 64  # of the sinc, on each side
KAISER_BETA = 10.0  # the stop band is about 100 dB down
ROLLOFF = 0.95  # of the band that both rates can hold
BLOCK = 1 << 16  # output samples made at a time: their input stays in the processor's cache
MIN_PERIODS = 64
STEPS = 4096  # of the table of the filter between two zero crossings; linear between them, wrong by less than 1e-7


def resample(wave: NDArray[np.float32], rate: int, wanted: int) -> NDArray[np.float32]:
    """Return mono sound of `rate` Hz, float32 [samples], at `wanted` Hz: ceil(samples * wanted / rate) samples.

    Silence is assumed before the first sample and after the last one; the result is not delayed.
    """
    if rate == wanted or not wave.size:
        return wave
    up, down = (value // math.gcd(rate, wanted) for value in (wanted, rate))
    count = -(-wave.size * up // down)
    band = ROLLOFF * min(1.0, up / down)
    half = math.ceil(ZERO_CROSSINGS / band)
    padded = np.pad(wave, (half, half + down))
    periods = max(MIN_PERIODS, BLOCK // up)  # of the filter's phases; after one, `down` input samples are used up
    result = np.empty(count, np.float32)
    for first in range(0, count, periods * up):
        piece = padded[first // up * down :]
        _fill(result[first : first + periods * up], piece, up, down, half, band)
    return result


def _fill(result: NDArray[np.float32], padded: NDArray[np.float32], up: int, down: int, half: int, band: float) -> None:
    """Fill `result` from an input that begins `half` samples before its first sample."""
    for phase in range(min(up, result.size)):
        # Output sample n lies n * down / up input samples from the start; all n of one phase share the fraction.
        start, fraction = divmod(phase * down, up)
        places = result[phase::up]
        windows = np.lib.stride_tricks.sliding_window_view(padded[start:], 2 * half)[::down]
        places[:] = windows[: places.size] @ _taps(fraction / up, half, band)


def _taps(fraction: float, half: int, band: float) -> NDArray[np.float32]:
    """Return the weights of the samples at -half..half-1 for a point `fraction` of a sample after the one at 0."""
    place = np.abs(fraction - np.arange(-half, half)) * (band * STEPS)
    index = np.minimum(place.astype(np.int64), ZERO_CROSSINGS * STEPS)
    table = _half_of_the_filter()
    values = table[index] + (place - index) * (table[index + 1] - table[index])
    taps: NDArray[np.float32] = (band * values).astype(np.float32)
    return taps


@cache
def _half_of_the_filter() -> NDArray[np.float64]:
    """Return the windowed sinc at distances of 0, 1/STEPS, 2/STEPS... zero crossings; 0 from the last one on."""
    distance = np.arange(ZERO_CROSSINGS * STEPS) / STEPS
    window = np.i0(KAISER_BETA * np.sqrt(1 - (distance / ZERO_CROSSINGS) ** 2)) / np.i0(KAISER_BETA)
    return np.append(np.sinc(distance) * window, [0.0, 0.0])
