"""How sounds are judged against the sound that was meant: signal to noise, and distances of spectra and of cepstra.

    SNR = 10 log10 sum y^2 / sum (x - y)^2              x a sound, y the truth; scaled: with (x.y / y.y) y in place of y
    LSD = mean_t sqrt(mean_f (10 log10 |Y_tf|^2 / |X_tf|^2)^2)                                            decibels
    MCD = mean_t 10 / ln 10 sqrt(2 sum_{k=1}^{K} (c_tk - d_tk)^2),   log e_tj = c_t0 + 2 sum_k c_tk cos(pi k (j+.5)/B)

e_tj are the energies of B bands on the mel scale. c_t0, the loudness, does not count; with all other cepstra MCD is the
deviation over the bands of their difference in decibels.

All take samples in any unit, the same for both; powers below FLOOR times the loudest of the truth count as that floor,
so that silence against silence is 0 and not a logarithm of nothing. What a wrong phase costs only SNR sees: sounds made
of loudness alone (mel view) are judged by the two others. Nothing is aligned in time: that is the caller's.
Offers `signal_to_noise`, `log_spectral_distance`, `mel_cepstral_distance`, and `loudness_features`, which turn sounds
into rows for the metrics of samples (`frechet`, `kid`, `c2st`).

References: Gray and Markel 1976 (LSD); Kubichek 1993 (MCD); Le Roux 2018 (arXiv:1811.02508: the scaled SNR);
O'Shaughnessy 1987 (the mel scale).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pofx.metrics.base import Array, ArrayLike, Metric, mean_metric, to_numpy

FLOOR = 1e-7  # -70 decibels
MOST = 100.0  # decibels of a copy, whose signal to noise is infinite
Sounds = ArrayLike | Sequence[ArrayLike]


def signal_to_noise(x: Sounds, truth: Sounds, scaled: bool = False) -> Metric:
    """Mean signal to noise of pairs of sounds, decibel; an exact copy counts as 100.

    Args:
        x, truth: (N, L), or N sounds (L_i,), each as long as its truth.
        scaled: whether a sound that is only louder or softer counts as the same (SI-SDR).

    Bias in N: none. Bias in L: none.

    Raises:
        ValueError: other numbers or lengths, not finite, fewer than two sounds, or a silent truth.
    """

    def ratio(a: Array, b: Array) -> float:
        power = float(b @ b)
        if not power:
            raise ValueError("signal_to_noise: a truth is silent; expected a signal: leave that pair out.")
        target = (float(a @ b) / power) * b if scaled else b
        kept, lost = float(target @ target), float(np.square(a - target).sum())
        return float(np.clip(10 * np.log10(max(kept, 1e-300) / max(lost, 1e-300)), -MOST, MOST))

    name = "scaled SNR (dB)" if scaled else "SNR (dB)"
    return mean_metric(name, _each("signal_to_noise", x, truth, ratio), "higher")


def log_spectral_distance(x: Sounds, truth: Sounds, window: int = 256, hop: int = 128) -> Metric:
    """Mean distance of the logarithms of spectra of pairs of sounds, decibel.

    Args:
        x, truth: (N, L), or N sounds (L_i,), each as long as its truth.
        window, hop: samples of a spectrum (Hann), and from one to the next.

    Bias in N: none. A spectrum of noise is itself noise: two honest draws of white noise are 7.9 dB apart, not 0.

    Raises:
        ValueError: other numbers or lengths, not finite, fewer than two sounds, or a window that is no such number.
    """

    def distance(a: Array, b: Array) -> float:
        p, q = _decibels(_power(a, window, hop), _power(b, window, hop))
        return float(np.sqrt(np.square(p - q).mean(1)).mean())

    return mean_metric("log-spectral distance (dB)", _each("log_spectral_distance", x, truth, distance), "lower")


def mel_cepstral_distance(
    x: Sounds, truth: Sounds, rate: float, window: int = 256, hop: int = 128, bands: int = 26, order: int = 13
) -> Metric:
    """Mean distance of mel cepstra of pairs of sounds, decibel: of their timbre, whatever their loudness.

    Args:
        x, truth: (N, L), or N sounds (L_i,), each as long as its truth.
        rate: samples a second.
        window, hop: samples of a spectrum (Hann), and from one to the next.
        bands: triangles of equal width on the mel scale.
        order: K, cepstra that count, less than the bands.

    Bias in N: none. As of LSD, noise has a distance of its own from noise.

    Raises:
        ValueError: other numbers or lengths, not finite, fewer than two sounds, or a setting that does not fit.
    """
    if not 1 <= order < bands or rate <= 0:
        raise ValueError(
            f"mel_cepstral_distance: order {order}, bands {bands}, rate {rate}; expected 1 <= order < bands."
        )
    bank = mel_bank(rate, window, bands)
    k, j = np.arange(1, order + 1)[:, None], np.arange(bands)[None]
    cosines = np.sqrt(2 / bands) * np.cos(np.pi * k * (j + 0.5) / bands)

    def distance(a: Array, b: Array) -> float:
        p, q = _decibels(_power(a, window, hop) @ bank.T, _power(b, window, hop) @ bank.T)
        return float(np.sqrt(np.square((p - q) @ cosines.T).sum(1) / bands).mean())

    return mean_metric("mel-cepstral distance (dB)", _each("mel_cepstral_distance", x, truth, distance), "lower")


def loudness_features(x: Sounds, rate: float, window: int = 256, hop: int = 128, bands: int = 26) -> Array:
    """What a sound is like on the whole, `(N, 2 bands)`: mean and deviation over time of each band's decibels.

    Args:
        x: (N, L), or N sounds (L_i,).
        rate: samples a second. window, hop, bands: as of `mel_cepstral_distance`.

    Bias in N: none, each row is of one sound.

    Raises:
        ValueError: not finite, or a window that is no such number.
    """
    bank, rows = mel_bank(rate, window, bands), []
    for sound in _sounds("loudness_features", x):
        power = _power(sound, window, hop) @ bank.T
        decibels = 10 * np.log10(np.maximum(power, FLOOR * max(float(power.max()), 1e-300)))
        rows.append(np.concatenate([decibels.mean(0), decibels.std(0)]))
    return np.stack(rows)


def mel_bank(rate: float, window: int, bands: int) -> Array:
    """Triangles `(bands, window // 2 + 1)` between 0 and rate / 2, evenly on the mel scale 2595 log10(1 + f / 700)."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    f = np.fft.rfftfreq(window, 1 / rate)
    rise = (f - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - f) / np.diff(edges)[1:, None]
    return np.maximum(0.0, np.minimum(rise, fall))


def _power(x: Array, window: int, hop: int) -> Array:
    """Powers `(frames, window // 2 + 1)` under a Hann window; a short sound is followed by silence."""
    if window < 4 or not 1 <= hop <= window:
        raise ValueError(
            f"got window {window} and hop {hop}; expected 4 samples or more, and a hop of at most a window."
        )
    x = np.pad(x, (0, max(0, window - len(x))))
    frames = np.lib.stride_tricks.sliding_window_view(x, window)[::hop]
    shape = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    return np.square(np.abs(np.fft.rfft(frames * shape, axis=1)))


def _decibels(p: Array, q: Array) -> tuple[Array, Array]:
    """Both in decibels, above a floor that the truth q sets."""
    floor = FLOOR * max(float(q.max()), 1e-300)
    return 10 * np.log10(np.maximum(p, floor)), 10 * np.log10(np.maximum(q, floor))


def _each(name: str, x: Sounds, truth: Sounds, distance: Callable[[Array, Array], float]) -> Array:
    pairs = list(zip(_sounds(name, x), own := _sounds(name, truth), strict=False))
    lengths = [(len(a), len(b)) for a, b in pairs]
    if len(own) != len(_sounds(name, x)) or any(a != b for a, b in lengths):
        raise ValueError(
            f"{name}: got {len(_sounds(name, x))} sounds for {len(own)} truths, of lengths "
            f"{next((p for p in lengths if p[0] != p[1]), '(equal)')}; expected pairs of one length: cut or pad them."
        )
    return np.array([distance(a, b) for a, b in pairs])


def _sounds(name: str, x: Sounds) -> list[Array]:
    many = [to_numpy(s).astype(np.float64) for s in x]
    for k, sound in enumerate(many):
        if sound.ndim != 1 or not len(sound) or not np.isfinite(sound).all():
            raise ValueError(f"{name}: sound {k} has shape {sound.shape}; expected finite samples (L,), at least one.")
    return many
