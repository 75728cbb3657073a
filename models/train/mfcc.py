"""MFCC features of one second of sound, as float32 of float16 precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

RATE = 16000
WINDOW, HOP, FFT = 640, 320, 1024
FRAMES = 1 + (RATE - WINDOW) // HOP
BANDS, COEFFICIENTS = 40, 10
LOWEST, HIGHEST = 60.0, 7600.0
FLOOR = 1e-4
MEAN = np.array([-14.158, -0.592, 1.192, 1.192, -0.476, -0.864, -0.382, -0.852, -0.246, -0.241])
STD = np.array([12.943, 6.392, 2.637, 4.047, 2.796, 2.398, 2.233, 1.924, 1.561, 1.320])
"""Mean and standard deviation of each coefficient over the training voices."""

Floats = NDArray[np.float64]


def mel(hertz: Floats | float) -> Floats:
    """Return frequencies on the mel scale."""
    return 2595 * np.log10(1 + np.asarray(hertz) / 700)


def filterbank() -> Floats:
    """Return overlapping triangular filters, equally wide in mel: (bins, BANDS)."""
    bins = mel(np.fft.rfftfreq(FFT, 1 / RATE))[:, None]
    edges = np.linspace(mel(LOWEST), mel(HIGHEST), BANDS + 2)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.clip(np.minimum(rising, falling), 0, None)


def cepstra(waves: NDArray[np.float32]) -> Floats:
    """Return the unscaled coefficients (samples, FRAMES, COEFFICIENTS)."""
    index = np.arange(WINDOW) + HOP * np.arange(FRAMES)[:, None]
    bank, window = filterbank(), np.hanning(WINDOW)
    results = []
    for wave in waves:
        power = np.abs(np.fft.rfft(wave[index] * window, FFT)) ** 2
        results.append(dct(np.log(power @ bank + FLOOR), norm="ortho", axis=-1))
    return np.stack(results)[..., :COEFFICIENTS]


def features(waves: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what the nets take: scaled coefficients, rounded so that they compress well."""
    return ((cepstra(waves) - MEAN) / STD).astype(np.float16).astype(np.float32)
