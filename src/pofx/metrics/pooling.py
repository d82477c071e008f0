"""Pooling: one estimate from analyses of several completed data sets, by Rubin's rules.

    q = mean_k q_k      W = mean_k u_k      B = sum_k (q_k - q)^2 / (m - 1)      T = W + (1 + 1/m) B
    r = (1 + 1/m) B / W      lambda = (1 + 1/m) B / T      nu_old = (m - 1) / lambda^2
    nu_obs = (nu + 1) / (nu + 3) nu (1 - lambda)           nu_com = 1 / (1 / nu_old + 1 / nu_obs)
    (q - Q) / sqrt(T) ~ t with nu_com degrees of freedom;  nu: those of the analysis of complete data

q_k is an estimate and u_k its squared standard error in the k-th completed data set. The interval is right where the
completions are proper: they also vary with what is not known about the law itself (`models` of `pofx.impute`).
References: Rubin 1987, chapter 3; Barnard and Rubin 1999; van Buuren 2018, section 2.4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Pooled:
    """A pooled estimate; every field but `draws` and `level` has the shape of the estimate.

    Args:
        estimate: mean over the completions.
        stderr: square root of the total variance.
        low, high: the interval at `level`.
        df: degrees of freedom of the t law.
        within, between, total: the variances W, B and T.
        missing: the fraction of missing information (2 / (df + 3) included).
        rise: the relative increase in variance due to what is missing.
        draws: m. level: of the interval.
    """

    estimate: Array
    stderr: Array
    low: Array
    high: Array
    df: Array
    within: Array
    between: Array
    total: Array
    missing: Array
    rise: Array
    draws: int
    level: float

    def explain(self) -> str:
        """What the numbers mean, in words."""
        lines = []
        facts = (np.atleast_1d(v) for v in (self.estimate, self.low, self.high, self.df, self.missing))
        for e, low, high, df, gone in zip(*(v.ravel() for v in facts), strict=True):
            lines.append(f"{e:.4g}, {self.level:.0%} interval {low:.4g} to {high:.4g} (t with {df:.3g} df)")
            lines[-1] += f"; {gone:.0%} of what complete data would say of it is missing"
        lines.append(f"Pooled over {self.draws} completions by Rubin's rules.")
        if float(np.max(self.missing)) * 100 > self.draws:
            lines.append(f"More completions would steady it: about {int(np.ceil(100 * np.max(self.missing)))}.")
        return "\n".join(lines)


def pool(estimates: Any, variances: Any, *, df: float = np.inf, level: float = 0.95) -> Pooled:
    """Pool m estimates by Rubin's rules.

    Args:
        estimates: `(m, *shape)`, one for each completed data set.
        variances: `(m, *shape)`, their squared standard errors.
        df: degrees of freedom of the analysis of complete data (rows less parameters); inf for a large sample.
        level: of the interval.

    Raises:
        ValueError: fewer than two estimates, shapes that differ, negative or non-finite numbers.
    """
    q, u = np.asarray(estimates, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    if q.ndim == 0 or len(q) < 2 or q.shape != u.shape:
        raise ValueError(f"pool: got estimates {q.shape} and variances {u.shape}; expected (m, ...) twice, m >= 2.")
    if not (np.isfinite(q).all() and np.isfinite(u).all() and (u >= 0).all()):
        raise ValueError("pool: an estimate or variance is negative or not finite; variances are squared errors.")
    if not 0 < level < 1 or not df > 0:
        raise ValueError(f"pool: got level {level} and df {df}; expected 0 < level < 1 and df > 0.")
    m = len(q)
    mean, within, between = q.mean(0), u.mean(0), q.var(0, ddof=1)
    extra = (1 + 1 / m) * between
    total = within + extra
    share = np.divide(extra, total, out=np.zeros_like(total), where=total > 0)
    rise = np.divide(extra, within, out=np.full_like(total, np.inf), where=within > 0)
    freedom = _freedom(share, m, df)
    half = _quantile((1 + level) / 2, freedom) * np.sqrt(total)
    gone = np.where(np.isinf(rise), 1.0, (_finite(rise) + 2 / (freedom + 3)) / (_finite(rise) + 1))
    gone = np.where(extra == 0, 0.0, gone)
    return Pooled(
        mean, np.sqrt(total), mean - half, mean + half, freedom, within, between, total, gone, rise, m, level
    )  # fmt: skip


def pooled(
    completed: Sequence[Any], analysis: Callable[[Any], tuple[Any, Any]], *, df: float = np.inf, level: float = 0.95
) -> Pooled:
    """Run an analysis on every completed data set and pool it.

    Args:
        completed: the data sets, as `impute(...).value` holds them.
        analysis: data set -> (estimate, squared standard error), numbers or arrays.
        df, level: see `pool`.
    """
    found = [analysis(rows) for rows in completed]
    return pool([np.asarray(q) for q, _ in found], [np.asarray(u) for _, u in found], df=df, level=level)


def mean_of(name: Any) -> Callable[[Any], tuple[float, float]]:
    """The analysis "mean of a column", for frames."""

    def analysis(rows: Any) -> tuple[float, float]:
        values = np.asarray(rows[name], dtype=np.float64)
        return float(values.mean()), float(values.var(ddof=1)) / len(values)

    return analysis


def _freedom(share: Array, m: int, df: float) -> Array:
    old = np.divide(m - 1, share**2, out=np.full_like(share, np.inf), where=share > 0)
    if np.isinf(df):
        return old
    observed = (df + 1) / (df + 3) * df * (1 - share)
    return np.where(np.isinf(old), observed, 1 / (1 / old + 1 / np.maximum(observed, 1e-12)))


def _finite(values: Array) -> Array:
    return np.where(np.isinf(values), 0.0, values)


def _quantile(level: float, freedom: Array) -> Array:
    from scipy.stats import norm, t

    finite = np.where(np.isinf(freedom), 1.0, freedom)
    return np.where(np.isinf(freedom), norm.ppf(level), t.ppf(level, finite))
