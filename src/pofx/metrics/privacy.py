"""What samples give away about the rows they were learnt from.

    membership    AUC of "the nearest sample is near" for training rows against rows that were never seen
    closest       share of samples nearer to a training row than to a hold-out row (as many of each); honest 0.5

Offers `membership` and `closest_record`. Nothing is fitted. Hold-out rows must come from the same source, split at
random. An attack that fails is no proof of privacy: stronger ones exist.

References: Chen 2020 arXiv:1909.03935 (membership from the nearest sample); Platzer & Reutterer 2021 arXiv:2104.00635
(share closer to training than to hold-out).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from pofx.metrics.base import Array, ArrayLike, Metric, RngSource, matrix, normal_interval, subset
from pofx.metrics.scores import auroc
from pofx.randomness import Rng


def membership(
    train: ArrayLike, holdout: ArrayLike, samples: ArrayLike, rng: RngSource = 0, limit: int = 4000
) -> Metric:
    """AUC of telling training rows (N, D) from hold-out rows (H, D) by the distance to the nearest sample (S, D).

    Distances in deviations of each training column. 0.5 is honest; DeLong's interval.
    Bias in N: none in the value; a larger S makes the attack stronger, so compare at the same S.

    Raises:
        ValueError: columns differ, NaN, or no rows.
    """
    x, h, y = _scaled(train, holdout, samples, Rng(rng), limit)
    found = auroc(-_nearest(h, y), -_nearest(x, y))
    note = f"{len(x)} training, {len(h)} hold-out rows, {len(y)} samples; 0.5: they cannot be told apart"
    return Metric("membership AUC", found.value, found.low, found.high, found.n, "lower", note)


def closest_record(
    train: ArrayLike, holdout: ArrayLike, samples: ArrayLike, rng: RngSource = 0, limit: int = 4000
) -> Metric:
    """Share of samples whose closest training row is closer than their closest hold-out row, of as many rows each.

    The interval takes the rows as exchangeable, which they are where samples do not know the training rows: with m_r
    samples nearest to row r of both sides together, the variance is sum_r m_r^2 / 4 S^2.
    Bias in N: none: the larger side is cut at random to the size of the smaller.

    Raises:
        ValueError: columns differ, NaN, or no rows.
    """
    rng = Rng(rng)
    x, h, y = _scaled(train, holdout, samples, rng, limit)
    n = min(len(x), len(h))
    x, h = subset(x, n, rng), subset(h, n, rng)
    near_x, near_h = _nearest(y, x), _nearest(y, h)
    value = float((near_x < near_h).mean() + 0.5 * (near_x == near_h).mean())
    both: Any = cKDTree(np.concatenate([x, h]))
    times = np.bincount(both.query(y, k=1)[1], minlength=2 * n)
    low, high = normal_interval(value, float(np.sqrt((times**2.0).sum()) / (2 * len(y))))
    note = f"{n} training and {n} hold-out rows; honest 0.5"
    return Metric("closer to training", value, max(low, 0.0), min(high, 1.0), len(y), "lower", note)


def _scaled(
    train: ArrayLike, holdout: ArrayLike, samples: ArrayLike, rng: Rng, limit: int
) -> tuple[Array, Array, Array]:
    x, h, y = matrix(train, "train"), matrix(holdout, "holdout"), matrix(samples, "samples")
    if not x.shape[1] == h.shape[1] == y.shape[1]:
        raise ValueError(f"got {x.shape[1]}, {h.shape[1]} and {y.shape[1]} columns; expected the same for all three.")
    scale = x.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    x, h, y = (subset(a, limit, rng) / scale for a in (x, h, y))
    return x, h, y


def _nearest(a: Array, b: Array) -> Array:
    tree: Any = cKDTree(b)
    return np.asarray(tree.query(a, k=1)[0])
