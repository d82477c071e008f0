"""Which modes of the data the samples reach, and in how many bins their shares differ from the data's.

    r_k = n_k / N,   f_k = m_k / M                      shares of N real and M sampled rows in bin k
    modes = #{k : f_k >= r_k / 5}
    NDB   = 1/K #{k : |r_k - f_k| > 1.96 sqrt(p_k (1 - p_k) (1/N + 1/M))},    p_k = (n_k + m_k) / (N + M)

A bin is a class of the reference rows where labels are given, else one of K cells of k-means. Either way a row belongs
to its nearest point: to the class of the nearest reference row, which keeps the shares of classes where these overlap
(a majority vote would give the rarer one's rows to the more frequent), or to the nearest centre.

A bin is judged where it holds 10 real rows and 10 sampled ones are to be expected: below that an honest set of samples
misses a mode by chance. Bins that are not judged count nowhere; the note says how many they are, and how many real rows
they hold.

Offers `modes` -> `Modes`. Fitted: the centres, by scikit-learn's `KMeans` on the reference rows.
References: Richardson and Weiss 2018 (arXiv:1805.12462: NDB, k-means cells, the test of two proportions); Srivastava et
al. 2017 (arXiv:1705.07761: modes counted by a classifier); Rubin 1981 (the Bayesian bootstrap).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pofx.metrics.base import Array, ArrayLike, Metric, RngSource, chunks, pair, proportion, to_numpy, z_of
from pofx.randomness import Rng

CELLS = 20  # of k-means, where there are rows enough
ROWS = 10  # real rows in a bin, and sampled ones to be expected there, from which on it is judged
LEAST = 0.2  # of the real rows' share, which reaches a mode


@dataclass(frozen=True)
class Modes:
    """What was counted.

    Attributes:
        reached: number of judged modes that the samples reach.
        different: NDB, the share of judged bins whose shares differ significantly.
        judged: how many bins were judged.
        missed: names of the judged modes that are not reached.
        shares: name of each bin, judged or not -> (share of real rows, share of samples).
    """

    reached: Metric
    different: Metric
    judged: int
    missed: tuple[str, ...]
    shares: dict[str, tuple[float, float]]


def modes(
    real: ArrayLike,
    fake: ArrayLike,
    reference: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    cells: int = CELLS,
    rng: RngSource = 0,
    draws: int = 2000,
) -> Modes:
    """Count the modes of real rows (N, D) that fake rows (M, D) reach, and the bins where their shares differ.

    Args:
        real, fake: float rows; features rather than pixels, since bins are by Euclidean distance.
        reference: (R, D) that the bins are made of; None: the real rows themselves, each of which is then named by the
            nearest *other* row, so that real and sampled rows are named alike.
        labels: (R,) the class of each reference row; None: cells of k-means.
        cells: K at most; fewer where a cell would hold less than 20 rows of a set on average.
        rng: of the first centres, and of the interval's draws.
        draws: of the interval of `reached`.

    Returns:
        `reached` has the interval of the Bayesian bootstrap (Rubin 1981) over real and sampled rows, with half a row
        more in each bin: plain resampling never refills an empty bin, so its interval of a rare mode is too sure. It
        covers the noise of both sets' rows and not how bins were made; measured, it holds the truth in 90 % or more,
        but in 60 to 80 % where three shares stand exactly at the threshold (percentiles of resampled rows: 62 %).
        `different` has Wilson's interval over the bins (measured: 91 to 99 % for the value that is to be expected);
        rows drawn again differ in 17 % of the bins of honest sets, so their percentiles lie too high. Both are NaN
        where no bin can be judged.

    Bias in N: `reached` misses an honest mode with probability below .003 at every N; it is not to be compared where
    other numbers of bins were judged. `different` is about .05 at every N for honest samples (measured .03 to .06; down
    to .01 with few cells of the real rows themselves, which even out their own counts); for others it rises with N, as
    the test gains power: compare only at the same N, M and K.

    Raises:
        ValueError: columns differ, NaN, or labels that do not fit the reference.
    """
    x, y = pair(real, fake)
    z = x if reference is None else pair(reference, fake)[0]
    stream = Rng(rng)
    if labels is None:
        points, code, words = _cells(z, max(2, min(cells, min(len(x), len(y), len(z)) // (2 * ROWS))), stream)
    else:
        points, code, words = _classes(z, labels)
    own = labels is not None and reference is None
    counts = [np.bincount(code[_nearest(a, points, b)], minlength=len(words)) for a, b in ((x, own), (y, False))]
    return _judged(counts[0], counts[1], words, "cells" if labels is None else "classes", stream, draws)


def _classes(z: Array, labels: ArrayLike) -> tuple[Array, Array, list[str]]:
    """Each reference row is a point of its class."""
    names = to_numpy(labels).reshape(-1)
    if len(names) != len(z):
        raise ValueError(f"modes: got {len(names)} labels for {len(z)} reference rows; expected one each.")
    words, code = np.unique(names.astype(str) if names.dtype == object else names, return_inverse=True)
    return z, code.reshape(-1), [str(word) for word in words]


def _cells(z: Array, k: int, rng: Rng) -> tuple[Array, Array, list[str]]:
    """Centres of k-means, at most as many as there are different rows."""
    from sklearn.cluster import KMeans

    k = min(k, len(np.unique(z, axis=0)))
    points = KMeans(k, n_init=4, random_state=rng.seed() % 2**31).fit(z).cluster_centers_
    return points, np.arange(k), [str(j) for j in range(k)]


def _nearest(a: Array, points: Array, others: bool) -> Array:
    """Number of the nearest point (N,); `others`: a are the points, and each looks for another one."""
    found, squares = np.zeros(len(a), int), np.square(points).sum(1)
    for s in chunks(len(a), len(points)):
        d = squares - 2 * a[s] @ points.T
        if others:
            d[np.arange(len(d)), np.arange(s.start, s.start + len(d))] = np.inf
        found[s] = d.argmin(1)
    return found


def _judged(n: Array, m: Array, words: list[str], kind: str, rng: Rng, draws: int) -> Modes:
    """The two counts, from the numbers of real and sampled rows in each bin, `(K,)` each."""
    r, f = n / n.sum(), m / m.sum()
    judged = (n >= ROWS) & (r * m.sum() >= ROWS)
    reached, far = judged & (f >= LEAST * r), judged & (np.abs(_z(n, m)) > z_of(0.95))
    k = int(judged.sum())
    left = f"; {len(n) - k} with too few rows, {float(r[~judged].sum()):.0%} of the real ones, left out"
    missed = tuple(word for word, here in zip(words, judged & ~reached, strict=True) if here)
    some = f"; missed: {', '.join(missed[:8])}{' ...' if len(missed) > 8 else ''}" if missed else ""
    about = f"of {k} {kind}{left if k < len(n) else ''}"
    hits, gaps = int(reached.sum()), int(far.sum())
    low, high = _interval(n, m, judged, draws, rng)
    count = float(hits) if k else np.nan
    note = f"{hits} {about}{some}; honest samples reach all at every N, but for one mode in 300 at most"
    power = f"{gaps} {about}; honest samples: about 0.05 at every N; others: more as N grows"
    shares = {word: (float(a), float(b)) for word, a, b in zip(words, r, f, strict=True)}
    return Modes(
        Metric("modes", count, min(low, count), max(high, count), int(m.sum()), "higher", note),
        _share(gaps, k, int(m.sum()), power),
        k,
        missed,
        shares,
    )


def _share(hits: int, k: int, n: int, note: str) -> Metric:
    if not k:
        return Metric("NDB", np.nan, np.nan, np.nan, n, "lower", note)
    found = proportion("NDB", hits, k, "lower")
    return Metric("NDB", found.value, found.low, found.high, n, "lower", note)


def _z(n: Array, m: Array) -> Array:
    """The statistic of two proportions, pooled, of each bin; 0 where a bin is empty or holds everything."""
    p = (n + m) / (n.sum() + m.sum())
    spread = np.sqrt(p * (1 - p) * (1 / n.sum() + 1 / m.sum()))
    gap = n / n.sum() - m / m.sum()
    return np.divide(gap, spread, out=np.zeros(len(n)), where=spread > 0)


def _interval(n: Array, m: Array, judged: Array, draws: int, rng: Rng) -> tuple[float, float]:
    """Quantiles of the count over shares drawn from Dirichlet(counts + 1/2), real and sampled."""
    if not judged.any():
        return np.nan, np.nan
    numbers = np.random.default_rng(rng.seed())
    r, f = (numbers.dirichlet(counts + 0.5, size=draws) for counts in (n, m))
    values = (judged & (f >= LEAST * r)).sum(1)
    low, high = np.quantile(values, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)
