"""Rubin's rules: by hand, against their limits, and by simulation with proper draws."""

import numpy as np
import pytest
from scipy.stats import t

from pofx.metrics.pooling import mean_of, pool, pooled


def test_by_hand():
    """van Buuren 2018, section 2.4: m = 3, q = 1, 2, 3, u = 4; df of complete data 20."""
    found = pool([1.0, 2.0, 3.0], [4.0, 4.0, 4.0], df=20, level=0.95)
    between, total = 1.0, 4.0 + 4 / 3
    share = (4 / 3) / total
    old, seen = 2 / share**2, 21 / 23 * 20 * (1 - share)
    df = old * seen / (old + seen)
    assert found.estimate == 2.0 and found.within == 4.0 and found.between == between
    assert np.isclose(found.total, total) and np.isclose(found.df, df) and np.isclose(found.rise, 1 / 3)
    assert np.isclose(found.missing, (1 / 3 + 2 / (df + 3)) / (4 / 3))
    assert np.isclose(found.high - 2, t.ppf(0.975, df) * total**0.5) and np.isclose(found.low + found.high, 4.0)


def test_large_sample_df_are_rubins():
    found = pool([1.0, 2.0, 3.0], [4.0, 4.0, 4.0])
    assert np.isclose(found.df, 2 * (1 + 3) ** 2)  # (m - 1)(1 + 1 / r)^2


def test_nothing_missing_is_the_plain_interval():
    found = pool(np.full((4, 2), 3.0), np.full((4, 2), 0.25), df=9)
    assert np.allclose(found.df, 10 / 12 * 9) and np.allclose(found.missing, 0) and np.allclose(found.stderr, 0.5)
    assert np.isinf(pool([1.0, 1.0], [1.0, 1.0]).df)


def test_no_variance_within_is_all_missing():
    found = pool([0.0, 1.0], [0.0, 0.0])
    assert found.missing == 1 and np.isclose(found.df, 1) and np.isinf(found.rise)


@pytest.mark.parametrize(
    "q, u", [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([1.0, 2.0], [1.0, -1.0]), ([1.0, np.nan], [1, 1])]
)
def test_what_it_refuses(q, u):
    with pytest.raises(ValueError, match="pool"):
        pool(q, u)


def _covered(proper: bool, seed: int, trials: int = 2000, n: int = 40, m: int = 10) -> float:
    """Share of 90 % intervals for a mean that hold it; 60 % of a normal column are missing, filled by its own law."""
    rng, k = np.random.default_rng(seed), int(0.4 * n)
    seen = rng.normal(size=(trials, k))
    mu, sd = np.broadcast_to(seen.mean(1), (m, trials)), np.broadcast_to(seen.std(1, ddof=1), (m, trials))
    if proper:  # a draw of the parameters from their posterior
        sd = sd * np.sqrt((k - 1) / rng.chisquare(k - 1, (m, trials)))
        mu = mu + sd / np.sqrt(k) * rng.normal(size=(m, trials))
    filled = mu[..., None] + sd[..., None] * rng.normal(size=(m, trials, n - k))
    sets = np.concatenate([np.broadcast_to(seen, (m, trials, k)), filled], 2)
    found = pool(sets.mean(2), sets.var(2, ddof=1) / n, df=n - 1, level=0.9)
    return float(((found.low <= 0) & (found.high >= 0)).mean())


@pytest.mark.parametrize("seed", range(5))
def test_intervals_cover_as_they_say_and_improper_draws_do_not(seed):
    """2000 trials: standard error 0.007."""
    assert abs(_covered(True, seed) - 0.9) < 0.03
    assert _covered(False, seed) < 0.83


def test_pooled_runs_the_analysis_on_every_set():
    sets = [{"a": np.array([0.0, 1.0, 2.0]) + k} for k in range(3)]
    found = pooled(sets, mean_of("a"))
    assert found.estimate == 2.0 and np.isclose(found.within, 1 / 3) and found.between == 1.0


def test_in_words():
    words = pool([1.0, 2.0, 3.0], [0.1, 0.1, 0.1], df=20).explain()
    assert "2, 95% interval" in words and "3 completions" in words and "More completions" in words
