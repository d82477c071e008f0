"""Synth: a piano roll as sound, by adding sines.

    note(t) = attack(t) sum_{h=1}^{H} h^{-3/2} e^{-d h t} sin(2 pi h f t),        f = 440 2^((key - 48) / 12)

A key that goes on is one note. Needs nothing but NumPy; WAV files are written by the standard library.
"""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from pofx.kinds._scores import notes_of

RATE, HARMONICS = 16000, 6
ATTACK, RELEASE, DECAY = 0.015, 0.12, 0.9


def rendered(roll: np.ndarray, seconds: float = 0.6, rate: int = RATE) -> np.ndarray:
    """A roll (T, 88) as samples (S,) int16 of `seconds` a step.

    Raises:
        ValueError: no time, or a rate below 1000.
    """
    if not 0 < seconds <= 60 or rate < 1000:
        raise ValueError(f"render: got {seconds} s a step and {rate} samples a second; expected > 0 and >= 1000.")
    out = np.zeros(round((len(roll) * seconds + 2 * RELEASE) * rate) + 1)
    for key, first, end in notes_of(roll):
        start, length = round(first * seconds * rate), round(((end - first) * seconds + RELEASE) * rate)
        out[start : start + length] += _note(440.0 * 2 ** ((key - 48) / 12), length, rate)
    top = max(float(np.abs(out).max()), 1e-9)
    return np.round(out / top * 0.8 * 32767).astype(np.int16)


def write_wav(path: str | Path, samples: np.ndarray, rate: int = RATE) -> None:
    """Write samples (S,) int16 as a WAV file."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


def _note(pitch: float, length: int, rate: int) -> np.ndarray:
    time = np.arange(length) / rate
    tone = np.zeros(length)
    for h in range(1, HARMONICS + 1):
        if h * pitch < rate / 2:  # above it, it would come back as another tone
            tone += h**-1.5 * np.exp(-DECAY * h * time) * np.sin(2 * np.pi * h * pitch * time)
    left = np.arange(length, 0, -1) / rate
    return tone * np.minimum(1, time / ATTACK) * np.minimum(1, left / RELEASE)
