"""Metrics of sounds: closed forms, what they must not see, and faults that must be seen."""

import numpy as np
import pytest

from pofx.metrics import frechet, log_spectral_distance, loudness_features, mel_cepstral_distance, signal_to_noise
from pofx.metrics.audio import mel_bank

RATE = 8000


def noise(seed: int, n: int = 4, length: int = 4000) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, length))


def tone(pitch: float, length: int = 4000) -> np.ndarray:
    return np.sin(2 * np.pi * pitch * np.arange(length) / RATE)


def test_signal_to_noise_is_the_ratio_of_powers():
    y, e = noise(0), noise(1)
    e *= np.sqrt(np.square(y).sum(1) / np.square(e).sum(1))[:, None]  # as loud as the sound, so that a tenth is 20 dB
    m = signal_to_noise(y + 0.1 * e, y)
    assert m.value == pytest.approx(20.0) and m.better == "higher" and m.low <= m.value <= m.high
    assert signal_to_noise(y, y).value == 100.0
    assert signal_to_noise(0 * y, y).value == pytest.approx(0.0)


def test_the_scaled_ratio_does_not_see_loudness():
    y, e = noise(0), noise(1)
    e -= (e * y).sum(1, keepdims=True) / np.square(y).sum(1, keepdims=True) * y  # orthogonal
    e *= np.sqrt(np.square(y).sum(1) / np.square(e).sum(1))[:, None]
    assert signal_to_noise(5 * (y + 0.1 * e), y, scaled=True).value == pytest.approx(20.0)
    assert signal_to_noise(5 * (y + 0.1 * e), y).value < -10


def test_ten_times_as_loud_is_20_decibels_apart_and_of_the_same_timbre():
    y = noise(0)
    m = log_spectral_distance(10 * y, y)
    assert m.value == pytest.approx(20.0, abs=0.01)
    assert log_spectral_distance(y, y).value == 0
    assert mel_cepstral_distance(10 * y, y, RATE).value == pytest.approx(0.0, abs=0.01)


def test_white_noise_is_as_far_from_itself_as_two_exponentials():
    """log of an exponential has variance pi^2 / 6, so two differ by 10 / ln 10 sqrt(pi^2 / 3) = 7.9 dB.

    The first and last of 129 frequencies are real, with three times that variance.
    """
    m = log_spectral_distance(noise(0, 8, 20000), noise(1, 8, 20000))
    assert m.value == pytest.approx(10 / np.log(10) * np.sqrt(np.pi**2 / 3 * 133 / 129), abs=0.06)


def test_phase_is_heard_by_one_only():
    pitch = 1000.0  # 8 samples a turn, so every frame has the same power
    a, b = np.stack([tone(pitch)] * 2), np.stack([np.roll(tone(pitch), 2)] * 2)
    assert log_spectral_distance(a, b).value == pytest.approx(0.0, abs=1e-6)
    assert mel_cepstral_distance(a, b, RATE).value == pytest.approx(0.0, abs=1e-6)
    assert signal_to_noise(a, b).value == pytest.approx(10 * np.log10(1 / 2), abs=1e-6)


def test_all_mel_cepstra_are_the_deviation_of_decibels_over_the_bands():
    bands, window = 12, 64
    x, y = noise(0, 1, window)[0], noise(1, 1, window)[0]
    shape = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    apart = [10 * np.log10(mel_bank(RATE, window, bands) @ np.abs(np.fft.rfft(s * shape)) ** 2) for s in (x, y)]
    got = mel_cepstral_distance([x, x], [y, y], RATE, window, window, bands, bands - 1)
    assert got.value == pytest.approx((apart[0] - apart[1]).std(), rel=1e-9)
    # and of a few: c_k by its own sum, 1 / B sum_j log e_j cos
    c, d = (
        [np.mean(np.log(10) / 10 * e * np.cos(np.pi * k * (np.arange(bands) + 0.5) / bands)) for k in range(1, 5)]
        for e in apart
    )
    want = 10 / np.log(10) * np.sqrt(2 * np.square(np.subtract(c, d)).sum())
    assert mel_cepstral_distance([x, x], [y, y], RATE, window, window, bands, 4).value == pytest.approx(want, rel=1e-9)


def test_triangles_meet_at_their_feet():
    bank = mel_bank(RATE, 512, 20)
    peaks = bank.argmax(1)
    assert (np.diff(peaks) > 0).all() and bank.max() <= 1
    inner = bank[:, peaks[0] + 1 : peaks[-1]].sum(0)
    np.testing.assert_allclose(inner, 1.0, atol=1e-9)  # neighbours share what lies between their peaks
    assert np.diff(np.fft.rfftfreq(512, 1 / RATE)[peaks])[-1] > 2 * np.diff(np.fft.rfftfreq(512, 1 / RATE)[peaks])[0]


def test_another_pitch_is_another_timbre():
    low, high = np.stack([tone(300), tone(320)]), np.stack([tone(2000), tone(2100)])
    near = mel_cepstral_distance(low, 0.9 * low + 0.01 * noise(0, 2), RATE).value
    assert mel_cepstral_distance(low, high, RATE).value > 2 * near


def test_features_tell_kinds_of_sound_apart():
    white, more = noise(0, 60), noise(1, 60)
    dull = np.cumsum(noise(2, 60), 1) / 30
    far = frechet(loudness_features(white, RATE), loudness_features(dull, RATE), rng=0).value
    near = frechet(loudness_features(white, RATE), loudness_features(more, RATE), rng=0).value
    assert far > 10 * near


def test_silence_is_no_logarithm_of_nothing():
    y = noise(0)
    y[:, 2000:] = 0
    assert np.isfinite(log_spectral_distance(y, y).value) and log_spectral_distance(y, y).value == 0
    assert np.isfinite(log_spectral_distance(0 * y, y).value)
    assert np.isfinite(loudness_features(0 * y, RATE)).all()
    with pytest.raises(ValueError, match="silent"):
        signal_to_noise(y, 0 * y)


@pytest.mark.parametrize(
    ("x", "truth", "says"),
    [
        (noise(0, 2, 50), noise(0, 2, 60), "expected pairs of one length"),
        (noise(0, 2), noise(0, 3), "2 sounds for 3 truths"),
        (noise(0, 3, 1)[:, :0], noise(0, 3, 1)[:, :0], "at least one"),
        (np.full((2, 9), np.nan), np.ones((2, 9)), "finite"),
        (noise(0, 1), noise(0, 1), "at least 2"),
        (noise(0, 2).reshape(2, 40, 100), noise(0, 2).reshape(2, 40, 100), "expected finite samples"),
    ],
)
def test_pairs_that_do_not_match_are_refused(x, truth, says):
    for metric in (signal_to_noise, log_spectral_distance, lambda a, b: mel_cepstral_distance(a, b, RATE)):
        with pytest.raises(ValueError, match=says):
            metric(x, truth)


def test_sounds_of_several_lengths_and_short_ones():
    y = [noise(0)[0], noise(1)[0, :100]]
    assert log_spectral_distance([2 * s for s in y], y).value == pytest.approx(20 * np.log10(2), abs=0.05)
    for settings in ({"window": 2}, {"hop": 0}, {"hop": 999}):
        with pytest.raises(ValueError, match="window"):
            log_spectral_distance(y, y, **settings)
    with pytest.raises(ValueError, match="order"):
        mel_cepstral_distance(y, y, RATE, order=26)
