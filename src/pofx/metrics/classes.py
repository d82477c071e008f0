"""How good class probabilities are.

    accuracy     mean [argmax p = y]                          log loss   -mean log p_y
    calibration  sum_b n_b/n |accuracy_b - confidence_b|      over bins of equal count of the largest p
    risk-coverage  error among the k most confident, for every k      AURC   its mean over k, the area below it

Offers `accuracy`, `log_loss`, `calibration_error`, `calibration_floor`, `reliability`, `risk_coverage`, `aurc`,
`temperature_of`. Only the temperature is fitted.
References: Guo 2017 (arXiv:1706.04599, temperature, calibration error); Nixon 2019 (arXiv:1904.01685, bins of equal
count); Geifman & El-Yaniv 2017 (arXiv:1705.08500, risk and coverage); Geifman 2019 (arXiv:1805.08206, its area, and the
area that the best order leaves).
"""

from __future__ import annotations

import numpy as np
import torch

from pofx.metrics.base import (
    Array,
    ArrayLike,
    Metric,
    RngSource,
    bootstrap,
    mean_metric,
    proportion,
    to_numpy,
    vector,
)
from pofx.randomness import Rng

FLOOR = 1e-12
COLDEST, HOTTEST = -6.0, 8.0  # log T


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

    Bias in N: upwards, about sqrt(bins / N) times the spread of a bin's hits, for chance opens gaps in a perfect model,
    too: compare at the same N and bins, and with `calibration_floor`, which the note tells.
    """
    p, y = _checked(p, y)
    pairs = np.stack([p.max(1), p.argmax(1) == y], 1).astype(float)
    low, high = bootstrap(lambda a: _gap(a, bins), [pairs], Rng(0), centred=True)
    note = f"{bins} bins of equal count; a perfect model as sure as this one shows {calibration_floor(p, bins):.2g}"
    return Metric("calibration error", _gap(pairs, bins), max(low, 0.0), high, len(y), "lower", note)


def calibration_floor(p: ArrayLike, bins: int = 15, draws: int = 200, rng: RngSource = 0) -> float:
    """The calibration error to expect if every row (of p (N, K)) were right with the probability that it claims.

    By simulation, so that the bias of few rows and many sure ones is counted as it is. Bias in N: none beyond the noise
    of the draws.
    """
    sure, rng = to_numpy(p).astype(float).max(1), Rng(rng)
    made = (np.stack([sure, rng.uniform((len(sure),), torch.float64).numpy() < sure], 1) for _ in range(draws))
    return float(np.mean([_gap(pairs, bins) for pairs in made]))


def reliability(p: ArrayLike, y: ArrayLike, bins: int = 15) -> tuple[Array, Array, Array]:
    """(confidence, accuracy, rows), each (B,): the reliability diagram, over bins of equal count of the largest p.

    Bias in N: none in a bin's two means; that they differ says little where `rows` is small.
    """
    p, y = _checked(p, y)
    total, rows = _sums(np.stack([p.max(1), p.argmax(1) == y], 1).astype(float), bins)
    return total[:, 0] / rows, total[:, 1] / rows, rows


def risk_coverage(confidence: ArrayLike, wrong: ArrayLike) -> tuple[Array, Array]:
    """(coverage, risk), both (N,): the error rate among the k/N most confident rows, k = 1 .. N.

    Rows that are equally sure are in no order: each counts with the mean error of all of them, which is what a random
    order gives on average. Bias in N: upwards, of order 1/k, for the k surest of few rows reach further down.
    """
    sure, wrong = vector(confidence, "confidence"), vector(wrong, "wrong")
    if len(sure) != len(wrong) or not len(sure):
        raise ValueError(
            f"risk_coverage: got {len(sure)} confidences, {len(wrong)} errors; expected one of each a row."
        )
    _, place, rows = np.unique(-sure, return_inverse=True, return_counts=True)
    mean = np.bincount(place, wrong) / rows
    count = np.arange(1, len(wrong) + 1)
    return count / len(wrong), np.cumsum(np.repeat(mean, rows)) / count


def aurc(confidence: ArrayLike, wrong: ArrayLike) -> Metric:
    """The area under the risk-coverage curve: the error rate, averaged over how many of the surest rows are kept.

    A random order gives the error rate itself; the note tells what the best order of these errors leaves. Bias in N:
    upwards, by about the error rate over N where risk grows evenly with rank.
    """
    pairs = np.stack([vector(confidence, "confidence"), vector(wrong, "wrong")], 1)
    low, high = bootstrap(lambda a: _area(a), [pairs], Rng(0), centred=True)
    best = _area(np.stack([-pairs[:, 1], pairs[:, 1]], 1))
    note = f"all rows: {pairs[:, 1].mean():.3g}; with every error last: {best:.2g}"
    return Metric("area under risk-coverage", _area(pairs), max(low, 0.0), high, len(pairs), "lower", note)


def temperature_of(log_p: ArrayLike, y: ArrayLike) -> float:
    """T > 0 that minimises the log loss of softmax(log p / T) on rows that were not trained on (N, K), (N,).

    Where all rows are right, the smaller T the better, without end: T is then such that the mean of the largest
    probabilities is (N + 1) / (N + 2), the rule of succession, for N rows without an error are no proof of none.
    """
    from scipy.optimize import brentq, minimize_scalar
    from scipy.special import log_softmax, softmax

    scores, y = to_numpy(log_p).astype(float), to_numpy(y).astype(int)
    scores = np.maximum(scores - scores.max(1, keepdims=True), -1e6)

    def loss(log_t: float) -> float:
        return float(-log_softmax(scores / np.exp(log_t), axis=1)[np.arange(len(y)), y].mean())

    def beyond(log_t: float) -> float:
        return float(softmax(scores / np.exp(log_t), axis=1).max(1).mean()) - (len(y) + 1) / (len(y) + 2)

    if (scores.argmax(1) == y).all() and beyond(COLDEST) > 0 > beyond(HOTTEST):
        return float(np.exp(brentq(beyond, COLDEST, HOTTEST)))
    return float(np.exp(minimize_scalar(loss, bounds=(COLDEST, HOTTEST), method="bounded").x))


def _checked(p: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    p, y = to_numpy(p).astype(float), to_numpy(y).astype(int).reshape(-1)
    if p.ndim != 2 or len(p) != len(y) or not len(y) or not 0 <= y.min() <= y.max() < p.shape[1]:
        raise ValueError(f"got p of shape {p.shape} and {len(y)} classes; expected (N, K) and N codes below K.")
    return p, y


def _sums(pairs: Array, bins: int) -> tuple[Array, Array]:
    """Rows (confidence, right) in bins of equal count: the sums of both, (B, 2), and how many rows, (B,)."""
    bins = min(bins, len(pairs))
    rows = len(pairs) // bins + (np.arange(bins) < len(pairs) % bins)
    known = pairs[np.argsort(pairs[:, 0], kind="stable")]
    return np.add.reduceat(known, np.concatenate([[0], rows.cumsum()[:-1]]), axis=0), rows


def _gap(pairs: Array, bins: int) -> float:
    total, _ = _sums(pairs, bins)
    return float(np.abs(total[:, 0] - total[:, 1]).sum() / len(pairs))


def _area(pairs: Array) -> float:
    return float(risk_coverage(pairs[:, 0], pairs[:, 1])[1].mean())
