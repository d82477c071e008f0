"""Did the model copy its training rows? A test that needs a hold-out and nothing else.

    share = mean over samples of  #{training rows} / #{rows}  at the nearest distinct row of  train + hold-out
    excess = (share - s0) / (1 - s0),   s0 = N / (N + H)

A sample that does not know which rows were for training is nearest to one with probability s0, *whatever* its
distribution (mode-seeking, blurred, discrete): train and hold-out are exchangeable. So the null is exact, its
variance is that of relabelling the rows, and `excess` estimates the share of samples that are copies.

Offers `copying` -> `Copying`. Nothing is fitted. `flagged` is true if one of three rules fires, each at p < 0.001:
  memorised   excess > 0.15 beyond its noise
  exact       among the samples that equal a row, more are training rows than chance allows, > 1 % of all samples
  near        more samples than hold-out rows sit at a third of the distance to the second nearest training row
              (3 d1 < d2), > 10 % more, counted over distinct training rows so that one lucky row is no evidence

References: Meehan 2020 arXiv:2004.05675 (data-copying test); Zhang 2024 arXiv:2310.09656 (share closer to train);
Yoon 2023, Gu 2023 arXiv:2310.02664 (the ratio 1/3); DeLong 1988 (interval of the AUC).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pofx.metrics.base import Array, ArrayLike, Metric, chunks, matrix, proportion, z_of
from pofx.metrics.scores import auroc

Z = 3.09  # one-sided p = 0.001


@dataclass(frozen=True)
class Copying:
    """Report on copying; shares are of samples.

    Attributes:
        exact: samples equal to a training row; `exact_holdout`: the same of hold-out rows, what chance alone gives.
        near: samples with 3 d1 < d2 (distances to the two nearest training rows); `near_holdout`: of hold-out rows.
        excess: estimated share of copies, 0 if there are none.
        below_median, below_5_percent: samples nearer to a training row than that quantile of the hold-out rows
            (honest: 0.5 and 0.05).
        auc: P(a sample is nearer to train than a hold-out row is); honest 0.5. Above 0.5 also for mode-seeking models,
            so it describes and does not decide.
        flagged, why: the verdict and the rules that gave it.
    """

    exact: Metric
    exact_holdout: Metric
    near: Metric
    near_holdout: Metric
    excess: Metric
    below_median: Metric
    below_5_percent: Metric
    auc: Metric
    flagged: bool
    why: str


def copying(train: ArrayLike, holdout: ArrayLike, samples: ArrayLike, standardise: bool = True) -> Copying:
    """Judge samples (S, D) against the rows the model saw, train (N, D), and rows it did not, holdout (H, D).

    Hold-out rows must come from the same source as the training rows, split at random, else the null does not hold.
    Distances are Euclidean, in units of each training column's deviation unless standardise=False, which is better for
    pictures: nearly constant pixels would outweigh the others and hide a noisy copy.

    Bias in N: `excess` has mean 0 for an honest sample at every N, H and S; its noise grows with N/H,
    so a hold-out much smaller than train sees only strong copying. `exact`, `near` and the quantiles depend on N and
    must be read against the hold-out's own.

    Raises:
        ValueError: columns differ, NaN, or too few rows (2 to train, 1 held out, 1 sample).
    """
    x, h, y = _same_scale(matrix(train, "train"), matrix(holdout, "holdout"), matrix(samples, "samples"), standardise)
    (d_y, second_y, row_y), (d_h, second_h, row_h) = _two_nearest(y, x), _two_nearest(h, x)
    near_y, near_h = 3 * d_y < second_y, 3 * d_h < second_h
    excess, sd, exact_excess, exact_sd, equal = _exchangeable(x, h, y)
    rules = {
        "memorised": excess - Z * sd > 0.15,
        "exact": exact_excess > max(0.01, Z * exact_sd),
        "near": near_y.mean() - near_h.mean() > 0.1 and _more_rows(near_y, row_y, near_h, row_h) < 0.001,
    }
    why = ", ".join(name for name, fired in rules.items() if fired)
    half = z_of(0.95) * sd
    note = f"estimated share of copies; N = {len(x)}, H = {len(h)}, exact excess {exact_excess:.3g}, equal rows {equal}"
    return Copying(
        exact=_share("exact", d_y == 0),
        exact_holdout=_share("exact (hold-out)", d_h == 0),
        near=_share("near", near_y),
        near_holdout=_share("near (hold-out)", near_h),
        excess=Metric("excess", excess, excess - half, excess + half, len(y), "lower", note),
        below_median=_share("below median", d_y < np.median(d_h), "honest: at most 0.5"),
        below_5_percent=_share("below 5 %", d_y < np.quantile(d_h, 0.05), "honest: at most 0.05"),
        auc=_nearness(d_y, d_h),
        flagged=bool(why),
        why=why or "no rule fired",
    )


def _same_scale(x: Array, h: Array, y: Array, standardise: bool) -> tuple[Array, Array, Array]:
    if not x.shape[1] == h.shape[1] == y.shape[1] or len(x) < 2:
        raise ValueError(
            f"copying: got train {x.shape}, holdout {h.shape}, samples {y.shape}; "
            "expected the same columns and at least 2 training rows."
        )
    scale = x.std(0) if standardise else np.ones(x.shape[1])
    scale = np.where(scale > 0, scale, 1.0)
    return x / scale, h / scale, y / scale  # equal stays equal: the same division everywhere


def _two_nearest(y: Array, x: Array) -> tuple[Array, Array, Array]:
    """Distance to the nearest and second nearest row of x (repeats count), and the nearest row's index."""
    from scipy.spatial.distance import cdist

    first, second, row = np.zeros(len(y)), np.zeros(len(y)), np.zeros(len(y), int)
    for s in chunks(len(y), len(x)):
        d = cdist(y[s], x)
        row[s] = d.argmin(1)
        first[s], second[s] = np.partition(d, 1, axis=1)[:, :2].T
    return first, second, row


def _exchangeable(x: Array, h: Array, y: Array) -> tuple[float, float, float, float, int]:
    """Excess and its relabelling deviation over all samples, the same over samples that equal a row, their number."""
    pool, group = np.unique(np.concatenate([x, h]), axis=0, return_inverse=True)
    group = group.reshape(-1)
    members = np.bincount(group, minlength=len(pool))
    trained = np.bincount(group[: len(x)], minlength=len(pool))
    d, row = _nearest(y, pool)
    n, total, equal = len(x), len(x) + len(h), d == 0
    everything = _excess(np.bincount(row, minlength=len(pool)), members, trained, n, total, len(y))
    exactly = _excess(np.bincount(row[equal], minlength=len(pool)), members, trained, n, total, len(y))
    return *everything, *exactly, int(equal.sum())


def _nearest(y: Array, pool: Array) -> tuple[Array, Array]:
    from scipy.spatial.distance import cdist

    d, row = np.zeros(len(y)), np.zeros(len(y), int)
    for s in chunks(len(y), len(pool)):
        block = cdist(y[s], pool)
        row[s] = block.argmin(1)
        d[s] = np.take_along_axis(block, row[s, None], axis=1)[:, 0]
    return d, row


def _excess(hits: Array, members: Array, trained: Array, n: int, total: int, samples: int) -> tuple[float, float]:
    """(sum of credits - expectation) / (1 - s0) / samples, and its deviation when labels are dealt at random."""
    s0 = n / total
    gap = float((hits * trained / members).sum() - s0 * hits.sum())
    spread = float((hits**2 / members).sum() - hits.sum() ** 2 / total)  # sum over rows of (c_i - mean)^2
    variance = s0 * (1 - s0) * total / max(total - 1, 1) * max(spread, 0.0)
    return gap / (1 - s0) / samples, float(np.sqrt(variance)) / (1 - s0) / samples


def _more_rows(near_y: Array, row_y: Array, near_h: Array, row_h: Array) -> float:
    """Fisher's one-sided p that samples sit close to more of the distinct training rows they reach than hold-outs."""
    from scipy.stats import fisher_exact

    (a, a_all), (b, b_all) = (_rows_near(near, row) for near, row in ((near_y, row_y), (near_h, row_h)))
    return float(fisher_exact([[a, a_all - a], [b, b_all - b]], alternative="greater")[1])


def _rows_near(near: Array, row: Array) -> tuple[int, int]:
    """Training rows reached, each counted by its share of near visitors, and all training rows reached."""
    visitors = np.bincount(row)
    reached = visitors > 0
    return round((np.bincount(row, weights=near)[reached] / visitors[reached]).sum()), int(reached.sum())


def _share(name: str, hits: Array, note: str = "") -> Metric:
    return proportion(name, float(hits.sum()), len(hits), "lower", note=note)


def _nearness(d_y: Array, d_h: Array) -> Metric:
    a = auroc(-d_h, -d_y)
    return Metric(
        "nearness AUC", a.value, a.low, a.high, a.n, "lower", "honest: 0.5; above it also for mode-seeking models"
    )
