"""Gains: whether other training rows make a predictor better on the same test rows.

    balanced accuracy = 1/K sum_k P(right | class k)          gain_i = w_i (right_i' - right_i),   w_i = N / (K N_y_i)

The mean of gain_i is the difference of two balanced accuracies; its interval is paired by test row, with what each row
got averaged over seeds first. Offers `balanced`, `paired_gain`, `predictor_of`.
References: Brodersen 2010 (balanced accuracy); Dietterich 1998 (paired tests of predictors).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pofx.metrics.base import Array, ArrayLike, Metric, mean_metric, to_numpy

Predictor = Callable[[Array, Array, int], Any]


def balanced(y: ArrayLike, said: Sequence[ArrayLike]) -> float:
    """Mean over classes of the share of rows that are right, averaged over seeds: y (N,), said (S, N)."""
    right, weight = _right(y, said)
    return float((weight * right).mean())


def paired_gain(y: ArrayLike, before: Sequence[ArrayLike], after: Sequence[ArrayLike]) -> Metric:
    """Gain in balanced accuracy from the predictions before (S, N) to those after, Student's interval over rows.

    Bias in N: none in the value; the interval assumes a near-normal mean, so a class of fewer than ten rows needs care.
    """
    (a, weight), (b, _) = _right(y, before), _right(y, after)
    return mean_metric("gain in balanced accuracy", weight * (b - a), "higher", note="paired by test row")


def predictor_of(name: str | Predictor) -> Predictor:
    """(z, y, seed) -> a fitted object with `predict`: "linear", "neighbours", "trees", or your own.

    Raises:
        ValueError: another name.
    """
    if not isinstance(name, str):
        return name
    if name not in PREDICTORS:
        raise ValueError(f"predictor is {name!r}; expected one of {', '.join(PREDICTORS)}, or a function.")
    return PREDICTORS[name]


def _linear(z: Array, y: Array, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=500).fit(z, y)


def _neighbours(z: Array, y: Array, seed: int) -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(min(5, len(y))).fit(z, y)


def _trees(z: Array, y: Array, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(random_state=seed).fit(z, y)


def _right(y: ArrayLike, said: Sequence[ArrayLike]) -> tuple[Array, Array]:
    """The share of seeds that are right, and the weight, of each row."""
    y = to_numpy(y)
    codes, place, counts = np.unique(y, return_inverse=True, return_counts=True)
    right = np.mean([to_numpy(s) == y for s in said], axis=0)
    return right, len(y) / (len(codes) * counts[place])


PREDICTORS: dict[str, Predictor] = {"linear": _linear, "neighbours": _neighbours, "trees": _trees}
