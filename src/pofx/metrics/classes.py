"""How good class probabilities are.

    accuracy     mean [argmax p = y]                          log loss   -mean log p_y
    calibration  sum_b n_b/n |accuracy_b - confidence_b|      over bins of equal count of the largest p
    risk-coverage  error among the k most confident, for every k; its mean is the area (AURC)

Offers `accuracy`, `log_loss`, `calibration_error`, `risk_coverage`, `temperature_of`. Only the temperature is fitted.
References: Guo 2017 arXiv:1706.04599 (temperature); Geifman & El-Yaniv 2017 arXiv:1705.08500 (risk and coverage).
"""

from __future__ import annotations

import numpy as np

from pofx.metrics.base import Array, ArrayLike, Metric, bootstrap, mean_metric, proportion, to_numpy
from pofx.randomness import Rng

FLOOR = 1e-12


def accuracy(p: ArrayLike, y: ArrayLike) -> Metric:
    """Share of rows whose likeliest class (of p (N, K)) is y (N,). Wilson's interval; unbiased in N."""
    p, y = _checked(p, y)
    return proportion("accuracy", float((p.argmax(1) == y).sum()), len(y), "higher")


def log_loss(p: ArrayLike, y: ArrayLike) -> Metric:
    """Mean -log p of the true class, nats; Student's interval. Unbiased in N."""
    p, y = _checked(p, y)
    return mean_metric("log loss", -np.log(np.maximum(p[np.arange(len(y)), y], FLOOR)), "lower")


def calibration_error(p: ArrayLike, y: ArrayLike, bins: int = 15) -> Metric:
    """Mean gap between confidence and accuracy over bins of equal count.

    Bias in N: upwards, about sqrt(bins / N) for a perfect model: compare at the same N and bins.
    """
    p, y = _checked(p, y)
    pairs = np.stack([p.max(1), p.argmax(1) == y], 1).astype(float)
    low, high = bootstrap(lambda a: _gap(a, bins), [pairs], Rng(0), centred=True)
    note = f"{bins} bins of equal count; a perfect model shows about {np.sqrt(bins / len(y)) * 0.3:.2g}"
    return Metric("calibration error", _gap(pairs, bins), max(low, 0.0), high, len(y), "lower", note)


def risk_coverage(confidence: ArrayLike, wrong: ArrayLike) -> tuple[Array, Array]:
    """(coverage, risk), both (N,): the error rate among the k/N most confident rows, k = 1 .. N; ties in file order."""
    order = np.argsort(-to_numpy(confidence), kind="stable")
    wrong = to_numpy(wrong).astype(float)[order]
    count = np.arange(1, len(wrong) + 1)
    return count / len(wrong), np.cumsum(wrong) / count


def temperature_of(log_p: ArrayLike, y: ArrayLike) -> float:
    """T > 0 that minimises the log loss of softmax(log p / T) on rows that were not trained on (N, K), (N,)."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    scores, y = to_numpy(log_p).astype(float), to_numpy(y).astype(int)
    scores = np.maximum(scores - scores.max(1, keepdims=True), -1e6)

    def loss(log_t: float) -> float:
        return float(-log_softmax(scores / np.exp(log_t), axis=1)[np.arange(len(y)), y].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-6, 8), method="bounded").x))


def _checked(p: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    p, y = to_numpy(p).astype(float), to_numpy(y).astype(int).reshape(-1)
    if p.ndim != 2 or len(p) != len(y) or not len(y) or not 0 <= y.min() <= y.max() < p.shape[1]:
        raise ValueError(f"got p of shape {p.shape} and {len(y)} classes; expected (N, K) and N codes below K.")
    return p, y


def _gap(pairs: Array, bins: int) -> float:
    parts = np.array_split(pairs[np.argsort(pairs[:, 0], kind="stable")], min(bins, len(pairs)))
    return float(sum(len(b) * abs(b[:, 0].mean() - b[:, 1].mean()) for b in parts) / len(pairs))
