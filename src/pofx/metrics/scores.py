"""How answers are judged: anomaly scores, p-values, errors, intervals, predictive draws.

    AUROC    A = P(s_anomalous > s_normal) + P(equal) / 2
    p-value  p_i = (1 + #{j: cal_j >= s_i}) / (n + 1)
    RMSE     sqrt(mean (prediction - truth)^2)
    CRPS     mean_k |x_k - y| - 1/2 mean_{k != l} |x_k - x_l|

Offers `auroc`, `conformal_pvalues`, `strangest_pvalues`, `typicality_pvalues`, `benjamini_hochberg`, `storey`,
`OnlineFDR`, `rmse`, `interval_coverage`, `crps_sample`, `crps_values`. Nothing is fitted. Larger scores are more
anomalous everywhere.

References: DeLong 1988; Sun & Xu 2014 (fast DeLong); Bates 2023 arXiv:2104.08279; Benjamini & Hochberg 1995; Storey,
Taylor & Siegmund 2004; Mary & Roquain 2022 arXiv:2106.13501; Ramdas 2017 arXiv:1710.00499 (LORD++); Gneiting & Raftery
2007; Ferro 2014 (fair CRPS).
"""

from __future__ import annotations

from collections import deque

import numpy as np

from pofx.metrics.base import (
    Array,
    ArrayLike,
    Metric,
    RngSource,
    bootstrap,
    matrix,
    mean_metric,
    normal_interval,
    proportion,
    to_numpy,
    vector,
)


def auroc(scores_normal: ArrayLike, scores_anomalous: ArrayLike, level: float = 0.95) -> Metric:
    """Area under the ROC curve of scores (N,) and (M,), larger = more anomalous, ties count half; DeLong's interval.

    Where the two are separated without an inversion DeLong's variance is 0; then the open end of the interval is
    (1 - level)/2 to the power 1/min(N, M), what a single group of that size could still hide.

    Bias in N: none; the interval is asymptotic, fair from about 20 of each.

    Raises:
        ValueError: NaN, infinities, or no scores.
    """
    a, b = vector(scores_normal, "scores_normal"), vector(scores_anomalous, "scores_anomalous")
    if not len(a) or not len(b):
        raise ValueError(f"auroc: got {len(a)} normal and {len(b)} anomalous scores; expected at least one of each.")
    value, variance = delong(a, b)
    low, high = normal_interval(value, float(np.sqrt(variance)), level)
    open_end = ((1 - level) / 2) ** (1 / min(len(a), len(b)))
    if value in (0.0, 1.0) or min(len(a), len(b)) < 2:
        low, high = (open_end, 1.0) if value == 1 else (0.0, 1 - open_end) if value == 0 else (0.0, 1.0)
    note = f"{len(a)} normal, {len(b)} anomalous"
    return Metric("AUROC", value, max(low, 0.0), min(high, 1.0), len(a) + len(b), "higher", note)


def delong(a: Array, b: Array) -> tuple[float, float]:
    """P(b > a) + P(b = a)/2 and DeLong's variance of it (0 with one row of either); a (N,), b (M,). Unbiased in N."""
    n, m = len(a), len(b)
    below = (np.searchsorted(np.sort(a), b) + np.searchsorted(np.sort(a), b, side="right")) / (2 * n)
    above = 1 - (np.searchsorted(np.sort(b), a) + np.searchsorted(np.sort(b), a, side="right")) / (2 * m)
    if min(n, m) < 2:
        return float(below.mean()), 0.0
    return float(below.mean()), float(below.var(ddof=1) / m + above.var(ddof=1) / n)


def conformal_pvalues(calibration_scores: ArrayLike, scores: ArrayLike) -> Array:
    """p-values (M,) of scores (M,) against calibration scores (n,) of normal rows that the model did not see.

    p_i = (1 + #{cal >= s_i}) / (n + 1). Where normal rows are exchangeable, P(p <= u) <= u for every u and n; ties
    make p too large, never too small.

    Bias in N: none on the safe side; the smallest possible p is 1 / (n + 1), so n bounds what can be rejected.

    Raises:
        ValueError: NaN or infinities, or no calibration scores. Source: Bates 2023 arXiv:2104.08279.
    """
    cal, s = np.sort(vector(calibration_scores, "calibration_scores")), vector(scores, "scores")
    if not len(cal):
        raise ValueError("conformal_pvalues: got no calibration scores; expected scores of held-out normal rows.")
    return (1 + len(cal) - np.searchsorted(cal, s, side="left")) / (len(cal) + 1)


def strangest_pvalues(calibration_scores: ArrayLike, scores: ArrayLike) -> Array:
    """p-values (M,) of rows by the strangest of K scores: (K, n) of normal rows that no model saw, (K, M) to judge.

    Among the n and the one that is judged, r_k = #{rows: their k-th score >= its own} and T = min_k r_k of each, and
    p = #{rows: T <= its own} / (n + 1). The scales of the scores do not matter. Where normal rows are exchangeable,
    P(p <= u) <= u for every u, n and K, for the judged row is treated as the others are.

    Bias in N: none on the safe side; the smallest possible p is 1 / (n + 1).

    Raises:
        ValueError: NaN or infinities, no calibration scores, or another number of scores. Source: full conformal
            prediction, Vovk et al. 2005 (Algorithmic Learning in a Random World).
    """
    known, asked = (np.atleast_2d(np.asarray(s, float)) for s in (calibration_scores, scores))
    if known.ndim != 2 or not known.shape[1] or len(known) != len(asked) or asked.ndim != 2:
        raise ValueError(
            f"strangest_pvalues: got calibration scores {known.shape} and scores {asked.shape}; expected (K, n) of "
            "held-out normal rows and (K, M)."
        )
    if not (np.isfinite(known).all() and np.isfinite(asked).all()):
        raise ValueError("strangest_pvalues: a score is NaN or infinite; expected finite numbers.")
    n, order = known.shape[1], np.sort(known, axis=1)
    above = np.stack([n - np.searchsorted(o, s) for o, s in zip(order, known, strict=True)])
    own = 1 + np.stack([n - np.searchsorted(o, s) for o, s in zip(order, asked, strict=True)]).min(0)
    found = []
    for j in range(asked.shape[1]):  # the judged row stands at or above some of the others
        theirs = (above + (asked[:, j : j + 1] >= known)).min(0)
        found.append((1 + (theirs <= own[j]).sum()) / (n + 1))
    return np.array(found)


def benjamini_hochberg(p: ArrayLike, level: float = 0.1) -> Array:
    """Which p-values (M,) to reject so that the expected share of false rejections is at most `level`; bool (M,).

    Reject the smallest k, k = max{i: p_(i) <= level i / M}. It holds for independent and for conformal p-values.

    Bias in N: none; the guarantee is level * (share of true nulls), so conservative by that factor.

    Raises:
        ValueError: p outside [0, 1] or level outside (0, 1). Source: Benjamini & Hochberg 1995.
    """
    p = vector(p, "p")
    if not 0 < level < 1 or (len(p) and (p.min() < 0 or p.max() > 1)):
        raise ValueError(f"benjamini_hochberg: got level={level} or p outside [0, 1]; expected probabilities.")
    good = np.flatnonzero(np.sort(p) <= level * np.arange(1, len(p) + 1) / max(len(p), 1))
    return p <= np.sort(p)[good[-1]] if len(good) else np.zeros(len(p), bool)


def storey(p: ArrayLike, level: float = 0.1, tail: float = 0.5) -> Array:
    """Benjamini-Hochberg at level / pi, pi = (1 + #{p > tail}) / (M (1 - tail)): the share of true nulls; bool (M,).

    It finds more where many rows are strange, and as many as Benjamini-Hochberg where few are. Conformal p-values keep
    the promise too (Mary & Roquain 2022).

    Bias in N: pi is too large, so conservative.

    Raises:
        ValueError: p outside [0, 1], or level or tail outside (0, 1). Source: Storey, Taylor & Siegmund 2004.
    """
    p = vector(p, "p")
    if not 0 < tail < 1 or not 0 < level < 1:
        raise ValueError(f"storey: got level={level} and tail={tail}; expected numbers between 0 and 1.")
    if not len(p):
        return np.zeros(0, bool)
    share = (1 + int((p > tail).sum())) / (len(p) * (1 - tail))
    # p above the tail was spent on the estimate, so it may not be rejected
    return benjamini_hochberg(p, min(level / share, 1 - 1e-12)) & (p <= tail)


def typicality_pvalues(calibration: ArrayLike, values: ArrayLike) -> Array:
    """p-values (M,) of |v - mean|, two-sided, against calibration values (n,) of rows that belong.

    For each v the mean is over the n + 1 values, v among them, so that all n + 1 distances are exchangeable and
    P(p <= u) <= u for every n: with the mean of the calibration alone v would lie too far away.

    Bias in N: none on the safe side; the smallest p is 1 / (n + 1).

    Raises:
        ValueError: NaN, infinities, or no calibration values. Source: Vovk 2005 (full conformal prediction).
    """
    cal, v = np.sort(vector(calibration, "calibration")), vector(values, "values")
    if not len(cal):
        raise ValueError("typicality_pvalues: got no calibration values; expected those of held-out rows that belong.")
    mean = (cal.sum() + v) / (len(cal) + 1)
    gap = np.abs(v - mean) * (1 - 1e-12)  # a value that is equal but for rounding counts as a tie
    outside = len(cal) - np.searchsorted(cal, mean + gap, "left") + np.searchsorted(cal, mean - gap, "right")
    return np.minimum((1 + outside) / (len(cal) + 1), 1.0)


class OnlineFDR:
    """LORD++: decides on p-values one by one, so that the false discovery rate stays below `level` at every time.

        level_t = g_t w + (a - w) g_{t - t_1} + a sum_{j >= 2} g_{t - t_j}
        g_j     = 0.0772 log(max(j, 2)) / (j e^sqrt(log j))

    a = level, w = a / 2, t_j the time of the j-th discovery: each one pays back what finding it cost. Only the last
    `memory` discoveries are kept; forgetting one makes level_t smaller, which is safe.

    The promise is for independent p-values; conformal ones share their calibration rows, so it holds nearly.
    Source: Ramdas et al. 2017 (arXiv:1710.00499).

    Args:
        level: between 0 and 1.
        memory: discoveries kept.
    """

    def __init__(self, level: float = 0.1, memory: int = 1000) -> None:
        if not 0 < level < 1:
            raise ValueError(f"OnlineFDR: got level={level}; expected a number between 0 and 1.")
        self.level, self.time, self.first = level, 0, 0
        self.found: deque[int] = deque(maxlen=memory)

    @staticmethod
    def share(j: Array) -> Array:
        """g_j of whole numbers j >= 1 (J,): positive, falling, of sum at most 1."""
        j = np.asarray(j, float)
        return 0.0772 * np.log(np.maximum(j, 2)) / (j * np.exp(np.sqrt(np.log(j))))

    def threshold(self) -> float:
        """The level at which the next p-value is judged."""
        t, start = self.time + 1, self.level / 2
        level = start * float(self.share(np.array([t]))[0])
        if self.first:
            level += (self.level - start) * float(self.share(np.array([t - self.first]))[0])
        later = np.array([t - one for one in self.found])
        return level + (self.level * float(self.share(later).sum()) if len(later) else 0.0)

    def __call__(self, p: ArrayLike) -> Array:
        """Which of the next p-values (M,), in their order, are discoveries; bool (M,)."""
        decided = np.zeros(len(vector(p, "p")), bool)
        for i, one in enumerate(vector(p, "p")):
            decided[i] = one <= self.threshold()
            self.time += 1
            if decided[i] and self.first:
                self.found.append(self.time)
            self.first = self.first or (self.time if decided[i] else 0)
        return decided


def rmse(prediction: ArrayLike, truth: ArrayLike, rng: RngSource = 0, draws: int = 200) -> Metric:
    """Root mean squared error over rows (N, ...), in the data's units, with a bootstrap interval over rows.

    Bias in N: downwards by about Var(squared error) / (8 N MSE^1.5): small.

    Raises:
        ValueError: shapes differ, NaN.
    """
    a, b = matrix(prediction, "prediction"), matrix(truth, "truth")
    if a.shape != b.shape:
        raise ValueError(f"rmse: got shapes {a.shape} and {b.shape}; expected the same.")
    squares = ((a - b) ** 2).mean(1)
    low, high = bootstrap(lambda s: float(np.sqrt(s.mean())), [squares], rng, draws)
    return Metric("RMSE", float(np.sqrt(squares.mean())), low, high, len(a), "lower")


def interval_coverage(low: ArrayLike, high: ArrayLike, truth: ArrayLike, level: float = 0.9) -> Metric:
    """Share of truths (...) inside their closed intervals [low, high]; the nominal `level` stands in the note.

    Best is the nominal level, not 1: above it the intervals are too wide. Wilson's interval takes entries as
    independent.

    Bias in N: none for given intervals; intervals between the extreme quantiles of m draws cover (m-1)/(m+1) at most.

    Raises:
        ValueError: shapes differ, NaN.
    """
    a, b, y = vector(low, "low"), vector(high, "high"), vector(truth, "truth")
    if not a.shape == b.shape == y.shape:
        raise ValueError(
            f"interval_coverage: got {len(a)}, {len(b)} and {len(y)} values; expected one of each per entry."
        )
    inside = float(((a <= y) & (y <= b)).sum())
    return proportion("coverage", inside, len(y), "higher", note=f"nominal {level:g}; best is the nominal level, not 1")


def crps_sample(draws: ArrayLike, truth: ArrayLike, fair: bool = True) -> Metric:
    """Mean continuous ranked probability score of draws (m, *batch) for truth (*batch), in its units; t interval.

    Bias in N: none in the number of draws m if `fair`; with fair=False it is too large by E|X - X'| / 2m.

    Raises:
        ValueError: shapes do not fit, NaN, or fewer than two draws.
    """
    values = crps_values(draws, truth, fair).reshape(-1)
    return mean_metric("CRPS", values, "lower", note=f"{len(to_numpy(draws))} draws")


def crps_values(draws: ArrayLike, truth: ArrayLike, fair: bool = True) -> Array:
    """The score of each entry, (*batch); shapes, bias and errors as in `crps_sample`. Gneiting & Raftery 2007."""
    x, y = to_numpy(draws).astype(np.float64), to_numpy(truth).astype(np.float64)
    m = len(x) if x.ndim else 0
    if m < 2 or x.shape[1:] != y.shape or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(
            f"crps: got draws {x.shape} and truth {y.shape}; expected finite (m >= 2, *batch) and (*batch)."
        )
    weights = (2 * np.arange(1, m + 1) - m - 1).reshape(-1, *[1] * y.ndim)  # sum_{k<l} (x_(l) - x_(k))
    spread = (weights * np.sort(x, axis=0)).sum(0) / (m * (m - 1) if fair else m**2)
    return np.abs(x - y).mean(0) - spread
