"""Spoken digits synthesised with espeak-ng: accents, voice variants, pitches, speeds, noise."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

RATE = 16000
ESPEAK_RATE = 22050
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = (
    "en-gb",
    "en-us",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
)
VARIANTS = ("", "+m1", "+m3", "+m5", "+f1", "+f2", "+f4", "+croak", "+klatt2")
HELD_OUT_ACCENT, HELD_OUT_VARIANT = "en-029", "+f1"
DATA_LICENCE = "Apache-2.0 (speech synthesised for this project with espeak-ng)"

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Recordings:
    """One second of sound each: waves (samples, RATE), labels, and who is held out."""

    waves: Samples
    labels: NDArray[np.int64]
    held_out: NDArray[np.bool_]


def speak(word: str, voice: str, pitch: int, speed: int) -> Samples:
    """Return a word spoken by espeak-ng, at most one second, at RATE."""
    command = ["espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(speed), "--stdout", word]
    wav = subprocess.run(command, capture_output=True, check=True).stdout
    start = wav.index(b"data") + 8  # the length field of a streamed file is not to be trusted
    usable = (len(wav) - start) // 2 * 2
    sound = np.frombuffer(wav[start : start + usable], np.int16).astype(np.float32) / 32768
    divisor = np.gcd(RATE, ESPEAK_RATE)
    sound = resample_poly(sound, RATE // divisor, ESPEAK_RATE // divisor)
    return np.asarray(sound[:RATE], np.float32)


def record(sound: Samples, random: np.random.Generator) -> Samples:
    """Place a sound in one second at a random time and loudness, with white noise."""
    offset = int(random.integers(RATE - len(sound) + 1))
    noise = 10 ** random.uniform(-3, -1.8)
    wave = random.normal(0, noise, RATE)
    wave[offset : offset + len(sound)] += sound * random.uniform(0.3, 1)
    return np.clip(wave, -1, 1).astype(np.float32)


def synthesise(repeats: int, seed: int) -> Recordings:
    """Let every voice say every digit `repeats` times, at random pitches and speeds."""
    random = np.random.default_rng(seed)
    waves, labels, held_out = [], [], []
    for accent, variant in product(ACCENTS, VARIANTS):
        print(f"speaking as {accent}{variant}", flush=True)
        for label, _ in product(range(len(WORDS)), range(repeats)):
            pitch, speed = int(random.integers(20, 81)), int(random.integers(120, 221))
            waves.append(record(speak(WORDS[label], accent + variant, pitch, speed), random))
            labels.append(label)
            held_out.append(accent == HELD_OUT_ACCENT or variant == HELD_OUT_VARIANT)
    return Recordings(np.stack(waves), np.array(labels, np.int64), np.array(held_out))
