"""Spectra: sound as a picture of loudness over time and pitch, and the way back.

    S = |STFT(x)|^2,   M = mel S,   level = round((10 log10 M - LOW) / (HIGH - LOW) * (K - 1))     clipped to 0 .. K - 1

The way back takes S = M mel^+ (no less than 0) and a phase by Griffin and Lim, through librosa: a sound of that
loudness, not the sound that was read. Reference: Griffin and Lim 1984; Perraudin 2013 (the fast version).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pofx.kinds._sounds import needs

LOW, HIGH = -70.0, 10.0  # decibels of the power of a band, of samples in -1 .. 1
ROUNDS = 48


@dataclass(frozen=True)
class Mel:
    """One way to see sound.

    Args:
        rate: samples a second.
        mels: bands, from low to high.
        window: samples of a spectrum.
        hop: samples from one spectrum to the next.
        levels: K.
        low, high: decibels of the lowest and of the highest level.
    """

    rate: int
    mels: int = 32
    window: int = 256
    hop: int = 128
    levels: int = 64
    low: float = LOW
    high: float = HIGH

    def frames(self, samples: int) -> int:
        """How many spectra so many samples have."""
        return 1 + samples // self.hop

    @property
    def bank(self) -> np.ndarray:
        """The bands, (mels, window // 2 + 1)."""
        return needs("librosa").filters.mel(sr=self.rate, n_fft=self.window, n_mels=self.mels)

    def levels_of(self, x: np.ndarray) -> np.ndarray:
        """Samples (T,) in -1 .. 1 as levels (frames, mels)."""
        power = np.abs(self._stft(x)) ** 2
        decibels = 10 * np.log10(np.maximum(self.bank @ power, 1e-12))
        share = (decibels - self.low) / (self.high - self.low)
        return np.clip(np.round(share * (self.levels - 1)), 0, self.levels - 1).T.astype(np.uint8)

    def magnitude(self, levels: np.ndarray) -> np.ndarray:
        """The spectrum (window // 2 + 1, frames) of levels (frames, mels); the lowest level is silence."""
        share = levels.T.astype(np.float64) / (self.levels - 1)
        mel = np.where(levels.T > 0, 10 ** ((self.low + share * (self.high - self.low)) / 10), 0.0)
        bank = self.bank
        # each bin takes the mean of its bands: smooth where the inverse of the bank would ring
        density = mel / np.maximum(bank.sum(1, keepdims=True), 1e-12)
        return np.sqrt(bank.T @ density / np.maximum(bank.sum(0)[:, None], 1e-12))

    def sound(self, levels: np.ndarray) -> np.ndarray:
        """Samples (T,) in -1 .. 1 of levels (frames, mels)."""
        librosa = needs("librosa")
        x = librosa.griffinlim(
            self.magnitude(levels), n_iter=ROUNDS, hop_length=self.hop, win_length=self.window, random_state=0
        )
        return x.astype(np.float64)

    def filled(self, x: np.ndarray, known: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Samples whose gaps sound as the levels say, and go on from what is known, which stays as it is.

        Args:
            x: samples (T,) in -1 .. 1. known: (T,) bool.
            levels: (frames, mels), of the whole.
        """
        wanted, y = self.magnitude(levels), np.where(known, x, 0.0)
        inside = self._inside(known)
        start = self.sound(levels)[: len(x)]
        y = np.where(known, y, np.pad(start, (0, len(x) - len(start))))
        for _ in range(ROUNDS):
            found = self._stft(y)
            phase = found / np.maximum(np.abs(found), 1e-12)
            found = np.where(inside, wanted[:, : found.shape[1]] * phase, found)
            y = np.where(known, x, self._istft(found, len(x)))
        return y

    def _inside(self, known: np.ndarray) -> np.ndarray:
        """Which spectra touch a gap, (frames,)."""
        sums = np.concatenate([[0], np.cumsum(~known)])
        centre = np.arange(self.frames(len(known))) * self.hop
        first, end = (np.clip(centre + d, 0, len(known)) for d in (-self.window // 2, self.window // 2))
        return sums[end] > sums[first]

    def _stft(self, x: np.ndarray) -> np.ndarray:
        return needs("librosa").stft(x, n_fft=self.window, hop_length=self.hop, pad_mode="constant")

    def _istft(self, spectrum: np.ndarray, length: int) -> np.ndarray:
        return needs("librosa").istft(spectrum, hop_length=self.hop, length=length)


def companded(x: np.ndarray, bits: int) -> np.ndarray:
    """Whole samples of a width as mu-law codes 1 .. 255: 128 is silence."""
    share = x / 2 ** (bits - 1)
    pressed = np.sign(share) * np.log1p(255 * np.abs(share)) / np.log(256)
    return (np.round(pressed * 127) + 128).astype(np.uint8)


def expanded(codes: np.ndarray, bits: int) -> np.ndarray:
    """The whole samples that mu-law codes stand for."""
    pressed = (codes.astype(np.float64) - 128) / 127
    share = np.sign(pressed) * (256 ** np.abs(pressed) - 1) / 255
    top = 2 ** (bits - 1)
    return np.clip(np.round(share * top), -top, top - 1).astype(np.int32)
